"""Arrays that follow from their name, so that golden vectors store outputs only.

The values come from NumPy's PCG64 stream, seeded with the CRC-32 of the name, and are the same on every machine.
"""

import json
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def generator(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def array(name, shape, scale=1.0):
    """Standard-normal float32 values times ``scale``."""
    return (generator(name).standard_normal(shape) * scale).astype(np.float32)


def uniform(name, shape, low=0.0, high=1.0):
    """Uniform float32 values in [low, high)."""
    return generator(name).uniform(low, high, shape).astype(np.float32)


def integers(name, shape, low, high):
    """Uniform int64 values in [low, high)."""
    return generator(name).integers(low, high, shape)


def smooth(name, shape, cells=6):
    """A smooth (C, H, W) float32 field in [0, 1]: a coarse grid of uniform values, enlarged bilinearly."""
    channels, height, width = shape
    grid = generator(name).uniform(0.0, 1.0, (channels, cells, cells))

    def places(count):
        at = np.linspace(0, cells - 1, count)
        before = np.minimum(at.astype(int), cells - 2)
        return before, at - before

    row, down = places(height)
    column, right = places(width)
    down, right = down[None, :, None], right[None, None, :]
    upper, lower = grid[:, row], grid[:, row + 1]
    above = upper[:, :, column] * (1 - right) + upper[:, :, column + 1] * right
    below = lower[:, :, column] * (1 - right) + lower[:, :, column + 1] * right
    return (above * (1 - down) + below * down).astype(np.float32)


def value(name, key, shape):
    """The tensor ``key`` of a made-up checkpoint: weights scaled by fan-in, variances positive."""
    last = key.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if last.endswith("running_var"):
        return uniform(name, shape, 0.5, 1.5)
    if last.endswith(("running_mean", "bias")):
        return array(name, shape, 0.1)
    if last.endswith("weight"):
        if len(shape) == 1:
            return 1.0 + array(name, shape, 0.1)
        return array(name, shape, float(np.sqrt(2.0 / np.prod(shape[1:]))))
    return array(name, shape, 0.02)


def fill(shapes, prefix):
    """A whole made-up checkpoint: ``{key: shape}`` to ``{key: array}``."""
    return {key: value(f"{prefix}/{key}", key, tuple(shape)) for key, shape in shapes.items()}


def shapes(name):
    """The ``{key: shape}`` table ``golden/<name>.shapes.json``."""
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / f"{name}.shapes.json").read_text()).items()}


def golden(name):
    """The arrays of ``golden/<name>.npz``."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def description(name):
    """What ``golden/<name>.json`` says about the arrays."""
    return json.loads((GOLDEN / f"{name}.json").read_text())
