"""What makes numbers on a data set doubtful although nothing is wrong with its files: one sentence for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import IGNORE, is_turned
from wsss_lib.data.names import listed
from wsss_lib.errors import InputError

_MOST_FILES = 20_000
"""Number of files above which only the names are compared, not the contents."""

_TRIED = 8
"""Masks of every split that are read at once, so that what is wrong with all of them is said before the training."""

_MOST_HEADERS = 1_000
"""Images of every split whose EXIF orientation is looked at."""

_BEGINNING = 2**16
"""Bytes of a file that are read first; the others only if those are equal."""


def find_doubts(training: Dataset, scored: Mapping[str, Dataset]) -> tuple[str, ...]:
    """Return what a reader of the numbers has to know about the data, one sentence each; nothing on good data.

    Args:
        training: Data that is trained on.
        scored: Splits that are scored, by name.
    """
    lines = list(dict.fromkeys(note for data in (training, *scored.values()) for note in data.notes))
    shown = training.labels.bool()
    names = _names(training.classes, ~shown.any(0))
    if names:
        lines.append(f"No training image shows {names}.")
    names = _names(training.classes, shown.all(0))
    if names:
        lines.append(f"Every training image shows {names}, so nothing tells it from its surroundings.")
    for split, data in scored.items():
        if data.ids == training.ids:
            continue
        if not data.labels.any():
            lines.append(f"No image of {split} shows any class.")
        names = _names(data.classes, data.labels.bool().any(0) & ~shown.any(0))
        if names:
            lines.append(f"Images of {split} show {names}, which no training image shows.")
    others = {"the training images": training}
    if "train" in scored and scored["train"].ids != training.ids:
        others["the images of train"] = scored["train"]
    for name, other in others.items():
        lines += _overlap(scored["val"], name, other) if "val" in scored else []
    for split, data in scored.items():
        if data.has_masks and (count := len(data.masked)) < len(data):
            lines.append(f"{count} of the {len(data)} images of {split} have masks; the others count in no score.")
        lines += _odd_masks(split, data) if data.has_masks else []
    return tuple(lines)


def _odd_masks(split: str, data: Dataset) -> list[str]:
    """Say what a look at the first masks of a split shows, and which images are turned, which their masks must be."""
    lines, there = [], []
    for index in range(len(data)):
        path = data.mask_file(index)
        if path is not None and path.is_file() and data.labels[index].any():
            there.append(index)
        if len(there) == _TRIED:
            break
    try:
        masks = [data.mask(index) for index in there]
        if masks and not any(((mask > 0) & (mask != IGNORE)).any() for mask in masks):
            lines.append(
                f"None of the first masks of {split} shows a class, although labels name some; if 255 stands for a "
                'class, say so with mask_values, such as "0:0,255:1".'
            )
    except InputError as error:
        lines.append(f"Masks of {split} cannot be scored as they are: {error}")
    files = [(data.ids[i], data.image_file(i)) for i in range(min(len(data), _MOST_HEADERS))]
    turned = [image_id for image_id, path in files if path is not None and _is_turned(path)]
    if turned:
        lines.append(
            f"An EXIF orientation turns or mirrors {len(turned)} images of {split} ({listed(turned)}); masks must fit "
            "them as viewers show them."
        )
    return lines


def _is_turned(path: Path) -> bool:
    try:
        return is_turned(path)
    except InputError:  # whoever needs the image says that it cannot be read
        return False


def _names(classes: Sequence[str], chosen: Tensor) -> str:
    return listed([classes[k] for k in chosen.nonzero().flatten().tolist()])


def _overlap(val: Dataset, name: str, other: Dataset) -> list[str]:
    """Say which images of ``val`` are among others, too, in at most one line."""
    twins = common_images(val, other)
    if not twins:
        return []
    who = (
        f"{len(twins)} of the {len(val)} images of val ({listed(twins)})"
        if len(twins) < len(val)
        else "Every image of val"
    )
    return [f"{who}: also among {name}, so the scores of val say little about new images."]


def common_images(one: Dataset, other: Dataset) -> list[str]:
    """Return the ids of the images of a data set that another one has, too: by id, or by the content of its file.

    Args:
        one: The images asked about.
        other: The others.
    """
    ids = set(other.ids)
    found = {image_id for image_id in one.ids if image_id in ids}
    if len(found) < len(one) and len(one) + len(other) <= _MOST_FILES:
        rest = {image_id: one.image_file(i) for i, image_id in enumerate(one.ids) if image_id not in found}
        mine = {image_id: path for image_id, path in rest.items() if path is not None}
        theirs = [path for path in map(other.image_file, range(len(other))) if path is not None]
        found |= _equal_files(mine, theirs)
    return [image_id for image_id in one.ids if image_id in found]


def _equal_files(mine: Mapping[str, Path], theirs: Iterable[Path]) -> set[str]:
    """Return the names of those files that are equal to one of the others, byte by byte."""
    candidates, others = dict(mine), list(theirs)
    measures: tuple[Callable[[Path], object], ...] = (_size, _beginning, _content)  # each costs more than the last
    try:
        for measure in measures:
            seen = {path: measure(path) for path in {*candidates.values(), *others}}
            values = {seen[path] for path in others}
            candidates = {name: path for name, path in candidates.items() if seen[path] in values}
            kept = {seen[path] for path in candidates.values()}
            others = [path for path in others if seen[path] in kept]
    except OSError:  # whoever needs the image says that it cannot be read
        return set()
    return set(candidates)


def _size(path: Path) -> int:
    return path.stat().st_size


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_BEGINNING)).digest()


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
