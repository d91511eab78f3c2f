"""Bodies, parts and skins that only the corpus has, drawn like those of the toy world.

Lengths are in units of half the body's width. The feet are at v = 0, v points up, and the front is at u > 0. A shape
must stay within 1.5 units of the middle and 1.7 units above the feet, see :class:`wsss_lib.data.toy_drawing.Frame`.
"""

from __future__ import annotations

import numpy as np

from wsss_lib.data.toy_drawing import DARK, GLASS, STEEL, Frame, Layer, smooth_noise, step, union

# --- Skins.


def spots(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return round spots in rows, slightly displaced."""
    bend = 2 * smooth_noise(rng, frame.u.shape, 4, 4)
    return step(np.cos(15 * frame.u + bend) * np.cos(15 * frame.v + bend), 0.35, 0.5)


def checks(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return a chequered pattern."""
    pitch = rng.uniform(10, 14)
    return step(np.sin(pitch * frame.u) * np.sin(pitch * frame.v), 0, 0.5)


def slants(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Return straight stripes that rise towards the front."""
    pitch = rng.uniform(12, 17)
    return step(np.sin(pitch * (frame.u - frame.v)), 0.2, 0.6)


def shade(frame: Frame, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Return a change of colour from the feet to the top."""
    return np.clip(0.2 + 0.7 * frame.v, 0, 1)


# --- Bodies.


def bird(frame: Frame, skin: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Return trunk, legs, wing and tail of a bird that looks to the right."""
    lift = rng.uniform(-0.12, 0.12)
    legs = union(*(frame.limb((at, 0.45), (at + 0.05, 0.03), 0.045) for at in (-0.14, 0.16)))
    tail = frame.convex((-0.5, 0.55), (-0.4, 0.8), (-1.02, 1.0 + lift), (-1.1, 0.74 + lift))
    trunk = union(frame.ellipse(0, 0.68, 0.62, 0.36), frame.limb((0.34, 0.76), (0.6, 0.92), 0.16))
    wing = frame.ellipse(-0.12, 0.72, 0.36, 0.17)
    return [(legs, (204, 150, 64)), (tail, skin * 0.8), (trunk, skin), (wing, skin * 0.7)]


def car(frame: Frame, skin: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Return the low body and the wheels of a car or a lorry that drives to the right."""
    shift = rng.uniform(-0.06, 0.06)
    body = union(frame.box(-1.02, 0.16, 1.02, 0.5, 0.1), frame.box(-0.98, 0.2, -0.3, 0.58, 0.08))
    places = (-0.62 + shift, 0.6 + shift)
    wheels, hubs = (union(*(frame.disc(u, 0.19, radius) for u in places)) for radius in (0.19, 0.09))
    lamp = frame.disc(0.97, 0.38, 0.05)
    return [(body, skin), (lamp, (250, 236, 180)), (wheels, DARK), (hubs, STEEL)]


def house(frame: Frame, skin: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Return walls, door and windows of a house with a flat roof."""
    shift = rng.uniform(-0.08, 0.08)
    walls = frame.box(-0.95, 0, 0.95, 0.82)
    eaves = frame.box(-1.04, 0.78, 1.04, 0.9, 0.03)
    door = frame.box(-0.12 + shift, 0, 0.14 + shift, 0.46)
    panes = union(*(frame.box(u + shift, 0.4, u + 0.26 + shift, 0.64, 0.02) for u in (-0.72, 0.42)))
    return [(walls, skin), (eaves, (120, 96, 84)), (door, (88, 60, 44)), (panes, GLASS)]


def plane(frame: Frame, skin: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Return fuselage, wing and wheels of an aeroplane on the ground."""
    sweep = rng.uniform(-0.06, 0.06)
    legs = union(*(frame.limb((u, 0.36), (u, 0.12), 0.03) for u in (-0.24, 0.5)))
    wheels = union(*(frame.disc(u, 0.09, 0.09) for u in (-0.24, 0.5)))
    hull = union(frame.limb((-0.62, 0.52), (0.68, 0.52), 0.21), frame.limb((-1.0, 0.6), (-0.5, 0.52), 0.1))
    panes = frame.repeat(-0.36, 0.2, 6).disc(0, 0.6, 0.055)
    wing = frame.convex((-0.34 + sweep, 0.2), (0.02 + sweep, 0.2), (0.3, 0.5), (-0.02, 0.5))
    return [(legs, STEEL), (wheels, DARK), (hull, skin), (panes, GLASS), (wing, skin * 0.75)]


# --- Parts: one more for each body of the toy world, and two for each body above.


def horse_head(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a long head on a neck, with a mane."""
    head = union(frame.limb((0.56, 0.78), (0.78, 1.22), 0.13), frame.limb((0.78, 1.2), (1.08, 1.0), 0.1))
    mane = frame.limb((0.44, 0.84), (0.66, 1.32), 0.07)
    eye = frame.disc(0.86, 1.2, 0.04)
    return [(mane, (64, 44, 34)), (head, skin * 0.95), (eye, DARK)]


def crane(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a yellow crane that leans forward, with a hook."""
    arm = union(frame.limb((0.06, 0.6), (0.06, 1.0), 0.08), frame.limb((0.06, 0.96), (0.62, 1.38), 0.05))
    rope = union(frame.limb((0.62, 1.36), (0.62, 0.94), 0.018), frame.disc(0.62, 0.9, 0.06))
    return [(arm, (226, 176, 54)), (rope, DARK)]


def tender(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a rounded front with a large lamp and a buffer."""
    front = frame.ellipse(0.84, 0.47, 0.3, 0.38)
    return [(front, skin * 0.9), (frame.disc(0.98, 0.5, 0.12), (252, 246, 210)), (frame.disc(1.12, 0.24, 0.07), DARK)]


def rooster_head(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a round head with a red comb and a yellow beak."""
    comb = union(*(frame.disc(u, v, 0.085) for u, v in ((0.54, 1.24), (0.66, 1.29), (0.77, 1.23))))
    beak = frame.convex((0.8, 1.0), (1.02, 1.04), (0.8, 1.13))
    wattle = frame.ellipse(0.8, 0.9, 0.055, 0.1)
    eye = frame.disc(0.7, 1.09, 0.04)
    head = frame.disc(0.65, 1.06, 0.18)
    red = (206, 52, 48)
    return [(comb, red), (wattle, red), (head, skin), (beak, (236, 190, 70)), (eye, DARK)]


def swan_head(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a small head on a long, bent neck, with an orange bill."""
    neck = union(frame.limb((0.54, 0.84), (0.46, 1.2), 0.085), frame.limb((0.46, 1.2), (0.62, 1.44), 0.085))
    head = union(neck, frame.disc(0.68, 1.44, 0.12))
    bill = frame.limb((0.78, 1.42), (0.98, 1.36), 0.05)
    return [(bill, (226, 122, 50)), (head, skin), (frame.disc(0.72, 1.47, 0.035), DARK)]


def cabin(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return the roof of a car with two windows."""
    roof = frame.convex((-0.62, 0.48), (0.5, 0.48), (0.2, 0.9), (-0.44, 0.9))
    panes = union(
        frame.convex((-0.5, 0.54), (-0.12, 0.54), (-0.12, 0.83), (-0.38, 0.83)),
        frame.convex((-0.04, 0.54), (0.38, 0.54), (0.16, 0.83), (-0.04, 0.83)),
    )
    return [(roof, skin), (panes, (172, 206, 220))]


def ladder(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a driver's cab at the front, and a ladder that lies slanted behind it."""
    cab = frame.box(0.52, 0.46, 0.98, 0.92, 0.06)
    beams = union(frame.limb((-0.9, 0.62), (0.46, 0.98), 0.035), frame.limb((-0.9, 0.8), (0.46, 1.16), 0.035))
    rungs = union(*(frame.limb((u, 0.86 + 0.265 * u), (u, 1.04 + 0.265 * u), 0.025) for u in (-0.7, -0.4, -0.1, 0.2)))
    return [(cab, skin), (frame.box(0.68, 0.6, 0.94, 0.84, 0.03), GLASS), (union(beams, rungs), (222, 222, 214))]


def chimney(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a pointed roof with a chimney."""
    pot = frame.box(0.3, 0.94, 0.54, 1.5, 0.02)
    roof = frame.convex((-0.8, 0.88), (0.8, 0.88), (0, 1.36))
    return [(pot, (150, 76, 60)), (roof, (168, 84, 62))]


def tower(frame: Frame, skin: np.ndarray) -> list[Layer]:
    """Return a tower with a clock and a green, pointed top."""
    shaft = frame.box(-0.86, 0.84, -0.42, 1.3)
    top = frame.convex((-0.94, 1.28), (-0.34, 1.28), (-0.64, 1.64))
    return [(shaft, skin * 0.95), (frame.disc(-0.64, 1.08, 0.13), (240, 236, 220)), (top, (82, 142, 118))]


def propeller(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a red nose with a propeller."""
    nose = frame.ellipse(0.92, 0.52, 0.16, 0.16)
    blades = frame.ellipse(1.06, 0.52, 0.05, 0.42)
    return [(nose, (196, 62, 52)), (blades, (70, 66, 62))]


def jet_fin(frame: Frame, skin: np.ndarray) -> list[Layer]:  # noqa: ARG001
    """Return a tall blue fin with an engine below it."""
    fin = frame.convex((-1.08, 0.6), (-0.62, 0.6), (-0.9, 1.22), (-1.16, 1.22))
    stripe = frame.convex((-1.12, 0.9), (-0.75, 0.9), (-0.82, 1.04), (-1.14, 1.04))
    engine = frame.limb((-0.78, 0.76), (-0.5, 0.76), 0.1)
    return [(fin, (58, 92, 160)), (stripe, (238, 232, 220)), (engine, STEEL)]
