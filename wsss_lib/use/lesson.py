"""The beginning of the lesson 07_use: an existing run or else a short one, and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from wsss_lib.data.dataset import Dataset, FileDataset
from wsss_lib.data.pictures import open_picture
from wsss_lib.data.splits import open_splits
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import Config
from wsss_lib.methods.segmentation import Config as SegmentationConfig
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.folder import holds_run
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import default_folder
from wsss_lib.runs.report import relative
from wsss_lib.runs.segmentation import SegmentationRun, final_stage
from wsss_lib.runs.settings import Settings
from wsss_lib.use.model import Model
from wsss_lib.use.model_file import final_network

_SAME = ("preset", "data_root", "labels", "mask_values", "seed", "limit", "precision")
"""Settings that a run must have in common with those that are asked for."""


def open_classifier(settings: Settings) -> CamRun:
    """Open the run of 00_cam if it has a finished final network, or else a new run with the given settings.

    On the toy world a new run has half of the epochs of 00_cam, unless the settings say how many.

    Args:
        settings: Settings of a run of the method cam.
    """
    usual = Config.preset(settings.preset, settings.config.backbone)
    if settings.config == usual:
        known = {"seed": settings.seed, "limit": settings.limit, "precision": settings.precision}
        there = default_folder("00_cam", settings.preset, known, {})
        run = None if holds_run(settings.folder) else _finished(there, settings)
        if run is not None:
            return run
        if settings.preset == "toy":
            settings = replace(settings, config=usual.replace(epochs=max(1, usual.epochs // 2)))
    return CamRun(settings)


def _finished(folder: Path, settings: Settings) -> CamRun | None:
    """Return the run in a folder if it was made with settings of the same data, and has a finished final network."""
    if not holds_run(folder):
        return None
    try:
        run = reopen(folder, guest=True)
        same = all(getattr(run.settings, name) == getattr(settings, name) for name in _SAME)
        if isinstance(run, CamRun) and same and run.is_trained and final_network(folder).is_trained:
            return run
    except InputError as error:
        near = relative(folder)  # an executed notebook should not show where the project's folder lies
        print(f"the run in {near} is not used: {str(error).replace(str(folder), near)}")
    return None


def open_network(run: CamRun) -> SegmentationRun:
    """Open the final network of a run of :func:`open_classifier`, which is trained.

    A new final network is trained on the run's masks of the training images, which are made if they are missing. On the
    toy world it has half of the preset's epochs.
    """
    if list(run.folder.glob("segmentation/*/config.json")):
        return final_network(run.folder)
    if run.settings.preset == "toy":
        return final_stage(run, epochs=max(1, SegmentationConfig.preset("toy").epochs // 2))
    return final_stage(run)


def open_val(settings: Settings, model: Model) -> Dataset | None:
    """Open the images of ``val`` with masks, for scoring a model; without such images, print why and return None.

    Args:
        settings: Settings of a run on the data.
        model: The model, which may have been trained on other data.
    """
    if settings.preset != "toy" and settings.data_root is None:
        print("No data_root is given, so the model cannot be compared with true masks.")
        return None
    splits = open_splits(
        settings.preset, settings.data_root, settings.labels, settings.limit, mask_values=settings.mask_values
    )
    val = splits.scored["val"]
    if val.classes != model.classes:
        print(f"{val.name} does not have the classes of the model, so its masks cannot score the model.")
        return None
    if not val.has_masks:
        print(f"{val.name} has no masks, so the model cannot be compared with them.")
        return None
    return val


def as_dataset(pictures: Mapping[str, Path], classes: Sequence[str]) -> FileDataset:
    """Return pictures as a data set without labels; print the names of pictures that cannot be read.

    Args:
        pictures: Files by name, see :func:`wsss_lib.data.pictures.find_pictures`.
        classes: Names of the classes.
    """
    readable = {}
    for name, path in pictures.items():
        try:
            open_picture(path)
            readable[name] = path
        except InputError as error:
            print(error)
    labels = torch.zeros(len(readable), len(classes))
    return FileDataset("new pictures", classes, list(readable), labels, list(readable.values()))
