"""COCO 2014 for segmentation: 80 classes, labels from the instance annotations, masks from PNGs or rendered.

COCO has no official semantic masks of its objects, and the masks that papers use differ by points of mIoU. So the data
set describes its masks in ``truth``, which is printed beside every number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_tools
from torch import Tensor

from wsss_lib.data.coco_annotations import COCO_CLASSES, OFFICIAL_CATEGORIES, Instances, read_instances
from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import (
    IGNORE,
    IMAGE_SUFFIXES,
    files_by_stem,
    parse_mask_values,
    refuse_unusable_masks,
)
from wsss_lib.data.voc import read_ids
from wsss_lib.errors import InputError

_SPLITS = {"train": "train2014", "val": "val2014"}
_SPLITS |= {name: name for name in ("train2014", "val2014", "train2017", "val2017")}


def category_lookup(categories: Mapping[int, int] = OFFICIAL_CATEGORIES) -> np.ndarray:
    """Return the class numbers of the values of a mask with raw category ids.

    Args:
        categories: The class, from 0 on, of each category id.

    Returns:
        ``(256,)`` uint8: 0 at 0, k + 1 at the category id of class k, 255 at every number that is not a category.
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[0] = 0
    for number, position in categories.items():
        if 0 < number < IGNORE:
            table[number] = position + 1
    return table


def labels_from_masks(masks: Sequence[np.ndarray], num_classes: int = len(COCO_CLASSES)) -> Tensor:
    """Find the classes that have at least one pixel in each mask.

    The annotations may have more labels, because small objects can be hidden in the mask.

    Args:
        masks: n masks ``(H, W)`` of any size with 0..K and 255.
        num_classes: Number of classes K.

    Returns:
        ``(n, K)`` float32 of 0 and 1.
    """
    labels = torch.zeros(len(masks), num_classes)
    for row, mask in zip(labels, masks, strict=True):
        values = np.unique(mask)
        row[torch.from_numpy(values[(values > 0) & (values != IGNORE)].astype(np.int64) - 1)] = 1.0
    return labels


def load_coco(
    root: str | Path,
    split: str,
    annotations: str | Path | None = None,
    masks: str | Path | None = None,
    mask_values: str = "contiguous",
    ids_file: str | Path | None = None,
) -> CocoDataset:
    """Load a split of COCO 2014 or 2017.

    Images are found by the 12 digits of their id in ``root/<split>/`` and ``root/JPEGImages/``. Every annotation gives
    its image a label, also the annotation of a crowd. Images without annotations are kept, with labels of zeros.

    Args:
        root: The folder with the images.
        split: ``train2014`` or ``val2014``, or those of 2017; for short ``train`` or ``val``, of 2014 if it is there.
        annotations: The instances JSON of the split, by default ``root/annotations/instances_<split>.json``.
        masks: A folder of PNGs whose names end in the 12 digits, or a folder that has such a folder for each split. By
            default ``root/SegmentationClass/<split>/`` or ``root/coco_seg_anno/``; if neither exists, the masks are
            rendered from the annotations, see :func:`render_mask`.
        mask_values: ``contiguous`` or "" if the PNGs hold 0..80, ``raw`` if they hold category ids up to 90, or pairs,
            see :func:`wsss_lib.data.files.parse_mask_values`.
        ids_file: A list of the images wanted, see :func:`wsss_lib.data.voc.read_ids`; by default all, sorted.

    Returns:
        The images; an id is the 12 digits.

    Raises:
        InputError: A parameter is unknown, a file or folder is missing, or the JSON is malformed.
    """
    if split not in _SPLITS:
        raise InputError(f"split {split!r} is not a split of COCO; choose train2014 or val2014.")
    root = Path(root).absolute()
    newer = root / f"{split}2017"
    split = newer.name if newer.is_dir() and not (root / f"{split}2014").is_dir() else _SPLITS[split]
    instances = read_instances(annotations or root / "annotations" / f"instances_{split}.json")
    lookup = _mask_lookup(mask_values, instances.categories)
    rows = _chosen_rows(instances, None if ids_file is None else Path(ids_file))
    ids = [instances.ids[row] for row in rows]
    return CocoDataset(
        name=f"COCO {split}",
        instances=instances,
        rows=rows,
        images=_find_images(root, split, ids),
        mask_folder=_find_mask_folder(root, split, None if masks is None else Path(masks)),
        mask_values=mask_values or "contiguous",
        lookup=lookup,
    )


