"""A folder of your own pictures, with a table of the classes that each picture shows.

Layout::

    images/           cat1.jpg, dog.png ...
    labels.csv        image,labels            or  image,labels,split          or  image,cat,sofa
                      cat1.jpg,cat;sofa           cat1.jpg,cat;sofa,train         cat1.jpg,1,1
    masks/            cat1.png ...            optional, for evaluation only
    classes.txt       one class per line      optional, the order of the mask values
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from wsss_lib.data.class_columns import class_columns, with_labels
from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import (
    checked_classes,
    files_by_stem,
    parse_mask_values,
    read_classes,
    read_lines,
    refuse_unusable_masks,
)
from wsss_lib.data.names import SEPARATORS, composed, key, parts, positions
from wsss_lib.errors import InputError

_SPLITS = ("train", "val", "all")


@dataclass(frozen=True)
class _Row:
    image: str
    labels: tuple[str, ...]
    split: str | None

    @property
    def id(self) -> str:
        return Path(self.image).stem


def load_folder(root: str | Path, split: str, mask_values: str = "") -> FileDataset:
    """Load a folder of your own images.

    ``labels.csv`` has one row per image: its file name in ``images/`` and its classes, separated by semicolons, or
    no class; or a column of 0 and 1 for every class, see `wsss_lib.data.class_columns`. A third column may say
    ``train`` or ``val``. Without this column every split has all images; if it says ``train`` everywhere, ``val`` is
    the same as ``train``. The classes are those of ``classes.txt``, or else all names in the table, in alphabetical
    order; class k has the mask value k + 1. Case, blanks and Unicode form of a name do not matter. A mask is
    ``masks/<name of the image without its ending>.png``; an image without a mask counts in no score.

    Args:
        root: The folder.
        split: ``train``, ``val`` or ``all``.
        mask_values: Meaning of the values in the masks, see :func:`wsss_lib.data.files.parse_mask_values`.

    Returns:
        The images in the order of the table; an id is the image's file name without its ending.

    Raises:
        InputError: The table is missing, empty or malformed, names an image twice, names a missing image, or leaves out
            an image; a class is not in ``classes.txt``, has two spellings, or is several classes in one cell; two
            images have the same id; the split is unknown or empty; there are mask files, but none has the right name
            and format.
    """
    root = Path(root).absolute()
    if split not in _SPLITS:
        raise InputError(f"split {split!r} is unknown; choose train, val or all.")
    table = root / "labels.csv"
    rows, columns = _read_table(table)
    images = _find_images(root / "images", rows, table)
    classes = _find_classes(root / "classes.txt", rows, table, columns)
    if split == "val" and all(row.split == "train" for row in rows):
        split = "train"
    chosen = [row for row in rows if split == "all" or row.split in (None, split)]
    if not chosen:
        raise InputError(f"{table} has no image of the split {split!r}; write {split} into the column split of some.")
    refuse_unusable_masks(root / "masks", {row.id for row in rows})
    data = FileDataset(
        name=f"{root.name} {split}",
        classes=classes,
        ids=[row.id for row in chosen],
        labels=_labels(chosen, classes),
        images=[images[row.image] for row in chosen],
        masks=_find_masks(root / "masks", chosen),
        lookup=parse_mask_values(mask_values, len(classes)),
    )
    data.label_source = f"{table} names no class in their rows"
    if rows[0].split is None and split != "all":
        data.notes = (f"{table.name} has no column split, so train and val both have all images.",)
    return data


def _read_table(path: Path) -> tuple[list[_Row], tuple[str, ...]]:
    """Return the rows of a table and, if it has a column for every class, the names of these columns."""
    reader = csv.DictReader(line + "\n" for line in read_lines(path))
    rows: list[_Row] = []
    try:
        columns = class_columns(reader.fieldnames or ())
        names = [name.strip() for name in reader.fieldnames or ()]
        header = [name if name in columns else name.lower() for name in names]
        if not columns and header not in (["image", "labels"], ["image", "labels", "split"]):
            raise InputError(
                f"{path} begins with {','.join(reader.fieldnames or ())!r}; its first line must be 'image,labels' or "
                "'image,labels,split', or name the classes, such as 'image,cat,dog'."
            )
        reader.fieldnames = header
        rows = [_checked_row(row, f"{path}, line {reader.line_num}", columns) for row in reader]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num} is not comma-separated text ({error}); correct it."
        ) from error
    if not rows:
        raise InputError(f"{path} has no rows; write one row per image.")
    return rows, checked_classes(columns, path) if columns else ()


def _checked_row(cells: Mapping[str | None, str | None], where: str, columns: Sequence[str] = ()) -> _Row:
    if None in cells or None in cells.values():
        raise InputError(
            f"{where} has not as many cells as the first line; separate several labels by semicolons and keep the "
            "comma before an empty cell."
        )
    known = {str(name): str(cell) for name, cell in cells.items()}
    if columns:
        known = with_labels(known, columns, where)
    image, labels, split = (known.get(name, "").strip() for name in ("image", "labels", "split"))
    image, split = composed(image), split.lower()
    if not image or image.startswith(".") or re.search(r'[\\/:*?"<>|\x00-\x1f]', image):
        raise InputError(f"{where}: {image!r} is not a file name; write the name of a file in the folder images.")
    if "split" in known and split not in ("train", "val"):
        raise InputError(
            f"{where}: the split is {split!r}; write train or val, and separate several labels by semicolons."
        )
    names = tuple(name.strip() for name in labels.split(";") if name.strip())
    return _Row(image, names, split if "split" in known else None)


def _find_images(folder: Path, rows: Sequence[_Row], table: Path) -> dict[str, Path]:
    """Return the image files by name, after a check that table and folder agree."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; make this folder and put the images into it.")
    seen: dict[str, str] = {}
    for row in rows:
        if row.id in seen:
            what = "is listed more than once" if seen[row.id] == row.image else f"has the same id as {seen[row.id]!r}"
            raise InputError(f"{table}: the image {row.image!r} {what}; keep one row, or rename one of the files.")
        seen[row.id] = row.image
    endings = Image.registered_extensions().keys()
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings]
    images: dict[str, Path] = {}
    for path in files:
        if not path.name.startswith(".") and images.setdefault(composed(path.name), path) != path:
            raise InputError(f"{folder} has two files called {path.name!r}, in two Unicode forms; rename one of them.")
    for row in rows:
        if row.image not in images:
            raise InputError(
                f"{table} names {row.image!r}, which is not an image in {folder}; put it there or delete the row."
            )
    unlisted = sorted(images.keys() - set(seen.values()))
    if unlisted:
        raise InputError(
            f"{folder / unlisted[0]} has no labels ({len(unlisted)} of {len(images)} images have none); give it a row "
            f"in {table.name}, with an empty label if it shows no class, or, if it is a mask, move it to "
            f"{folder.parent / 'masks'}, as a PNG with the name of its image."
        )
    return images


