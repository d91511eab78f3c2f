"""The data that a preset trains on, and the splits on which it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wsss_lib.data.class_folders import find_class_folders, load_class_folders
from wsss_lib.data.coco import load_coco
from wsss_lib.data.dataset import Dataset
from wsss_lib.data.doubts import find_doubts
from wsss_lib.data.folder import load_folder
from wsss_lib.data.names import listed
from wsss_lib.data.own_coco import find_instances, find_labels, load_coco_png, load_own_coco
from wsss_lib.data.toy import COUNTS, ToyOptions, ToyWorld
from wsss_lib.data.voc import has_list, load_voc
from wsss_lib.errors import InputError


@dataclass(frozen=True)
class Splits:
    """The data of a run.

    Attributes:
        fit: Images and image-level labels that the networks learn from (``train_aug`` of VOC).
        scored: Splits ``train`` and ``val``, by name: maps are made for them and, where there are masks, scored on
            them.
    """

    fit: Dataset
    scored: Mapping[str, Dataset]

    @property
    def classes(self) -> tuple[str, ...]:
        """The K foreground class names."""
        return self.fit.classes

    @property
    def with_masks(self) -> dict[str, Dataset]:
        """The scored splits that have masks, by name."""
        return {name: data for name, data in self.scored.items() if data.has_masks}

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """Sentences on what makes numbers on these data doubtful, see :func:`wsss_lib.data.doubts.find_doubts`."""
        return find_doubts(self.fit, self.scored)


def open_splits(
    preset: str,
    root: Path | None = None,
    labels: Path | None = None,
    limit: int = 0,
    toy: ToyOptions | None = None,
    mask_values: str = "",
) -> Splits:
    """Open the data of a preset.

    ``photos`` takes a folder in VOC's layout, trained on ``train_aug`` where it has such a list, or a folder of
    your own pictures with a ``labels.csv``, an instances JSON or a folder for each class. Without a list or rows of
    ``val``, ``val`` is the same as ``train``. ``coco14`` takes COCO 2014 or 2017, also without its JSON.

    Args:
        preset: ``toy``, ``photos``, ``voc12`` or ``coco14``.
        root: The folder of the data; ``toy`` needs none.
        labels: Source of the image-level labels of a folder in VOC's layout, see `load_voc`.
        limit: Number of images of every split that are used, for a quick look; 0 for all.
        toy: Options of the toy world; None for the defaults.
        mask_values: Meaning of the values in the masks, see :func:`wsss_lib.data.files.parse_mask_values`; for
            ``coco14`` also ``raw``.

    Raises:
        InputError: The folder is missing or does not fit the preset, ``labels`` or ``mask_values`` would not be used,
            or no training image has a label.
    """
    if preset == "toy":
        counts = {name: min(limit or count, count) for name, count in COUNTS.items()}
        world = {name: ToyWorld(name, count, options=toy or ToyOptions()) for name, count in counts.items()}
        return Splits(world["train"], world)
    splits = _open_files(preset, root, labels, mask_values)
    _refuse_without_labels(splits.fit)
    scored = splits.scored.values()
    if mask_values and not any(data.mask_file(i) for data in scored for i in range(len(data))):
        raise InputError(f"mask_values {mask_values!r} is given, but {root} has no files of masks; leave it out.")
    if not limit:
        return splits
    splits = Splits(splits.fit.head(limit), {name: data.head(limit) for name, data in splits.scored.items()})
    if not splits.fit.labels.any():
        raise InputError(f"the {splits.fit.name} show no class; give a higher limit, or 0 for all images.")
    return splits


def _refuse_without_labels(training: Dataset) -> None:
    """Raise if no image has a label: a network would learn that every image is empty."""
    if not training.labels.any():
        raise InputError(
            f"the {len(training)} images of {training.name} have no labels: {training.label_source}; write "
            f"names of the classes ({listed(training.classes, 20)}) there, or put the classes that are meant into "
            "classes.txt."
        )


def _open_files(preset: str, root: Path | None, labels: Path | None, mask_values: str) -> Splits:
    if root is None:
        raise InputError(f"preset {preset!r} needs data; give its folder as data_root.")
    if not root.is_dir():
        raise InputError(f"data_root {root} is not a folder; give the folder that holds the data of preset {preset!r}.")
    if preset == "coco14" and find_instances(root) is None and (source := labels or find_labels(root)) is not None:
        png = {name: load_coco_png(root, name, source, mask_values) for name in ("train", "val")}
        return Splits(png["train"], png)
    if preset == "coco14":
        _refuse_unused(labels, "preset coco14 takes them from the instances JSON")
        coco = {name: load_coco(root, name, mask_values=mask_values) for name in ("train", "val")}
        return Splits(coco["train"], coco)
    if preset == "photos" and (root / "labels.csv").is_file():
        _refuse_unused(labels, f"{root / 'labels.csv'} has those of its images")
        own = {name: load_folder(root, name, mask_values) for name in ("train", "val")}
        return Splits(own["train"], own)
    if preset == "photos" and (found := find_instances(root)) is not None:
        _refuse_unused(labels, f"{found['train']} has those of its images")
        rendered = {name: load_own_coco(root, name) for name in ("train", "val")}
        return Splits(rendered["train"], rendered)
    if preset == "photos" and not (root / "JPEGImages").is_dir() and find_class_folders(root) is not None:
        _refuse_unused(labels, "the names of the folders are the labels")
        sorted_in = {name: load_class_folders(root, name, mask_values) for name in ("train", "val")}
        return Splits(sorted_in["train"], sorted_in)
    val = "val" if preset == "voc12" or has_list(root, "val") else "train"
    lists_of = {"train": "train", "val": val}
    voc = {name: load_voc(root, split, labels, mask_values=mask_values) for name, split in lists_of.items()}
    lists = root / "ImageSets" / "Segmentation"
    augmented = preset == "voc12" or any((lists / f"{name}.txt").is_file() for name in ("train_aug", "trainaug"))
    return Splits(load_voc(root, "train_aug", labels, mask_values=mask_values) if augmented else voc["train"], voc)


def _refuse_unused(labels: Path | None, why: str) -> None:
    if labels is not None:
        raise InputError(f"labels {labels} is given, but {why}; leave labels out.")
