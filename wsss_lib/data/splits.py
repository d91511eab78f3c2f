"""Which data a preset trains on, and on which splits it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsss_lib.data.coco import load_coco
from wsss_lib.data.dataset import Dataset
from wsss_lib.data.folder import load_folder
from wsss_lib.data.toy import COUNTS, ToyOptions, ToyWorld
from wsss_lib.data.voc import has_list, load_voc
from wsss_lib.errors import InputError


@dataclass(frozen=True)
class Splits:
    """The data of a run.

    Attributes:
        training: What is trained on: images and image-level labels.
        scored: What seeds are made for and, where there are masks, scored on, by name: ``train`` and ``val``.
    """

    training: Dataset
    scored: Mapping[str, Dataset]

    @property
    def classes(self) -> tuple[str, ...]:
        """The K foreground class names."""
        return self.training.classes


def open_splits(
    preset: str,
    root: Path | None = None,
    labels: Path | None = None,
    limit: int = 0,
    toy: ToyOptions | None = None,
) -> Splits:
    """Open the data of a preset.

    ``photos`` takes a folder in VOC's layout, trained on ``train_aug`` where it has such a list, or a folder of
    one's own pictures with a ``labels.csv``; without a list or rows of ``val`` that is the same as ``train``.

    Args:
        preset: ``toy``, ``photos``, ``voc12`` or ``coco14``.
        root: The folder of the data; ``toy`` needs none.
        labels: Where the image-level labels of a folder in VOC's layout come from, see `load_voc`.
        limit: If positive, only the first images of every split, for a quick look.
        toy: Of what kind the toy world is; None for the usual one.

    Raises:
        InputError: The folder is missing or is not what the preset needs.
    """
    if preset == "toy":
        counts = {name: min(limit or count, count) for name, count in COUNTS.items()}
        world = {name: ToyWorld(name, count, options=toy or ToyOptions()) for name, count in counts.items()}
        return Splits(world["train"], world)
    splits = _open_files(preset, root, labels)
    if not limit:
        return splits
    return Splits(splits.training.head(limit), {name: data.head(limit) for name, data in splits.scored.items()})


def _open_files(preset: str, root: Path | None, labels: Path | None) -> Splits:
    if root is None:
        raise InputError(f"preset {preset!r} needs data; give its folder as data_root.")
    if not root.is_dir():
        raise InputError(f"data_root {root} is no folder; give the folder that holds the data of preset {preset!r}.")
    if preset == "coco14":
        coco = {name: load_coco(root, name) for name in ("train", "val")}
        return Splits(coco["train"], coco)
    if preset == "photos" and (root / "labels.csv").is_file():
        own = {name: load_folder(root, name) for name in ("train", "val")}
        return Splits(own["train"], own)
    val = "val" if preset == "voc12" or has_list(root, "val") else "train"
    voc = {"train": load_voc(root, "train", labels), "val": load_voc(root, val, labels)}
    lists = root / "ImageSets" / "Segmentation"
    augmented = preset == "voc12" or any((lists / f"{name}.txt").is_file() for name in ("train_aug", "trainaug"))
    return Splits(load_voc(root, "train_aug", labels) if augmented else voc["train"], voc)
