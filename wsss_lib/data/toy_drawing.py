"""Drawing of the toy world: shapes as signed distances, skins and grounds as fields of colour.

A shape is an array of signed distances, negative inside, so that an anti-aliased edge is one clip and a union one
minimum. Lengths of an object are in units of half its width; its feet stand at v = 0 and v points up. Lengths of a
ground are in pixels of a 96-pixel world, for pictures of any size. Colours are float32 RGB in [0, 255].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Colour = Sequence[float] | np.ndarray
"""Three values, or an ``(h, w, 3)`` field of them."""

Layer = tuple[np.ndarray, Colour]
"""A shape, given by its ``(h, w)`` signed distances, and its colours."""

GLASS, DARK, STEEL = (64, 84, 100), (38, 38, 42), (150, 152, 156)


@dataclass(frozen=True)
class Frame:
    """The pixels around an object and where they lie in the object's own coordinates.

    Attributes:
        window: The rows and columns of the image that the object can cover.
        u: ``(h, w)`` float32 position towards the object's front.
        v: ``(h, w)`` float32 height above its feet.
        scale: Pixels per unit.
    """

    window: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray
    scale: float

    @classmethod
    def at(cls, size: int, x: float, y: float, scale: float, flip: bool = False, tilt: float = 0.0) -> Frame:
        """Return the frame of an object with its feet at pixel (x, y), tilted by ``tilt`` radians."""
        rows = slice(max(0, int(y - 1.7 * scale)), max(0, min(size, int(y + 0.4 * scale) + 2)))
        columns = slice(max(0, int(x - 1.5 * scale)), max(0, min(size, int(x + 1.5 * scale) + 2)))
        along = (np.arange(size, dtype=np.float32)[None, columns] - x) / scale * (-1 if flip else 1)
        up = (y - np.arange(size, dtype=np.float32)[rows, None]) / scale
        cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        return cls((rows, columns), cos * along + sin * up, cos * up - sin * along, scale)

    def coverage(self, distance: np.ndarray) -> np.ndarray:
        """Return the ``(h, w)`` share in [0, 1] of every pixel that the shape covers."""
        return np.clip(0.5 - distance * self.scale, 0, 1)

    def disc(self, u: float, v: float, radius: float) -> np.ndarray:
        """Return the distances to a disc around (u, v)."""
        return np.hypot(self.u - u, self.v - v) - radius

    def ellipse(self, u: float, v: float, radius_u: float, radius_v: float) -> np.ndarray:
        """Return approximate distances to an ellipse around (u, v)."""
        distance = np.hypot((self.u - u) / radius_u, (self.v - v) / radius_v) - 1
        return distance * min(radius_u, radius_v)

    def box(self, left: float, bottom: float, right: float, top: float, radius: float = 0.0) -> np.ndarray:
        """Return the distances to an upright box with rounded corners."""
        du = np.abs(self.u - (left + right) / 2) - (right - left) / 2 + radius
        dv = np.abs(self.v - (bottom + top) / 2) - (top - bottom) / 2 + radius
        return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0) - radius

    def limb(self, start: tuple[float, float], end: tuple[float, float], radius: float) -> np.ndarray:
        """Return the distances to a thick line with round ends."""
        (u0, v0), (u1, v1) = start, end
        length = (u1 - u0) ** 2 + (v1 - v0) ** 2
        t = np.clip(((self.u - u0) * (u1 - u0) + (self.v - v0) * (v1 - v0)) / length, 0, 1)
        return np.hypot(self.u - u0 - t * (u1 - u0), self.v - v0 - t * (v1 - v0)) - radius

    def convex(self, *corners: tuple[float, float]) -> np.ndarray:
        """Return the distances to a convex polygon, corners counter-clockwise (exact except outside the corners)."""
        distance = np.full_like(self.u, -np.inf)
        for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = float(np.hypot(u1 - u0, v1 - v0))
            side = (self.u - u0) * ((v1 - v0) / length) - (self.v - v0) * ((u1 - u0) / length)
            distance = np.maximum(distance, side)
        return distance

    def repeat(self, first: float, step: float, count: int) -> Frame:
        """Return a frame that repeats the drawing around u = 0 ``count`` times, from ``first`` on."""
        nearest = np.clip(np.rint((self.u - first) / step), 0, count - 1)
        return Frame(self.window, self.u - first - step * nearest, self.v, self.scale)


def union(*distances: np.ndarray) -> np.ndarray:
    """Return the distances to the union of shapes."""
    return np.minimum.reduce(distances)


def mix(under: Colour, over: Colour, share: np.ndarray) -> np.ndarray:
    """Lay ``over`` on ``under`` with an opacity ``share`` ``(h, w)`` in [0, 1]; return ``(h, w, 3)`` float32."""
    under, over = np.asarray(under, np.float32), np.asarray(over, np.float32)
    return under + (over - under) * share[..., None].astype(np.float32)


@lru_cache(maxsize=256)
def interpolation(count: int, cells: int) -> np.ndarray:
    """Return the ``(count, cells + 1)`` weights that spread grid values smoothly over ``count`` pixels."""
    position = np.linspace(0, cells, count, endpoint=False)
    left = position.astype(int)
    t = position - left
    t = t * t * (3 - 2 * t)
    weights = np.zeros((count, cells + 1), np.float32)
    weights[np.arange(count), left] = 1 - t
    weights[np.arange(count), left + 1] = t
    return weights


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """Return an ``(h, w)`` float32 field in [0, 1] with a random value per cell, smooth in between."""
    grid = rng.random((rows + 1, columns + 1), dtype=np.float32)
    return interpolation(shape[0], rows) @ grid @ interpolation(shape[1], columns).T


def step(field: np.ndarray, threshold: float, softness: float = 0.1) -> np.ndarray:
    """Return 1 where ``field`` is above ``threshold`` and 0 below, with a soft edge."""
    return np.clip((field - threshold) / softness + 0.5, 0, 1)


# --- Skins: the colours of a body. A pattern gives the places of the second colour.

Pattern = Callable[[Frame, np.random.Generator], np.ndarray]


def stripes(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return upright, wavy stripes."""
    bend = smooth_noise(rng, frame.u.shape, 4, 4) * 4
    return step(np.sin(16 * frame.u + bend), 0.25, 0.8)


