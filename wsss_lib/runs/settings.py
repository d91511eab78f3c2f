"""The settings of a run, and reading those of the run that lives in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import wsss_lib
from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.method import Config
from wsss_lib.models.pretrained import find_toy_weights, find_weights
from wsss_lib.runs.folder import read_config, writer

PATHS = (
    "data_root",
    "labels",
    "weights",
    "cams",
    "classifier",
    "superpixels",
    "saliency",
    "pseudo_masks",
    "checkpoint",
)
"""The settings that name files or folders of the user."""

RENAMED = {"seeds": "cams"}
"""Present names of settings that had other names in version 0.1.0."""


@dataclass(frozen=True)
class Settings:
    """Everything that a run needs to know.

    Attributes:
        notebook: Name of the notebook, for example ``00_cam``.
        method: Name of the method, for example ``cam``.
        preset: Name of the preset that the configuration started from.
        config: The configuration of the method.
        folder: Folder that the run's files are written to.
        data_root: The folder of the data; None for the toy world.
        labels: Source of the image-level labels of a folder in VOC's layout; None for the default places.
        mask_values: Meaning of the values in the masks, see `wsss_lib.data.splits.open_splits`; "" if they are classes.
        weights: File of the pre-trained weights; None for the default file of the backbone.
        cams: Folder of the run whose class activation maps this run refines; None for the default run of 00_cam.
        classifier: Folder of a run, or file of the authors, with the ordinary classifier; None for the default.
        superpixels: Folder of the run, or file, of the superpixel network; None for a run in this run's folder.
        saliency: Folder of the saliency maps, see `wsss_lib.data.saliency`.
        pseudo_masks: Folder of the masks that the segmentation stage is trained on, such as ``masks/crf-4/train`` of a
            run.
        checkpoint: File of a network that the authors' code trained, which is then used instead of training one.
        pretrained_folder: Folder in which weight files are looked for.
        seed: Seed of all random draws.
        limit: Number of images of every split that are used, the first ones; 0 for all.
        accelerator: See :func:`wsss_lib.stages.engine.make_fabric`.
        devices: Number of processes that work on the run.
        precision: See :func:`wsss_lib.stages.engine.make_fabric`.
        workers: Processes that load images, for each device; -1 chooses.
        resume: Whether an earlier, unfinished run in the same folder is continued, or removed.
        keep_epochs: Whether the network is kept after each epoch, in ``epochs`` in the folder of the run; the numbers
            of the run do not depend on it.
        epoch: Number of the epoch, from 1, whose kept network makes maps and masks instead of the last one, see
            :meth:`wsss_lib.runs.run.Run.at_epoch`; 0 for the last one.
        refiner: Method whose walk refines the maps before the final network learns from them, ``affinitynet`` or
            ``irn``; "" for a CRF alone.
    """

    notebook: str
    method: str
    preset: str
    config: Config
    folder: Path
    data_root: Path | None = None
    labels: Path | None = None
    mask_values: str = ""
    weights: Path | None = None
    cams: Path | None = None
    classifier: Path | None = None
    superpixels: Path | None = None
    saliency: Path | None = None
    pseudo_masks: Path | None = None
    checkpoint: Path | None = None
    pretrained_folder: Path = Path("pretrained")
    seed: int = 0
    limit: int = 0
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    workers: int = -1
    resume: bool = True
    refiner: str = ""
    keep_epochs: bool = False
    epoch: int = 0

    @property
    def from_scratch(self) -> bool:
        """Whether the user has switched off the weights that the preset starts from."""
        return not self.config.pretrained and type(self.config).preset(self.preset, self.config.backbone).pretrained

    @property
    def loaders(self) -> int:
        """Number of processes that load images: ``workers``, or what suits the preset and this machine."""
        if self.workers >= 0:
            return self.workers
        return 0 if self.preset == "toy" else min(4, os.cpu_count() or 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        paths = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
        return {**paths, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Undo :meth:`to_dict`.

        Raises:
            KeyError: A field without a default is missing.
            TypeError: A field is unknown or of another type.
            InputError: The method, or a field of its configuration, is unknown.
        """
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        config = load_method(values["method"]).Config.from_dict(values["config"])
        names = [*PATHS, "folder", "pretrained_folder"]
        paths = {name: None if values.get(name) is None else Path(values[name]) for name in names}
        settings = cls(**{**values, **paths, "config": config})
        for field in fields(cls):
            kind = {"str": str, "int": int, "bool": bool}.get(str(field.type))
            if kind is not None and type(getattr(settings, field.name)) is not kind:
                raise TypeError(f"{field.name} is not of type {kind.__name__}")
        return settings


def project_root() -> Path:
    """Return the folder with ``notebooks/`` and ``wsss_lib/`` around the working directory, else that directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "wsss_lib").is_dir():
            return folder
    return here


def default_weights(preset: str, backbone: str, folder: Path) -> Path:
    """Return the file of the pre-trained weights that a backbone starts from unless the user names another.

    Args:
        preset: Name of the preset; the weights for ``toy`` come with the package.
        backbone: Name of the backbone.
        folder: Folder of the weight files for all other presets.

    Raises:
        InputError: The file is missing, and cannot be downloaded either.
    """
    return find_toy_weights(backbone) if preset == "toy" else find_weights(backbone, folder)


def read_settings(folder: Path) -> Settings:
    """Return the settings of the run that lives in a folder.

    Raises:
        InputError: The folder holds no run, or the settings of the run are of another version.
    """
    content = read_config(folder)
    try:
        settings = Settings.from_dict(content["settings"])
    except (KeyError, TypeError, InputError) as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{folder / 'config.json'} does not fit wsss_lib {wsss_lib.__version__} ({reason}); wsss_lib "
            f"{writer(content)} wrote the file: use that version, or give another folder as out."
        ) from None
    return replace(settings, folder=folder, resume=True)
