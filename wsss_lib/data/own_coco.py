"""A user's own data in COCO's form: any instances JSON, with any categories and file names; and COCO without a JSON.

Layouts::

    annotations/instances_train*.json, instances_val*.json     and pictures in the folder itself, in images/, in
    or instances.json, annotations/instances_default.json      JPEGImages/, or in a folder with the name of the split

    train2014/, val2014/ (or 2017)    SegmentationClass/<split>/    cls_labels_coco.npy     COCO as PNG, without a JSON
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.coco import render_mask
from wsss_lib.data.coco_annotations import COCO_CLASSES
from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import (
    IMAGE_SUFFIXES,
    checked_classes,
    files_by_stem,
    parse_mask_values,
)
from wsss_lib.data.names import composed
from wsss_lib.data.voc import labels_from_npy
from wsss_lib.errors import InputError

_ALONE = ("instances.json", "annotations/instances.json", "annotations/instances_default.json", "annotations.json")
_LABELS = ("cls_labels_coco.npy", "cls_labels.npy")
_YEARS = ("2014", "2017")


def find_instances(root: Path) -> dict[str, Path] | None:
    """Return the instances JSON of ``train`` and of ``val``, which may be the same file; None if there is no JSON."""
    parts = {name: sorted(root.glob(f"annotations/instances_{name}*.json")) for name in ("train", "val")}
    alone = next((root / name for name in _ALONE if (root / name).is_file()), None)
    train = parts["train"][0] if parts["train"] else alone
    return None if train is None else {"train": train, "val": parts["val"][0] if parts["val"] else train}


@dataclass(frozen=True)
class _Content:
    """The content of an instances JSON: names of the image files, objects in each of them, and the categories."""

    files: list[str]
    objects: list[list[dict[str, Any]]]
    classes: tuple[str, ...]
    categories: dict[int, int]


class OwnCoco(FileDataset):
    """Pictures with masks that are rendered one by one from an instances JSON.

    Args:
        name: Name of the data set in printed lines.
        path: The JSON file.
        content: Content of the JSON file.
        ids: The n ids.
        images: The n image files.
    """

    def __init__(self, name: str, path: Path, content: _Content, ids: Sequence[str], images: Sequence[Path]) -> None:
        labels = torch.zeros(len(ids), len(content.classes))
        for row, objects in zip(labels, content.objects, strict=True):
            row[[content.categories[one["category_id"]] for one in objects]] = 1
        super().__init__(name, content.classes, ids, labels, images)
        self.label_source = f"{path} has no annotations of them"
        self.has_masks = any(one.get("segmentation") for objects in content.objects for one in objects)
        self.path = path
        self.content = content
        if self.has_masks:
            self.truth = f"rendered from {path.name}, smallest area first, crowds ignored"

    def own_mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index`` at its own size.

        Raises:
            InputError: No image has a mask, or the annotations cannot be rendered.
        """
        if not self.has_masks:
            return super().own_mask(index)
        size = self.own_size(index)
        try:
            return render_mask(self.content.objects[index], size, self.content.categories)
        except Exception as error:  # the C code behind pycocotools reports damage in many ways
            raise InputError(
                f"{self.path}: the annotations of {self.image_files[index].name} cannot be rendered at its {size[0]} x "
                f"{size[1]} pixels ({error}); correct them, or remove the annotation."
            ) from error


def load_own_coco(root: str | Path, split: str) -> OwnCoco:
    """Load pictures with an instances JSON of any categories and file names.

    Classes are the categories in the order of their numbers; class k, from 0, has the mask value k + 1. Every
    annotation gives its image a label.

    Args:
        root: The folder, see the layouts above.
        split: ``train`` or ``val``.

    Raises:
        InputError: There is no JSON, the JSON does not hold instances, or a picture is missing.
    """
    root = Path(root).absolute()
    found = find_instances(root)
    if found is None:
        raise InputError(f"{root} has no instances.json and no annotations/instances_train.json; put one there.")
    path = found[split]
    content = _read(path)
    places = [root, root / "images", root / "JPEGImages", root / path.stem.removeprefix("instances_"), root / split]
    images = [_find_picture(path, name, places) for name in content.files]
    ids = [composed("_".join(PurePosixPath(name).with_suffix("").parts)) for name in content.files]
    data = OwnCoco(f"{root.name} {split}", path, content, ids, images)
    if found["train"] == found["val"]:
        data.notes = (f"{root.name} has one {path.name}, so train and val both have all images.",)
    return data