def patches(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return a few large patches."""
    return step(smooth_noise(rng, frame.u.shape, 5, 6), 0.56)


def band(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return a level band low on the body."""
    height = rng.uniform(0.14, 0.24)
    return step(-np.abs(frame.v - height), -0.07, 0.03)


def lines(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return thin level lines, as between planks."""
    return step(np.cos(rng.uniform(34, 42) * frame.v), 0.6, 0.6) * 0.7


@dataclass(frozen=True)
class Look:
    """Colours of a body: two colours and the pattern of the second."""

    first: Colour
    second: Colour
    pattern: Pattern

    def skin(self, frame: Frame, rng: np.random.Generator) -> np.ndarray:
        """Return an ``(h, w, 3)`` field of colour, slightly different every time, lit from above."""
        tint = (rng.uniform(-16, 16) + rng.uniform(-6, 6, 3)).astype(np.float32)
        grain = smooth_noise(rng, frame.u.shape, 20, 26)
        light = 0.84 + 0.26 * np.clip(frame.v, 0, 1) + 0.16 * (grain - 0.5)
        return (mix(self.first, self.second, self.pattern(frame, rng)) + tint) * light[..., None]


# --- Bodies, which the two classes of a pair share.


def animal(frame: Frame, skin: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Return trunk, legs and tail of a furry animal that looks to the right."""
    swing, lift = rng.uniform(-0.12, 0.12), rng.uniform(-0.25, 0.25)
    hips = (-0.58, -0.4, 0.26, 0.42)
    feet = [(hip + side * swing, 0.07) for hip, side in zip(hips, (1, -1, -1, 1), strict=True)]
    legs = [frame.limb((hip, 0.45), foot, 0.085) for hip, foot in zip(hips, feet, strict=True)]
    trunk = union(frame.limb((-0.5, 0.55), (0.34, 0.57), 0.265), frame.limb((0.36, 0.6), (0.62, 0.82), 0.15))
    tail = frame.limb((-0.7, 0.65), (-1.04, 0.82 + lift), 0.06)
    return [(union(legs[1], legs[2]), skin * 0.72), (tail, skin * 0.9), (union(trunk, legs[0], legs[3]), skin)]


def hull(frame: Frame, skin: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Return hull and cabin of a boat."""
    shift = rng.uniform(-0.12, 0.12)
    ship = frame.convex((-0.8, 0), (0.74, 0), (1.02, 0.5), (-0.96, 0.42))
    cabin = frame.box(-0.6 + shift, 0.4, 0.36 + shift, 0.7, 0.05)
    panes = frame.repeat(-0.45 + shift, 0.22, 4).box(-0.065, 0.51, 0.065, 0.62, 0.02)
    rail = frame.limb((-0.96, 0.42), (1.02, 0.5), 0.03)
    return [(cabin, (226, 222, 212)), (panes, GLASS), (ship, skin), (rail, (205, 196, 180))]


def coach(frame: Frame, skin: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Return the long box with windows and wheels of a bus or a train."""
    shift = rng.uniform(-0.05, 0.05)
    box = frame.box(-1.05, 0.1, 0.84, 0.84, 0.07)
    panes = frame.repeat(-0.86 + shift, 0.33, 5).box(-0.125, 0.46, 0.125, 0.7, 0.03)
    wheels = union(*(frame.disc(u, 0.12, 0.125) for u in (-0.78, -0.5, 0.34, 0.62)))
    hubs = union(*(frame.disc(u, 0.12, 0.05) for u in (-0.78, -0.5, 0.34, 0.62)))
    return [(box, skin), (panes, GLASS), (wheels, DARK), (hubs, STEEL)]


# --- Parts, which tell the two classes of a pair apart.


def cat_head(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a dark, round face with pointed ears and bright eyes."""
    ears = union(
        frame.convex((0.52, 0.98), (0.68, 1.05), (0.54, 1.28)), frame.convex((0.76, 1.05), (0.91, 0.98), (0.9, 1.28))
    )
    eyes = union(frame.disc(0.64, 0.95, 0.055), frame.disc(0.8, 0.95, 0.055))
    face = union(frame.disc(0.72, 0.9, 0.2), ears)
    return [(face, (62, 56, 56)), (frame.ellipse(0.725, 0.79, 0.11, 0.075), (240, 232, 224)), (eyes, (188, 210, 84))]


def dog_head(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a golden, long face with hanging ears, a dark nose and the tongue out."""
    face = union(frame.disc(0.7, 0.94, 0.17), frame.limb((0.74, 0.88), (0.96, 0.84), 0.09))
    nose = union(frame.disc(1.02, 0.88, 0.055), frame.disc(0.79, 0.98, 0.035))
    tongue = frame.limb((0.91, 0.75), (0.92, 0.66), 0.055)
    ear = frame.ellipse(0.6, 0.89, 0.085, 0.19)
    return [(tongue, (220, 92, 104)), (face, (230, 178, 96)), (ear, (120, 72, 40)), (nose, DARK)]


def sail(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a small red sail on its mast."""
    mast = frame.limb((0.12, 0.6), (0.12, 1.36), 0.028)
    cloth = frame.convex((0.14, 0.74), (0.58, 0.78), (0.14, 1.34))
    seam = union(frame.limb((0.14, 0.95), (0.44, 0.97), 0.015), frame.limb((0.14, 1.14), (0.3, 1.15), 0.015))
    return [(cloth, (206, 84, 58)), (seam, (244, 226, 204)), (mast, (96, 72, 52))]


def funnel(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a black funnel with a yellow ring."""
    pipe = frame.convex((-0.3, 0.66), (0.02, 0.66), (-0.06, 1.12), (-0.36, 1.12))
    ring = frame.convex((-0.318, 0.8), (0.0, 0.8), (-0.04, 0.98), (-0.342, 0.98))
    top = frame.box(-0.39, 1.08, -0.03, 1.15, 0.02)
    return [(pipe, DARK), (ring, (238, 196, 70)), (top, (90, 90, 94))]


def bus_front(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a flat front: bright windscreen, orange destination board, mirror."""
    front = frame.box(0.76, 0.1, 1.02, 0.88, 0.05)
    screen = frame.box(0.82, 0.34, 1.0, 0.7, 0.03)
    board = frame.box(0.78, 0.72, 1.02, 0.86, 0.02)
    lamp, mirror = frame.disc(0.95, 0.21, 0.05), frame.limb((1.04, 0.66), (1.09, 0.5), 0.045)
    return [(front, skin), (screen, (168, 212, 232)), (board, (238, 142, 48)), (mirror, DARK), (lamp, (250, 240, 200))]


def train_front(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a sloping nose with a yellow face and a small window."""
    nose = frame.convex((0.76, 0.08), (1.18, 0.08), (1.18, 0.26), (0.98, 0.82), (0.76, 0.84))
    face = frame.convex((0.92, 0.08), (1.18, 0.08), (1.18, 0.26), (1.07, 0.54), (0.92, 0.54))
    pane = frame.convex((0.88, 0.56), (1.06, 0.56), (0.98, 0.76), (0.88, 0.76))
    lamp = frame.disc(1.1, 0.2, 0.045)
    return [(nose, skin), (face, (236, 200, 62)), (pane, DARK), (lamp, (250, 246, 226))]


# --- Clutter: things that belong to no class.


def stone(frame: Frame, rng: np.random.Generator) -> list[Layer]:
    """Return a stone."""
    skin = Look((142, 138, 130), (104, 100, 94), patches).skin(frame, rng)
    return [(union(frame.ellipse(0, 0.35, 0.9, 0.5), frame.ellipse(0.3, 0.55, 0.5, 0.4)), skin)]


def crate(frame: Frame, rng: np.random.Generator) -> list[Layer]:
    """Return a wooden crate."""
    skin = Look((166, 124, 78), (116, 80, 46), lines).skin(frame, rng)
    beam = frame.limb((-0.65, 0.1), (0.65, 1.2), 0.07)
    return [(frame.box(-0.75, 0, 0.75, 1.3, 0.04), skin), (beam, (128, 90, 54))]


def bush(frame: Frame, rng: np.random.Generator) -> list[Layer]:
    """Return a bush."""
    skin = Look((74, 108, 58), (44, 74, 40), patches).skin(frame, rng)
    return [(union(frame.disc(-0.4, 0.45, 0.5), frame.disc(0.4, 0.5, 0.52), frame.disc(0, 0.85, 0.5)), skin)]


def sign(frame: Frame, rng: np.random.Generator) -> list[Layer]:
    """Return a signpost."""
    colour = ((70, 100, 150), (168, 66, 58), (206, 206, 200))[rng.integers(3)]
    return [(frame.limb((0, 0), (0, 1), 0.06), STEEL), (frame.box(-0.45, 0.85, 0.45, 1.45, 0.08), colour)]


# --- Grounds and skies.


@dataclass(frozen=True)
class Area:
    """A band of the image: positions in pixels of a 96-pixel world, and depth from 0 (far edge) to 1 (near edge)."""

    x: np.ndarray
    y: np.ndarray
    depth: np.ndarray
    rng: np.random.Generator

    def noise(self, rows: int, columns: int) -> np.ndarray:
        """Return smooth noise over the area, see :func:`smooth_noise`."""
        return smooth_noise(self.rng, self.depth.shape, rows, columns)


def waves(area: Area, calm: float) -> np.ndarray:
    """Return horizontal ripples in [0, 1]."""
    bend = area.noise(3, 10) * 5
    return 0.5 + 0.5 * np.sin(area.y * calm + 0.05 * area.x + bend)


def sea(area: Area) -> np.ndarray:
    """Return blue water with small crests."""
    height = waves(area, 1.0)
    return mix(mix((38, 92, 140), (82, 142, 178), 0.8 * height), (214, 230, 236), 0.8 * step(height, 0.96))


def river(area: Area) -> np.ndarray:
    """Return slow, greenish water."""
    return mix((72, 98, 84), (124, 144, 118), 0.5 * waves(area, 0.45) + 0.5 * area.noise(4, 8))


def meadow(area: Area) -> np.ndarray:
    """Return grass with flowers."""
    grass = mix((84, 122, 54), (134, 164, 82), 0.5 * area.noise(10, 48) + 0.5 * area.noise(4, 6))
    return mix(grass, (236, 224, 150), 0.9 * step(area.noise(16, 30), 0.93))


def carpet(area: Area) -> np.ndarray:
    """Return a woven carpet."""
    weave = step(np.cos(0.62 * area.x) + np.cos(0.9 * area.y), 0.9, 0.6)
    return mix(mix((146, 78, 74), (172, 106, 92), area.noise(6, 6)), (208, 176, 132), 0.75 * weave)


def road(area: Area) -> np.ndarray:
    """Return asphalt with a broken white line."""
    asphalt = mix((96, 97, 100), (124, 124, 125), area.noise(14, 40))
    dash = step(np.cos(0.3 * area.x + area.rng.uniform(0, 6)), 0.0, 0.3) * step(-np.abs(area.depth - 0.5), -0.045, 0.05)
    return mix(asphalt, (228, 226, 216), dash)


def rails(area: Area) -> np.ndarray:
    """Return gravel with sleepers and two rails."""
    gravel = mix((112, 100, 90), (158, 146, 132), area.noise(18, 48))
    track = step(-np.abs(area.depth - 0.55), -0.3, 0.05)
    sleepers = mix(gravel, (82, 62, 48), track * step(np.cos(0.8 * area.x), 0.0, 0.4))
    steel = sum(step(-np.abs(area.depth - at), -0.045, 0.04) for at in (0.4, 0.7))
    return mix(sleepers, (188, 188, 190), np.asarray(steel))


def sand(area: Area) -> np.ndarray:
    """Return sand."""
    return mix((198, 176, 134), (224, 206, 166), 0.5 * waves(area, 0.7) + 0.5 * area.noise(16, 40))


def pavement(area: Area) -> np.ndarray:
    """Return paving stones."""
    stones = mix((158, 150, 140), (184, 178, 168), area.noise(6, 12))
    joints = np.maximum(np.cos(0.75 * area.x), np.cos(0.9 * area.y))
    return mix(stones, (118, 112, 104), step(joints, 0.93, 0.1))


def snow(area: Area) -> np.ndarray:
    """Return snow."""
    return mix((204, 212, 222), (238, 240, 242), area.noise(4, 7))


def soil(area: Area) -> np.ndarray:
    """Return a field of brown earth."""
    return mix((104, 80, 58), (146, 116, 86), 0.5 * waves(area, 1.3) + 0.5 * area.noise(12, 36))


def clear_sky(area: Area) -> np.ndarray:
    """Return a blue sky with clouds."""
    return mix(mix((122, 164, 206), (196, 214, 226), area.depth), (240, 240, 238), step(area.noise(4, 4), 0.66, 0.3))


def evening_sky(area: Area) -> np.ndarray:
    """Return an evening sky."""
    return mix((128, 128, 164), (232, 186, 150), np.clip(area.depth + 0.3 * (area.noise(4, 3) - 0.5), 0, 1))


def forest(area: Area) -> np.ndarray:
    """Return trees before a pale sky."""
    crowns = step(area.depth + 0.5 * (area.noise(3, 14) - 0.5), 0.42, 0.06)
    leaves = mix((52, 78, 52), (88, 112, 74), area.noise(10, 26))
    return mix((204, 216, 220), leaves, crowns)


def wall(area: Area) -> np.ndarray:
    """Return a wall of bricks."""
    bricks = mix((170, 128, 106), (196, 158, 132), area.noise(8, 10))
    row = np.floor(area.y / 5)
    joints = np.maximum(np.cos(area.y * 2 * np.pi / 5), np.cos((area.x + 5 * (row % 2)) * 2 * np.pi / 10) - 0.06)
    return mix(bricks, (204, 190, 174), 0.7 * step(joints, 0.86, 0.2))