def _mask_lookup(mask_values: str, categories: Mapping[int, int]) -> np.ndarray | None:
    """Return the class numbers of the values of masks, see :func:`wsss_lib.data.files.read_mask`."""
    if mask_values in ("", "contiguous"):
        return None
    if mask_values == "raw":
        table = category_lookup(categories).astype(np.int16)
        table[table == IGNORE] = -1
        table[IGNORE] = IGNORE
        return table
    try:
        return parse_mask_values(mask_values, len(COCO_CLASSES))
    except InputError as error:
        raise InputError(f"{str(error)[:-1]}, or choose 'raw' for masks that hold category ids.") from None


class CocoDataset(FileDataset):
    """Images of COCO with masks from PNGs or rendered one by one from the annotations.

    Args:
        name: Name of the data set in printed lines.
        instances: The annotations.
        rows: n positions in ``instances``.
        images: The n image files.
        mask_folder: The folder with masks, or None to render them.
        mask_values: Description of the values in the masks.
        lookup: Class numbers of the values in the masks, see :func:`wsss_lib.data.files.read_mask`.

    Attributes:
        truth: Description of the masks, printed beside every score.

    Raises:
        InputError: An image file is missing.
    """

    def __init__(
        self,
        name: str,
        instances: Instances,
        rows: Sequence[int],
        images: Sequence[Path],
        mask_folder: Path | None = None,
        mask_values: str = "contiguous",
        lookup: np.ndarray | None = None,
    ) -> None:
        ids = [instances.ids[row] for row in rows]
        masks = None if mask_folder is None else _mask_files(mask_folder, ids)
        super().__init__(name, COCO_CLASSES, ids, instances.labels[list(rows)], images, masks, lookup)
        self.label_source = f"{instances.path} has no annotations of them"
        self.has_masks = masks is None or any(masks)
        self.instances = instances
        self.rows = tuple(rows)
        if mask_folder is None:
            self.truth = f"rendered from {instances.path.name}, smallest area first, crowds ignored"
        else:
            self.truth = f"{mask_folder} ({mask_values} values)"

    def own_mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index`` at its own size.

        Raises:
            InputError: The mask is damaged or not as large as the image, or the annotations cannot be rendered.
        """
        size = self.own_size(index)
        if self.mask_files is not None:
            return super().own_mask(index)
        try:
            return render_mask(self.instances.annotations(self.rows[index]), size, self.instances.categories)
        # For odd polygons and run lengths the C code of pycocotools raises errors of many kinds.
        except Exception as error:
            raise InputError(
                f"{self.instances.path}: the annotations of image {self.ids[index]} cannot be rendered at the "
                f"{size[0]} x {size[1]} pixels of {self.image_files[index].name} ({error}); give the original image "
                "and annotations."
            ) from error


def render_mask(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], categories: Mapping[int, int] = OFFICIAL_CATEGORIES
) -> np.ndarray:
    """Paint the objects of one image into a mask.

    Objects are painted from the smallest ``area`` to the largest, each only on pixels that are still
    background, so that a table does not hide the objects on it. Crowds come last as 255. There is no ignored border.

    Args:
        annotations: Annotations as in COCO's instances JSON.
        size: ``(height, width)`` of the image.
        categories: The class, from 0 on, of each category id.

    Returns:
        ``(H, W)`` uint8: 0 background, 1..80 classes, 255 crowds.

    Raises:
        ValueError: A segmentation was made for an image of another size.
        KeyError: An annotation has no segmentation, area or known category.
    """
    mask = np.zeros(size, dtype=np.uint8)
    for annotation in sorted(annotations, key=lambda one: (bool(one.get("iscrowd", 0)), one["area"])):
        value = IGNORE if annotation.get("iscrowd", 0) else categories[annotation["category_id"]] + 1
        mask[_decode(annotation["segmentation"], size) & (mask == 0)] = value
    return mask


def _decode(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels inside polygons, or of a run-length code, as ``(H, W)`` bool."""
    if isinstance(segmentation, list):
        if not segmentation or any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
            raise ValueError("a segmentation has no polygon, or one of fewer than three points or of half a point")
        for polygon in segmentation:
            _refuse_endless(polygon, size)
        code = rle_tools.merge([one for polygon in segmentation for one in rle_tools.frPyObjects([polygon], *size)])
    else:
        if tuple(segmentation["size"]) != tuple(size):
            raise ValueError(f"a run-length code is for {segmentation['size']} pixels")
        counts = segmentation["counts"]
        if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
            raise ValueError(f"a run-length code is for {sum(counts)} pixels")
        code = rle_tools.frPyObjects(segmentation, *size) if isinstance(counts, list) else segmentation
    pixels = rle_tools.decode(code)
    # After the last run of a code that is too short the decoder leaves random memory.
    if pixels.sum() != rle_tools.area(code):
        raise ValueError("a run-length code ends too early")
    return pixels.astype(bool)


