"""The annotations of COCO 2014: image-level labels, and for every image the places of its annotations in the JSON.

An instances JSON of 254 MiB becomes 1.3 GiB of Python objects, which every process that reads masks would hold. So
the JSON is parsed piece by piece, in half the time, and only labels and places are kept (`benchmarks/coco_index.py`).
"""

from __future__ import annotations

import contextlib
import json
import re
from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.files import write_atomically
from wsss_lib.data.names import key as name_key
from wsss_lib.data.names import listed, positions
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
"""The category ids of :data:`COCO_CLASSES` in COCO's files; ten of the numbers up to 90 are not used."""

_INDEX_VERSION = 2

OFFICIAL_CATEGORIES = dict(zip(CATEGORY_IDS, range(len(CATEGORY_IDS)), strict=True))
"""The class, from 0 on, of each category id in COCO's files."""


@dataclass(frozen=True)
class Instances:
    """An instances JSON; only its labels and the places of its annotations are kept in memory.

    Attributes:
        path: The JSON file.
        ids: The 12 digits of each of its n images, sorted.
        labels: ``(n, 80)`` float32 of 0 and 1.
        spans: ``(m, 2)`` int64, first byte and last byte + 1 of each annotation in the file, ordered by image.
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
        """Read the annotations of image ``row`` from the file, in the order of the file."""
        with self.path.open("rb") as stream:
            return [_read_span(stream, *span) for span in self.spans[self.bounds[row] : self.bounds[row + 1]].tolist()]


def _read_span(stream: Any, start: int, stop: int) -> dict[str, Any]:
    stream.seek(start)
    return json.loads(stream.read(stop - start))


def read_instances(path: str | Path) -> Instances:
    """Read labels and places of annotations from an instances JSON such as ``instances_val2014.json``.

    The result is written to ``<file>.index.npz`` beside the JSON, if the folder can be written to, and read from there
    as long as size and time of the JSON stay the same.

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
    """Return the version of the index and the size and time of a file."""
    status = path.stat()
    return np.array([_INDEX_VERSION, status.st_size, status.st_mtime_ns])


def _read_index(path: Path, index: Path) -> Instances | None:
    """Read the index that an earlier call wrote; None if it is missing or does not belong to the file."""
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

    with contextlib.suppress(InputError):  # the folder of the data may be read-only
        write_atomically(index, write)


def _parse_instances(path: Path) -> Instances:
    try:
        # In Latin-1 a character is a byte, so a position in the text is also the position in the file.
        return _index_instances(path, path.read_bytes().decode("latin-1"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; put the instances file of annotations_trainval2014.zip there or give its path."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, and deeply nested lists
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

    COCO's ids are also known if the file does not name them, as long as the names in the file have COCO's ids.

    Args:
        path: The file.
        named: The names of the categories that the file lists.
        used: The category ids of its annotations.
    """
    position = positions(COCO_CLASSES)
    known = {number: position[name_key(name)] for number, name in named.items() if name_key(name) in position}
    if all(OFFICIAL_CATEGORIES.get(number) == known.get(number) for number in named):
        known = OFFICIAL_CATEGORIES | known
    unknown = sorted(set(used) - known.keys())
    if unknown:
        number = unknown[0]
        name = f" ({named[number]!r})" if number in named else ""
        raise InputError(
            f"{path} has an annotation of category {number}{name}, which is not one of the 80 classes "
            f"{listed(COCO_CLASSES)}; give the instances JSON of COCO 2014, or pictures with other classes as a folder "
            "with labels.csv and preset photos."
        )
    return known


_MARK = re.compile(r"[ \t\r\n]*([][{},:])[ \t\r\n]*")
_decode_json = json.JSONDecoder().raw_decode


def _walk(text: str, visitors: Mapping[str, Callable[[dict[str, Any], int, int], None]]) -> set[str]:
    """Call a visitor with every element of some lists in a JSON object, with its first place and its last place + 1.

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
    """Visit the elements of the list that begins at ``at`` and return the place after the list."""
    mark, at = _expect(text, at, "[")
    if text.startswith("]", at):
        return at + 1
    while mark != "]":
        element, stop = _decode_json(text, at)
        visit(element, at, stop)
        mark, at = _expect(text, stop, ",]")
    return at


def _expect(text: str, at: int, marks: str) -> tuple[str, int]:
    """Return the next mark and the place after it."""
    found = _MARK.match(text, at)
    if found is None or found[1] not in marks:
        raise json.JSONDecodeError(f"expected one of {marks}", text, at)
    return found[1], found.end()
