"""Names of classes and files: different spellings of a name, and several names in one cell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from wsss_lib.errors import InputError

SEPARATORS = ",|，、；｜\n\r\t"
"""Characters that are in no class name, but that people put between several of them."""

_BETWEEN = re.compile(rf"(?:[{SEPARATORS}/\\+&:.\-_]|\s|\band\b)+")
"""Pattern of a separator between two class names in one cell."""


def composed(text: str) -> str:
    """Return a text in Unicode form NFC: some systems write ``é`` as two characters, others as one.

    Without this, two texts that look the same need not be equal.
    """
    return unicodedata.normalize("NFC", text)


@lru_cache(4096)  # a data set has few names, and mentions each thousands of times
def key(name: str) -> str:
    """Return a key that ignores case, outer blanks, the length of blanks and the Unicode form of a name."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", " ".join(visible.split()).casefold())


def positions(classes: Iterable[str]) -> dict[str, int]:
    """Return the position of every class by the :func:`key` of its name."""
    return {key(name): index for index, name in enumerate(classes)}


def class_numbers(names: str | Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the positions of the classes that a user names, ascending.

    Raises:
        InputError: No class has such a name.
    """
    known, names = positions(classes), [names] if isinstance(names, str) else names
    unknown = [name for name in names if key(name) not in known]
    if unknown:
        raise InputError(f"class {unknown[0]!r} is unknown; choose among {', '.join(classes)}.")
    return sorted({known[key(name)] for name in names})


def parts(name: str, known: Collection[str]) -> list[str]:
    """Return the names in a text if it holds several names and all are known; else an empty list.

    Args:
        name: The text, such as ``cat dog`` or ``cat/dog``.
        known: The :func:`key` of every known name.
    """
    found = [part for part in _BETWEEN.split(name) if part]
    return found if len(found) > 1 and all(key(part) in known for part in found) else []


def shown(name: str, other: str = "") -> str:
    """Return a name in quotes, with its letters spelt out if it would look like ``other``."""
    return ascii(name) if composed(name) == composed(other) else repr(name)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names in quotes, the first ones if there are many: ``'cat', 'dog' and 3 more``."""
    text = ", ".join(repr(name) for name in names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text
