"""Reasons to doubt scores on a data set whose files are in order: one sentence for each reason."""

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
"""Number of masks of every split that are read before the training, to find faults that all masks share."""

_MOST_HEADERS = 1_000
"""Number of images of every split whose EXIF orientation is read."""

_BEGINNING = 2**16
"""Number of bytes of a file that are compared first; the rest is compared only if these are equal."""


def find_doubts(training: Dataset, scored: Mapping[str, Dataset]) -> tuple[str, ...]:
    """Return the reasons to doubt scores on the data, one sentence each; an empty tuple for good data.

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
    """Describe oddities of the first masks of a split, and images that are turned, as their masks must be too."""
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
                f"The first masks of {split} show no class, although labels name some; if 255 stands for a "
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
    except InputError:  # reported when the image is needed
        return False


def _names(classes: Sequence[str], chosen: Tensor) -> str:
    return listed([classes[k] for k in chosen.nonzero().flatten().tolist()])


def _overlap(val: Dataset, name: str, other: Dataset) -> list[str]:
    """Describe, in at most one line, which images of ``val`` are also in another split."""
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
    """Return the ids of the images of a data set that are also in another: with the same id or the same file content.

    Args:
        one: The data set whose ids are returned.
        other: The other data set.
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
    """Return the names of those files that are equal, byte by byte, to a file of the other set."""
    candidates, others = dict(mine), list(theirs)
    measures: tuple[Callable[[Path], object], ...] = (_size, _beginning, _content)  # from cheap to expensive
    try:
        for measure in measures:
            seen = {path: measure(path) for path in {*candidates.values(), *others}}
            values = {seen[path] for path in others}
            candidates = {name: path for name, path in candidates.items() if seen[path] in values}
            kept = {seen[path] for path in candidates.values()}
            others = [path for path in others if seen[path] in kept]
    except OSError:  # reported when the image is needed
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
