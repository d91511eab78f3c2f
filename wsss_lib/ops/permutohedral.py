"""Gaussian filtering of any number of points in any number of dimensions, on the permutohedral lattice.

Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). The lattice
divides feature space into simplices, triangles in two dimensions. A point gives its value to the corners of its
simplex (*splat*), every corner exchanges values with its neighbours along each axis (*blur*), and a point reads what it
gets from the corners of its simplex (*slice*). The cost is linear in the number of points.

The results equal those of the C++ filter in ``pydensecrf``. Corners are found by sorting integer keys instead of with a
hash table. Sorting works on any device, has no collisions, and makes every sum deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.ops.sparse import SparseRows

_KEY_BITS = 62
"""Greatest number of bits in the integer key of a corner."""

_MAX_FEATURE = 2.0**17
"""Greatest feature for which single precision can tell the cells of the lattice apart."""


class Lattice:
    """The lattice of a set of points. It depends only on their features and can filter any values of the points.

    Args:
        features: ``(d, N)`` float32, the positions of the points in units of the kernel's standard deviation.
        batch: ``(N,)`` int64, the image of each point, from 0, or None for a single image. Points of different images
            do not affect each other.
        names: Names of the standard deviations of the d features, for error messages.

    Attributes:
        size: M, the number of corners.
        slicing: Sparse ``(N, M)`` matrix of the barycentric weights, d + 1 per point.
        splatting: Transpose of ``slicing``.
        axes: Sparse ``(M, M)`` matrices of the blur with (1/2, 1, 1/2), one for each of the d + 1 axes.

    Raises:
        InputError: A feature is not finite, or too large for single precision.
    """

    def __init__(self, features: Tensor, batch: Tensor | None = None, names: Sequence[str] = ()) -> None:
        self.dimensions = d = len(features)
        names = names or [f"the standard deviation of feature {i}" for i in range(d)]
        _check(features, names)
        widest = names[int((features.amax(1) - features.amin(1)).argmax())] if features.numel() else ""
        points = features.shape[1]
        features, batch = with_padding(features.float(), batch)
        nearest, rank, barycentric = _enclosing_simplices(features)

        # Neighbouring points often share a simplex, so corners are computed once per simplex instead of once per point.
        # The nearest lattice point and the ranks of the residuals identify a simplex.
        digits = [*nearest[:d], *rank[:d].to(nearest.dtype)]
        if batch is not None:
            digits.insert(0, batch.to(nearest.dtype))
        packed, _ = _pack(digits, [0] * len(digits), widest)
        _, simplex = torch.unique(packed, return_inverse=True)  # the number of the simplex of each point
        member = torch.empty(int(simplex.max()) + 1, dtype=torch.int64, device=simplex.device)
        member[simplex] = torch.arange(len(simplex), device=simplex.device)  # one point of each simplex, whichever

        corners = _corners(nearest[:, member], rank[:, member])  # (d + 1 corners, d coordinates, S)
        coordinates = list(corners.permute(1, 2, 0).flatten(1))  # d times (S * (d + 1))
        if batch is not None:
            coordinates.insert(0, batch[member].repeat_interleave(d + 1).to(corners.dtype))
        margins = [0] * (len(coordinates) - d) + [d + 1] * d  # room in each digit for the neighbours of a corner
        keys, places = _pack(coordinates, margins, widest)
        self.keys, corner = torch.unique(keys, return_inverse=True)  # simplices share corners
        self.size = len(self.keys)
        self._occurrence = torch.empty(self.size, dtype=torch.int64, device=corner.device)
        self._occurrence[corner] = torch.arange(len(corner), device=corner.device)  # one column of _coordinates each
        self._coordinates = torch.stack(coordinates[-d:])
        of_points = corner.view(-1, d + 1).int()[simplex[:points]]
        self.slicing = SparseRows(of_points, barycentric[:, :points].t().contiguous())
        self.splatting = self.slicing.transpose(self.size)
        self.axes = [self._axis(j, places[-d:]) for j in range(d + 1)]

    def _axis(self, axis: int, places: Sequence[int]) -> SparseRows:
        """Return the blur along one axis, ``z + (z[before] + z[after]) / 2``; an absent neighbour counts as 0."""
        step = -sum(places) + (self.dimensions + 1) * (places[axis] if axis < self.dimensions else 0)
        own = torch.arange(self.size, device=self.keys.device)
        columns, weights = [own], [torch.ones(self.size, device=own.device)]
        for key in (self.keys + step, self.keys - step):
            at = torch.searchsorted(self.keys, key).clamp_(max=self.size - 1)
            found = self.keys[at] == key
            columns.append(torch.where(found, at, own))
            weights.append(0.5 * found)
        return SparseRows(torch.stack(columns, 1).int(), torch.stack(weights, 1))

    @property
    def scale(self) -> float:
        """Factor by which the C++ filter multiplies its result, ``1 / (1 + 2^-d)``."""
        return 1 / (1 + 2.0**-self.dimensions)

    @cached_property
    def positions(self) -> Tensor:
        """Positions of the corners in feature space, ``(d, M)`` float32; for pictures."""
        d = self.dimensions
        key = self._coordinates[:, self._occurrence].double()
        elevated = torch.cat([key, -key.sum(0, keepdim=True)])  # the d + 1 coordinates add up to 0
        features = torch.zeros_like(key)
        rest = torch.zeros_like(key[0])
        for j in range(d, 0, -1):
            features[j - 1] = (rest - elevated[j]) / j
            rest = rest + features[j - 1]
        return (features / lattice_scales(d, key.device).double()[:, None]).float()

    def blur(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Blur ``(M, L)`` values of the corners along all axes, in order, or in reverse order."""
        for axis in reversed(self.axes) if reverse else self.axes:
            values = axis @ values
        return values

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Approximate ``sum_j exp(-|f_i - f_j|² / 2) v_j``, up to a constant factor, for every point i.

        Args:
            values: ``(N, L)`` float32.
            reverse: Whether to blur in reverse order, which gives the transposed filter.

        Returns:
            ``(N, L)`` float32.
        """
        return self.slicing @ self.blur(self.splatting @ values.float(), reverse) * self.scale


def check_features(features: Tensor, names: Sequence[str]) -> None:
    """Raise InputError for features that no `Lattice` can hold. The check rarely has to build the lattice.

    Args:
        features: ``(d, N)`` float32, as for a `Lattice`.
        names: Names of the standard deviations, as for a `Lattice`.
    """
    _check(features, names)
    if coordinate_range(features) ** len(features) >= 2**_KEY_BITS:
        Lattice(features, names=names)


def coordinate_range(features: Tensor) -> int:
    """Return an upper limit of the number of values that a coordinate of the corners takes.

    Args:
        features: ``(d, N)`` float32, as for a `Lattice`; N is at least 1.
    """
    d = len(features)
    extents = (features.amax(1) - features.amin(1)) * lattice_scales(d, features.device)
    return math.ceil(d * float(extents.sum())) + 8 * (d + 1)


def _check(features: Tensor, names: Sequence[str]) -> None:
    greatest = features.abs().amax(1) if features.numel() else features.new_zeros(len(features))
    for value, name in zip(greatest.tolist(), names, strict=True):
        if not value <= _MAX_FEATURE:
            raise InputError(f"{name} is too small: positions reach {value:.3g} standard deviations; make it larger.")


def with_padding(features: Tensor, batch: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Add a point at 0 for every image whose number of points is not a multiple of 4.

    The C++ filter pads its last group of four points in this way. The added points have no value, but their corners
    take part in the blur, which changes the result in small or dark images.
    """
    counts = torch.tensor([features.shape[1]]) if batch is None else torch.bincount(batch)
    padded = (counts % 4).nonzero().flatten()
    features = torch.cat([features, features.new_zeros(len(features), len(padded))], dim=1)
    return features, None if batch is None else torch.cat([batch, padded])


