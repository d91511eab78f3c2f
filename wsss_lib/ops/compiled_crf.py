"""The mean field of one picture, compiled by Numba for CPUs: what `dense_crf` computes, in fewer passes.

Corners are found with a hash table. An update goes over the pixels once: a pixel reads what all kernels tell it, takes
the softmax, and gives the result to the corners at once, so that probabilities and messages never go to memory. The
pixels are shared among as many threads as PyTorch uses, at most 8; with one thread nothing else is started. The torch
backend of `dense_crf` computes the same up to rounding and is the oracle. This module needs Numba, which the extra
`fast` installs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_lib.ops.permutohedral import Lattice, coordinate_range, lattice_scales, with_padding
from wsss_lib.ops.vectors import (
    add,
    compiled,
    exponential,
    greater,
    greatest,
    load,
    multiply,
    multiply_add,
    spread,
    store,
    subtract,
    total,
)

_BLOCK = 256
"""Number of points whose simplices are computed together."""

_MOST_THREADS = 8
"""Greatest number of threads, since each has its own sums at the corners."""

_ONE, _HALF = np.float32(1), np.float32(0.5)


# --------------------------------------------------------------------------------------------------------- the lattice


@compiled
def _slot_of(key: int, keys: np.ndarray, table: np.ndarray) -> np.uint64:
    """Return the slot of a key in the hash table, or the free slot where it belongs."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _enlarged(keys: np.ndarray, count: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys with room for half as many as there are slots, and a hash table of the first ``count`` keys."""
    longer = np.empty(slots // 2, np.int64)
    longer[:count] = keys[:count]
    table = np.full(slots, -1, np.int32)
    for corner in range(count):
        table[_slot_of(longer[corner], longer, table)] = corner
    return longer, table


@compiled
def _find_corners(features: np.ndarray, scales: np.ndarray, places: np.ndarray) -> Any:
    """Return the corners ``(N, d + 1)`` int32 of every point, their weights, all keys, and the hash table.

    A corner's key is the sum of its coordinates times ``places``. The operations are those of `permutohedral`, in their
    order, so the weights are equal.
    """
    d, points = features.shape
    size = d + 1
    step = places.sum()
    inverse, whole = np.float32(1) / np.float32(size), np.float32(size)
    columns = np.empty((points, size), np.int32)
    weights = np.empty((points, size), np.float32)
    keys, table = _enlarged(np.empty(0, np.int64), 0, 1 << 15)
    count = 0

    running = np.empty(_BLOCK, np.float32)
    elevated = np.empty((size, _BLOCK), np.float32)
    rounded, residual = np.empty_like(elevated), np.empty_like(elevated)
    excess = np.empty(_BLOCK, np.int32)
    rank = np.empty((size, _BLOCK), np.int32)
    by_rank = np.empty(size, np.float32)
    coordinate = np.empty(size, np.int64)
    previous_key, previous_order = np.int64(0), np.int64(-1)
    for first in range(0, points, _BLOCK):
        n = min(_BLOCK, points - first)
        while (count + n * size) * 2 > len(table):
            keys, table = _enlarged(keys, count, 2 * len(table))

        running[:] = 0
        for j in range(d, 0, -1):
            for i in range(n):
                scaled = features[j - 1, first + i] * scales[j - 1]
                elevated[j, i] = running[i] - np.float32(j) * scaled
                running[i] += scaled
        elevated[0] = running
        excess[:] = 0
        for j in range(size):
            for i in range(n):
                rounded[j, i] = np.rint(elevated[j, i] * inverse)
                residual[j, i] = elevated[j, i] - rounded[j, i] * whole
                excess[i] += np.int32(rounded[j, i])
        for j in range(size):
            rank[j] = excess
        for a in range(size):
            for b in range(a + 1, size):
                for i in range(n):
                    less = np.int32(residual[a, i] < residual[b, i])
                    rank[a, i] += less
                    rank[b, i] += np.int32(1) - less
        for j in range(size):
            for i in range(n):
                wrapped = np.int32(rank[j, i] < 0) - np.int32(rank[j, i] >= size)
                rank[j, i] += wrapped * np.int32(size)
                rounded[j, i] += np.float32(wrapped)
                residual[j, i] = (elevated[j, i] - rounded[j, i] * whole) * inverse

        for i in range(n):
            key, order = np.int64(0), np.int64(0)
            for j in range(size):
                r = np.int64(rank[j, i])
                by_rank[d - r] = residual[j, i]
                coordinate[r] = j
                order = order * size + r
                key += np.int64(rounded[j, i]) * places[j]
            key *= size
            point = first + i
            weights[point, 0] = by_rank[0] + (_ONE - by_rank[d])
            for k in range(1, size):
                weights[point, k] = by_rank[k] - by_rank[k - 1]
            if key == previous_key and order == previous_order:
                columns[point] = columns[point - 1]
                continue
            previous_key, previous_order = key, order
            for k in range(size):
                slot = _slot_of(key, keys, table)
                if table[slot] < 0:
                    table[slot] = count
                    keys[count] = key
                    count += 1
                columns[point, k] = table[slot]
                key += step - size * places[coordinate[d - k]]
    return columns, weights, keys[:count], table


@compiled
def _find_neighbours(keys: np.ndarray, table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the neighbours of the M corners along each axis, ``(d + 1, M, 2)`` int32; M for an absent one."""
    size, count = len(places), len(keys)
    neighbours = np.full((size, count, 2), count, np.int32)
    for axis in range(size):
        step = size * places[axis] - places.sum()
        for corner in range(count):
            other = table[_slot_of(keys[corner] + step, keys, table)]
            if other >= 0:
                neighbours[axis, corner, 0] = other
                neighbours[axis, other, 1] = corner
    return neighbours


@compiled
def _filter_ones(columns: np.ndarray, weights: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Return what the filter makes of a value of 1 at every point, ``(N,)`` float32, without its constant factor."""
    points, size = columns.shape
    count = neighbours.shape[1]
    values, others = np.zeros(count + 1, np.float32), np.zeros(count + 1, np.float32)
    for i in range(points):
        for k in range(size):
            values[columns[i, k]] += weights[i, k]
    for axis in range(size):
        for m in range(count):
            near = values[neighbours[axis, m, 0]] + values[neighbours[axis, m, 1]]
            others[m] = values[m] + _HALF * near
        values, others = others, values
    result = np.empty(points, np.float32)
    for i in range(points):
        x = np.float32(0)
        for k in range(size):
            x += weights[i, k] * values[columns[i, k]]
        result[i] = x
    return result


@dataclass(frozen=True)
class CompiledLattice:
    """The lattice of the pixels of one picture; see `wsss_lib.ops.permutohedral.Lattice`, which has the same corners.

    Attributes:
        columns: Corners of every pixel, ``(N, d + 1)`` int32; they are numbered as the pixels reach them.
        weights: Barycentric weights, ``(N, d + 1)`` float32.
        neighbours: Both neighbours of the M corners along each axis, ``(d + 1, M, 2)`` int32; M for an absent one.
        ones: Result of filtering ones, ``(N,)`` float32.
        scale: Factor by which the C++ filter multiplies its result.
    """

    columns: np.ndarray
    weights: np.ndarray
    neighbours: np.ndarray
    ones: np.ndarray
    scale: float

    @property
    def size(self) -> int:
        """M, the number of corners."""
        return self.neighbours.shape[1]


def build(features: Tensor) -> CompiledLattice:
    """Build the lattice of points.

    Args:
        features: ``(d, N)`` float32, as for a `Lattice`, which `permutohedral.check_features` has accepted.
    """
    d, points = features.shape
    padded, _ = with_padding(features.float(), None)  # the added point may lie far from the others
    radix = coordinate_range(padded) + 2 * (d + 1)  # neighbours lie up to d + 1 beyond the corners
    if radix**d >= 2**62:
        return _from_torch(Lattice(features), points)
    places = np.array([radix**j for j in range(d)] + [0], np.int64)
    scales = lattice_scales(d, features.device).numpy()
    columns, weights, keys, table = _find_corners(padded.contiguous().numpy(), scales, places)
    columns, weights = columns[:points], weights[:points]
    neighbours = _find_neighbours(keys, table, places)
    ones = _filter_ones(columns, weights, neighbours)
    return CompiledLattice(columns, weights, neighbours, ones, 1 / (1 + 2.0**-d))


def _from_torch(lattice: Lattice, points: int) -> CompiledLattice:
    """Convert a lattice whose corners cannot be numbered without counting the cells."""
    neighbours = np.stack([axis.columns[:, 1:].numpy() for axis in lattice.axes])
    absent = np.stack([axis.weights[:, 1:].numpy() == 0 for axis in lattice.axes])
    neighbours = np.where(absent, np.int32(lattice.size), neighbours)
    columns, weights = lattice.slicing.columns.numpy(), lattice.slicing.weights.numpy()
    ones = _filter_ones(columns[:points], weights[:points], neighbours)
    return CompiledLattice(columns, weights, neighbours, ones, lattice.scale)


# --------------------------------------------------------------------------------------------------------- mean field


@compiled
def _update(
    columns: np.ndarray,
    cut: np.ndarray,
    splat: np.ndarray,
    scores: np.ndarray,
    width: int,
    heard: np.ndarray,
    given: np.ndarray,
    result: np.ndarray,
    start: int,
    stop: int,
    hears: bool,
    gives: bool,
) -> None:
    """Update the pixels from ``start`` to ``stop``.

    Args:
        columns: Corners of every pixel in all kernels, ``(N, k)`` int32.
        cut: Weights with which a pixel hears its corners, ``(N, k)`` float32.
        splat: Weights with which a pixel gives to its corners, ``(N, k)`` float32.
        scores: Negative energies, ``(N * C,)`` float32, -inf in the channels that fill up a field.
        width: Number of channels of a field, a multiple of 4; C is a multiple of it.
        heard: Values of the corners, ``(M * C,)`` float32.
        given: Values that are added up at the corners, ``(M * C,)`` float32.
        result: Receives the probabilities of the last update, ``(N * C,)`` float32.
        start: First pixel.
        stop: One more than the last pixel.
        hears: Whether corners have values already; without them the result is the softmax of the scores.
        gives: Whether probabilities go to the corners; otherwise to ``result``.
    """
    entries = columns.shape[1]
    channels = len(scores) // max(1, len(columns))
    logits = np.empty(channels, np.float32)
    for point in range(start, stop):
        base = point * channels
        for c in range(0, channels - 4, 8):  # two registers at a time, to read corners and weights half as often
            x, y = load(scores, base + c), load(scores, base + c + 4)
            if hears:
                for k in range(entries):
                    place = columns[point, k] * channels + c
                    weight = spread(cut[point, k])
                    x = multiply_add(weight, load(heard, place), x)
                    y = multiply_add(weight, load(heard, place + 4), y)
            store(logits, c, x)
            store(logits, c + 4, y)
        if channels % 8:
            c = channels - 4
            x = load(scores, base + c)
            if hears:
                for k in range(entries):
                    x = multiply_add(spread(cut[point, k]), load(heard, columns[point, k] * channels + c), x)
            store(logits, c, x)
        for field in range(0, channels, width):
            most = load(logits, field)
            for c in range(field + 4, field + width, 4):
                most = greater(most, load(logits, c))
            most = spread(greatest(most))
            amount = spread(np.float32(0))
            for c in range(field, field + width, 4):
                x = exponential(subtract(load(logits, c), most))
                amount = add(amount, x)
                store(logits, c, x)
            share = spread(_ONE / total(amount))
            for c in range(field, field + width, 4):
                store(logits, c, multiply(load(logits, c), share))
        if gives:
            for k in range(entries):
                corner = columns[point, k] * channels
                weight = spread(splat[point, k])
                for c in range(0, channels, 4):
                    store(given, corner + c, multiply_add(weight, load(logits, c), load(given, corner + c)))
        else:
            for c in range(0, channels, 4):
                store(result, base + c, load(logits, c))


@compiled
def _blur(
    given: np.ndarray,
    spare: np.ndarray,
    heard: np.ndarray,
    neighbours: np.ndarray,
    first: int,
    channels: int,
    factor: np.float32,
) -> None:
    """Blur the corners of one kernel along all axes, from ``given`` to ``heard``; ``first`` is the row of its first."""
    axes, count = neighbours.shape[:2]
    source, target = given, spare
    half = spread(_HALF)
    for axis in range(axes):
        last = axis == axes - 1
        if last:
            target = heard
        elif axis % 2:
            target = given
        else:
            target = spare
        whole = spread(factor if last else _ONE)
        for m in range(count):
            own = (first + m) * channels
            one = (first + neighbours[axis, m, 0]) * channels
            other = (first + neighbours[axis, m, 1]) * channels
            for c in range(0, channels, 4):
                near = add(load(source, one + c), load(source, other + c))
                store(target, own + c, multiply(multiply_add(half, near, load(source, own + c)), whole))
        source = target


@dataclass(frozen=True)
class CompiledKernel:
    """A normalised, weighted kernel of one picture; see `wsss_lib.ops.dense_crf.Kernel`.

    Attributes:
        lattice: Lattice of the pixels.
        before: Factor of every pixel before filtering, ``(N,)`` float32; None for 1.
        after: Factor of every pixel after filtering, ``(N,)`` float32; None for 1.
        weight: Factor of the message.
        compatibility: ``(L, L)`` float32, by which messages are multiplied; None for the Potts model.
    """

    lattice: CompiledLattice
    before: np.ndarray | None
    after: np.ndarray | None
    weight: float
    compatibility: np.ndarray | None


def make_kernel(lattice: CompiledLattice, weight: Any, normalisation: str) -> CompiledKernel:
    """Return a kernel.

    Args:
        lattice: Lattice of the N pixels.
        weight: A number, or compatibilities ``(L,)`` or ``(L, L)``, as in `wsss_lib.ops.dense_crf.Pairwise`.
        normalisation: Name of the normalisation, as there.
    """
    before = after = None
    if normalisation != "none":
        sums = lattice.ones * np.float32(lattice.scale) + np.float32(1e-20)
        norm = 1 / (np.sqrt(sums) if normalisation == "symmetric" else sums)
        before = None if normalisation == "after" else norm
        after = None if normalisation == "before" else norm
    matrix = np.asarray(weight, np.float32)
    if matrix.ndim == 0:
        return CompiledKernel(lattice, before, after, float(matrix), None)
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    return CompiledKernel(lattice, before, after, 1.0, -(matrix + matrix.T) / 2)


def mean_field(unary: Tensor, kernels: Sequence[CompiledKernel], steps: int) -> Tensor:
    """Do ``steps`` parallel mean-field updates, see `wsss_lib.ops.dense_crf.mean_field`.

    Args:
        unary: ``(G, L, N)`` float32 on the CPU; an infinite energy excludes a label.
        kernels: Kernels of the picture.
        steps: Number of updates.

    Returns:
        ``(G, L, N)`` float32. It depends on the number of PyTorch's threads up to rounding.
    """
    groups, labels, points = unary.shape
    width = -(-labels // 4) * 4
    channels = groups * width
    layout = torch.full((points, groups, width), -torch.inf)
    layout[:, :, :labels] = unary.permute(2, 0, 1)
    layout[:, :, :labels].neg_()
    scores = layout.flatten().numpy()

    firsts = np.cumsum([0, *(kernel.lattice.size + 1 for kernel in kernels)])  # each with a row of zeros at its end
    columns, splat, cut = _joined(kernels, firsts, points)
    threads = max(1, min(torch.get_num_threads(), _MOST_THREADS, points))
    bands = [(points * i // threads, points * (i + 1) // threads) for i in range(threads)]
    given = np.zeros((threads, int(firsts[-1]) * channels), np.float32)
    heard, spare = np.zeros_like(given[0]), np.zeros_like(given[0])
    result = np.empty_like(scores)
    steps = steps if kernels else 0
    mixtures = [_mixture(kernel, groups, width) for kernel in kernels]

    def update(hears: bool, gives: bool, band: int) -> None:
        _update(columns, cut, splat, scores, width, heard, given[band], result, *bands[band], hears, gives)

    with ThreadPoolExecutor(threads) as pool:
        run: Callable[..., Any] = pool.map if threads > 1 else map
        for step in range(steps + 1):
            list(run(partial(update, step > 0, step < steps), range(threads)))
            if step == steps:
                break
            for other in given[1:]:
                given[0] += other
            for kernel, first, mixture in zip(kernels, firsts, mixtures, strict=False):
                factor = np.float32(kernel.weight * kernel.lattice.scale)
                _blur(given[0], spare, heard, kernel.lattice.neighbours, first, channels, factor)
                if mixture is not None:
                    rows = heard[first * channels : (first + kernel.lattice.size) * channels].reshape(-1, channels)
                    rows[:] = (torch.from_numpy(rows) @ mixture).numpy()
            given[:] = 0
    return torch.from_numpy(result).view(points, groups, width)[:, :, :labels].permute(1, 2, 0).contiguous()


def _joined(
    kernels: Sequence[CompiledKernel], firsts: np.ndarray, points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return corners, weights of splatting and weights of slicing of all kernels side by side, each ``(N, k)``."""
    ends = np.cumsum([0, *(kernel.lattice.columns.shape[1] for kernel in kernels)])
    columns = np.empty((points, ends[-1]), np.int32)
    splat = np.empty((points, ends[-1]), np.float32)
    equal = all(kernel.before is kernel.after for kernel in kernels)
    cut = splat if equal else np.empty_like(splat)
    for kernel, first, end in zip(kernels, firsts, ends, strict=False):
        lattice = kernel.lattice
        for target, factor in [(splat, kernel.before), (cut, kernel.after)][: 1 if equal else 2]:
            factors = np.ones(points, np.float32) if factor is None else factor
            _join(lattice.columns, lattice.weights, factors, first, columns, target, end)
    return columns, splat, cut


@compiled
def _join(
    corners: np.ndarray,
    weights: np.ndarray,
    factors: np.ndarray,
    first: int,
    columns: np.ndarray,
    target: np.ndarray,
    end: int,
) -> None:
    for point in range(len(corners)):
        for k in range(corners.shape[1]):
            columns[point, end + k] = corners[point, k] + first
            target[point, end + k] = weights[point, k] * factors[point]


def _mixture(kernel: CompiledKernel, groups: int, width: int) -> Tensor | None:
    """Return the compatibility as a matrix over the channels of all fields."""
    if kernel.compatibility is None:
        return None
    spare = width - len(kernel.compatibility)
    one = torch.from_numpy(np.pad(kernel.compatibility, ((0, spare), (0, spare))))
    return torch.block_diag(*[one] * groups)
