"""A run of AffinityNet: labels from CRF-refined CAMs, training, the random walk, and the CRF after it."""

from __future__ import annotations

from wsss_lib.methods.affinitynet import AffinityNet
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.stages.examples import Example, LabelledCells
from wsss_lib.stages.refine import PowerBackgrounds, ReadScores
from wsss_lib.stages.store import ScoreStore
from wsss_lib.stages.walk import WalkedScores


class AffinityNetRun(RefinementRun[AffinityNet]):
    """A run of AffinityNet."""

    def scores(self, name: str, split: str) -> ScoreStore:
        """Return a store of scores: ``walk``, or ``crf-4`` for the CRF with the alpha 4."""
        return ScoreStore(self.folder / "scores" / name / self.split_folder(split), half=name != "walk")

    def walk_store(self, split: str) -> ScoreStore:
        """Return the store of the walked scores of a split."""
        return self.scores("walk", split)

    def walked(self, store: ScoreStore) -> WalkedScores:
        """Return what reads the walked scores of an image, normalised over the labels."""
        return WalkedScores(store, self.method.network.stride)

    def label_stores(self) -> tuple[ScoreStore, ScoreStore]:
        """Return where the probabilities with the low and with the high alpha lie."""
        config = self.method.config
        low, high = (self.scores(f"crf-{alpha:g}", "fit") for alpha in (config.low_alpha, config.high_alpha))
        return low, high

    def label_fields(self) -> tuple[ReadScores, str]:
        """Return what reads the maps with the low and with the high alpha, and the preset of the CRF."""
        config = self.method.config
        return PowerBackgrounds(self.cam_run.cams("fit"), (config.low_alpha, config.high_alpha)), "psa"

    def example(self) -> Example:
        """Return what makes training examples: crops with labels from the two stores of :meth:`label`."""
        config = self.method.config
        return LabelledCells(
            self.data("fit"),
            *self.label_stores(),
            config.crop_size,
            self.method.network.stride,
            config.colour_jitter,
            config.hue_jitter,
            self.normalise,
        )
