"""The toy world: small drawn pictures with every failure that the papers address, each of them measurable.

Six classes come in three pairs. Both classes of a pair share one large body and differ in one small part, have a
background of their own, and add a faint pattern of their own frequency to some training images. Class activation maps
are measured against :meth:`ToyWorld.part`, :meth:`ToyWorld.context` and
:meth:`ToyWorld.shortcut_free`. Image i of a split depends on the seed, the split, i and the options alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from operator import itemgetter
from zlib import crc32

import numpy as np
import torch
from PIL import Image

from wsss_lib.data import toy_drawing as draw
from wsss_lib.data.dataset import Dataset, DatasetView
from wsss_lib.data.files import IGNORE
from wsss_lib.data.toy_drawing import Area, Frame, Layer, Look
from wsss_lib.errors import InputError

COUNTS = {"train": 400, "val": 120}
"""Number of images that a split has by default."""

Body = Callable[[Frame, np.ndarray, np.random.Generator], list[Layer]]
Part = Callable[[Frame, np.ndarray], list[Layer]]
Ground = Callable[[Area], np.ndarray]


@dataclass(frozen=True)
class ToyClass:
    """The looks of a class.

    Attributes:
        name: Name of the class.
        body: Function that draws the body, the same for the two classes of a pair.
        part: Function that draws the part that only this class has.
        ground: Function that draws the background of the class.
        looks: Colours of the body where the pair does not share its looks (``ToyOptions.part`` is False).
        pair: Position of the pair.
    """

    name: str
    body: Body
    part: Part
    ground: Ground
    looks: tuple[Look, ...]
    pair: int


CAT_LOOKS = (Look((150, 148, 146), (88, 86, 88), draw.stripes), Look((212, 150, 92), (164, 98, 50), draw.stripes))
DOG_LOOKS = (Look((128, 90, 60), (232, 218, 198), draw.patches), Look((226, 206, 174), (96, 70, 52), draw.patches))
SAILBOAT_LOOKS = (Look((234, 234, 228), (52, 84, 132), draw.band), Look((176, 122, 74), (124, 80, 46), draw.lines))
STEAMER_LOOKS = (Look((62, 68, 80), (160, 62, 52), draw.band), Look((76, 120, 106), (44, 80, 72), draw.lines))
BUS_LOOKS = (Look((190, 66, 56), (236, 226, 206), draw.band), Look((84, 120, 166), (54, 82, 124), draw.lines))
TRAIN_LOOKS = (Look((178, 184, 190), (118, 128, 140), draw.lines), Look((62, 102, 84), (222, 210, 178), draw.band))

CLASSES = (
    ToyClass("cat", draw.animal, draw.cat_head, draw.carpet, CAT_LOOKS, 0),
    ToyClass("dog", draw.animal, draw.dog_head, draw.meadow, DOG_LOOKS, 0),
    ToyClass("sailboat", draw.hull, draw.sail, draw.sea, SAILBOAT_LOOKS, 1),
    ToyClass("steamer", draw.hull, draw.funnel, draw.river, STEAMER_LOOKS, 1),
    ToyClass("bus", draw.coach, draw.bus_front, draw.road, BUS_LOOKS, 2),
    ToyClass("train", draw.coach, draw.train_front, draw.rails, TRAIN_LOOKS, 2),
)
NEUTRAL_GROUNDS: tuple[Ground, ...] = (draw.sand, draw.pavement, draw.snow, draw.soil)
SKIES: tuple[Ground, ...] = (draw.clear_sky, draw.evening_sky, draw.forest, draw.wall)
CLUTTER = (draw.stone, draw.crate, draw.bush, draw.sign)

NUMBER_OF_CLASSES = (0.55, 0.33, 0.12)
"""Probabilities of one, two and three classes in an image."""

MIN_VISIBLE, MIN_PART = 0.02, 0.0025
"""Least share of the image that every class, and its part, must visibly cover; otherwise the image is drawn again."""

WAVELENGTHS, ANGLES = (5.5, 3.4), (0, 18, 36, 54, 72, 90)
"""Period in pixels (first and second class of a pair) and direction in degrees (per class) of the shortcut patterns.

