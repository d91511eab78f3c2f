"""One file per paper. A method is addressed by the name of its file."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from wsss_lib.errors import InputError


def load_method(name: str) -> ModuleType:
    """Return the module of a method: its `Config` class, and its class as `METHOD`.

    Raises:
        InputError: There is no such method.
    """
    known = [m.name for m in iter_modules(__path__) if m.name not in ("method", "optimisers")]
    if name not in known:
        raise InputError(f"method {name!r} is unknown; choose one of {', '.join(known)}.")
    return import_module(f"{__name__}.{name}")
