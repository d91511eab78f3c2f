"""Refinement of scores by a random walk between pixels with high affinities.

Ahn and Kwak (CVPR 2018), equations 4-6: with ``A = a^beta`` (element by element) and ``T = D⁻¹ A``, where D holds the
row sums of A, the refined scores are ``T^t M``. A is sparse, because only nearby pixels are connected, and there are
few rows of scores. So the scores are multiplied by a sparse matrix several times; no dense matrix is squared.

T is similar to the symmetric matrix ``S = D^-½ A D^-½``, whose eigenvalues lie in [-1, 1]. In this interval, ``x^t`` is
the sum of ``c_k T_k(x)`` over the Chebyshev polynomials, with ``c_k = 2^(1-t) C(t, (t-k)/2)`` (half of it for k = 0).
The c_k are positive, add up to 1 and soon vanish: about ``√(2 t ln(2 / ε))`` products are enough instead of t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from math import inf
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import dia_array
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.ops.affinity import Border, Window, pair_count, pair_offsets, pair_windows
from wsss_lib.ops.sparse import SparseRows
from wsss_lib.ops.values import all_finite, all_within

TOLERANCE = 1e-6
"""Greatest sum of the Chebyshev coefficients that a walk leaves out."""

_MAX_ROWS_FOR_DIAGONALS = 6
"""Greatest product of score rows and CPU threads for which a matrix stored by diagonals is faster than by rows."""


@lru_cache(maxsize=32)
def _diagonals(height: int, width: int, radius: int, border: Border) -> list[tuple[int, Window, Window, Window]]:
    """Return for each offset the distance of its two pixels in the flat grid, and its :func:`pair_windows`."""
    offsets = pair_offsets(radius)
    return [(dy * width + dx, *pair_windows((dy, dx), height, width, radius, border)) for dy, dx in offsets]


def _distances(diagonals: Sequence[tuple[int, Window, Window, Window]]) -> list[int]:
    """Return the positions of the matrix's diagonals relative to the main diagonal, in ascending order."""
    return sorted({sign * distance for distance, *_ in diagonals for sign in (-1, 1)} | {0})


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)  # cached tensors are also used in training
def _structure(
    height: int, width: int, radius: int, border: Border, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the structure of the sparse symmetric matrix of a grid: row, column and pair of each entry, as int32.

    Entries are ordered by row, then by column. Entries of the main diagonal have the pair number P · n.
    """
    grid = pair_count(height, width, radius, border)
    diagonals = _diagonals(height, width, radius, border)
    pairs = torch.arange(len(diagonals) * grid[0] * grid[1], dtype=torch.int32).view(len(diagonals), *grid)
    distances = _distances(diagonals)
    table = torch.full((len(distances), height, width), -1, dtype=torch.int32)  # pair number by diagonal and row
    table[distances.index(0)] = pairs.numel()
    for of_offset, (distance, start, end, place) in zip(pairs, diagonals, strict=True):
        table[distances.index(distance), *start] = of_offset[place]
        table[distances.index(-distance), *end] = of_offset[place]
    flat = table.flatten(1).t().numpy()
    there = flat >= 0  # NumPy selects by it without positions, which in int64 would be larger than the result
    pixel = np.arange(height * width, dtype=np.int32)
    row = torch.from_numpy(np.repeat(pixel, there.sum(1)))
    column = torch.from_numpy((pixel[:, None] + np.array(distances, np.int32))[there])
    return row.to(device), column.to(device), torch.from_numpy(flat[there]).to(device)


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)
def _summation(
    height: int, width: int, radius: int, border: Border, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return the steps in which the rows of the matrix are added up: the terms of each sum, and where each sum begins.

    The authors' matrix is dense, and hundreds of steps of the walk amplify a difference in the last bit of D. On a CPU,
    PyTorch adds up the columns of a dense matrix in groups: 16 values, then 16 such sums, then 16 of those, then the
    rest. This function gives the same order for a sparse matrix, since adding zeros does not change a sum. The matrix
    is symmetric, so its rows have the entries of its columns.
    """
    rows, columns, terms = _structure(height, width, radius, border, torch.device("cpu"))
    size = height * width
    length = 1 << max(4, (size - 1).bit_length() // 4)
    steps = []
    for step in (length, length**2, length**3, size):
        groups = columns // step
        begins = torch.ones(len(rows), dtype=torch.bool)
        begins[1:] = (rows[1:] != rows[:-1]) | (groups[1:] != groups[:-1])
        first = begins.nonzero().flatten().int()
        steps.append((terms, torch.cat([first, first.new_tensor([len(rows)])])))
        rows, columns = rows[begins], columns[begins]
        terms = torch.arange(len(first), dtype=torch.int32)
    return [(part.to(device), starts.to(device)) for part, starts in steps]


def _weights_and_sums(
    affinities: Sequence[Tensor], sizes: Sequence[tuple[int, int]], beta: float, radius: int, border: Border
) -> list[tuple[Tensor, Tensor]]:
    """Return ``a^beta`` ``(P · n + 1,)``, with the diagonal's 1 last, and D ``(h · w,)`` for each image."""
    if not 0 <= beta < inf:
        raise InputError(f"beta is {beta}; it must be a finite number of at least 0.")
    results = []
    for values, (height, width) in zip(affinities, sizes, strict=True):
        grid = pair_count(height, width, radius, border)
        wanted = (len(pair_offsets(radius)), grid[0] * grid[1])
        if values.shape != wanted:
            raise InputError(f"affinities of a {height} × {width} grid must be {wanted}, not {tuple(values.shape)}.")
        if not all_within(values):
            raise InputError(
                "affinities hold negative or non-finite values or values above 1; they must lie in [0, 1]."
            )
        weights = torch.cat([values.float().flatten().clamp_min(0) ** beta, values.new_ones(1, dtype=torch.float32)])
        sums = weights[:, None]
        for terms, starts in _summation(height, width, radius, border, values.device):
            sums = F.embedding_bag(terms, sums, starts, mode="sum", include_last_offset=True)
        sums = sums[:, 0]
        if values.is_cpu:
            last = _last_sums(weights, *_structure(height, width, radius, border, values.device), height * width)
            sums = torch.cat([sums[: -len(last)], last])
        results.append((weights, sums))
    return results


def _last_sums(weights: Tensor, rows: Tensor, columns: Tensor, pairs: Tensor, size: int) -> Tensor:
    """Add up the last columns of the dense matrix. PyTorch sums 64 columns at once and the rest in another order."""
    start = max(0, size - size % 64 - 64)
    begin = int(torch.searchsorted(rows, torch.tensor([start], dtype=rows.dtype)))
    dense = weights.new_zeros(size, size - start)
    dense[columns[begin:], rows[begin:] - start] = weights[pairs[begin:]]
    return dense.sum(0)


def _blocks(
    entries: Sequence[tuple[Tensor, Tensor, Tensor]], weights: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> SparseRows:
    """Return one matrix with the images' matrices as its blocks, from their :func:`_structure` and their values."""
    columns, lengths, first = [], [], 0
    for (rows, others, _), (height, width) in zip(entries, sizes, strict=True):
        columns.append(others + first)
        lengths.append(torch.bincount(rows, minlength=height * width))
        first += height * width
    counts = torch.cat(lengths)
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    return SparseRows(torch.cat(columns), torch.cat(list(weights)), ends)


def transition_matrix(
    affinities: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    beta: float = 8.0,
    radius: int = 5,
    border: Border = "official",
) -> SparseRows:
    """Return ``T = D⁻¹ a^beta`` for one or more images, as the blocks of one sparse matrix.

    Args:
        affinities: ``(P, n)`` float in [0, 1] for each image, see :func:`wsss_lib.ops.affinity.pair_affinities`.
        sizes: Size ``(h, w)`` of the grid of each image.
        beta: Power of the affinities; a higher power reduces the weight of pairs with medium affinity.
        radius: Radius of the pairs, the same as for the affinities.
        border: Rule for pairs near the border, the same as for the affinities.

    Raises:
        InputError: Affinities and sizes do not fit, an affinity is not a number in [0, 1], or ``beta`` is negative or
            not finite.
    """
    weighted = _weights_and_sums(affinities, sizes, beta, radius, border)
    entries = [_structure(*size, radius, border, a.device) for size, a in zip(sizes, affinities, strict=True)]
    weights = [w[pairs] / sums[rows] for (w, sums), (rows, _, pairs) in zip(weighted, entries, strict=True)]  # A / D
    return _blocks(entries, weights, sizes)


@lru_cache(maxsize=32)
def walk_coefficients(steps: int, tolerance: float = TOLERANCE) -> tuple[float, ...]:
    """Return the sums ``s_k = c_k + c_(k+1) + …`` of Chebyshev coefficients of ``x^t``, from s_1 on.

    With these sums, ``x^t = 1 + s_1 (T_1 - T_0) + s_2 (T_2 - T_1) + …``. This polynomial is 1 at x = 1 even if its last
    terms are left out.

    Args:
        steps: Number of steps t, at least 0.
        tolerance: Greatest sum of the c_k that are left out, in [0, 0.5). In [-1, 1] the polynomial then differs from
            ``x^t`` by at most twice the tolerance.

    Returns:
        Decreasing numbers in (0, 1]. Their count is the degree of the polynomial and the number of products of a walk.
    """
    value, k = 1.0, steps % 2
    coefficients = [0.0] * k + [value if k else value / 2]
    while k < steps and value > 1e-20:
        value *= (steps - k) / (steps + k + 2)  # ratio of consecutive coefficients
        k += 2
        coefficients += [0.0, value]
    sums = np.cumsum(coefficients[::-1])[::-1] / sum(coefficients)
    return tuple(float(x) for x in sums[1:] if x > tolerance)


def _map_jointly(scores: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Apply ``change`` to one matrix with the pixels of all images as rows and a column for each class."""
    counts = [maps.shape[1] * maps.shape[2] for maps in scores]
    x = scores[0].new_zeros(sum(counts), max(len(maps) for maps in scores), dtype=torch.float32)
    for part, maps in zip(x.split(counts), scores, strict=True):
        part[:, : len(maps)] = maps.flatten(1).t()
    changed = change(x).split(counts)
    return [part[:, : len(maps)].t().reshape(maps.shape) for part, maps in zip(changed, scores, strict=True)]


def _apply_polynomial(change: Any, values: Any, coefficients: Sequence[float]) -> Any:
    """Multiply values by a polynomial of the matrix S, given as ``2 (S - 1)``, in PyTorch or in SciPy with NumPy."""
    step = 0.5 * (change @ values)  # T_k - T_(k-1)
    current = values + step
    result = values + coefficients[0] * step
    for coefficient in coefficients[1:]:
        step += change @ current
        current += step
        result += coefficient * step
    return result


def _diagonal(sums: Tensor) -> Tensor:
    """Return the diagonal of ``2 (S - 1)``. Computing 1 - 1/D would lose digits at a pixel with weak connections."""
    return 2 * (1 - sums) / sums


def _symmetric_rows(
    weighted: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[tuple[int, int]], radius: int, border: Border
) -> SparseRows:
    """Return ``2 (S - 1)`` of all images, as the blocks of one matrix."""
    entries, weights = [], []
    for (values, sums), size in zip(weighted, sizes, strict=True):
        rows, columns, pairs = _structure(*size, radius, border, values.device)
        root = sums.double().rsqrt()
        scaled = (2 * values[pairs] * root[rows] * root[columns]).float()
        entries.append((rows, columns, pairs))
        weights.append(torch.where(rows == columns, _diagonal(sums)[rows], scaled))
    return _blocks(entries, weights, sizes)


def _symmetric_diagonals(values: Tensor, sums: Tensor, size: tuple[int, int], radius: int, border: Border) -> dia_array:
    """Return ``2 (S - 1)`` of one image on a CPU, stored by diagonals, which needs no column numbers."""
    diagonals = _diagonals(*size, radius, border)
    pairs = values[:-1].view(len(diagonals), *pair_count(*size, radius, border)).numpy()
    root = sums.double().rsqrt().view(size).numpy()  # float64, so that each entry is rounded once
    distances = _distances(diagonals)
    number = {distance: k for k, distance in enumerate(distances)}
    result = np.zeros((len(distances), *size), np.float32)
    for part, (distance, start, end, place) in zip(pairs, diagonals, strict=True):
        scaled = result[number[distance]][end]  # SciPy stores an entry at the position of its column
        np.multiply(2 * part[place] * root[start], root[end], out=scaled, casting="same_kind")
        result[number[-distance]][start] = scaled
    result[number[0]] = _diagonal(sums).view(size).numpy()
    flat = result.reshape(len(distances), -1)
    return dia_array((flat, distances), shape=(flat.shape[1],) * 2)


@torch.no_grad()
def random_walk(
    scores: Sequence[Tensor],
    affinities: Sequence[Tensor],
    beta: float = 8.0,
    steps: int = 256,
    radius: int = 5,
    border: Border = "official",
    tolerance: float = TOLERANCE,
) -> list[Tensor]:
    """Refine the scores of images by a random walk along affinities.

    Args:
        scores: ``(C, h, w)`` finite float for each image; C and the sizes may differ. Absent classes need no row.
        affinities: ``(P, n)`` float in [0, 1] for each image.
        beta: Power of the affinities, see :func:`transition_matrix`.
        steps: Number of steps t; 0 returns the scores.
        radius: Radius of the pairs, the same as for the affinities.
        border: Rule for pairs near the border, the same as for the affinities.
        tolerance: Tolerance of :func:`walk_coefficients`; a greater tolerance needs fewer products.

    Returns:
        ``(C, h, w)`` float32 for each image; each value is a weighted mean of the scores around its pixel.

    Raises:
        InputError: Shapes do not fit, a score is not finite, an affinity is not a number in [0, 1], or ``beta``,
            ``steps`` or ``tolerance`` is out of range.
    """
    if steps < 0:
        raise InputError(f"steps is {steps}; a walk needs at least 0.")
    if not 0 <= tolerance < 0.5:
        raise InputError(f"tolerance is {tolerance}; it must be at least 0 and below 0.5.")
    if len(scores) != len(affinities):
        raise InputError(f"there are scores of {len(scores)} images but affinities of {len(affinities)}.")
    if not scores:
        return []
    for maps in scores:
        if maps.ndim != 3:
            raise InputError(f"scores have the shape {tuple(maps.shape)}; give (C, h, w).")
        if not all_finite(maps):
            raise InputError("scores hold NaN or infinite values; give finite scores.")
    sizes = [(int(x.shape[1]), int(x.shape[2])) for x in scores]
    coefficients = walk_coefficients(steps, tolerance)
    if len(coefficients) >= steps:  # the plain power needs no more products
        transition = transition_matrix(affinities, sizes, beta, radius, border)
        return _map_jointly(scores, lambda x: reduce(lambda x, _: transition @ x, range(steps), x))
    weighted = _weights_and_sums(affinities, sizes, beta, radius, border)
    roots = [sums.sqrt().view(size) for (_, sums), size in zip(weighted, sizes, strict=True)]
    scores = [maps.float() for maps in scores]
    scaled = [maps * root for maps, root in zip(scores, roots, strict=True)]
    if scores[0].is_cpu and torch.get_num_threads() * max(len(maps) for maps in scores) <= _MAX_ROWS_FOR_DIAGONALS:
        walked = []
        for values, weights, size in zip(scaled, weighted, sizes, strict=True):
            diagonals = _symmetric_diagonals(*weights, size, radius, border)
            rows = [
                torch.from_numpy(_apply_polynomial(diagonals, row, coefficients)) for row in values.flatten(1).numpy()
            ]
            walked.append(torch.stack(rows).view(values.shape) if rows else values)
    else:
        change = _symmetric_rows(weighted, sizes, radius, border)
        walked = _map_jointly(scaled, lambda x: _apply_polynomial(change, x, coefficients))
    return [
        (x / root).clamp(maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True))  # a mean is within its terms
        for x, root, maps in zip(walked, roots, scores, strict=True)
    ]
