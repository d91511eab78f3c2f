"""A run of AffinityNet: labels from CRF-refined CAMs, training, the random walk, and the CRF after it.

It refines the class activation maps of another run. The stages, which all continue where they were
stopped: :meth:`AffinityNetRun.label`, :meth:`~wsss_lib.runs.run.Run.train`, :meth:`AffinityNetRun.infer`,
:meth:`AffinityNetRun.refine`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wsss_lib.errors import InputError
from wsss_lib.methods.affinitynet import AffinityNet
from wsss_lib.runs.earlier import earlier_run
from wsss_lib.runs.run import Run
from wsss_lib.stages.examples import Example, LabelledCells
from wsss_lib.stages.provenance import require, source_of
from wsss_lib.stages.refine import PowerBackgrounds, ReadScores, refine
from wsss_lib.stages.store import MaskStore, ScoreStore
from wsss_lib.stages.walk import WalkedScores, walk


class AffinityNetRun(Run[AffinityNet]):
    """A run of AffinityNet.

    Attributes:
        cam_run: The run whose class activation maps are refined.
    """

    stages = ("label", "train", "infer", "refine")
    final_masks = "walk-crf"

    def prepare(self) -> None:
        """Find the run whose maps are refined.

        It is the run that the settings name, or else that of 00_cam if it is on the same data, or else a short run in
        this run's own folder.
        """
        own = self.folder / ("seeds" if self.place.has_old_names else "cam_run")
        self.cam_run, folder = earlier_run(self.settings, self.own_identity, "cams", own)
        self.settings = replace(self.settings, cams=folder)

    @property
    def has_short_cam_run(self) -> bool:
        """Whether the maps are of a short run in this run's own folder, because no run of 00_cam was found."""
        return self.settings.cams is None

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the numbers of the run, including the run whose maps are refined."""
        return {**self.own_identity, "cams": self.cam_run.fingerprint()}

    def scores(self, name: str, split: str) -> ScoreStore:
        """Return a store of scores: ``walk``, or ``crf-4`` for the CRF with the alpha 4."""
        return ScoreStore(self.folder / "scores" / name / self.split_folder(split), half=name != "walk")

    def label(self) -> None:
        """Refine the maps of the training images with the low and the high alpha, for :meth:`train` to learn from."""
        config, data, cams = self.method.config, self.data("fit"), self.cam_run.cams("fit")
        self.cam_run.require(cams)
        read = PowerBackgrounds(cams, (config.low_alpha, config.high_alpha))
        with self.working(), self.timed("labels"):
            for store in self._label_stores():
                self.begin(store, "fit", source_of(cams))
            if not self.delegate("label"):
                refine(data, read, self._label_stores(), self.fabric, workers=self.refine_workers)

    def training_sources(self) -> dict[str, str]:
        """Return the source of the labels, which must be the present maps."""
        cams, stores = self.cam_run.cams("fit"), self._label_stores()
        for store in stores:
            require(store, lambda: source_of(cams))
        return {"labels": source_of(stores[0])}

    def _label_stores(self) -> tuple[ScoreStore, ScoreStore]:
        """Return where the probabilities with the low and with the high alpha lie."""
        config = self.method.config
        low, high = (self.scores(f"crf-{alpha:g}", "fit") for alpha in (config.low_alpha, config.high_alpha))
        return low, high

    def example(self) -> Example:
        """Return what makes training examples: crops with labels from the two stores of :meth:`label`."""
        config = self.method.config
        return LabelledCells(
            self.data("fit"),
            *self._label_stores(),
            config.crop_size,
            self.method.network.stride,
            config.colour_jitter,
            config.hue_jitter,
            self.normalise,
        )

    def infer(self, split: str) -> ScoreStore:
        """Write the missing walked scores of a split, and return their store."""
        data, store, cams = self.data(split), self.scores("walk", split), self.cam_run.cams(split)
        self.cam_run.require(cams)
        self.training_record.refuse_other_sources(self.training_sources())
        with self.working(), self.timed(f"walk {split}"):
            self.begin(store, split, f"{self.source()} on {source_of(cams)}")
            if not self.delegate("infer", split):
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
        config, cams, walks = self.method.config, self.cam_run.cams(split), self.scores("walk", split)
        walked = WalkedScores(walks, self.method.network.stride)
        of_cams, of_walks = source_of(cams), source_of(walks)
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
