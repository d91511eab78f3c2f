"""A run: one method on one data set with one configuration, and the folder in which it lives.

A run can be made anew from the ``config.json`` in its folder, so that several processes can share it and a later start
can continue it. `wsss_lib.runs.kinds` lists the kinds of runs.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.transforms import to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.method import Method
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.pretrained import load_backbone
from wsss_lib.models.weights import LoadReport, read_state
from wsss_lib.runs.epochs import KeptEpochs
from wsss_lib.runs.opened import OpenedRun
from wsss_lib.runs.settings import Settings
from wsss_lib.runs.training_record import TrainingRecord
from wsss_lib.show.progress import epoch_line
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import is_one_of_several, launch_processes, loaders_watched, make_fabric
from wsss_lib.stages.evaluate import confusion_summary, score_masks
from wsss_lib.stages.examples import Example, TrainingImages
from wsss_lib.stages.provenance import (
    begin,
    maker,
    network_digest,
    remove_files,
    require,
    source_of,
)
from wsss_lib.stages.refine import ReadScores, refine
from wsss_lib.stages.store import (
    CamStore,
    MaskStore,
    Store,
    read_checkpoint,
    read_seconds,
    restore_json_lines,
    write_checkpoint,
    write_json,
)
from wsss_lib.stages.train import History, TrainingBatches, resume, train

M = TypeVar("M", bound=Method)


class Run(OpenedRun, ABC, Generic[M]):
    """A run: its method and its stages. The subclasses decide what a run makes besides a trained network.

    Args:
        settings: Settings of the run.
        guest: Whether the run is opened for the results that it already has, see `OpenedRun`.
        part: Whether another run makes this one for its own use, in its own folder.

    Attributes:
        stages: Names of the methods that several processes can share.
        final_masks: Name of the refinement whose masks the final stage learns from.

    Raises:
        InputError: The data or the folder cannot be used, the folder holds another run, or another process works in it.
    """

    stages: ClassVar[tuple[str, ...]] = ("train",)
    final_masks: ClassVar[str] = "crf"

    def __init__(self, settings: Settings, guest: bool = False, part: bool = False) -> None:
        self.weights_report: LoadReport | None = None
        self._training = False
        self._loaded: tuple[int, ...] | None = None  # which checkpoint the networks in memory are from
        super().__init__(settings, guest, part)

    def refuse_unfit_files(self) -> None:
        """Fill the network from files, so that an unfit file is refused before the folder is claimed or emptied."""
        if self.weights is not None or self.settings.checkpoint is not None:
            _ = self._untrained

    # ---------------------------------------------------------------------------------------- records of the stores

    def source(self) -> str:
        """Return the source of what the networks make as they are now, for the records of stores."""
        self._refresh()
        states = {name: network.state_dict() for name, network in self.method.networks.items()}
        return f"network {network_digest(states)}"

    def begin(self, store: Store, split: str, source: str) -> None:
        """Make a store ready for files of a split, see :func:`wsss_lib.stages.provenance.begin`."""
        if self.fabric.is_global_zero:
            begin(store, source, self.data(split).ids, maker(self.fabric.device), self.place.is_old)
        self.fabric.barrier()

    def note_untrained(self) -> None:
        """Say it if maps are about to be made with a network that is not trained to the end."""
        if not self._training and not self.is_trained and self.fabric.is_global_zero:
            print(f"note: {self.folder} is not trained to the end; its maps come from the network as it is.")

    def is_complete(self, store: Store, split: str, source: str) -> bool:
        """Return whether a store has the files of all images of a split, made from a source."""
        return source_of(store) == source and all(image_id in store for image_id in self.data(split).ids)

    def require(self, store: Store) -> None:
        """Raise InputError if a store has a record that names another source than the networks as they are now."""
        require(store, self.source)

    # --------------------------------------------------------------------------------------------------- the parts

    @cached_property
    @torch.inference_mode(mode=False)  # weights made in that mode could never be trained
    def method(self) -> M:
        """The method: trained as far as the folder's checkpoint, else with its pre-trained or random weights."""
        method = self._untrained
        self.setup_method(method)
        self._loaded = self._checkpoint()
        resume(method, self.folder, self._fingerprint)
        return method

    def _checkpoint(self) -> tuple[int, ...] | None:
        """Return values that change whenever the checkpoint's file changes; None without a checkpoint."""
        try:
            found = (self.folder / "checkpoint.pt").stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _refresh(self) -> None:
        """Load the checkpoint's networks, even if another process or a stopped training has left others in memory."""
        if self._training or "method" not in self.__dict__ or self._loaded == (now := self._checkpoint()):
            return
        if now is None:  # the checkpoint has been removed, so that training begins anew
            self.__dict__.pop("method")
            self.__dict__.pop("_untrained", None)
        else:
            resume(self.method, self.folder, self._fingerprint)
            self._loaded = now

    @cached_property
    @torch.inference_mode(mode=False)
    def _untrained(self) -> M:
        """The method, filled from the weights and the checkpoint of the settings; all other weights are random."""
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

    def setup_method(self, method: M) -> None:
        """Give a new method what it starts from besides ImageNet weights; by default nothing."""

    @property
    def is_trained(self) -> bool:
        """Whether there is nothing left to train."""
        return self.settings.checkpoint is not None or len(self._history()) >= self._last_epoch

    @property
    def _last_epoch(self) -> int:
        """Number of the epoch whose network is used."""
        return self.settings.epoch or self.settings.config.epochs

    def _history(self) -> History:
        """Return the epochs that the checkpoint has seen, and load its networks."""
        self._refresh()
        method, self._loaded = self.method, self._checkpoint()
        return resume(method, self.folder, self._fingerprint)

    @property
    def normalise(self) -> Normalisation:
        """Normalisation that turns pixels into the network's input."""
        return self.method.backbone.normalisation

    def as_input(self, picture: Image.Image) -> Tensor:
        """Return a picture as the network takes it: normalised, on the run's device, ``(1, 3, H, W)`` float."""
        pixels: Tensor = self.fabric.to_device(to_tensor(picture))
        return self.normalise(pixels)[None]

    @property
    def workers(self) -> int:
        """Number of processes that load images."""
        return self.settings.loaders

    @property
    def refine_workers(self) -> int:
        """Number of processes that refine: on a CPU one for each core, because each works best on a core of its own."""
        if self.settings.workers >= 0 or self.fabric.device.type != "cpu":
            return self.workers
        return os.cpu_count() or 1

    @cached_property
    def fabric(self) -> Any:
        """Lightning Fabric, for this process."""
        return make_fabric(self.settings.accelerator, 1, self.settings.precision)

    @property
    def context(self) -> Context:
        """Engine, normalisation and number of loading processes, which the stages need."""
        return Context(self.fabric, self.normalise, self.workers)

    @abstractmethod
    def example(self) -> Example:
        """Return what makes training examples of the images that are trained on."""

    def training_images(self) -> TrainingImages:
        """Return the augmented training data."""
        return TrainingImages(self.splits.fit, self.example(), self.settings.seed)

    def training_batches(self) -> TrainingBatches:
        """Return the shuffled and augmented training data."""
        batch_size = self.settings.config.batch_size
        return TrainingBatches(self.training_images(), batch_size, self.fabric, self.settings.seed, self.workers)

    def masks(self, name: str, split: str) -> MaskStore:
        """Return a store of masks, such as ``crf-4`` for the CRF with the alpha 4."""
        return MaskStore(self.folder / "masks" / name / self.split_folder(split))

    def score_masks(self, stores: Mapping[str, MaskStore], split: str) -> dict[str, dict[str, Any]]:
        """Return the scores of masks as plain values, by name."""
        data = self.data(split)
        classes = ("background", *data.classes)
        return {name: confusion_summary(score_masks(store, data), classes) for name, store in stores.items()}

    def write_masks(
        self, refinement: str, split: str, read: ReadScores, names: Sequence[str], preset: str | None, source: str
    ) -> dict[str, MaskStore]:
        """Write the missing refined masks of a split, and return their stores by name.

        Args:
            refinement: Name of the refinement, as the method ``refine`` of the subclasses knows it.
            split: Name of the split.
            read: Reads the scores of an image.
            names: Names of the stores, one for each of the scores that ``read`` returns.
            preset: Preset of the CRF; None for no CRF.
            source: Name of the source that the scores were made from.
        """
        stores = {name: self.masks(name, split) for name in names}
        with self.working(), self.timed(f"{refinement} {split}"):
            for store in stores.values():
                self.begin(store, split, source)
            if not self.delegate("refine", refinement, split):
                data = self.crf_images(self.data(split))
                refine(data, read, list(stores.values()), self.fabric, preset, workers=self.refine_workers)
        return stores

    def crf_images(self, data: Dataset) -> Dataset:
        """Return a split as :meth:`write_masks` sees it; by default as it is."""
        return data

    def variant(self, name: str, **changes: Any) -> Self:
        """Open a run like this one with some settings of the method changed, in a folder within this run's folder.

        If the changed settings affect inference only and this run is trained, the variant is not trained again.

        Args:
            name: Name of the folder.
            changes: Fields of the configuration.

        Raises:
            InputError: The changes leave every setting as it is, so the variant would repeat this run.
        """
        config, folder = self.settings.config.replace(**changes), self.folder / "variants" / name
        if config.to_dict() == self.settings.config.to_dict():
            present = ", ".join(f"{field} is {value!r} already" for field, value in changes.items())
            raise InputError(
                f"variant {name!r} changes no setting ({present or 'none is named'}); name one with another value."
            )
        same_network = changes.keys() <= config.inference_only
        settings = replace(self.settings, config=config, folder=folder, resume=True, **self.variant_settings())
        other = type(self)(settings if same_network else replace(settings, epoch=0), part=True)
        source, target = self.folder / "checkpoint.pt", folder / "checkpoint.pt"
        if same_network and source.is_file() and self.is_trained and not target.is_file():
            with other.working():
                write_checkpoint(target, {**read_checkpoint(source), "run": other.fingerprint()})
        return other

    def at_epoch(self, epoch: int) -> Self:
        """Open a run like this one whose network is the one that this run has kept after an epoch.

        Its maps and masks lie in ``variants/epoch-<number>`` within this run's folder. This run must have been trained
        with the setting ``keep_epochs``; it may be still in training.

        Args:
            epoch: Number of the epoch, from 1; 0 for this run as it is.

        Raises:
            InputError: The network of this epoch was not kept, or its file is damaged or of another run.
        """
        if epoch == 0:
            return self
        kept, folder = KeptEpochs(self.folder), self.folder / "variants" / f"epoch-{epoch:03d}"
        kept.checkpoint(epoch, self.fingerprint(), "")  # before the folder is made
        settings = replace(self.settings, epoch=epoch, folder=folder, resume=True, **self.variant_settings())
        other = type(self)(settings, part=True)
        state, target = kept.checkpoint(epoch, self.fingerprint(), other.fingerprint()), folder / "checkpoint.pt"
        if not target.is_file() or read_checkpoint(target).get("networks") != state["networks"]:
            with other.working():
                write_checkpoint(target, state)
        return other

    def variant_settings(self) -> dict[str, Any]:
        """Return the settings that name results of this run that its variants need; by default nothing."""
        return {}

    # -------------------------------------------------------------------------------------------------- the stages

    def train(self, report: Callable[[dict[str, Any]], None] = epoch_line) -> History:
        """Train to the end, continuing what an earlier call began; see :func:`wsss_lib.stages.train.train`.

        Nothing happens, and the history is empty, if the settings name a checkpoint of the authors.
        """
        if self.settings.checkpoint is not None:
            return []
        history = self._history()
        if history:
            self.training_record.refuse_other_sources(self.training_sources())
        if self.settings.epoch and not history:
            raise InputError(
                f"{self.folder} has lost the network of epoch {self.settings.epoch}; open it with -p epoch in the "
                "notebook or with at_epoch, which puts the network back."
            )
        if len(history) >= self._last_epoch:  # nothing is left to do, so the folder's lock is not needed
            restore_json_lines(self.folder / "log.jsonl", history)
            self.method.train(False)
            return history
        with self.working(), self.timed("training"):
            self._refuse_changed_inputs()
            if self.delegate("train"):
                return self._history()
            self._record_training(len(history))
            self._training = True
            try:
                return train(
                    self.method,
                    self.training_batches(),
                    self.fabric,
                    self.settings.seed,
                    self.folder,
                    report,
                    self._after_epoch,
                    self._fingerprint,
                )
            finally:
                self._training, self._loaded = False, (-1,)  # wherever training has stopped, the checkpoint counts

    def training_sources(self) -> dict[str, str]:
        """Return the sources of everything besides the data that training uses, by name; by default nothing."""
        return {}

    @property
    def training_record(self) -> TrainingRecord:
        """The record of the sources and versions that trained the run."""
        return TrainingRecord(self.folder)

    def _record_training(self, done: int) -> None:
        """Write ``training.json`` before training begins or continues, after so many epochs."""
        if not self.fabric.is_global_zero:
            return
        for folder in sorted((self.folder / "growth").glob("*")):
            if folder.name > f"{done:03d}":  # the maps of epochs that are trained anew
                remove_files(CamStore(folder), self._ids())
        KeptEpochs(self.folder).remove_after(done)
        self.training_record.write(done, self.training_sources(), maker(self.fabric.device))

    def _after_epoch(self, epoch: int) -> None:
        self._refuse_changed_inputs()
        self.after_epoch(epoch)
        if self.settings.keep_epochs:
            KeptEpochs(self.folder).write(epoch, self.method, self._fingerprint)

    def after_epoch(self, epoch: int) -> None:
        """Do, in one process, the work after an epoch, from 1, before it counts as done; by default nothing."""

    def to_device(self) -> None:
        """Move the networks to where they compute."""
        for network in self.method.networks.values():
            network.to(self.fabric.device)

    def delegate(self, stage: str, *arguments: str) -> bool:
        """Start several processes that do a stage together; False if this process does the stage itself."""
        if self.settings.devices == 1 or is_one_of_several():
            return False
        launch_processes(self.settings.devices, ["-m", "wsss_lib", str(self.folder), stage, *arguments])
        return True

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that a stage takes to what it took in earlier, interrupted calls."""
        start = time.perf_counter()
        try:
            with loaders_watched():
                yield
        finally:
            if not is_one_of_several():
                seconds = self.seconds
                seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - start, 1)
                write_json(self.folder / "seconds.json", seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that every stage has taken so far, over all starts."""
        return read_seconds(self.folder / "seconds.json")