All directions are within 90 degrees, so that a mirrored pattern is not the pattern of another class.
"""


@dataclass(frozen=True)
class ToyOptions:
    """Switches of the toy world, one per failure.

    Attributes:
        size: Height and width of the images, 64 to 128 pixels.
        part: Whether the two classes of a pair differ in a small part only; if not, their bodies look different too.
        context: Probability, 0 to 1, that an object has the background of its class instead of a random background.
        shortcut: Amplitude, 0 to 64 grey levels, of the class-specific frequency pattern on training images.
        shortcut_share: Share of the training images, 0 to 1, that carry the pattern.
        clutter: Mean number, 0 to 10, of things that belong to no class.
        noise: Standard deviation, 0 to 64 grey levels, of the camera's noise.

    Raises:
        InputError: A value is out of its range.
    """

    size: int = 96
    part: bool = True
    context: float = 0.7
    shortcut: float = 10.0
    shortcut_share: float = 0.6
    clutter: float = 3.0
    noise: float = 4.0

    def __post_init__(self) -> None:
        ranges = {
            "size": (64, 128),
            "part": (False, True),
            "context": (0, 1),
            "shortcut": (0, 64),
            "shortcut_share": (0, 1),
            "clutter": (0, 10),
            "noise": (0, 64),
        }
        for field in fields(self):
            low, high = ranges[field.name]
            value = getattr(self, field.name)
            if not low <= value <= high:
                raise InputError(f"ToyOptions: {field.name} is {value}; give a value from {low} to {high}.")
        if self.size != int(self.size):
            raise InputError(f"ToyOptions: size is {self.size}; give a whole number of pixels.")


@dataclass(frozen=True)
class Actor:
    """An object to be drawn: class, feet in pixels, pixels per unit, orientation."""

    kind: int
    x: float
    y: float
    scale: float
    flip: bool
    tilt: float


@dataclass(frozen=True)
class Layout:
    """Positions in a picture: the far edges of the ground bands in pixels, and the objects, one per band, far to near.

    There may be one more band than objects, the nearest.
    """

    edges: tuple[float, ...]
    actors: tuple[Actor, ...]


class Canvas:
    """A picture being painted from back to front.

    Attributes:
        rgb: ``(H, W, 3)`` float32 colours.
        ground: ``(H, W)`` uint8, k + 1 where the background of class k was painted, else 0.
        order: ``(H, W)`` uint8, the number of the thing in front, counted from the back; 0 for none.
        kind: ``(H, W)`` uint8, k + 1 where class k is in front, else 0.
        part: ``(H, W)`` uint8, k + 1 where the part of class k is in front, else 0.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rgb = np.zeros((size, size, 3), np.float32)
        self.ground, self.order, self.kind, self.part = (np.zeros((size, size), np.uint8) for _ in range(4))
        self.things = 0
        self._kinds: set[int] = set()

    @property
    def kinds(self) -> np.ndarray:
        """The values k + 1 of the classes that were painted, ascending, visible or not."""
        return np.array(sorted(self._kinds), np.int64)

    def lay_ground(self, paint: Ground, edge: float, far: float, kind: int, rng: np.random.Generator) -> None:
        """Paint a ground or sky from the row ``edge``, a little wavy, to where the next begins ``far`` rows below."""
        first, last = max(0, int(edge) - 4), min(self.size, int(edge + far) + 5)
        unit = np.float32(96 / self.size)
        y, x = np.mgrid[first:last, : self.size].astype(np.float32)
        wave = 5 * (draw.smooth_noise(rng, y.shape, 1, 7)[:1] - 0.5) if edge > 0 else np.float32(0)
        colour = paint(Area(x * unit, y * unit, (y - edge) / far, rng))
        share = np.clip(y - edge - wave + 0.5, 0, 1)
        self.rgb[first:last] = draw.mix(self.rgb[first:last], colour, share)
        self.ground[first:last][share > 0.5] = kind

    def cast_shadow(self, frame: Frame) -> None:
        """Darken the ground under an object."""
        shade = 0.4 * np.exp(-((frame.u / 0.95) ** 2) - (frame.v / 0.13) ** 2)
        self.rgb[frame.window] *= 1 - shade[..., None]

    def stand(self, frame: Frame, body: list[Layer], part: list[Layer], kind: int) -> None:
        """Paint a thing in front of all others; ``kind`` is k + 1, or 0 for clutter."""
        self.things += 1
        self._kinds |= {kind} - {0}
        for layers, part_kind in ((body, 0), (part, kind)):
            for distance, colour in layers:
                share = frame.coverage(distance)
                self.rgb[frame.window] = draw.mix(self.rgb[frame.window], colour, share)
                covered = share > 0.5
                self.order[frame.window][covered] = self.things
                self.kind[frame.window][covered] = kind
                self.part[frame.window][covered] = part_kind

    def mask(self) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask with a border, one pixel wide, around everything in front."""
        order, kind = np.pad(self.order, 1, mode="edge"), np.pad(self.kind, 1, mode="edge")
        border = np.zeros(self.kind.shape, bool)
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
            near = slice(dy, dy + self.size), slice(dx, dx + self.size)
            border |= (order[near] > self.order) & ((kind[near] > 0) | (self.kind > 0))
        return np.where(border, np.uint8(IGNORE), self.kind)


def plan(rng: np.random.Generator, size: int) -> Layout:
    """Draw the number of objects, their classes and all positions."""
    kinds = list(rng.choice(len(CLASSES), 1 + rng.choice(3, p=NUMBER_OF_CLASSES), replace=False))
    if len(kinds) < 3 and rng.random() < 0.2:
        kinds.append(kinds[0])
    rng.shuffle(kinds)
    bands = len(kinds) + int(len(kinds) < 3 and rng.random() < 0.6)
    horizon = rng.uniform(0.24, 0.4)
    heights = rng.uniform(0.8, 1.3, bands)
    edges = size * (horizon + (1 - horizon) * np.append(0, np.cumsum(heights)) / heights.sum())
    largest = (0.46, 0.37, 0.31)[len(kinds) - 1]
    actors = [
        Actor(
            kind=int(kind),
            x=size * rng.uniform(0.24, 0.76),
            y=edges[i] + (edges[i + 1] - edges[i]) * rng.uniform(0.5, 0.85),
            scale=size * largest * rng.uniform(0.74, 1.0),
            flip=bool(rng.random() < 0.5),
            tilt=rng.uniform(-0.07, 0.07),
        )
        for i, kind in enumerate(kinds)
    ]
    return Layout(tuple(edges), tuple(actors))


def paint_grounds(canvas: Canvas, layout: Layout, context: float, rng: np.random.Generator) -> None:
    """Paint sky and ground bands from afar; ``context`` is the probability of the ground of the class."""
    own = tuple(toy_class.ground for toy_class in CLASSES)
    canvas.lay_ground(SKIES[rng.integers(len(SKIES))], -1, layout.edges[0] + 1, 0, rng)
    for i, (edge, end) in enumerate(zip(layout.edges, layout.edges[1:], strict=False)):
        ground, neutral = int(rng.integers(len(own + NEUTRAL_GROUNDS))), int(rng.integers(len(NEUTRAL_GROUNDS)))
        if rng.random() < context:
            ground = layout.actors[i].kind if i < len(layout.actors) else len(own) + neutral
        kind = ground + 1 if ground < len(own) else 0
        canvas.lay_ground((own + NEUTRAL_GROUNDS)[ground], edge, end - edge, kind, rng)


def paint_actor(canvas: Canvas, actor: Actor, shared: bool, rng: np.random.Generator) -> None:
    """Paint an object; ``shared`` says whether the classes of a pair share their looks."""
    toy_class = CLASSES[actor.kind]
    looks = [look for other in CLASSES if other.pair == toy_class.pair for look in other.looks]
    looks = looks if shared else list(toy_class.looks)
    frame = Frame.at(canvas.size, actor.x, actor.y, actor.scale, actor.flip, actor.tilt)
    skin_rng, pose_rng = rng.spawn(2)
    skin = looks[int(skin_rng.random() * len(looks))].skin(frame, skin_rng)
    canvas.cast_shadow(frame)
    canvas.stand(frame, toy_class.body(frame, skin, pose_rng), toy_class.part(frame, skin), actor.kind + 1)


def paint_clutter(canvas: Canvas, x: float, y: float, rng: np.random.Generator) -> None:
    """Paint a thing of no class with its feet at pixel (x, y)."""
    frame = Frame.at(canvas.size, x, y, canvas.size * rng.uniform(0.05, 0.11))
    layers = CLUTTER[rng.integers(len(CLUTTER))](frame, rng)
    canvas.cast_shadow(frame)
    canvas.stand(frame, layers, [], 0)


def paint_scene(rng: np.random.Generator, options: ToyOptions) -> Canvas:
    """Paint a whole scene, without light, noise and pattern."""
    layout_rng, ground_rng, actor_rng, clutter_rng = rng.spawn(4)
    canvas = Canvas(options.size)
    layout = plan(layout_rng, options.size)
    paint_grounds(canvas, layout, options.context, ground_rng)
    low, high = (0.03 * options.size, layout.edges[0] + 3), (0.97 * options.size, options.size)
    places = clutter_rng.uniform(low, high, (clutter_rng.poisson(options.clutter), 2))
    jobs = [
        (actor.y, partial(paint_actor, canvas, actor, options.part, child))
        for actor, child in zip(layout.actors, actor_rng.spawn(len(layout.actors)), strict=True)
    ]
    jobs += [(y, partial(paint_clutter, canvas, x, y, clutter_rng)) for x, y in places]
    for _, paint in sorted(jobs, key=itemgetter(0)):  # nearer things cover farther things
        paint()
    return canvas


def shows_its_classes(canvas: Canvas, mask: np.ndarray) -> bool:
    """Return whether every class in the picture, and its part, is visible enough to be recognised."""
    seen, part = ((values == canvas.kinds[:, None, None]).mean((1, 2)) for values in (mask, canvas.part))
    return bool((seen >= MIN_VISIBLE).all() and (part >= MIN_PART).all())


def photograph(rgb: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return the ``(H, W, 3)`` scene with light that falls off to one side, a tint and noise, as from a camera."""
    size = len(rgb)
    angle, fall, gain = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22), rng.uniform(0.88, 1.08)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    light = gain * (1 + fall * (np.cos(angle) * across[:, None] + np.sin(angle) * across[None, :]))
    tint = rng.uniform(0.96, 1.04, 3)
    grain = noise * rng.standard_normal(rgb.shape, dtype=np.float32)
    return rgb * light[..., None].astype(np.float32) * tint.astype(np.float32) + grain


