"""Runs of IRN: confident labels, training, the random walk that boundaries stop, and the CRF after the walk."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader

from wsss_lib.data.scaled_crop import ScaledCrop
from wsss_lib.methods.irn import IRN
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.stages.confident import ConfidentCells, ConfidentLabels, Corners, ThresholdLabels
from wsss_lib.stages.engine import loaded
from wsss_lib.stages.examples import Example
from wsss_lib.stages.refine import ReadScores
from wsss_lib.stages.store import MaskStore, ScoreStore
from wsss_lib.stages.walk import WalkedScoresOverBackground


class IRNRun(RefinementRun[IRN]):
    """A run of IRN."""

    def walk_store(self, split: str) -> ScoreStore:
        """Return the store of the walked scores of a split, which have no row for the background."""
        return ScoreStore(self.folder / "scores" / "walk" / self.split_folder(split), half=False, background=False)

    def walked(self, store: ScoreStore) -> WalkedScoresOverBackground:
        """Return the reader of the walked scores of an image, with the constant score of the background."""
        return WalkedScoresOverBackground(store, self.method.network.stride, self.method.config.background)

    def label_stores(self) -> tuple[MaskStore, MaskStore]:
        """Return the stores of the masks with the high and with the low threshold."""
        return self.masks("confident-objects", "fit"), self.masks("confident-background", "fit")

    def label_fields(self) -> tuple[ReadScores, str]:
        """Return the reader of the labels with the high and with the low threshold, and the preset of the CRF."""
        config = self.method.config
        thresholds = config.object_threshold, config.background_threshold
        return ThresholdLabels(self.cam_run.cams("fit"), thresholds, config.label_confidence), config.label_crf

    @property
    def labels(self) -> ConfidentLabels:
        """The confident labels of the training images, which :meth:`label` makes."""
        return ConfidentLabels(self.data("fit"), *self.label_stores())

    def example(self) -> Example:
        """Return the maker of training examples: scaled crops of images and of confident labels.

        Raises:
            InputError: The label of every pixel is unknown.
        """
        config, labels = self.method.config, self.labels
        if missing := labels.check():
            print(f"note: {missing}")
        crop = ScaledCrop(config.min_scale, config.max_scale, config.crop_size, self.method.network.stride)
        return ConfidentCells(labels, crop, self.normalise)

    def after_epoch(self, epoch: int) -> None:
        """Set the mean displacement after the last epoch."""
        if epoch == self.method.config.epochs:
            with self.fabric.autocast():
                self.method.centre_displacements(self._corners())

    def _corners(self) -> Iterator[Tensor]:
        """Yield the images of ``train``, cut or filled to the size of training, in batches of one size."""
        config, data = self.method.config, self.data("train")
        corners = Corners(data, config.crop_size, self.normalise)
        size = min(config.batch_size, len(data))
        for images in loaded(DataLoader(corners, size, num_workers=self.workers, drop_last=True)):
            yield self.fabric.to_device(images.contiguous())
