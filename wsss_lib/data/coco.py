"""COCO 2014 for segmentation: 80 classes, labels from the instance annotations, masks from PNGs or rendered.

COCO has no official semantic masks of its objects, and the archives that papers use differ by points of mIoU. So the
data set says in ``truth`` which masks it has, to be printed beside every number.
"""

from __future__ import annotations

import contextlib
import json
import re
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pycocotools import mask as rle_tools
from torch import Tensor

from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import (
    IGNORE,
    IMAGE_SUFFIXES,
    files_by_stem,
    parse_mask_values,
    refuse_unusable_masks,
    write_atomically,
)
from wsss_lib.data.names import key as name_key
from wsss_lib.data.names import listed, positions
from wsss_lib.data.voc import read_ids
from wsss_lib.errors import InputError

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)
# fmt: on

CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""The category id in COCO's files of each of :data:`COCO_CLASSES`: ten of the numbers up to 90 are not used."""

_SPLITS = {"train": "train2014", "val": "val2014"}
_SPLITS |= {name: name for name in ("train2014", "val2014", "train2017", "val2017")}

_INDEX_VERSION = 2

_OFFICIAL = dict(zip(CATEGORY_IDS, range(len(CATEGORY_IDS)), strict=True))
"""The class, from 0 on, of each category id in COCO's own files."""


def category_lookup(categories: Mapping[int, int] = _OFFICIAL) -> np.ndarray:
    """Return what the values of a mask with raw category ids stand for.

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

    These labels are fewer than those of the annotations, whose small objects may be hidden in the mask.

    Args:
        masks: n masks ``(H, W)`` of any size with 0..K and 255.
        num_classes: K.

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
    its image a label, that of a crowd too. Images without annotations stay, with a label of zeros.

    Args:
        root: The folder with the images.
        split: ``train2014`` or ``val2014``, or those of 2017; for short ``train`` or ``val``, of 2014 if it is there.
        annotations: The instances JSON of the split, by default ``root/annotations/instances_<split>.json``.
        masks: A folder of PNGs whose names end in the 12 digits, or one that has such a folder for each split. By
            default ``root/SegmentationClass/<split>/`` or ``root/coco_seg_anno/``; if neither exists, the masks are
            rendered from the annotations, see :func:`render_mask`.
        mask_values: ``contiguous`` or "" if the PNGs hold 0..80, ``raw`` if they hold category ids up to 90, or pairs,
            see :func:`wsss_lib.data.files.parse_mask_values`.
        ids_file: A list of the images wanted, see :func:`wsss_lib.data.voc.read_ids`; by default all, sorted.

    Returns:
        The images; an id is the 12 digits.

    Raises:
        InputError: A parameter is unknown, a file or folder is missing, or the JSON is not what it should be.
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
    """Return what the values of masks mean, see :func:`wsss_lib.data.files.read_mask`."""
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
        mask_values: Words that say what the values in those masks are.
        lookup: The same as a table, see :func:`wsss_lib.data.files.read_mask`.

    Attributes:
        truth: Words that say which masks these are, to be printed beside every score.

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
        # The C code behind pycocotools answers odd polygons and run lengths with errors of many kinds.
        except Exception as error:
            raise InputError(
                f"{self.instances.path}: the annotations of image {self.ids[index]} cannot be rendered at the "
                f"{size[0]} x {size[1]} pixels of {self.image_files[index].name} ({error}); give the original image "
                "and annotations."
            ) from error


def render_mask(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], categories: Mapping[int, int] = _OFFICIAL
) -> np.ndarray:
    """Paint the objects of one image into a mask.

    Objects are painted from the smallest ``area`` to the largest, each only where nothing is yet, so that what lies
    on a table is not hidden by it. Crowds come last as 255. There is no ignored border.

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
    # Behind the last run of a code that is too short the decoder leaves whatever was in memory.
    if pixels.sum() != rle_tools.area(code):
        raise ValueError("a run-length code ends too early")
    return pixels.astype(bool)


def _refuse_endless(polygon: Sequence[float], size: tuple[int, int]) -> None:
    """Raise for a polygon that no image has, for whose outline pycocotools would crash or use all memory."""
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


# ----------------------------------------------------------------------------------------------------- annotations


