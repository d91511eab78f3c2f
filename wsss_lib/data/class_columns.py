"""Tables of labels that have a column of 0 and 1 for each class, as in spreadsheets and on Kaggle.

Layout::

    image,cat,dog,sofa          or  image,cat,dog,sofa,split
    cat1.jpg,1,0,1                  cat1.jpg,1,0,1,train
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsss_lib.errors import InputError

_FIRST = ("image", "split", "labels")
"""Names of columns that are not classes."""

_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True}


def class_columns(header: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes in the first line of a table; an empty tuple for a table of another kind.

    Args:
        header: The cells of the first line.
    """
    names = [name.strip() for name in header]
    lower = [name.lower() for name in names]
    if lower[:1] != ["image"] or "labels" in lower:
        return ()
    return tuple(name for name, low in zip(names, lower, strict=True) if low not in _FIRST)


def with_labels(cells: Mapping[str, str], classes: Sequence[str], where: str) -> dict[str, str]:
    """Return a row with its labels in one cell, separated by semicolons.

    Args:
        cells: The cells of the row, by the names of their columns.
        classes: Names of the columns of 0 and 1.
        where: File and line, for the message.

    Raises:
        InputError: A cell is neither 0 nor 1.
    """
    others = {name: cells[name] for name in cells if name not in classes}
    shown = []
    for name in classes:
        value = _VALUES.get(cells[name].strip())
        if value is None:
            raise InputError(
                f"{where}: the column {name!r} holds {cells[name]!r}; write 1 if the image shows the class, else 0."
            )
        if value:
            shown.append(name)
    return {**others, "labels": ";".join(shown)}
