"""Type, limits and choices of each setting, read from the annotation of its field in a `Config`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from wsss_lib.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Range of a number, or of each number of a list, such as ``Annotated[float, Limits(0, 1)]``.

    Attributes:
        least: Smallest number allowed.
        most: Largest number allowed.
        above: Whether ``least`` itself is too small.
    """

    least: float = 0
    most: float = math.inf
    above: bool = False

    def problem(self, number: float) -> str:
        """Return what a number that is out of range must be, such as ``at least 0``; "" for a number in range."""
        if not math.isfinite(number) or number < self.least or (self.above and number == self.least):
            return self._lower
        return f"at most {self.most}" if number > self.most else ""

    @property
    def of_numbers(self) -> str:
        """The range of the numbers of a list in words, such as ``above 0 and up to 4``."""
        return self._lower + (f" and up to {self.most}" if math.isfinite(self.most) else "")

    @property
    def _lower(self) -> str:
        return f"{'above' if self.above else 'at least'} {self.least}"

    def __str__(self) -> str:
        if not math.isfinite(self.most):
            return f"be {self._lower}"
        return f"lie in {'(' if self.above else '['}{self.least}, {self.most}]"


Share = Annotated[float, Limits(0, 1)]
"""A probability, or a part of a whole."""

Factors = Annotated[tuple[float, ...], Limits(0, 4, above=True)]
"""Factors of the size of an image."""


@dataclass(frozen=True)
class Kind:
    """What the value of a setting may be.

    Attributes:
        base: Type of the value; ``tuple`` for a list of numbers.
        limits: Range of the number, or of each number of the list.
        choices: Values that are allowed; () if the type and the limits decide.
    """

    base: type
    limits: Limits = Limits()
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Raise InputError if the value of the setting ``name`` has another type, is out of range or not a choice."""
        if not self.fits(value) or (isinstance(value, bool) and self.base is not bool):
            raise InputError(f"{name} is {value!r}; it must be of type {self.base.__name__}.")
        if self.choices and value not in self.choices:
            raise InputError(f"{name} {value!r} is unknown; choose one of {', '.join(self.choices)}.")
        if self.base in (int, float) and self.limits.problem(value):
            raise InputError(f"{name} is {value}; it must {self.limits}.")
        if self.base is tuple and any(not isinstance(x, int | float) or self.limits.problem(x) for x in value):
            raise InputError(f"{name} is {value}; each of its numbers must {self.limits}.")

    def fits(self, value: Any) -> bool:
        """Return whether a value is of the type; an ``int`` also is a ``float``."""
        return isinstance(value, (int, float) if self.base is float else self.base)


def kinds_of(config_class: type[Any]) -> dict[str, Kind]:
    """Return the kind of each setting of a `Config` class, by name.

    A field that a subclass declares again without `Limits` keeps those of its base class. A number for which no class
    has `Limits` must be finite and at least 0.
    """
    names, limits = [field.name for field in fields(config_class)], {}
    for base in reversed(config_class.__mro__):
        hints = get_type_hints(base, include_extras=True)
        for name in names:
            for extra in getattr(hints.get(name), "__metadata__", ()):
                if isinstance(extra, Limits):
                    limits[name] = extra
    hints = get_type_hints(config_class)
    return {name: _kind(hints[name], limits.get(name, Limits())) for name in names}


def _kind(annotation: Any, limits: Limits) -> Kind:
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return Kind(type(choices[0]), limits, choices)
    return Kind(get_origin(annotation) or annotation, limits)
