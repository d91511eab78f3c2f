"""A run: one method on one data set with one configuration, and the folder in which it lives.

A run can be made anew from the ``config.json`` in its folder, so that several processes can share it and a later start
can continue it. `wsss_lib.runs.kinds` lists the kinds of runs.
"""

from __future__ import annotations

import os
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
from wsss_lib.data.splits import open_splits
from wsss_lib.data.toy import ToyOptions
from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.method import Method
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.pretrained import find_weights, load_backbone
from wsss_lib.models.weights import LoadReport, read_state
from wsss_lib.runs.folder import STORES, RunFolder, is_helper
from wsss_lib.runs.settings import PATHS, Settings
from wsss_lib.show.progress import epoch_line
from wsss_lib.stages.contents import Digests, file_digest, picture_digest, picture_files
from wsss_lib.stages.engine import check_devices, is_one_of_several, launch_processes, loaders_watched, make_fabric
from wsss_lib.stages.evaluate import confusion_summary, score_masks
from wsss_lib.stages.examples import Example, TrainingImages
from wsss_lib.stages.provenance import (
    RECORD,
    add_maker,
    are_makers,
    begin,
    maker,
    network_digest,
    read_record,
    remove_files,
    require,
    source_of,
)
from wsss_lib.stages.refine import Read, refine
from wsss_lib.stages.store import (
    CamStore,
    MaskStore,
    Store,
    read_checkpoint,
    read_json,
    read_seconds,
    restore_json_lines,
    write_checkpoint,
    write_json,
)
from wsss_lib.stages.train import History, TrainingBatches, resume, train

M = TypeVar("M", bound=Method)