def _refuse_endless(polygon: Sequence[float], size: tuple[int, int]) -> None:
    """Raise for a polygon so far outside the image that pycocotools would crash or use all memory."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    outline = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    # NaN is not smaller than anything
    if not (np.abs(points).max() <= 10 * max(size) and outline <= 10 * sum(size) + size[0] * size[1]):
        raise ValueError("a polygon goes far beyond the image")


# ----------------------------------------------------------------------------------------------------------- files


def canonical_id(name: str) -> str:
    """Return the 12 digits of an id in any form: ``9``, ``000000000009`` or ``COCO_train2014_000000000009``.

    Raises:
        InputError: The name does not end in digits.
    """
    digits = re.search(r"(?:^|_)(\d{1,12})$", name)
    if digits is None:
        raise InputError(f"{name!r} is not an id of a COCO image; write its number or the name of its file.")
    return digits[1].zfill(12)


def _by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    found = files_by_stem(folder, suffixes)
    return {stem[-12:]: path for stem, path in found.items() if re.search(r"(?:^|_)\d{12}$", stem)}


def _find_images(root: Path, split: str, ids: Sequence[str]) -> list[Path]:
    folders = [folder for folder in (root / split, root / "JPEGImages") if folder.is_dir()]
    if not folders:
        raise InputError(f"{root} has neither a folder {split} nor JPEGImages; give the folder that contains one.")
    found: dict[str, Path] = {}
    for folder in reversed(folders):
        found |= _by_id(folder, IMAGE_SUFFIXES)
    return [found.get(image_id, folders[0] / f"COCO_{split}_{image_id}.jpg") for image_id in ids]


def _find_mask_folder(root: Path, split: str, masks: Path | None) -> Path | None:
    if masks is None:
        candidates = (root / "SegmentationClass" / split, root / "coco_seg_anno")
        return next((folder for folder in candidates if folder.is_dir()), None)
    if not masks.is_dir():
        raise InputError(f"{masks} is not a folder; give the folder with the masks or leave masks out to render them.")
    return masks / split if (masks / split).is_dir() else masks


def _mask_files(folder: Path, ids: Sequence[str]) -> list[Path | None]:
    found = _by_id(folder, (".png",))
    if not found:
        refuse_unusable_masks(folder, ids)
    return [found.get(image_id) for image_id in ids]


def _chosen_rows(instances: Instances, ids_file: Path | None) -> list[int]:
    if ids_file is None:
        return list(range(len(instances.ids)))
    position = {image_id: row for row, image_id in enumerate(instances.ids)}
    rows = []
    for name in read_ids(ids_file):
        row = position.get(canonical_id(name))
        if row is None:
            raise InputError(f"{ids_file} lists {name!r}, which {instances.path} does not know; take it off the list.")
        rows.append(row)
    return rows
