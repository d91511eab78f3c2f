"""Checks of the values of tensors, for operators that refuse unusable values."""

from __future__ import annotations

from torch import Tensor

ROUNDING = 1e-6
"""Greatest distance of a value from [0, 1], as interpolation and sums round by some units in the last place."""


def all_finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    # A sum is much faster than a test of each value, and is not finite if any value is not. But it can also overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def all_within(values: Tensor, highest: float = 1.0) -> bool:
    """Return whether all values are numbers in [0, ``highest``], up to :data:`ROUNDING`."""
    if not values.numel():
        return True
    low, high = values.detach().aminmax()  # NaN if any value is
    return bool(low >= -ROUNDING) and bool(high <= highest + ROUNDING)
