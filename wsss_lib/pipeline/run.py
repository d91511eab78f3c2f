"""A run: one method on one data set with one configuration, and the folder in which it lives.

A run can be made anew from the ``config.json`` in its folder, so that several processes, or a later day, continue it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.splits import open_splits
from wsss_lib.data.transforms import Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.method import Config, Method
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.pretrained import find_weights, load_backbone
from wsss_lib.models.weights import LoadReport
from wsss_lib.pipeline.engine import check_devices, inside_torchrun, launch_processes, make_fabric
from wsss_lib.pipeline.evaluate import SeedScores, score_seeds
from wsss_lib.pipeline.infer import classify, infer
from wsss_lib.pipeline.store import CamStore, read_json, write_json
from wsss_lib.pipeline.train import History, TrainingBatches, TrainingImages, resume, train
from wsss_lib.show.progress import epoch_line


@dataclass(frozen=True)
class Settings:
    """Everything that a run needs to know.

    Attributes:
        notebook: Name of the notebook, for example ``00_cam``.
        method: Name of the method, for example ``cam``.
        preset: Name of the preset that the configuration started from.
        config: The configuration of the method.
        folder: Where the run's files go.
        data_root: The folder of the data; None for the toy world.
        labels: Where the image-level labels of a folder in VOC's layout come from; None for the usual places.
        weights: File of the pre-trained weights; None for the usual one.
        pretrained_folder: Where usual weight files lie.
        seed: Of all random draws.
        limit: If positive, only the first images of every split are used.
        accelerator: See :func:`wsss_lib.pipeline.engine.make_fabric`.
        devices: How many processes work on the run.
        precision: See :func:`wsss_lib.pipeline.engine.make_fabric`.
        workers: Processes that load images, for each device; -1 chooses.
        resume: Whether an earlier, unfinished run in the same folder is continued, or removed.
    """

    notebook: str
    method: str
    preset: str
    config: Config
    folder: Path
    data_root: Path | None = None
    labels: Path | None = None
    weights: Path | None = None
    pretrained_folder: Path = Path("pretrained")
    seed: int = 0
    limit: int = 0
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    workers: int = -1
    resume: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        paths = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
        return {**paths, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Undo :meth:`to_dict`."""
        config = load_method(values["method"]).Config.from_dict(values["config"])
        names = ("folder", "data_root", "labels", "weights", "pretrained_folder")
        paths = {name: None if values[name] is None else Path(values[name]) for name in names}
        return cls(**{**values, **paths, "config": config})