@dataclass(frozen=True)
class Instances:
    """An instances JSON; only its labels and the places of its annotations are kept in memory.

    Attributes:
        path: The JSON file.
        ids: The 12 digits of each of its n images, sorted.
        labels: ``(n, 80)`` float32 of 0 and 1.
        spans: ``(m, 2)`` int64, first and last byte + 1 in the file of each annotation, ordered by image.
        bounds: ``(n + 1,)`` int64; the annotations of image i are ``spans[bounds[i] : bounds[i + 1]]``.
        categories: The class, from 0 on, of each category id.
    """

    path: Path
    ids: tuple[str, ...]
    labels: Tensor
    spans: np.ndarray
    bounds: np.ndarray
    categories: Mapping[int, int]

    def annotations(self, row: int) -> list[dict[str, Any]]:
        """Read the annotations of image ``row`` from the file, in its order."""
        with self.path.open("rb") as stream:
            return [_read_span(stream, *span) for span in self.spans[self.bounds[row] : self.bounds[row + 1]].tolist()]


def _read_span(stream: Any, start: int, stop: int) -> dict[str, Any]:
    stream.seek(start)
    return json.loads(stream.read(stop - start))


def read_instances(path: str | Path) -> Instances:
    """Go once through an instances JSON such as ``instances_val2014.json``.

    The file is parsed piece by piece and no polygon is kept, so that a file of hundreds of megabytes leaves a few
    behind, whichever number of processes reads masks from it. What was found is written to ``<file>.index.npz`` beside
    it, if the folder can be written to, and read from there as long as the file's size and time stay the same.

    Raises:
        InputError: The file is missing, is not JSON, lacks a field, or an annotation has an unknown image or category.
    """
    path = Path(path).absolute()
    index = path.with_name(f"{path.name}.index.npz")
    found = _read_index(path, index)
    if found is None:
        found = _parse_instances(path)
        _write_index(found, index)
    return found


def _stamp(path: Path) -> np.ndarray:
    """Return what changes when a file is replaced, and the version of the index."""
    status = path.stat()
    return np.array([_INDEX_VERSION, status.st_size, status.st_mtime_ns])


def _read_index(path: Path, index: Path) -> Instances | None:
    """Read what an earlier call wrote; None if there is nothing, or not what belongs to the file."""
    try:
        with index.open("rb") as stream, np.load(stream) as stored:
            if not np.array_equal(stored["stamp"], _stamp(path)):
                return None
            labels = np.unpackbits(stored["labels"], axis=1, count=len(COCO_CLASSES))
            return Instances(
                path=path,
                ids=tuple(f"{number:012d}" for number in stored["numbers"].tolist()),
                labels=torch.from_numpy(labels.astype(np.float32)),
                spans=stored["spans"],
                bounds=stored["bounds"],
                categories=dict(stored["categories"].tolist()),
            )
    except Exception:  # NumPy and zipfile report damage in many ways
        return None


def _write_index(instances: Instances, index: Path) -> None:
    def write(stream: BinaryIO) -> None:
        np.savez(
            stream,
            stamp=_stamp(instances.path),
            numbers=np.array([int(image_id) for image_id in instances.ids]),
            labels=np.packbits(instances.labels.numpy().astype(bool), axis=1),
            spans=instances.spans,
            bounds=instances.bounds,
            categories=np.array(list(instances.categories.items())),
        )

    with contextlib.suppress(InputError):  # the data may lie where nothing can be written
        write_atomically(index, write)


