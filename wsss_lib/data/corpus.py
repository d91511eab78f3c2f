"""A small ImageNet for the toy world: drawn pictures of one object each, of many kinds, for pre-training.

The methods of the papers refine the features of a network that has learned to tell a thousand kinds of objects in a
million photographs. On the toy world, a network that has learned to tell the kinds of this corpus takes its place. A
kind is a body with a part and a look (two colours and a skin), for example a cat in the dog's first look. As in
ImageNet, the label of a picture is the single kind that it shows.

- The corpus and the toy world share the bodies, parts and looks of the six classes (24 of the 54 kinds), all grounds,
  skies and clutter, and the camera (light, tint and noise). ImageNet and VOC share cats and boats in the same way.
- Only the corpus has the other 30 kinds: four more bodies, eleven more parts, and eighteen more looks with four skins
  of their own.
- Only the toy world has pictures with several objects, which hide each other, backgrounds that usually come with a
  class, the frequency shortcut, and masks. In the corpus, every kind may stand on every ground.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from PIL import Image

from wsss_lib.data import corpus_drawing as more
from wsss_lib.data import toy_drawing as draw
from wsss_lib.data.dataset import Dataset
from wsss_lib.data.toy import (
    CLASSES,
    MIN_PART,
    NEUTRAL_GROUNDS,
    SKIES,
    Body,
    Canvas,
    Part,
    paint_clutter,
    photograph,
    to_bytes,
)
from wsss_lib.data.toy_drawing import Frame, Look
from wsss_lib.errors import InputError

SIZE = 96
"""Height and width of the pictures in pixels, as in the toy world."""

MIN_BODY = 0.03
"""Smallest visible share of a picture that its object must cover; otherwise the picture is drawn again."""

_CLUTTER, _NOISE = 2.0, 4.0
_GROUNDS = (*(toy_class.ground for toy_class in CLASSES), *NEUTRAL_GROUNDS)


@dataclass(frozen=True)
class Kind:
    """A kind of object, which is the label of a picture.

    Attributes:
        name: Name of the part, with the number of the look.
        body: Draws the body.
        part: Draws the part.
        look: Colours and skin of the body.
    """

    name: str
    body: Body
    part: Part
    look: Look


def _kinds(body: Body, parts: dict[str, Part], looks: tuple[Look, ...]) -> list[Kind]:
    return [Kind(f"{name}-{i}", body, part, look) for name, part in parts.items() for i, look in enumerate(looks)]


def _of_the_toy_world() -> list[Kind]:
    kinds = []
    for toy_class in CLASSES:
        looks = tuple(look for other in CLASSES if other.pair == toy_class.pair for look in other.looks)
        kinds += _kinds(toy_class.body, {toy_class.name: toy_class.part}, looks)
    return kinds


KINDS: tuple[Kind, ...] = (
    *_of_the_toy_world(),
    *_kinds(
        draw.animal,
        {"horse": more.horse_head},
        (Look((142, 92, 60), (104, 62, 40), more.shade), Look((226, 222, 214), (70, 64, 62), more.spots)),
    ),
    *_kinds(
        draw.hull,
        {"crane ship": more.crane},
        (Look((172, 66, 56), (224, 214, 196), more.checks), Look((92, 108, 128), (58, 66, 82), more.shade)),
    ),
    *_kinds(
        draw.coach,
        {"tender": more.tender},
        (Look((214, 180, 82), (92, 78, 60), more.slants), Look((130, 84, 120), (220, 208, 216), more.checks)),
    ),
    *_kinds(
        more.bird,
        {"rooster": more.rooster_head, "swan": more.swan_head},
        (
            Look((232, 230, 224), (170, 166, 160), more.shade),
            Look((160, 92, 56), (84, 52, 38), more.spots),
            Look((74, 78, 92), (120, 130, 150), draw.stripes),
        ),
    ),
    *_kinds(
        more.car,
        {"car": more.cabin, "ladder truck": more.ladder},
        (
            Look((196, 62, 54), (150, 40, 36), more.shade),
            Look((226, 190, 72), (60, 58, 56), more.checks),
            Look((94, 136, 172), (226, 226, 220), draw.band),
        ),
    ),
    *_kinds(
        more.house,
        {"cottage": more.chimney, "town hall": more.tower},
        (
            Look((222, 208, 180), (186, 160, 126), draw.lines),
            Look((176, 104, 84), (214, 190, 170), more.checks),
            Look((150, 164, 150), (108, 120, 108), more.slants),
        ),
    ),
    *_kinds(
        more.plane,
        {"propeller plane": more.propeller, "jet": more.jet_fin},
        (
            Look((218, 222, 226), (164, 172, 182), more.shade),
            Look((232, 214, 130), (196, 84, 60), more.slants),
            Look((108, 126, 92), (70, 84, 58), draw.patches),
        ),
    ),
)
"""The kinds of the corpus; the first 24 are the classes of the toy world, each in the four looks of its pair."""


def _paint(kind: int, rng: np.random.Generator) -> Canvas:
    """Paint one scene with an object of a kind, without light and noise."""
    layout_rng, ground_rng, object_rng, clutter_rng = rng.spawn(4)
    canvas = Canvas(SIZE)
    edges = [layout_rng.uniform(0.18, 0.45) * SIZE]
    if layout_rng.random() < 0.6:
        edges.append(edges[0] + layout_rng.uniform(0.25, 0.6) * (SIZE - edges[0]))
    canvas.lay_ground(SKIES[ground_rng.integers(len(SKIES))], -1, edges[0] + 1, 0, ground_rng)
    for edge, end in zip(edges, [*edges[1:], SIZE], strict=True):
        canvas.lay_ground(_GROUNDS[ground_rng.integers(len(_GROUNDS))], edge, end - edge, 0, ground_rng)
    y = layout_rng.uniform(edges[0] + 0.15 * SIZE, 0.97 * SIZE)
    places = clutter_rng.uniform((0.03 * SIZE, edges[0] + 3), (0.97 * SIZE, SIZE), (clutter_rng.poisson(_CLUTTER), 2))
    things = [(float(at), float(below)) for at, below in places]
    for at, below in sorted(things, key=lambda place: place[1]):
        if below < y:
            paint_clutter(canvas, at, below, clutter_rng)
    frame = Frame.at(
        SIZE,
        x=SIZE * layout_rng.uniform(0.24, 0.76),
        y=y,
        scale=SIZE * layout_rng.uniform(0.22, 0.46),
        flip=bool(layout_rng.random() < 0.5),
        tilt=layout_rng.uniform(-0.07, 0.07),
    )
    shown = KINDS[kind]
    skin = shown.look.skin(frame, object_rng)
    canvas.cast_shadow(frame)
    canvas.stand(frame, shown.body(frame, skin, object_rng), shown.part(frame, skin), kind + 1)
    for at, below in sorted(things, key=lambda place: place[1]):
        if below >= y:
            paint_clutter(canvas, at, below, clutter_rng)
    return canvas


def draw_picture(index: int, seed: int) -> tuple[np.ndarray, int]:
    """Draw a picture of the corpus.

    Args:
        index: Position of the picture.
        seed: Seed of the corpus.

    Returns:
        ``(96, 96, 3)`` uint8 RGB, and the position in :data:`KINDS` of the kind that it shows.
    """
    rng = np.random.default_rng([seed, crc32(b"corpus"), index])
    camera_rng = rng.spawn(1)[0]
    kind = int(rng.integers(len(KINDS)))
    while True:
        canvas = _paint(kind, rng)
        if (canvas.kind > 0).mean() >= MIN_BODY and (canvas.part > 0).mean() >= MIN_PART:
            return to_bytes(photograph(canvas.rgb, _NOISE, camera_rng)), kind


class Corpus(Dataset):
    """Pictures of one object each, with its kind as the only label.

    Picture i depends only on the seed and on i, so the first pictures are the same for any count.

    Args:
        count: Number of pictures.
        seed: Seed of all random draws; other seeds give other pictures of the same kinds.

    Raises:
        InputError: The count or the seed is out of range.
    """

    def __init__(self, count: int = 6000, seed: int = 0) -> None:
        if count < 1 or seed < 0:
            raise InputError(f"count {count} or seed {seed} is out of range; give a count from 1 and a seed from 0.")
        drawn = [draw_picture(index, seed) for index in range(count)]
        self.pixels = np.stack([picture for picture, _ in drawn])
        self.kinds = np.array([kind for _, kind in drawn])
        labels = torch.zeros(count, len(KINDS))
        labels[torch.arange(count), torch.from_numpy(self.kinds)] = 1
        ids = [f"corpus_{index:05d}" for index in range(count)]
        super().__init__("corpus", [kind.name for kind in KINDS], ids, labels, has_masks=False)

    def image(self, index: int) -> Image.Image:
        """Return picture ``index`` as 8-bit RGB."""
        return Image.fromarray(self.pixels[index])

    def size(self, index: int) -> tuple[int, int]:  # noqa: ARG002
        """Return ``(height, width)`` of picture ``index``."""
        return SIZE, SIZE

    def mask(self, index: int) -> np.ndarray:  # noqa: ARG002
        """Raise InputError: the corpus has no masks."""
        raise InputError("the corpus has no masks; score the network on the toy world.")

    def digest(self) -> str:
        """Return the SHA-256 of all pictures and kinds, in hexadecimal digits."""
        return hashlib.sha256(self.pixels.tobytes() + self.kinds.astype("<i8").tobytes()).hexdigest()
