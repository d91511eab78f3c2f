"""A run of a method that makes class activation maps: train, make maps, score the CAM seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss_lib.data.dataset import Dataset, DatasetView
from wsss_lib.data.names import class_numbers
from wsss_lib.data.pictures import Given, open_picture
from wsss_lib.errors import InputError
from wsss_lib.methods.method import CamMethod
from wsss_lib.runs.run import Run
from wsss_lib.stages.evaluate import CamScores, score_cams
from wsss_lib.stages.examples import Example, LabelledImages
from wsss_lib.stages.infer import cam_of_picture, classify, infer, infer_some, predicted_labels
from wsss_lib.stages.provenance import begin, maker, remove_files, source_of
from wsss_lib.stages.refine import PowerBackgrounds
from wsss_lib.stages.store import CamStore, MaskStore

_GROWTH_IMAGES = 4
"""Number of images whose maps are kept after every epoch."""


class CamRun(Run[CamMethod]):
    """A run of a method that makes class activation maps."""

    stages = ("train", "infer", "refine")

    def example(self) -> Example:
        """Return what makes training examples: augmented images with their labels."""
        return LabelledImages(self.splits.fit, self.method.config.augmentation(), self.normalise)

    def after_epoch(self, epoch: int) -> None:
        """Keep the maps of :meth:`growth`."""
        data, store = self.growth(epoch)
        remove_files(store, data.ids)
        begin(store, self.source(), data.ids, maker(self.fabric.device), adopt=True)
        infer_some(self.method, data, store, self.context)

    def growth(self, epoch: int) -> tuple[Dataset, CamStore]:
        """Return a few images of ``val`` and the store of their maps after an epoch, counted from 1."""
        data = self.data("val")
        labelled = [i for i in range(len(data)) if data.labels[i].any()] or [0]
        labelled.sort(key=lambda i: float(data.labels[i].sum()))  # one class is easiest to follow
        return DatasetView(data, "growth", labelled[:_GROWTH_IMAGES]), CamStore(self.folder / "growth" / f"{epoch:03d}")

    def cams(self, split: str) -> CamStore:
        """Return the store of the class activation maps of a split."""
        return CamStore(self.folder / "cams" / self.split_folder(split))

    def infer(self, split: str) -> CamStore:
        """Write the missing class activation maps of a split, and return their store."""
        data, store, source = self.data(split), self.cams(split), self.source()
        if self.is_complete(store, split, source):
            return store
        with self.working(), self.timed(f"inference {split}"):
            self.begin(store, split, source)
            if not self.delegate("infer", split):
                self.note_untrained()
                rest = self._share(data, store)
                self.to_device()
                if rest:
                    missing = DatasetView(data, data.name, rest)
                    infer(self.method, missing, store, self.context)
        return store

    def _share(self, data: Dataset, store: CamStore) -> list[int]:
        """Take over the maps of images that another split has, too; return the positions of all others."""
        shared = set()
        for name, other in self.splits.scored.items():
            source = self.cams(name)
            if source.folder == store.folder or source_of(source) != source_of(store):
                continue
            positions = {image_id: i for i, image_id in enumerate(other.ids)}
            for index, image_id in enumerate(data.ids):
                i = positions.get(image_id)
                if i is not None and image_id in source and data.labels[index].equal(other.labels[i]):
                    store.take_over(image_id, source)
                    shared.add(index)
        return [index for index in range(len(data)) if index not in shared]

    def score(self, split: str) -> CamScores:
        """Score the maps of a split at all thresholds."""
        data, store = self.data(split), self.cams(split)
        self.require(store)
        with self.timed(f"scoring {split}"):
            return score_cams(store, data)

    def refine(self, refinement: str, split: str) -> dict[str, MaskStore]:
        """Write the missing masks of a split after a CRF, one for each of the alphas.

        Args:
            refinement: ``crf``.
            split: Name of the split.

        Returns:
            The stores by name.

        Raises:
            InputError: The refinement is unknown, or the maps of an image are missing, damaged or do not fit it.
        """
        if refinement != "crf":
            raise InputError(f"refinement {refinement!r} is unknown; choose crf.")
        alphas, store = self.method.config.alphas, self.cams(split)
        self.require(store)
        names = [f"crf-{alpha:g}" for alpha in alphas]
        return self.write_masks(refinement, split, PowerBackgrounds(store, alphas), names, "psa", source_of(store))

    def cam(self, picture: Given, labels: str | Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Return the class activation maps of any picture, which need not be one of the run's data.

        Args:
            picture: A file, a Pillow image or an array, see :func:`wsss_lib.data.pictures.open_picture`.
            labels: Names of the classes whose maps are wanted; None for those that the network predicts: the
                classes with a logit above 0 or, if there is none, the class with the highest.

        Returns:
            ``classes`` ``(n,)`` int64 and their maps ``(n, H, W)`` float32 in [0, 1), of the picture's working size, on
            the CPU.

        Raises:
            InputError: The picture cannot be read, or no class has such a name.
        """
        image, _ = open_picture(picture)
        self.to_device()
        if labels is None:
            wanted = predicted_labels(self.method, image, self.context)
        else:
            wanted = torch.zeros(len(self.splits.classes))
            wanted[class_numbers(labels, self.splits.classes)] = 1
        return cam_of_picture(self.method, image, wanted, self.context)

    def classify(self, data: Dataset) -> Tensor:
        """Return the logits ``(n, K)`` of the network for whole images."""
        self.to_device()
        return classify(self.method, data, self.context)