def _find_picture(path: Path, name: str, places: Sequence[Path]) -> Path:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.name or "\\" in name:
        raise InputError(f"{path} names the picture {name!r}; give a name within the folder of the data.")
    for place in places:
        for candidate in (place / name, place / parts.name):
            if candidate.is_file():
                return candidate
    raise InputError(
        f"{path} names {name!r}, which is neither in {places[0]} nor in {places[1]} nor in a folder named after the "
        "split; put the picture there."
    )


def _read(path: Path) -> _Content:
    try:
        content = json.loads(path.read_bytes())
        images = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        named = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        objects: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
        for entry in content["annotations"]:
            if entry["image_id"] not in images or entry["category_id"] not in named:
                raise InputError(
                    f"{path} has an annotation {entry.get('id')} of an image or category that it does not list; add it "
                    "or remove the annotation."
                )
            objects[entry["image_id"]].append(entry)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not an instances file: it lacks {error}; give a JSON with images, annotations and categories."
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); copy it again, it may be cut off.") from None
    if not images:
        raise InputError(f"{path} lists no images; give a JSON that lists the images.")
    numbers = sorted(named)
    classes = checked_classes([named[number] for number in numbers], path)
    return _Content(
        list(images.values()), list(objects.values()), classes, {number: k for k, number in enumerate(numbers)}
    )


# ------------------------------------------------------------------------------------------------- COCO without a JSON


def find_labels(root: Path) -> Path | None:
    """Return the authors' file of COCO's labels in a folder; None if the folder has no such file."""
    return next((root / name for name in _LABELS if (root / name).is_file()), None)


def load_coco_png(root: str | Path, split: str, labels: str | Path, mask_values: str = "") -> FileDataset:
    """Load a split of COCO without any JSON: pictures, the authors' ``.npy`` of labels, and masks as PNG.

    Args:
        root: The folder with ``train2014`` and ``val2014``, or those of 2017.
        split: ``train`` or ``val``.
        labels: The ``.npy`` file, a dictionary from ids to 80 values of 0 and 1; pictures that it does not list are
            left out.
        mask_values: Meaning of the values in the masks, see :func:`wsss_lib.data.files.parse_mask_values`.

    Raises:
        InputError: A folder is missing, or the file does not hold such a dictionary or lists no picture of the split.
    """
    root = Path(root).absolute()
    folder = next((root / f"{split}{year}" for year in _YEARS if (root / f"{split}{year}").is_dir()), None)
    if folder is None:
        raise InputError(f"{root} has no folder {split}2014 or {split}2017; give the folder that contains one.")
    known = {_digits(image_id): row for image_id, row in labels_from_npy(labels, COCO_CLASSES).items()}
    pictures = files_by_stem(folder, IMAGE_SUFFIXES)
    ids = sorted(stem for stem in pictures if _digits(stem) in known)
    if not ids:
        raise InputError(f"{labels} lists no picture of {folder}; give the labels of COCO's {folder.name}.")
    masks = {
        _digits(stem): path
        for place in (root / "coco_seg_anno", root / "SegmentationClass" / folder.name)
        for stem, path in files_by_stem(place, (".png",)).items()
    }
    found = [masks.get(_digits(image_id)) for image_id in ids]
    data = FileDataset(
        f"COCO {folder.name}",
        COCO_CLASSES,
        [_digits(image_id) for image_id in ids],
        _stacked([known[_digits(image_id)] for image_id in ids]),
        [pictures[image_id] for image_id in ids],
        found if any(found) else None,
        parse_mask_values(mask_values, len(COCO_CLASSES)),
    )
    data.label_source = f"{labels} holds only zeros for them"
    left = len(pictures) - len(ids)
    if left:
        data.notes = (f"{Path(labels).name} has no labels of {left} pictures of {folder.name}, which are left out.",)
    return data


def _digits(name: str) -> str:
    """Return the 12 digits of an id in any of the forms ``9``, ``000000000009`` and ``COCO_val2014_000000000009``."""
    return name.rpartition("_")[2].zfill(12)


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows))
