"""A run: one method on one data set with one configuration, and the folder in which it lives.

A run can be made anew from the ``config.json`` in its folder, so that several processes, or a later day, continue it.
What kinds of runs there are, `wsss_lib.pipeline.kinds` says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import is_unfinished
from wsss_lib.data.splits import open_splits
from wsss_lib.data.toy import ToyOptions
from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.method import Method
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.pretrained import find_weights, load_backbone
from wsss_lib.models.weights import LoadReport, read_state
from wsss_lib.pipeline.engine import check_devices, inside_torchrun, launch_processes, make_fabric
from wsss_lib.pipeline.evaluate import confusion_summary, score_masks
from wsss_lib.pipeline.refine import Read, refine
from wsss_lib.pipeline.settings import Settings, holds_run, read_identity
from wsss_lib.pipeline.store import MaskStore, copy_file, read_json, write_json
from wsss_lib.pipeline.train import Example, History, TrainingBatches, TrainingImages, resume, train
from wsss_lib.show.progress import epoch_line

M = TypeVar("M", bound=Method)


_FOLDERS = ("cams", "scores", "masks", "seeds", "classifier", "superpixels", "segmentation", "growth", "variants")
_FILES = ("config.json", "log.jsonl", "checkpoint.pt", "metrics.json", "seconds.json")
"""What a run makes in its folder."""


class Run(ABC, Generic[M]):
    """A run and its folder. What it makes besides a trained network is the business of the subclasses.

    Opening it reads the data's lists and labels, checks that what lies in the folder belongs to the same run, and
    writes ``config.json``. Nothing is trained yet.

    Args:
        settings: What to run.

    Attributes:
        stages: Names of the methods that several processes can share.
        final_masks: Name of the refinement whose masks the final stage learns from.

    Raises:
        InputError: The data or the folder cannot be used, or the folder holds another run.
    """

    stages: ClassVar[tuple[str, ...]] = ("train",)
    final_masks: ClassVar[str] = "crf"

    def __init__(self, settings: Settings) -> None:
        check_devices(settings.accelerator, settings.devices, settings.precision)
        self.settings = settings
        self.folder = settings.folder
        if settings.data_root is not None and self.folder.resolve() == settings.data_root.resolve():
            raise InputError(f"out {self.folder} is the folder of the data; give another one for the results.")
        world = self.toy_world()
        self.splits = open_splits(settings.preset, settings.data_root, settings.labels, settings.limit, world)
        self.weights = self._find_weights()
        self.weights_report: LoadReport | None = None
        if not settings.resume or not holds_run(self.folder):
            self._refuse_unfit_files()
        if not settings.resume and holds_run(self.folder):
            self._remove()
        self._refuse_other(self.own_identity, [*self.own_identity, "checkpoint"])
        self.prepare()
        self._claim_folder()

    def toy_world(self) -> ToyOptions:
        """Return of what kind the toy world is; by default the one in which the method is shown."""
        return self.settings.config.toy_world

    def prepare(self) -> None:
        """Open what else the run needs, before it claims its folder; by default nothing."""

    def _find_weights(self) -> Path | None:
        settings = self.settings
        if settings.checkpoint is not None or not settings.config.pretrained:
            return None  # a checkpoint holds the whole network
        return settings.weights or find_weights(settings.config.backbone, settings.pretrained_folder)

    def _refuse_unfit_files(self) -> None:
        """Fill the network from files: one that does not fit must neither claim a folder nor have one removed."""
        if self.weights is not None or self.settings.checkpoint is not None:
            _ = self._untrained

    # ------------------------------------------------------------------------------------------------ the folder

    def _claim_folder(self) -> None:
        """Make the folder this run's, unless it holds another one."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out {self.folder} is a file; give a folder.")
        identity = self.identity()
        self._refuse_other(identity)
        if not inside_torchrun():
            self._remove_unfinished()
        write_json(self.folder / "config.json", {"identity": identity, "settings": self.settings.to_dict()})

    def _remove_unfinished(self) -> None:
        """Remove what a process that was killed while it wrote has left, and nothing of anybody else."""
        patterns = (".tmp-*", *(f"{name}/**/.tmp-*" for name in _FOLDERS))
        for path in [path for pattern in patterns for path in self.folder.glob(pattern) if is_unfinished(path)]:
            path.unlink(missing_ok=True)

    def _refuse_other(self, identity: dict[str, Any], names: Sequence[str] = ()) -> None:
        """Raise InputError if the folder holds a run that differs in the named parts of its identity, or in any."""
        found = read_identity(self.folder) if holds_run(self.folder) else identity
        for name in names or [*identity, *found]:
            there, here = found.get(name), identity.get(name)
            if there != here:
                raise InputError(
                    f"{self.folder} holds another run ({name} is {there!r} there and {here!r} here); give another "
                    "folder as out, or resume=False to remove it and start over."
                )

    def _remove(self) -> None:
        read_identity(self.folder)  # another program's config.json, and what lies beside it, is not ours to remove
        for name in _FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in _FILES:
            (self.folder / name).unlink(missing_ok=True)

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers of a run, as plain values; by default :attr:`own_identity`."""
        return self.own_identity

    @cached_property
    def own_identity(self) -> dict[str, Any]:
        """What decides the numbers, without what :meth:`prepare` finds; files by content, not by place."""
        settings = self.settings
        data = {"training": self.splits.training, **self.splits.scored}
        return {
            "method": settings.method,
            "preset": settings.preset,
            "seed": settings.seed,
            "limit": settings.limit,
            "precision": settings.precision,
            **settings.config.to_dict(),
            "weights": None if self.weights is None else file_hash(self.weights),
            **({} if settings.checkpoint is None else {"checkpoint": file_hash(settings.checkpoint)}),
            **{f"data {name}": f"{len(split)} images, {_fingerprint(split)}" for name, split in data.items()},
        }

    def fingerprint(self) -> str:
        """Return a short name of the identity, for that of a run that continues this one."""
        return f"{zlib.crc32(json.dumps(self.identity(), sort_keys=True).encode()):08x}"

    # --------------------------------------------------------------------------------------------------- the parts

    @cached_property
    @torch.inference_mode(mode=False)  # weights made in that mode could never be trained
    def method(self) -> M:
        """The method: trained as far as the folder's checkpoint, else with its pre-trained or random weights."""
        method = self._untrained
        self.equip(method)
        resume(method, self.folder)
        return method

    @cached_property
    @torch.inference_mode(mode=False)
    def _untrained(self) -> M:
        """The method as the weights and the checkpoint that the settings name fill it, the rest drawn at random."""
        settings = self.settings
        torch.manual_seed(settings.seed)
        module = load_method(settings.method)
        method: M = module.METHOD(settings.config, len(self.splits.classes))
        if self.weights is not None:
            for backbone in method.backbones:
                self.weights_report = load_backbone(backbone, self.weights)
        if settings.checkpoint is not None:
            method.load_official(read_state(settings.checkpoint), settings.checkpoint)
        return method

    def equip(self, method: M) -> None:
        """Give a new method what it starts from besides ImageNet weights; by default nothing."""

    @property
    def is_trained(self) -> bool:
        """Whether there is nothing left to train."""
        return (
            self.settings.checkpoint is not None or len(resume(self.method, self.folder)) >= self.settings.config.epochs
        )

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

    @property
    def refine_workers(self) -> int:
        """How many processes refine: on a CPU one for each core, as each works best alone."""
        if self.settings.workers >= 0 or self.fabric.device.type != "cpu":
            return self.workers
        return os.cpu_count() or 1

    @cached_property
    def fabric(self) -> Any:
        """Lightning Fabric, for this process."""
        return make_fabric(self.settings.accelerator, 1, self.settings.precision)

    @abstractmethod
    def example(self) -> Example:
        """Return what makes training examples of the images that are trained on."""

    def training_images(self) -> TrainingImages:
        """Return the augmented training data."""
        return TrainingImages(self.splits.training, self.example(), self.settings.seed)

    def training_batches(self) -> TrainingBatches:
        """Return the shuffled and augmented training data."""
        batch_size = self.settings.config.batch_size
        return TrainingBatches(self.training_images(), batch_size, self.fabric, self.settings.seed, self.workers)

    def data(self, split: str) -> Dataset:
        """Return a split: ``train`` or ``val``, which are scored, or ``training``, which is trained on.

        Raises:
            InputError: There is no such split.
        """
        splits = {**self.splits.scored, "training": self.splits.training}
        if split not in splits:
            raise InputError(f"split {split!r} is unknown; choose one of {', '.join(splits)}.")
        return splits[split]

    def split_folder(self, split: str) -> str:
        """Return the name of the folder for a split; ``training`` may be the same images as ``train``."""
        training = self.splits.training
        if split == "training":
            for name, data in self.splits.scored.items():
                if data.ids == training.ids and torch.equal(data.labels, training.labels):
                    return name
        return split

    def masks(self, what: str, split: str) -> MaskStore:
        """Return a store of masks, such as ``crf-4`` for the CRF with the alpha 4."""
        return MaskStore(self.folder / "masks" / what / self.split_folder(split))

    def score_masks(self, stores: Mapping[str, MaskStore], split: str) -> dict[str, dict[str, Any]]:
        """Return the scores of masks as plain values, by name."""
        data = self.data(split)
        classes = ("background", *data.classes)
        return {name: confusion_summary(score_masks(store, data), classes) for name, store in stores.items()}

    def write_masks(
        self, what: str, split: str, read: Read, names: Sequence[str], preset: str | None
    ) -> dict[str, MaskStore]:
        """Write refined masks of a split, those that are not there yet, and return their stores by name.

        Args:
            what: Name of the refinement, as the method ``refine`` of the subclasses knows it.
            split: Name of the split.
            read: Reads the scores of an image.
            names: Of the stores, one for each of the scores that ``read`` returns.
            preset: Of the CRF; None for none.
        """
        stores = {name: self.masks(name, split) for name in names}
        with self.timed(f"{what} {split}"):
            if not self.delegate("refine", what, split):
                data = self.seen_by_crf(self.data(split))
                refine(data, read, list(stores.values()), self.fabric, preset, workers=self.refine_workers)
        return stores

    def seen_by_crf(self, data: Dataset) -> Dataset:
        """Return a split as :meth:`write_masks` sees it; by default as it is."""
        return data

    def variant(self, name: str, **changes: Any) -> Self:
        """Open a run like this one, in a folder within this one's, of which some settings of the method differ.

        If training does not depend on these, and this run is trained, the other need not be.

        Args:
            name: Of the folder.
            changes: Fields of the configuration.

        Raises:
            InputError: The changes leave every setting as it is: the variant would be this run over again.
        """
        config, folder = self.settings.config.replace(**changes), self.folder / "variants" / name
        if config.to_dict() == self.settings.config.to_dict():
            present = ", ".join(f"{field} is {value!r} already" for field, value in changes.items())
            raise InputError(
                f"variant {name!r} changes no setting ({present or 'none is named'}); name one with another value."
            )
        other = type(self)(replace(self.settings, config=config, folder=folder, resume=True, **self.shared()))
        source, target = self.folder / "checkpoint.pt", folder / "checkpoint.pt"
        if changes.keys() <= config.after_training and source.is_file() and self.is_trained and not target.is_file():
            copy_file(source, target)
        return other

    def shared(self) -> dict[str, Any]:
        """Return the settings that name what this run has made and its variants need; by default nothing."""
        return {}

    # -------------------------------------------------------------------------------------------------- the stages

    def train(self, report: Callable[[dict[str, Any]], None] = epoch_line) -> History:
        """Train to the end, continuing what an earlier call began; see :func:`wsss_lib.pipeline.train.train`.

        Nothing happens, and the history is empty, if the settings name a checkpoint of the authors.
        """
        if self.settings.checkpoint is not None:
            return []
        with self.timed("training"):
            if self.delegate("train"):
                return resume(self.method, self.folder)
            return train(
                self.method,
                self.training_batches(),
                self.fabric,
                self.settings.seed,
                self.folder,
                report,
                self.after_epoch,
            )

    def after_epoch(self, epoch: int) -> None:
        """Do in one process what belongs to an epoch, from 1, before it counts as done; by default nothing."""

    def to_device(self) -> None:
        """Move the networks to where they compute."""
        for network in self.method.networks.values():
            network.to(self.fabric.device)

    def delegate(self, stage: str, *arguments: str) -> bool:
        """Have several processes do a stage, if that is asked for and this is not one of them."""
        if self.settings.devices == 1 or inside_torchrun():
            return False
        launch_processes(self.settings.devices, ["-m", "wsss_lib", str(self.folder), stage, *arguments])
        return True

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
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
        """Seconds that every stage has taken so far, over all starts.

        Raises:
            InputError: ``seconds.json`` is damaged.
        """
        path = self.folder / "seconds.json"
        seconds = read_json(path) if path.is_file() else {}
        if not isinstance(seconds, dict) or not all(isinstance(value, int | float) for value in seconds.values()):
            raise InputError(f"{path} does not hold the seconds of a run; remove it.")
        return seconds


def _fingerprint(data: Dataset) -> str:
    """Return a short name of the ids, classes and labels of a data set."""
    text = "\n".join((*data.ids, *data.classes)).encode() + data.labels.numpy().tobytes()
    return f"{zlib.crc32(text):08x}"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: It is missing.
    """
    if not path.is_file():
        raise InputError(f"weights file {path} is missing; give the path of a file that exists.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
