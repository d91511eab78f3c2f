"""Affinities along paths: the affinity of two cells is high if no boundary lies between them.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019).
The affinity of two cells is one minus the highest boundary probability on the straight path between them.
Pairs, their order and the two border rules are the same as in :mod:`wsss_lib.ops.affinity`.

The authors gather the boundary values of all paths: 2134 values per cell at radius 10. Here a path is split into a few
straight runs of cells, and the highest value of each run is read from one table per run length.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, reduce
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.ops.affinity import Border, Window, pair_count, pair_offsets, pair_windows

Offset = tuple[int, int]
"""(dy, dx): rows down and columns to the right."""


class _Run(NamedTuple):
    """Cells of a path in one row (``axis`` 2) or in one column (``axis`` 1): the first cell and the number of cells."""

    y: int
    x: int
    length: int
    axis: int


def path(offset: Offset) -> list[Offset]:
    """Return the path from the origin to an offset: all cells between them less than 1 away from the straight line.

    Returns:
        (y, x) of each cell, from the destination to the origin; both are included.
    """
    dy, dx = offset
    square = dy * dy + dx * dx
    rows, columns = range(min(0, dy), max(0, dy) + 1), range(min(0, dx), max(0, dx) + 1)
    cells = [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < square]
    return sorted(cells, key=lambda cell: -abs(cell[0]) - abs(cell[1]))


def official_order(radius: int) -> list[int]:
    """Return positions in ``pair_offsets(radius)`` in the order of the authors' arrays: short paths first."""
    offsets = pair_offsets(radius)
    return sorted(range(len(offsets)), key=lambda k: len(path(offsets[k])))


def path_affinities(boundaries: Tensor, radius: int = 10, border: Border = "official") -> Tensor:
    """Return the affinity of every pair, ``a_ij = 1 - max over the path from i to j of the boundary probability``.

    The gradient of a pair goes to the highest value only; if several are equal, to the first in the order of
    :func:`path`.

    Args:
        boundaries: ``(B, h, w)`` float in [0, 1], the probability that a boundary crosses the cell.
        radius: Upper limit of the distance within a pair, in cells; pairs are closer than this.
        border: Rule for pairs near the border, ``official`` or ``full``.

    Returns:
        ``(B, P, n)`` float32 in [0, 1]; 0 where a pair leaves the grid.

    Raises:
        InputError: The grid is too small for any pair, the radius is too small, or a value lies outside [0, 1].
    """
    check_boundaries(boundaries, radius)
    return _PathAffinity.apply(boundaries.float(), radius, border)


def check_boundaries(boundaries: Tensor, radius: int) -> None:
    """Raise InputError unless boundaries are ``(B, h, w)`` probabilities and some pair lies within the radius."""
    check_radius("radius", radius)
    if boundaries.ndim != 3:
        raise InputError(f"boundaries have the shape {tuple(boundaries.shape)}; give (B, h, w).")
    if ((boundaries < 0) | (boundaries > 1)).any():
        raise InputError("boundaries hold values below 0 or above 1; give probabilities.")


def check_radius(name: str, radius: int) -> None:
    """Raise InputError if no pair lies within the radius; the message calls the radius ``name``."""
    if radius < 2:
        raise InputError(f"{name} is {radius}, which leaves no pairs; give at least 2.")


@lru_cache(maxsize=32)
def _runs(radius: int) -> list[list[_Run]]:
    """Return the runs of the path to each offset, along the axis that needs fewer runs."""
    result = []
    for offset in pair_offsets(radius):
        line = int(offset[0] > abs(offset[1]))  # 0: along rows
        cells = sorted(path(offset), key=itemgetter(line, 1 - line))
        runs = [list(group) for _, group in groupby(cells, key=itemgetter(line))]
        result.append([_Run(*run[0], len(run), 2 - line) for run in runs])
    return result


def _windows(keys: Tensor, axis: int, longest: int) -> list[Tensor]:
    """Return one table for each length 1, 2, ...: the highest key of each run of that length, at its first cell."""
    windows = [keys]
    for length in range(2, min(longest, keys.shape[axis]) + 1):
        count = keys.shape[axis] - length + 1
        windows.append(torch.maximum(windows[-1].narrow(axis, 0, count), keys.narrow(axis, length - 1, count)))
    return windows


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)  # cached tensors are also used in training
def _ranks(height: int, width: int, device: torch.device) -> Tensor:
    """Return two ranks of each cell, ``(2, h, w)`` int64: for paths to the right and for paths to the left.

    The cell with the higher rank comes first on a path. One order is right for all paths that go to the right: cells
    farther from the upper left corner come first, and of equally far cells the upper one. Another order is right for
    all paths to the left. The ranks of the second order start after those of the first.
    """
    y = torch.arange(height, device=device)[:, None]
    x = torch.arange(width, device=device)
    orders = torch.stack([(y + far) * height + height - 1 - y for far in (x, width - 1 - x)]).flatten(1)
    return (orders.argsort(1).argsort(1) + orders.new_tensor([[0], [height * width]])).view(2, height, width)


