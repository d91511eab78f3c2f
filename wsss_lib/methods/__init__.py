"""One file per method. The name of the file is the name of the method."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from wsss_lib.errors import InputError

_SHARED = ("fields", "method", "optimisers")
"""Files that hold no method."""


def load_method(name: str) -> ModuleType:
    """Return the module of a method, which holds its `Config` class, and the class of the method as `METHOD`.

    Raises:
        InputError: The method is unknown.
    """
    known = [module.name for module in iter_modules(__path__) if module.name not in _SHARED]
    if name not in known:
        raise InputError(f"method {name!r} is unknown; choose one of {', '.join(known)}.")
    return import_module(f"{__name__}.{name}")
