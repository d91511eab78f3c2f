"""Opening a run: finding its data and weights, claiming its folder, and refusing a folder that holds another run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.splits import open_splits
from wsss_lib.data.toy import ToyOptions
from wsss_lib.errors import InputError
from wsss_lib.runs.folder import RunFolder, is_helper
from wsss_lib.runs.identity import (
    has_changed_pictures,
    picture_identity,
    refuse_changed_pictures,
    same_images,
    settings_identity,
)
from wsss_lib.runs.settings import PATHS, Settings, default_weights
from wsss_lib.stages.contents import Digests
from wsss_lib.stages.engine import check_devices


class OpenedRun:
    """The data, the settings and the folder of a run; :class:`wsss_lib.runs.run.Run` adds networks and stages.

    Opening a run reads the lists and labels of its data, checks that what lies in the folder belongs to the same run,
    and writes ``config.json``. Nothing is trained yet.

    Args:
        settings: Settings of the run.
        guest: Whether the run is opened for the results that it already has, for example because another run continues
            it. A guest takes the folder's lock only while it makes something itself.
        part: Whether another run makes this one for its own use, in its own folder.

    Attributes:
        settings: Settings of the run.
        folder: Folder of the run.
        place: The same folder, with the operations that claim, lock and empty it.
        splits: Data of the run.
        weights: File of the pre-trained weights; None for random weights.

    Raises:
        InputError: The data or the folder cannot be used, the folder holds another run, or another process works in it.
    """

    def __init__(self, settings: Settings, guest: bool = False, part: bool = False) -> None:
        if part:
            settings = replace(settings, keep_epochs=False)
        settings.config.check()
        check_devices(settings.accelerator, settings.devices, settings.precision)
        self.settings = settings
        self.folder = settings.folder
        self.place = RunFolder(self.folder)
        self._identity: dict[str, Any] = {}
        self._fingerprint = ""
        self._part = part
        if settings.data_root is not None and self.folder.resolve() == settings.data_root.resolve():
            raise InputError(f"out {self.folder} is the folder of the data; give another one for the results.")
        world, values = self.toy_world(), settings.mask_values
        self.splits = open_splits(settings.preset, settings.data_root, settings.labels, settings.limit, world, values)
        self.weights = self._find_weights()
        self.place.refuse_orphans()
        if not settings.resume or not self.place.is_claimed:
            self.refuse_unfit_files()
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

    def refuse_unfit_files(self) -> None:
        """Raise InputError for unfit weights, before the folder is claimed or emptied; by default nothing."""

    def _find_weights(self) -> Path | None:
        settings = self.settings
        if settings.checkpoint is not None or not settings.config.pretrained:
            return None  # a checkpoint holds the whole network
        return settings.weights or default_weights(
            settings.preset, settings.config.backbone, settings.pretrained_folder
        )

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
        self.place.refuse_other(self.own_identity, self._defaults, [*self.own_identity, "checkpoint", "epoch"])
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
        if not self.place.is_claimed or is_helper() or not has_changed_pictures(self.place, self.own_identity):
            return
        self.digests = Digests(self.digests.remembered, read_all=True)  # what is remembered may be damaged
        del self.own_identity
        refuse_changed_pictures(self.place, self.own_identity, self.digests, self._all_data)

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
        return {**settings_identity(self.settings, self.weights, self._all_data), **self._pictures()}

    def _pictures(self) -> dict[str, Any]:
        """Return the digests of the pictures of every split; a helper takes those that its launcher has found."""
        if is_helper() and self.place.is_claimed:
            known = self.place.identity()
            return {name: value for name, value in known.items() if name.startswith("pictures ")}
        return OpenedRun.input_digests(self, self.digests)

    def input_digests(self, digests: Digests) -> dict[str, str]:
        """Return the parts of the identity that depend on the content of many files.

        Args:
            digests: Digests of files; those of the run's files are added.
        """
        return dict(picture_identity(self._all_data, digests))

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
            if same_images(data, fit):
                return name
        return "training" if self.place.has_old_names else split