class Run:
    """A run and its folder.

    Opening it reads the data's lists and labels, checks that what lies in the folder belongs to the same run, and
    writes ``config.json``. Nothing is trained yet.

    Args:
        settings: What to run.

    Raises:
        InputError: The data or the folder cannot be used, or the folder holds another run.
    """

    def __init__(self, settings: Settings) -> None:
        check_devices(settings.accelerator, settings.devices, settings.precision)
        self.settings = settings
        self.folder = settings.folder
        self.splits = open_splits(settings.preset, settings.data_root, settings.labels, settings.limit)
        self.weights = self._find_weights()
        self.weights_report: LoadReport | None = None
        self._claim_folder()

    @classmethod
    def reopen(cls, folder: Path) -> Run:
        """Open the run that lives in a folder."""
        path = folder / "config.json"
        content = _content(path, "settings")
        try:
            settings = Settings.from_dict(content)
        except (KeyError, TypeError):
            raise InputError(f"{path} is of another version; remove it and start the run again.") from None
        return cls(replace(settings, folder=folder, resume=True))

    def _find_weights(self) -> Path | None:
        settings = self.settings
        if not settings.config.pretrained:
            return None
        return settings.weights or find_weights(settings.config.backbone, settings.pretrained_folder)

    # ------------------------------------------------------------------------------------------------ the folder

    def _claim_folder(self) -> None:
        """Make the folder this run's, unless it holds another one."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out {self.folder} is a file; give a folder.")
        path = self.folder / "config.json"
        if not self.settings.resume and path.is_file():
            self._remove()
        if not inside_torchrun():
            for unfinished in self.folder.glob("**/.tmp-*"):  # of a process that was killed while it wrote
                unfinished.unlink(missing_ok=True)
        identity = self._identity()
        if path.is_file():
            found = _content(path, "identity")
            if found != identity:
                difference = _first_difference(found, identity)
                raise InputError(
                    f"{self.folder} holds another run ({difference}); give another folder as out, or resume=False to "
                    "remove it and start over."
                )
        write_json(path, {"identity": identity, "settings": self.settings.to_dict()})

    def _remove(self) -> None:
        for name in ("cams", "masks"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("config.json", "log.jsonl", "checkpoint.pt", "metrics.json", "seconds.json"):
            (self.folder / name).unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any]:
        """Return what decides the numbers of a run, as plain values; files by content, not by place."""
        settings = self.settings
        data = {"training": self.splits.training, **self.splits.scored}
        return {
            "method": settings.method,
            "preset": settings.preset,
            "seed": settings.seed,
            "limit": settings.limit,
            "precision": settings.precision,
            **settings.config.to_dict(),
            "weights": None if self.weights is None else _sha256(self.weights),
            **{f"data {name}": f"{len(split)} images, {_fingerprint(split)}" for name, split in data.items()},
        }

    # --------------------------------------------------------------------------------------------------- the parts

    @cached_property
    def method(self) -> Method:
        """The method: trained as far as the folder's checkpoint, else with its pre-trained or random weights."""
        settings = self.settings
        torch.manual_seed(settings.seed)
        module = load_method(settings.method)
        method: Method = module.METHOD(settings.config, len(self.splits.classes))
        if self.weights is not None:
            self.weights_report = load_backbone(method.backbone, self.weights)
        resume(method, self.folder)
        return method

    @property
    def normalise(self) -> Normalisation:
        """From pixels to the network's input."""
        return self.method.backbone.normalisation

    @property
    def workers(self) -> int:
        """How many processes load images."""
        if self.settings.workers >= 0:
            return self.settings.workers
        return 0 if self.settings.preset == "toy" else min(4, os.cpu_count() or 1)

    @cached_property
    def fabric(self) -> Any:
        """Lightning Fabric, for this process."""
        return make_fabric(self.settings.accelerator, 1, self.settings.precision)

    def cams(self, split: str) -> CamStore:
        """Return the store of the class activation maps of a split."""
        return CamStore(self.folder / "cams" / split)

    def training_batches(self) -> TrainingBatches:
        """Return the shuffled and augmented training data."""
        config = self.settings.config
        augmentation = Augmentation(
            config.min_long_side, config.max_long_side, config.crop_size, config.colour_jitter, config.hue_jitter
        )
        images = TrainingImages(self.splits.training, augmentation, self.normalise, self.settings.seed)
        return TrainingBatches(images, config.batch_size, self.fabric, self.settings.seed, self.workers)

    # -------------------------------------------------------------------------------------------------- the stages

    def train(self, report: Callable[[dict[str, Any]], None] = epoch_line) -> History:
        """Train to the end, continuing what an earlier call began; see :func:`wsss_lib.pipeline.train.train`."""
        with self._timed("training"):
            if self._delegate("train"):
                return resume(self.method, self.folder)
            return train(self.method, self.training_batches(), self.fabric, self.settings.seed, self.folder, report)

    def infer(self, split: str) -> CamStore:
        """Write the class activation maps of a split, those that are not there yet, and return their store."""
        data, store = self._scored(split), self.cams(split)
        with self._timed(f"inference {split}"):
            if not self._delegate("infer", split):
                self._to_device()
                infer(self.method, data, store, self.fabric, self.normalise, self.workers)
        return store

    def score(self, split: str) -> SeedScores:
        """Score the maps of a split at all thresholds."""
        data = self._scored(split)
        with self._timed(f"scoring {split}"):
            return score_seeds(self.cams(split), data)

    def classify(self, data: Dataset) -> Tensor:
        """Return the logits ``(n, K)`` of the network for whole images."""
        self._to_device()
        return classify(self.method, data, self.fabric, self.normalise, self.workers)

    def _scored(self, split: str) -> Dataset:
        if split not in self.splits.scored:
            raise InputError(f"split {split!r} is unknown; choose one of {', '.join(self.splits.scored)}.")
        return self.splits.scored[split]

    def _to_device(self) -> None:
        for network in self.method.networks.values():
            network.to(self.fabric.device)

    def _delegate(self, stage: str, *arguments: str) -> bool:
        """Have several processes do a stage, if that is asked for and this is not one of them."""
        if self.settings.devices == 1 or inside_torchrun():
            return False
        launch_processes(self.settings.devices, ["-m", "wsss_lib", str(self.folder), stage, *arguments])
        return True

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the time that a stage takes to what it took in earlier, interrupted calls."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if not inside_torchrun():
                seconds = self.seconds
                seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - start, 1)
                write_json(self.folder / "seconds.json", seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that every stage has taken so far, over all starts."""
        path = self.folder / "seconds.json"
        return read_json(path) if path.is_file() else {}


def project_root() -> Path:
    """Return the folder with ``notebooks/`` and ``wsss_lib/`` around the working directory, else the latter itself."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "wsss_lib").is_dir():
            return folder
    return here


def _content(path: Path, name: str) -> dict[str, Any]:
    """Return one of the two dictionaries of a ``config.json``."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        raise InputError(f"{path} is not the configuration of a run; remove it and start the run again.")
    return content[name]


def _first_difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            return f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
    return "the same"


def _fingerprint(data: Dataset) -> str:
    """Return a short name of the ids, classes and labels of a data set."""
    text = "\n".join((*data.ids, *data.classes)).encode() + data.labels.numpy().tobytes()
    return f"{zlib.crc32(text):08x}"


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"weights file {path} is missing; give the path of a file that exists.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
