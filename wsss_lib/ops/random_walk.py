"""Spread scores along affinities: a random walk from pixel to pixel.

Ahn and Kwak (CVPR 2018), equations 4-6: with ``A = a^beta`` (element by element) and ``T = D⁻¹ A``, where D holds the
row sums of A, the refined scores are ``T^t M``. A is sparse, as only nearby pixels are connected, and there are few
rows of scores; so the scores are multiplied t times by a sparse matrix instead of squaring a dense one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import inf

import torch
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.ops.affinity import Border, pair_count, pair_offsets, pair_windows
from wsss_lib.ops.sparse import SparseRows
from wsss_lib.ops.values import all_finite, all_within


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)  # what is kept must serve training, too
def _structure(
    height: int, width: int, radius: int, border: Border, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sparse symmetric matrix of a grid: row and column of every entry, and which pair it comes from.

    The entries are in the order of their rows, then of their columns. Those of the diagonal come from "pair" P · n.
    """
    index = torch.arange(height * width).view(height, width)
    offsets = pair_offsets(radius)
    grid = pair_count(height, width, radius, border)
    place = torch.arange(len(offsets) * grid[0] * grid[1]).view(len(offsets), *grid)
    start, end, pair = [], [], []
    for k, offset in enumerate(offsets):
        one, other, where = pair_windows(offset, height, width, radius, border)
        start.append(index[*one].flatten())
        end.append(index[*other].flatten())
        pair.append(place[k, *where].flatten())
    i, j, p = torch.cat(start), torch.cat(end), torch.cat(pair)
    diagonal = index.flatten()
    rows, columns = torch.cat([i, j, diagonal]), torch.cat([j, i, diagonal])
    pairs = torch.cat([p, p, torch.full_like(diagonal, place.numel())])
    order = (rows * index.numel() + columns).argsort()
    return rows[order].to(device), columns[order].to(device), pairs[order].to(device)


def _column_sums(rows: Tensor, columns: Tensor, weights: Tensor, size: int, block: int = 256) -> Tensor:
    """Add up the columns of a symmetric sparse matrix in the order in which a dense one is.

    Its entries are sorted by rows. The authors' matrix is dense, and in hundreds of steps the last bit of D shows.
    """
    ends = torch.searchsorted(rows, torch.arange(0, size + block, block, device=rows.device)).tolist()
    sums = []
    for start, (first, last) in zip(range(0, size, block), pairwise(ends), strict=True):
        dense = weights.new_zeros(size, min(block, size - start))
        dense[columns[first:last], rows[first:last] - start] = weights[first:last]
        sums.append(dense.sum(0))
    return torch.cat(sums)


def transition_matrix(
    affinities: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    beta: float = 8.0,
    radius: int = 5,
    border: Border = "official",
) -> SparseRows:
    """Return ``T = D⁻¹ a^beta`` for one or more images, as the blocks of one sparse matrix.

    Args:
        affinities: For each image ``(P, n)`` float in [0, 1], see :func:`wsss_lib.ops.affinity.pair_affinities`.
        sizes: For each image the ``(h, w)`` of its grid.
        beta: The greater, the less do doubtful pairs count.
        radius: As for the affinities.
        border: As for the affinities.

    Raises:
        InputError: Affinities and sizes do not fit, an affinity is not a number in [0, 1], or ``beta`` is negative or
            not finite.
    """
    if not 0 <= beta < inf:
        raise InputError(f"beta is {beta}; it must be a finite number of at least 0.")
    columns, weights, lengths, sums = [], [], [], []
    first = 0
    for values, (height, width) in zip(affinities, sizes, strict=True):
        grid = pair_count(height, width, radius, border)
        wanted = (len(pair_offsets(radius)), grid[0] * grid[1])
        if values.shape != wanted:
            raise InputError(f"affinities of a {height} × {width} grid must be {wanted}, not {tuple(values.shape)}.")
        if not all_within(values):
            raise InputError(
                "affinities hold negative or non-finite values or values above 1; they must lie in [0, 1]."
            )
        rows, others, pairs = _structure(height, width, radius, border, values.device)
        weights.append(torch.cat([values.float().flatten(), values.new_ones(1, dtype=torch.float32)])[pairs] ** beta)
        columns.append(others + first)
        lengths.append(torch.bincount(rows, minlength=height * width))
        sums.append(_column_sums(rows, others, weights[-1], height * width))
        first += height * width
    counts = torch.cat(lengths)
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    transition = torch.cat(weights) / torch.cat(sums).repeat_interleave(counts)  # A / D
    return SparseRows(torch.cat(columns).int(), transition, ends)


@torch.no_grad()
def random_walk(
    scores: Sequence[Tensor],
    affinities: Sequence[Tensor],
    beta: float = 8.0,
    steps: int = 256,
    radius: int = 5,
    border: Border = "official",
) -> list[Tensor]:
    """Let the scores of images walk.

    Args:
        scores: For each image ``(C, h, w)`` finite float; C and the sizes may differ. Absent classes need no row.
        affinities: For each image ``(P, n)``.
        beta: See :func:`transition_matrix`.
        steps: t, any number; 0 returns the scores.
        radius: As for the affinities.
        border: As for the affinities.

    Returns:
        For each image ``(C, h, w)`` float32: every pixel a weighted mean of the scores around it.

    Raises:
        InputError: Shapes do not fit, a score is not finite, an affinity is not a number in [0, 1], or ``beta`` or
            ``steps`` is out of range.
    """
    if steps < 0:
        raise InputError(f"steps is {steps}; a walk needs at least 0.")
    if len(scores) != len(affinities):
        raise InputError(f"there are scores of {len(scores)} images but affinities of {len(affinities)}.")
    if not scores:
        return []
    for maps in scores:
        if maps.ndim != 3:
            raise InputError(f"scores of shape {tuple(maps.shape)} cannot walk; give (C, h, w).")
        if not all_finite(maps):
            raise InputError("scores hold NaN or infinite values; give finite scores.")
    sizes = [(int(x.shape[1]), int(x.shape[2])) for x in scores]
    transition = transition_matrix(affinities, sizes, beta, radius, border)
    counts = [h * w for h, w in sizes]
    x = scores[0].new_zeros(sum(counts), max(len(m) for m in scores), dtype=torch.float32)
    for part, maps in zip(x.split(counts), scores, strict=True):
        part[:, : len(maps)] = maps.flatten(1).t()
    for _ in range(steps):
        x = transition @ x
    return [part[:, : len(m)].t().reshape(m.shape) for part, m in zip(x.split(counts), scores, strict=True)]
