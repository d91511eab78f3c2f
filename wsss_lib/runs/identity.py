"""What decides the numbers of a run: settings, data, and the content of the files that the run reads.

Two runs with equal identities give equal numbers on the same machine. A run's folder keeps the identity of its run, and
a run with another identity is refused there.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wsss_lib.data.dataset import Dataset
from wsss_lib.errors import InputError
from wsss_lib.runs.folder import RunFolder
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.contents import Digests, file_digest, picture_digest, picture_files


def settings_identity(settings: Settings, weights: Path | None, splits: Mapping[str, Dataset]) -> dict[str, Any]:
    """Return the part of the identity that comes from settings, weight files and labels.

    Args:
        settings: Settings of the run.
        weights: File of the pre-trained weights that the run uses; None for random weights.
        splits: The splits of the run's data, by name.
    """
    return {
        "method": settings.method,
        "preset": settings.preset,
        "seed": settings.seed,
        "limit": settings.limit,
        "precision": settings.precision,
        **settings.config.to_dict(),
        "weights": None if weights is None else file_digest(weights),
        **({"epoch": settings.epoch} if settings.epoch else {}),
        **({} if settings.checkpoint is None else {"checkpoint": file_digest(settings.checkpoint)}),
        **{f"data {name}": f"{len(split)} images, {label_digest(split)}" for name, split in splits.items()},
    }


def picture_identity(splits: Mapping[str, Dataset], digests: Digests) -> dict[str, str]:
    """Return the part of the identity that comes from the pictures.

    Args:
        splits: The splits of the run's data, by name.
        digests: Digests of files; those of the pictures are added.
    """
    return {f"pictures {name}": picture_digest(data, digests) for name, data in splits.items()}


def label_digest(data: Dataset) -> str:
    """Return a checksum of 8 digits of the ids, classes and labels of a data set."""
    text = "\n".join((*data.ids, *data.classes)).encode() + data.labels.numpy().tobytes()
    return f"{zlib.crc32(text):08x}"


def same_images(one: Dataset, other: Dataset) -> bool:
    """Return whether two data sets have the same images with the same labels, in the same order."""
    return one.ids == other.ids and torch.equal(one.labels, other.labels)


def has_changed_pictures(place: RunFolder, identity: Mapping[str, Any]) -> bool:
    """Return whether the pictures of the run in a folder differ from those of an identity.

    Runs of format 1 do not say which pictures they had, so nothing is found for them.
    """
    before = place.identity()
    return any(before.get(name, value) != value for name, value in identity.items() if name.startswith("pictures "))


def refuse_changed_pictures(
    place: RunFolder, identity: Mapping[str, Any], digests: Digests, splits: Mapping[str, Dataset]
) -> None:
    """Raise InputError if a picture of the run in a folder has changed, and name the picture.

    Args:
        place: Folder of the run.
        identity: Identity of the run that wants the folder.
        digests: Digests of the pictures as they are now.
        splits: The splits of the run's data, by name.
    """
    before = place.identity()
    for name, data in splits.items():
        part = f"pictures {name}"
        if before.get(part, identity[part]) == identity[part]:
            continue
        changed = digests.changed(picture_files(data))
        if changed:  # else the list has changed, too, and its part of the identity says so
            raise InputError(
                f"{place.path} was made from other pictures: {changed[0]} has changed since, as {len(changed)} of "
                f"{len(data)} of {data.name} have; put the old pictures back, give another folder as out, or "
                "resume=False to remove the run and start over."
            )
