"""A user's own pictures in one folder for each class, as in ImageNet and in many tools.

Layout::

    cat/  a.jpg, b.jpg ...          or  train/cat/a.jpg ...  val/cat/c.jpg ...
    dog/  c.jpg, a.jpg ...
    none/ d.jpg                     optional, pictures that show none of the classes
    masks/  a.png ...               optional, for evaluation only

A picture that shows several classes lies in the folders of all of them, under the same name.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from PIL import Image

from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import checked_classes, files_by_stem, parse_mask_values, refuse_unusable_masks
from wsss_lib.data.names import composed, key
from wsss_lib.errors import InputError

_NOTHING = ("none", "background", "negative")
_SPLITS = ("train", "val")
_OF_VOC = ("ImageSets", "Annotations", "SegmentationClass", "SegmentationClassAug")
"""Folders of VOC's layout. A folder with one of them is not sorted by class, even if its `JPEGImages` is missing."""


def find_class_folders(root: Path) -> dict[str, dict[str, Path]] | None:
    """Return the folders of the classes by split and name; None if the folder has another layout.

    Args:
        root: The folder.
    """
    inside = {path.name: path for path in _folders(root)}
    if not inside.keys().isdisjoint(_OF_VOC):
        return None
    if "train" in inside and not _pictures(inside["train"]):
        splits = {name: {f.name: f for f in _folders(inside[name])} for name in _SPLITS if name in inside}
        found = {name: {n: f for n, f in classes.items() if _pictures(f)} for name, classes in splits.items()}
        return {name: found.get(name) or found["train"] for name in _SPLITS} if found["train"] else None
    classes = {name: folder for name, folder in inside.items() if name != "masks" and _pictures(folder)}
    return dict.fromkeys(_SPLITS, classes) if len(classes) > ("images" in classes) and not _pictures(root) else None


def load_class_folders(root: str | Path, split: str, mask_values: str = "") -> FileDataset:
    """Load a split of pictures that lie in one folder for each class.

    The names of the classes are those of the folders, in alphabetical order; class k has the mask value k + 1. If there
    are no folders ``train`` and ``val``, both splits have all pictures.

    Args:
        root: The folder.
        split: ``train`` or ``val``.
        mask_values: Meaning of the values in the masks, see :func:`wsss_lib.data.files.parse_mask_values`.

    Raises:
        InputError: The folder has another layout, two different pictures have the same name, or the name of a folder
            cannot be the name of a class.
    """
    root = Path(root).absolute()
    found = find_class_folders(root)
    if found is None or split not in found:
        raise InputError(f"{root} has no folder of pictures for each class; put the pictures into such folders.")
    names = sorted({name for folders in found.values() for name in folders if key(name) not in _NOTHING})
    classes = checked_classes(names, root)
    files, shown = _read(found[split])
    labels = torch.zeros(len(files), len(classes))
    for row, image_id in zip(labels, files, strict=True):
        row[[names.index(name) for name in shown[image_id] if name in names]] = 1
    refuse_unusable_masks(root / "masks", _read(found["train"])[0].keys() | files.keys())
    masks = files_by_stem(root / "masks", (".png",))
    data = FileDataset(
        name=f"{root.name} {split}",
        classes=classes,
        ids=list(files),
        labels=labels,
        images=list(files.values()),
        masks=None if masks.keys().isdisjoint(files) else [masks.get(image_id) for image_id in files],
        lookup=parse_mask_values(mask_values, len(classes)),
    )
    data.label_source = f"the folders of the classes in {root} hold no picture"
    if found["train"] == found["val"]:
        data.notes = (f"{root.name} has no folders train and val, so train and val both have all images.",)
    return data


def _read(folders: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Return the file of every picture, and the names of the folders that hold it, both by its id."""
    files: dict[str, Path] = {}
    shown: dict[str, list[str]] = {}
    for name in sorted(folders):
        for path in _pictures(folders[name]):
            image_id = composed(path.stem)
            other = files.setdefault(image_id, path)
            if other != path and (other.name != path.name or not filecmp.cmp(other, path, shallow=False)):
                raise InputError(
                    f"{other} and {path} have the same name but are different pictures; rename one of them, as their "
                    "masks would have the same name, too."
                )
            shown.setdefault(image_id, []).append(name)
    return dict(sorted(files.items())), shown


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    Image.init()
    endings: Iterable[str] = Image.registered_extensions()
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith("."))