def lattice_scales(d: int, device: torch.device) -> Tensor:
    """Return the factor for each feature that gives the blur a standard deviation of 1."""
    inverse = torch.tensor([1 / ((i + 1) * (i + 2)) ** 0.5 for i in range(d)], dtype=torch.float64)
    total = torch.tensor((2 / 3) ** 0.5 * (d + 1), dtype=torch.float32).double()
    return (inverse * total).float().to(device)


def _enclosing_simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex that contains each point.

    Args:
        features: ``(d, N)`` float32.

    Returns:
        The nearest lattice point of remainder 0, divided by d + 1, as ``(d + 1, N)`` int32; the rank of the residual of
        each coordinate as ``(d + 1, N)`` int8; and the barycentric weights of the corners as ``(d + 1, N)`` float32.
    """
    d, n = features.shape
    size = d + 1
    scaled = features * lattice_scales(d, features.device)[:, None]
    elevated = features.new_empty(size, n)
    running = torch.zeros_like(scaled[0])
    for j in range(d, 0, -1):  # map to the plane where the d + 1 coordinates add up to 0
        elevated[j] = running - j * scaled[j - 1]
        running = running + scaled[j - 1]
    elevated[0] = running

    inverse = torch.tensor(1 / size, dtype=torch.float32, device=features.device)
    rounded = (elevated * inverse).round_()
    residual = elevated - rounded * size
    excess = rounded.sum(0).to(torch.int8)  # number of steps by which rounding left the plane
    rank = excess.expand(size, n).clone()
    for i in range(size):
        for j in range(i + 1, size):
            less = residual[i] < residual[j]
            rank[i] += less
            rank[j] += ~less
    wrapped = (rank < 0).to(torch.int8) - (rank >= size).to(torch.int8)
    rank += wrapped * size
    rounded += wrapped

    u = (elevated - rounded * size) * inverse
    by_rank = torch.empty_like(u).scatter_(0, (d - rank).long(), u)
    barycentric = by_rank.clone()
    barycentric[1:] -= by_rank[:-1]
    barycentric[0] += 1 - by_rank[-1]
    return rounded.int(), rank, barycentric


def _corners(nearest: Tensor, rank: Tensor) -> Tensor:
    """Return the first d coordinates of the d + 1 corners of every simplex, ``(d + 1, d, S)`` int32."""
    size = len(nearest)
    base, rank = nearest[:-1] * size, rank[:-1]
    return torch.stack([base + torch.where(rank < size - k, k, k - size) for k in range(size)])


def _pack(digits: Sequence[Tensor], margins: Sequence[int], name: str) -> tuple[Tensor, list[int]]:
    """Pack several integers into one key; keys are equal only if all integers are. Also return the place values."""
    lowest = [int(x.min()) - margin for x, margin in zip(digits, margins, strict=True)]
    extents = [int(x.max()) + m - low + 1 for x, m, low in zip(digits, margins, lowest, strict=True)]
    places: list[int] = []
    place = 1
    for extent in reversed(extents):
        places.insert(0, place)
        place *= extent
    if place >= 2**_KEY_BITS:
        raise InputError(f"{name} is too small: the lattice gets more cells than can be numbered; make it larger.")
    key = torch.zeros_like(digits[0], dtype=torch.int64)
    for x, low, value in zip(digits, lowest, places, strict=True):
        key.add_((x - low).long(), alpha=value)
    return key, places