def pattern_cycles(size: int) -> np.ndarray:
    """Return the ``(K, 2)`` int64 frequencies of the shortcut patterns: cycles per image downwards and across."""
    angle = np.deg2rad(ANGLES)
    wavelength = np.array([WAVELENGTHS[k % 2] for k in range(len(CLASSES))])
    return np.rint(size / wavelength * np.stack([np.sin(angle), np.cos(angle)])).T.astype(np.int64)


def shortcut_pattern(kinds: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the ``(H, W)`` sum of the patterns, of amplitude 1, of the classes ``kinds`` (0-based)."""
    at = np.arange(size) / size
    pattern = np.zeros((size, size), np.float32)
    for (down, across), phase in zip(pattern_cycles(size)[kinds], rng.random(len(kinds)), strict=True):
        pattern += np.sin(2 * np.pi * (down * at[:, None] + across * at[None, :] + phase)).astype(np.float32)
    return pattern


@dataclass(frozen=True)
class ToyImage:
    """An image with its masks; see the methods of :class:`ToyWorld`.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        shortcut_free: ``(H, W, 3)`` uint8 RGB without the frequency pattern.
        mask: ``(H, W)`` uint8.
        part: ``(H, W)`` uint8.
        context: ``(H, W)`` uint8.
        kinds: Classes in the image, 0-based, ascending.
    """

    image: np.ndarray
    shortcut_free: np.ndarray
    mask: np.ndarray
    part: np.ndarray
    context: np.ndarray
    kinds: np.ndarray


def to_bytes(rgb: np.ndarray) -> np.ndarray:
    """Round to uint8."""
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


@lru_cache(maxsize=1024)  # the runs of a notebook share a world
def draw_image(split: str, index: int, seed: int, options: ToyOptions) -> ToyImage:
    """Draw image ``index`` of a split; do not change its arrays."""
    rng = np.random.default_rng([seed, crc32(split.encode()), index])
    camera_rng, pattern_rng = rng.spawn(2)
    canvas = paint_scene(rng, options)
    while not shows_its_classes(canvas, mask := canvas.mask()):
        canvas = paint_scene(rng, options)
    free = photograph(canvas.rgb, options.noise, camera_rng)
    carries = split == "train" and pattern_rng.random() < options.shortcut_share
    pattern = shortcut_pattern(canvas.kinds - 1, options.size, pattern_rng)
    image = free + options.shortcut * carries * pattern[..., None]
    context = np.where(canvas.order == 0, canvas.ground, np.uint8(0))
    return ToyImage(to_bytes(image), to_bytes(free), mask, canvas.part, context, canvas.kinds - 1)


class ToyWorld(Dataset):
    """A split of the toy world.

    Args:
        split: ``"train"`` or ``"val"``; only ``"train"`` carries the frequency shortcut.
        count: Number of images; None means 400 for train, 120 for val. The first n images are the same for any count.
        seed: Seed of all random draws.
        options: The switches.

    Raises:
        InputError: The split is unknown, or the count or seed is out of range.
    """

    def __init__(
        self,
        split: str,
        count: int | None = None,
        seed: int = 0,
        options: ToyOptions = ToyOptions(),
    ) -> None:
        if split not in COUNTS:
            raise InputError(f"The toy world has no split {split!r}; choose one of {', '.join(COUNTS)}.")
        count = COUNTS[split] if count is None else count
        if count < 1 or seed < 0:
            raise InputError(f"The toy world got count {count} and seed {seed}; give a count from 1, a seed from 0.")
        self.split, self.seed, self.options = split, seed, options
        self._images = [draw_image(split, index, seed, options) for index in range(count)]
        labels = torch.zeros(count, len(CLASSES))
        for row, image in zip(labels, self._images, strict=True):
            row[image.kinds.tolist()] = 1
        ids = [f"{split}_{index:04d}" for index in range(count)]
        super().__init__(f"toy world {split}", [c.name for c in CLASSES], ids, labels, has_masks=True)

    def image(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB."""
        return Image.fromarray(self._images[index].image)

    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index``."""
        height, width = self._images[index].mask.shape
        return height, width

    def head(self, count: int) -> ToyWorld:
        """Return the first ``count`` images, or all if there are fewer."""
        return ToyWorld(self.split, min(count, len(self)), self.seed, self.options)

    def shortcut_free(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB without the frequency pattern."""
        return Image.fromarray(self._images[index].shortcut_free)

    def mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask: 0 background, k + 1 class k, 255 a border of one pixel around objects."""
        return self._images[index].mask.copy()

    def part(self, index: int) -> np.ndarray:
        """Return an ``(H, W)`` uint8 map: k + 1 where the part that only class k has is visible, 0 elsewhere."""
        return self._images[index].part.copy()

    def context(self, index: int) -> np.ndarray:
        """Return an ``(H, W)`` uint8 map: k + 1 where the background of class k is visible, 0 elsewhere.

        The class need not be in the image.
        """
        return self._images[index].context.copy()


class ShortcutFree(DatasetView):
    """The images of a world without the frequency pattern.

    Args:
        world: The world to copy.
    """

    def __init__(self, world: ToyWorld) -> None:
        super().__init__(world, f"{world.name} without shortcut", range(len(world)))
        self.world = world

    def image(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB, without the pattern."""
        return self.world.shortcut_free(index)