_NOTHING = ("none", "nan", "null", "n/a", "na", "-", "?", "")
"""Words that people write for an image without a class, by :func:`wsss_lib.data.names.key`."""


def _looks_like_no_name(name: str) -> bool:
    """Return whether a label means "no class", or is written like a list in a program."""
    return key(name) in _NOTHING or bool(set(name) & set("[]{}()'\"<>*·"))


def _find_classes(path: Path, rows: Sequence[_Row], table: Path, columns: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the classes, after a check that every label is exactly one class."""
    labels = [(row.image, name) for row in rows for name in row.labels]
    listed = read_classes(path) if path.is_file() else columns or None
    odd = [(image, name) for image, name in labels if listed is None and _looks_like_no_name(name)]
    if odd:
        image, name = odd[0]
        raise InputError(
            f"{table}: the label {name!r} of {image!r} does not look like the name of a class; leave the cell empty "
            "for an image without any class, write names without quotes and brackets, or list the name in classes.txt."
        )
    known = positions([name for _, name in labels] if listed is None else listed)
    for image, name in labels:
        if listed is not None and key(name) in known:
            continue
        if parts(name, known) or (listed is None and re.search(f"[{SEPARATORS}]", name)):
            several = parts(name, known) or [part.strip() for part in re.split(f"[{SEPARATORS}]", name)]
            raise InputError(
                f"{table}: the label {name!r} of {image!r} looks like several; separate labels by semicolons, "
                f"{';'.join(several)}, or list it in classes.txt if it is one class."
            )
        if listed is not None:
            raise InputError(
                f"{table}: the label {name!r} of {image!r} is not in {path.name}; add it there or correct it."
            )
    return listed or tuple(sorted(checked_classes(sorted({name for _, name in labels}), table)))


def _labels(rows: Sequence[_Row], classes: Sequence[str]) -> Tensor:
    known, labels = positions(classes), torch.zeros(len(rows), len(classes))
    for row, values in zip(rows, labels, strict=True):
        values[[known[key(name)] for name in row.labels]] = 1.0
    return labels


def _find_masks(folder: Path, rows: Sequence[_Row]) -> list[Path | None] | None:
    masks = files_by_stem(folder, (".png",))
    if masks.keys().isdisjoint(row.id for row in rows):
        return None
    return [masks.get(row.id) for row in rows]
