"""Runs that refine the class activation maps of another run: labels, training, a random walk, and a CRF.

A stopped stage continues where it was stopped. The stages: :meth:`RefinementRun.label`,
:meth:`~wsss_lib.runs.run.Run.train`, :meth:`RefinementRun.infer`, :meth:`RefinementRun.refine`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Generic, TypeVar

from wsss_lib.data.toy import ToyOptions
from wsss_lib.errors import InputError
from wsss_lib.methods.affinitynet import AffinityNet
from wsss_lib.methods.irn import IRN
from wsss_lib.runs.earlier import earlier_run
from wsss_lib.runs.folder import holds_run
from wsss_lib.runs.run import Run
from wsss_lib.runs.settings import read_settings
from wsss_lib.stages.provenance import require, source_of
from wsss_lib.stages.refine import PowerBackgrounds, ReadScores, refine
from wsss_lib.stages.store import MaskStore, ScoreStore
from wsss_lib.stages.walk import walk

W = TypeVar("W", AffinityNet, IRN)


class RefinementRun(Run[W], Generic[W]):
    """A run that refines maps.

    Attributes:
        cam_run: The run whose class activation maps are refined.
    """

    stages = ("label", "train", "infer", "refine")
    final_masks = "walk-crf"

    def toy_world(self) -> ToyOptions:
        """Return the toy world of the run that makes the maps, if the settings name this run."""
        cams = self.settings.cams
        named = cams is not None and self.settings.preset == "toy" and holds_run(cams)
        return read_settings(cams).config.toy_world if cams is not None and named else super().toy_world()

    def prepare(self) -> None:
        """Find the run whose maps are refined.

        It is the run that the settings name, or else the run of 00_cam on the same data, or else a short run in the
        folder of this run.
        """
        own = self.folder / ("seeds" if self.place.has_old_names else "cam_run")
        self.cam_run, folder = earlier_run(self.settings, self.own_identity, "cams", own)
        self.settings = replace(self.settings, cams=folder)

    @property
    def has_short_cam_run(self) -> bool:
        """Whether the maps come from a short run in the folder of this run, because no run of 00_cam was found."""
        return self.settings.cams is None

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the numbers of the run, including the run whose maps are refined."""
        return {**self.own_identity, "cams": self.cam_run.fingerprint()}

    def variant_settings(self) -> dict[str, Any]:
        """Return the folder of the maps, so that variants use the same maps."""
        return {"cams": self.cam_run.folder}

    # ----------------------------------------------------------------------------------------- what methods differ in

    @abstractmethod
    def label_stores(self) -> tuple[ScoreStore, ScoreStore] | tuple[MaskStore, MaskStore]:
        """Return the two stores that the network learns from: one for objects, one for background."""

    @abstractmethod
    def label_fields(self) -> tuple[ReadScores, str]:
        """Return the reader of the two fields of an image, and the preset of the CRF that refines both fields."""

    @abstractmethod
    def walked(self, store: ScoreStore) -> ReadScores:
        """Return the reader of the walked scores of an image, at the size of the image."""

    @abstractmethod
    def walk_store(self, split: str) -> ScoreStore:
        """Return the store of the walked scores of a split."""

    # ----------------------------------------------------------------------------------------------------- the stages

    def label(self) -> None:
        """Refine the maps of the training images in two ways, for :meth:`train` to learn from."""
        data, cams, stores = self.data("fit"), self.cam_run.cams("fit"), self.label_stores()
        self.cam_run.require(cams)
        read, preset = self.label_fields()
        with self.working(), self.timed("labels"):
            for store in stores:
                self.begin(store, "fit", source_of(cams))
            if not self.delegate("label"):
                refine(data, read, stores, self.fabric, preset, workers=self.refine_workers)

    def training_sources(self) -> dict[str, str]:
        """Return the source of the labels, after checking that it is the present maps."""
        cams, stores = self.cam_run.cams("fit"), self.label_stores()
        for store in stores:
            require(store, lambda: source_of(cams))
        return {"labels": source_of(stores[0])}

    def infer(self, split: str) -> ScoreStore:
        """Write the missing walked scores of a split, and return their store."""
        data, store, cams = self.data(split), self.walk_store(split), self.cam_run.cams(split)
        self.cam_run.require(cams)
        self.training_record.refuse_other_sources(self.training_sources())
        with self.working(), self.timed(f"walk {split}"):
            self.begin(store, split, f"{self.source()} on {source_of(cams)}")
            if not self.delegate("infer", split):
                self.note_untrained()
                self.to_device()
                walk(self.method, data, cams, store, self.context)
        return store

    def refine(self, refinement: str, split: str) -> dict[str, MaskStore]:
        """Write the missing masks of a split.

        Args:
            refinement: ``crf``: the CAMs after a CRF, once for each of the configuration's alphas; ``walk``: the walked
                scores as they are; ``walk-crf``: the walked scores after a CRF.
            split: Name of the split.

        Returns:
            The stores by name.

        Raises:
            InputError: The refinement is unknown, or the maps or scores of an image are missing, damaged or do not fit
                it.
        """
        config, cams, walks = self.method.config, self.cam_run.cams(split), self.walk_store(split)
        walked, of_cams, of_walks = self.walked(walks), source_of(cams), source_of(walks)
        reads: dict[str, tuple[ReadScores, list[str], str | None, str]] = {
            "crf": (PowerBackgrounds(cams, config.alphas), [f"crf-{a:g}" for a in config.alphas], "psa", of_cams),
            "walk": (walked, ["walk"], None, of_walks),
            "walk-crf": (walked, ["walk-crf"], config.walk_crf, of_walks),
        }
        if refinement not in reads:
            raise InputError(f"refinement {refinement!r} is unknown; choose one of {', '.join(reads)}.")
        self.cam_run.require(cams)
        require(walks, lambda: f"{self.source()} on {of_cams}")
        return self.write_masks(refinement, split, *reads[refinement])
