"""What values a tensor may hold, for operators that refuse what they cannot mean."""

from __future__ import annotations

from torch import Tensor

ROUNDING = 1e-6
"""Distance that a value may lie outside [0, 1]: interpolation and sums round by some units of the last place."""


def all_finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    # NaN and infinity show in a sum, which is many times faster than to ask every value; but a sum can also overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def all_within(values: Tensor, highest: float = 1.0) -> bool:
    """Return whether all values are numbers in [0, ``highest``], up to :data:`ROUNDING`."""
    if not values.numel():
        return True
    low, high = values.detach().aminmax()  # NaN if any value is
    return bool(low >= -ROUNDING) and bool(high <= highest + ROUNDING)