class Crossing(NamedTuple):
    """The highest boundary on the path of every pair at one offset.

    Attributes:
        number: Position of the offset in :func:`wsss_lib.ops.affinity.pair_offsets`.
        start: Window of the grid that holds the "from" cells.
        end: Window of the grid that holds the "to" cells.
        place: Window of the grid of "from" cells that holds the pairs.
        values: ``(B, rows, columns)`` float32, the highest boundary probability on the path of each pair.
        ranks: ``(B, rows, columns)`` int64, the rank of the cell with that probability, see :func:`per_cell`.
    """

    number: int
    start: Window
    end: Window
    place: Window
    values: Tensor
    ranks: Tensor


def crossings(boundaries: Tensor, radius: int, border: Border) -> Iterator[Crossing]:
    """Yield the highest boundaries offset by offset, so that memory holds the values of one offset at a time.

    A key holds the bits of a value and, below them, the rank of its cell. So the highest key of a path gives both the
    highest value and its cell. The bits of non-negative floats have the same order as the floats.

    Args:
        boundaries: ``(B, h, w)`` float32 in [0, 1].
        radius: Radius of the pairs, as in :func:`path_affinities`.
        border: Rule for pairs near the border, as in :func:`path_affinities`.
    """
    height, width = boundaries.shape[1:]
    offsets, runs = pair_offsets(radius), _runs(radius)
    bits = boundaries.detach().contiguous().abs().view(torch.int32).long() << 32  # abs for -0 and the sign of NaN
    for leftward, ranks in enumerate(_ranks(height, width, boundaries.device)):
        windows = {axis: _windows(bits | ranks, axis, radius) for axis in (1, 2)}
        for k, offset in enumerate(offsets):
            start, end, place = pair_windows(offset, height, width, radius, border)
            if (offset[1] < 0) != bool(leftward) or not start[0].stop:
                continue
            parts = []
            for y, x, length, axis in runs[k]:
                rows = slice(start[0].start + y, start[0].stop + y)
                columns = slice(start[1].start + x, start[1].stop + x)
                parts.append(windows[axis][length - 1][:, rows, columns])
            highest = reduce(torch.maximum, parts)
            values = (highest >> 32).int().view(torch.float32)
            yield Crossing(k, start, end, place, values, highest & 0xFFFFFFFF)


def per_cell(per_rank: Tensor, height: int, width: int) -> Tensor:
    """Return ``(..., h, w)`` sums for the cells from ``(..., 2 h w)`` sums for the ranks; a cell has two ranks."""
    ranks = _ranks(height, width, per_rank.device)
    return per_rank[..., ranks[0]] + per_rank[..., ranks[1]]


class _PathAffinity(torch.autograd.Function):
    """``a = 1 - max``; backward needs only the rank of the cell with the maximum of each pair."""

    @staticmethod
    def forward(ctx: Any, boundaries: Tensor, radius: int, border: Border) -> Tensor:
        batch, height, width = boundaries.shape
        shape = (batch, len(pair_offsets(radius)), *pair_count(height, width, radius, border))
        result = boundaries.new_zeros(shape)
        learns = ctx.needs_input_grad[0]
        ranks = torch.zeros(shape if learns else 0, dtype=torch.int32, device=boundaries.device)
        for crossing in crossings(boundaries, radius, border):
            result[:, crossing.number, *crossing.place] = 1 - crossing.values
            if learns:
                ranks[:, crossing.number, *crossing.place] = crossing.ranks.int()
        ctx.save_for_backward(ranks)
        ctx.pairs = height, width, radius, border
        return result.flatten(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (ranks,) = ctx.saved_tensors
        height, width, radius, border = ctx.pairs
        gradient = gradient.view(ranks.shape)
        result = gradient.new_zeros(len(gradient), 2 * height * width)
        for k, offset in enumerate(pair_offsets(radius)):
            _, _, place = pair_windows(offset, height, width, radius, border)
            result.scatter_add_(1, ranks[:, k, *place].flatten(1).long(), -gradient[:, k, *place].flatten(1))
        return per_cell(result, height, width), None, None