def _parse_instances(path: Path) -> Instances:
    try:
        # In Latin-1 a character is a byte, so the position of an annotation in the text is that in the file.
        return _index_instances(path, path.read_bytes().decode("latin-1"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; put the instances file of annotations_trainval2014.zip there or give its path."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, and lists in lists in lists
        raise InputError(f"{path} is not valid JSON ({error}); copy it again, it may be cut off.") from error
    except (KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"{path} is not an instances file: an image or annotation lacks a field or has one of another type "
            f"({error}); give the instances JSON of COCO 2014, not that of captions or key points."
        ) from error


def _index_instances(path: Path, text: str) -> Instances:
    images, owners, categories, starts, stops = (array("q") for _ in range(5))
    named: dict[int, str] = {}

    def visit_image(image: dict[str, Any], *_: int) -> None:
        images.append(image["id"])

    def visit_annotation(annotation: dict[str, Any], start: int, stop: int) -> None:
        owners.append(annotation["image_id"])
        categories.append(annotation["category_id"])
        starts.append(start)
        stops.append(stop)

    def visit_category(category: dict[str, Any], *_: int) -> None:
        named[int(category["id"])] = str(category["name"])

    sections = _walk(text, {"images": visit_image, "annotations": visit_annotation, "categories": visit_category})
    missing = {"images", "annotations"} - sections
    if missing:
        raise InputError(f"{path} has no {min(missing)!r}; give the instances JSON of COCO 2014.")
    numbers = _sorted_numbers(path, images)
    rows = _rows_of_owners(path, numbers, _as_numpy(owners))
    labels = torch.zeros(len(numbers), len(COCO_CLASSES))
    known = _known_categories(path, named, set(categories))
    classes = np.array([known[number] for number in categories], dtype=np.int64)
    labels[torch.from_numpy(rows), torch.from_numpy(classes)] = 1.0
    by_image = np.argsort(rows, kind="stable")
    return Instances(
        path=path,
        ids=tuple(f"{number:012d}" for number in numbers.tolist()),
        labels=labels,
        spans=np.stack([_as_numpy(starts), _as_numpy(stops)], axis=1)[by_image],
        bounds=np.searchsorted(rows[by_image], np.arange(len(numbers) + 1)),
        categories=known,
    )


def _as_numpy(values: array[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _sorted_numbers(path: Path, images: array[int]) -> np.ndarray:
    numbers, counts = np.unique(_as_numpy(images), return_counts=True)
    if not len(numbers):
        raise InputError(f"{path} lists no images; give the instances JSON of COCO 2014.")
    if counts.max() > 1:
        raise InputError(f"{path} lists image {numbers[counts.argmax()]} more than once; list every image once.")
    if numbers[0] < 0:
        raise InputError(f"{path} lists an image {numbers[0]}; an image id is a number from 0 on.")
    return numbers


def _rows_of_owners(path: Path, numbers: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return the position in ``numbers`` of the image of each annotation."""
    rows = np.searchsorted(numbers, owners)
    unknown = numbers[np.minimum(rows, len(numbers) - 1)] != owners
    if unknown.any():
        raise InputError(
            f"{path} has an annotation of image {owners[unknown][0]}, which it does not list; add the image or take "
            "the annotation away."
        )
    return rows


def _known_categories(path: Path, named: Mapping[int, str], used: Collection[int]) -> dict[int, int]:
    """Return the class, from 0 on, of the category ids of a file, found by their names.

    COCO's own ids also count where the file does not name them, as long as those that it names have COCO's numbers.

    Args:
        path: The file.
        named: The names of the categories that the file lists.
        used: The category ids of its annotations.
    """
    position = positions(COCO_CLASSES)
    known = {number: position[name_key(name)] for number, name in named.items() if name_key(name) in position}
    if all(_OFFICIAL.get(number) == known.get(number) for number in named):
        known = _OFFICIAL | known
    unknown = sorted(set(used) - known.keys())
    if unknown:
        number = unknown[0]
        what = f"which it calls {named[number]!r}, none" if number in named else "which is none"
        raise InputError(
            f"{path} has an annotation of category {number}, {what} of the 80 classes {listed(COCO_CLASSES)}; give the "
            "instances JSON of COCO 2014, or pictures with other classes as a folder with labels.csv and preset photos."
        )
    return known


_MARK = re.compile(r"[ \t\r\n]*([][{},:])[ \t\r\n]*")
_decode_json = json.JSONDecoder().raw_decode


def _walk(text: str, visitors: Mapping[str, Callable[[dict[str, Any], int, int], None]]) -> set[str]:
    """Call a visitor with every element of some lists in a JSON object, and with its first and last + 1 place.

    Returns:
        The keys of the object.
    """
    keys: set[str] = set()
    _, at = _expect(text, 0, "{")
    mark = ","
    while mark == ",":
        key, at = _decode_json(text, at)
        if not isinstance(key, str):
            raise json.JSONDecodeError("expected a key in quotes", text, at)
        keys.add(key)
        _, at = _expect(text, at, ":")
        at = _walk_list(text, at, visitors[key]) if key in visitors else _decode_json(text, at)[1]
        mark, at = _expect(text, at, ",}")
    return keys


def _walk_list(text: str, at: int, visit: Callable[[dict[str, Any], int, int], None]) -> int:
    """Visit the elements of the list that begins at ``at`` and return the place behind it."""
    mark, at = _expect(text, at, "[")
    if text.startswith("]", at):
        return at + 1
    while mark != "]":
        element, stop = _decode_json(text, at)
        visit(element, at, stop)
        mark, at = _expect(text, stop, ",]")
    return at


def _expect(text: str, at: int, marks: str) -> tuple[str, int]:
    """Return which of the marks comes next, and the place of what follows."""
    found = _MARK.match(text, at)
    if found is None or found[1] not in marks:
        raise json.JSONDecodeError(f"expected one of {marks}", text, at)
    return found[1], found.end()