class Run(ABC, Generic[M]):
    """A run and its folder. The subclasses decide what a run makes besides a trained network.

    Opening it reads the data's lists and labels, checks that what lies in the folder belongs to the same run, and
    writes ``config.json``. Nothing is trained yet.

    Args:
        settings: Settings of the run.
        guest: Whether the run is opened for the results that it already has, for example because another run continues
            it. A guest takes the folder's lock only while it makes something itself.
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
        check_devices(settings.accelerator, settings.devices, settings.precision)
        self.settings = settings
        self.folder = settings.folder
        self.place = RunFolder(self.folder)
        self._identity: dict[str, Any] = {}
        self._fingerprint = ""
        self._part = part
        self._training = False
        self._loaded: tuple[int, ...] | None = None  # which checkpoint the networks in memory are from
        if settings.data_root is not None and self.folder.resolve() == settings.data_root.resolve():
            raise InputError(f"out {self.folder} is the folder of the data; give another one for the results.")
        world, values = self.toy_world(), settings.mask_values
        self.splits = open_splits(settings.preset, settings.data_root, settings.labels, settings.limit, world, values)
        self.weights = self._find_weights()
        self.weights_report: LoadReport | None = None
        self.place.refuse_orphans()
        if not settings.resume or not self.place.is_claimed:
            self._refuse_unfit_files()
        if guest and self.place.is_claimed:
            self._open()
        else:
            with self.place.locked():
                if not is_helper():
                    self._make_room()
                self._open()
                if not is_helper():
                    self.place.remove_unfinished()
                    self._claim()
        self._fingerprint = self.place.fingerprint()

    def toy_world(self) -> ToyOptions:
        """Return the kind of the toy world; by default the kind in which the method is shown."""
        return self.settings.config.toy_world

    def prepare(self) -> None:
        """Open what else the run needs, before it claims its folder; by default nothing."""

    def _find_weights(self) -> Path | None:
        settings = self.settings
        if settings.checkpoint is not None or not settings.config.pretrained:
            return None  # a checkpoint holds the whole network
        return settings.weights or find_weights(settings.config.backbone, settings.pretrained_folder)

    def _refuse_unfit_files(self) -> None:
        """Fill the network from files, so that an unfit file is refused before the folder is claimed or emptied."""
        if self.weights is not None or self.settings.checkpoint is not None:
            _ = self._untrained

    # ------------------------------------------------------------------------------------------------ the folder

    def _make_room(self) -> None:
        """Remove the run in the folder if the settings say so, or if an earlier removal was killed."""
        ids, settings = self._ids(), self.settings
        self.place.finish_removal(ids)
        if settings.resume or not self.place.is_claimed:
            return
        for name in PATHS:
            path = getattr(settings, name)
            if path is not None and path.resolve().is_relative_to(self.folder.resolve()):
                raise InputError(
                    f"{name} {path} lies in out {self.folder}, which resume=False would empty; give another folder as "
                    f"out, or another {name}."
                )
        self.place.remove(ids)

    def _open(self) -> None:
        """Prepare the run, and refuse a folder that holds another one."""
        self._refuse_changed_pictures()
        self.place.refuse_other(self.own_identity, self._defaults, [*self.own_identity, "checkpoint"])
        self.prepare()
        self._identity = self.identity()
        self.place.refuse_other(self._identity, self._defaults)

    def _claim(self) -> None:
        self.place.claim(self._identity, self.settings.to_dict(), self._ids(), self.digests, self._part)

    def _ids(self) -> set[str]:
        return {image_id for data in self._all_data.values() for image_id in data.ids}

    @property
    def _all_data(self) -> dict[str, Dataset]:
        return {"fit": self.splits.fit, **self.splits.scored}

    @property
    def _defaults(self) -> dict[str, Any]:
        """The defaults of the configuration, for fields that the folder's run did not have yet."""
        return type(self.settings.config)().to_dict()

    def _refuse_changed_pictures(self) -> None:
        """Raise InputError if pictures of the run in the folder hold something else now."""
        if not self.place.is_claimed or is_helper():
            return
        before = self.place.identity()
        parts = [f"pictures {name}" for name in self._all_data]
        if all(before.get(part, self.own_identity[part]) == self.own_identity[part] for part in parts):
            return
        self.digests = Digests(self.digests.remembered, read_all=True)  # what is remembered may be damaged
        del self.own_identity
        for part, data in zip(parts, self._all_data.values(), strict=True):
            if before.get(part, self.own_identity[part]) == self.own_identity[part]:
                continue
            changed = self.digests.changed(picture_files(data))
            if changed:  # else the list has changed, too, and its part of the identity says so
                raise InputError(
                    f"{self.folder} was made from other pictures: {changed[0]} has changed since, as {len(changed)} of "
                    f"{len(data)} of {data.name} have; put the old pictures back, give another folder as out, or "
                    "resume=False to remove the run and start over."
                )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the folder's lock while something is made in it.

        Raises:
            InputError: Another process works in the folder, or another run has taken it since this one was opened.
        """
        with self.place.locked():
            if not is_helper():
                if not self.place.is_claimed:
                    raise InputError(f"{self.folder} holds this run no longer; open the run again.")
                self.place.refuse_other(self._identity, self._defaults)
                self.place.update_settings(self.settings.to_dict())
            yield

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the numbers of a run, as plain values; by default :attr:`own_identity`."""
        return self.own_identity

    @cached_property
    def digests(self) -> Digests:
        """Digests of the files that the run reads, remembered in ``images.json``."""
        return self.place.digests()

    @cached_property
    def own_identity(self) -> dict[str, Any]:
        """Everything that decides the numbers, except what :meth:`prepare` finds; files count by their content."""
        settings, data = self.settings, self._all_data
        return {
            "method": settings.method,
            "preset": settings.preset,
            "seed": settings.seed,
            "limit": settings.limit,
            "precision": settings.precision,
            **settings.config.to_dict(),
            "weights": None if self.weights is None else file_digest(self.weights),
            **({} if settings.checkpoint is None else {"checkpoint": file_digest(settings.checkpoint)}),
            **{f"data {name}": f"{len(split)} images, {_label_digest(split)}" for name, split in data.items()},
            **self._pictures(),
        }

    def _pictures(self) -> dict[str, Any]:
        """Return the digests of the pictures of every split; a helper takes those that its launcher has found."""
        if is_helper() and self.place.is_claimed:
            known = self.place.identity()
            return {name: value for name, value in known.items() if name.startswith("pictures ")}
        return Run.input_digests(self, self.digests)

    def input_digests(self, digests: Digests) -> dict[str, str]:
        """Return the parts of the identity that depend on the content of many files.

        Args:
            digests: Digests of files; those of the run's files are added.
        """
        return {f"pictures {name}": picture_digest(data, digests) for name, data in self._all_data.items()}

    def _refuse_changed_inputs(self) -> None:
        """Raise InputError if a file that is learned from has changed since the run was opened."""
        for part, digest in self.input_digests(Digests(self.digests.to_dict())).items():
            if self._identity.get(part, digest) != digest:
                raise InputError(
                    f"the {part} have changed since {self.folder} was opened; put the old files back, and start again."
                )

    def fingerprint(self) -> str:
        """Return a short name of the identity, which becomes part of the identity of a run that continues this one."""
        return self._fingerprint

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

    def is_complete(self, store: Store, split: str, source: str) -> bool:
        """Return whether a store has the files of all images of a split, made from a source."""
        return source_of(store) == source and all(image_id in store for image_id in self.data(split).ids)

    def require(self, store: Store) -> None:
        """Raise InputError if a store has a record that names another source than the networks as they are now."""
        require(store, self.source)

    def records(self) -> dict[str, Any]:
        """Return by what and when the run's stores were made, by the names of their folders."""
        found = {}
        for name, depth in STORES.items():
            if name != "growth":
                for path in sorted((self.folder / name).glob("/".join([*["*"] * depth, RECORD]))):
                    found[path.parent.relative_to(self.folder).as_posix()] = read_record(Store(path.parent)) or {}
        return found

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
        return self.settings.checkpoint is not None or len(self._history()) >= self.settings.config.epochs

    def _history(self) -> History:
        """Return the epochs that the checkpoint has seen, and load its networks."""
        self._refresh()
        method, self._loaded = self.method, self._checkpoint()
        return resume(method, self.folder, self._fingerprint)

    @property
    def normalise(self) -> Normalisation:
        """Normalisation that turns pixels into the network's input."""
        return self.method.backbone.normalisation

    @property
    def workers(self) -> int:
        """Number of processes that load images."""
        if self.settings.workers >= 0:
            return self.settings.workers
        return 0 if self.settings.preset == "toy" else min(4, os.cpu_count() or 1)

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

    def data(self, split: str) -> Dataset:
        """Return a split: ``train`` or ``val``, which are scored, or ``fit``, which the networks learn from.

        Raises:
            InputError: The split is unknown.
        """
        splits = {**self.splits.scored, "fit": self.splits.fit}
        if split not in splits:
            raise InputError(f"split {split!r} is unknown; choose one of {', '.join(splits)}.")
        return splits[split]

    def split_folder(self, split: str) -> str:
        """Return the name of the folder for a split; ``fit`` may be the same images as ``train``."""
        if split != "fit":
            return split
        fit = self.splits.fit
        for name, data in self.splits.scored.items():
            if data.ids == fit.ids and torch.equal(data.labels, fit.labels):
                return name
        return "training" if self.place.has_old_names else split

    def masks(self, what: str, split: str) -> MaskStore:
        """Return a store of masks, such as ``crf-4`` for the CRF with the alpha 4."""
        return MaskStore(self.folder / "masks" / what / self.split_folder(split))

    def score_masks(self, stores: Mapping[str, MaskStore], split: str) -> dict[str, dict[str, Any]]:
        """Return the scores of masks as plain values, by name."""
        data = self.data(split)
        classes = ("background", *data.classes)
        return {name: confusion_summary(score_masks(store, data), classes) for name, store in stores.items()}

    def write_masks(
        self, what: str, split: str, read: Read, names: Sequence[str], preset: str | None, source: str
    ) -> dict[str, MaskStore]:
        """Write the missing refined masks of a split, and return their stores by name.

        Args:
            what: Name of the refinement, as the method ``refine`` of the subclasses knows it.
            split: Name of the split.
            read: Reads the scores of an image.
            names: Names of the stores, one for each of the scores that ``read`` returns.
            preset: Preset of the CRF; None for no CRF.
            source: Name of the source that the scores were made from.
        """
        stores = {name: self.masks(name, split) for name in names}
        with self.working(), self.timed(f"{what} {split}"):
            for store in stores.values():
                self.begin(store, split, source)
            if not self.delegate("refine", what, split):
                data = self.seen_by_crf(self.data(split))
                refine(data, read, list(stores.values()), self.fabric, preset, workers=self.refine_workers)
        return stores

    def seen_by_crf(self, data: Dataset) -> Dataset:
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
        settings = replace(self.settings, config=config, folder=folder, resume=True, **self.shared())
        other = type(self)(settings, part=True)
        source, target = self.folder / "checkpoint.pt", folder / "checkpoint.pt"
        if changes.keys() <= config.inference_only and source.is_file() and self.is_trained and not target.is_file():
            with other.working():
                write_checkpoint(target, {**read_checkpoint(source), "run": other.fingerprint()})
        return other

    def shared(self) -> dict[str, Any]:
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
            self.refuse_other_sources()
        if len(history) >= self.settings.config.epochs:  # nothing is left to do, so nobody need wait for the folder
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

    def training_record(self) -> dict[str, Any]:
        """Return the content of ``training.json``: the sources, and by epoch the versions that trained the run."""
        try:
            record = read_json(self.folder / "training.json")
            sources, rows = dict(record["from"]), record["made"]
            fine = are_makers(rows) and all(isinstance(row.get("epoch"), int) for row in rows)
            return {"from": sources, "made": rows if fine else []}
        except (InputError, KeyError, TypeError, ValueError):  # missing, or damaged: then it is not known
            return {"from": {}, "made": []}

    def refuse_other_sources(self) -> None:
        """Raise InputError if the run was trained from other sources than there are now."""
        sources = self.training_sources()
        for name, before in self.training_record()["from"].items():
            if sources.get(name, before) != before:
                raise InputError(
                    f"{self.folder} has learned from the {name} {before}, and now there is {sources[name]}; give "
                    "another folder as out, or resume=False to start over."
                )

    def _record_training(self, done: int) -> None:
        """Write ``training.json`` before training begins or continues, after so many epochs."""
        if not self.fabric.is_global_zero:
            return
        for folder in sorted((self.folder / "growth").glob("*")):
            if folder.name > f"{done:03d}":  # the maps of epochs that are trained anew
                remove_files(CamStore(folder), self._ids())
        rows = [row for row in self.training_record()["made"] if row["epoch"] <= done]
        rows = add_maker(rows, {"epoch": done + 1, **maker(self.fabric.device)})
        write_json(self.folder / "training.json", {"from": self.training_sources(), "made": rows})

    def _after_epoch(self, epoch: int) -> None:
        self._refuse_changed_inputs()
        self.after_epoch(epoch)

    def after_epoch(self, epoch: int) -> None:
        """Do, in one process, the work after an epoch, from 1, before it counts as done; by default nothing."""

    def to_device(self) -> None:
        """Move the networks to where they compute."""
        for network in self.method.networks.values():
            network.to(self.fabric.device)

    def delegate(self, stage: str, *arguments: str) -> bool:
        """Let several processes do a stage, if several are asked for and this process is not one of them."""
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


def _label_digest(data: Dataset) -> str:
    """Return a short name of the ids, classes and labels of a data set."""
    text = "\n".join((*data.ids, *data.classes)).encode() + data.labels.numpy().tobytes()
    return f"{zlib.crc32(text):08x}"
