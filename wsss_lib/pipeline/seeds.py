"""A run of a method that makes class activation maps: train, infer, score the seeds."""

from __future__ import annotations

from torch import Tensor

from wsss_lib.data.dataset import Dataset, Derived
from wsss_lib.data.transforms import Augmentation
from wsss_lib.methods.method import CamMethod
from wsss_lib.pipeline.evaluate import SeedScores, score_seeds
from wsss_lib.pipeline.infer import classify, infer
from wsss_lib.pipeline.run import Run
from wsss_lib.pipeline.store import CamStore
from wsss_lib.pipeline.train import Example, LabelledImages


class SeedRun(Run[CamMethod]):
    """A run of a method that makes class activation maps."""

    stages = ("train", "infer")

    def example(self) -> Example:
        """Return what makes training examples: augmented images with their labels."""
        config = self.method.config
        augmentation = Augmentation(
            config.min_long_side, config.max_long_side, config.crop_size, config.colour_jitter, config.hue_jitter
        )
        return LabelledImages(self.splits.training, augmentation, self.normalise)

    def cams(self, split: str) -> CamStore:
        """Return the store of the class activation maps of a split."""
        return CamStore(self.folder / "cams" / self.split_folder(split))

    def infer(self, split: str) -> CamStore:
        """Write the class activation maps of a split, those that are not there yet, and return their store."""
        data, store = self.data(split), self.cams(split)
        with self.timed(f"inference {split}"):
            if not self.delegate("infer", split):
                rest = self._share(data, store)
                self.to_device()
                if rest:
                    missing = Derived(data, data.name, rest)
                    infer(self.method, missing, store, self.fabric, self.normalise, self.workers)
        return store

    def _share(self, data: Dataset, store: CamStore) -> list[int]:
        """Take over the maps of images that another split has, too; return the positions of all others."""
        shared = set()
        for name, other in self.splits.scored.items():
            source = self.cams(name)
            if source.folder == store.folder:
                continue
            positions = {image_id: i for i, image_id in enumerate(other.ids)}
            for index, image_id in enumerate(data.ids):
                i = positions.get(image_id)
                if i is not None and image_id in source and data.labels[index].equal(other.labels[i]):
                    store.take_over(image_id, source)
                    shared.add(index)
        return [index for index in range(len(data)) if index not in shared]

    def score(self, split: str) -> SeedScores:
        """Score the maps of a split at all thresholds."""
        data = self.data(split)
        with self.timed(f"scoring {split}"):
            return score_seeds(self.cams(split), data)

    def classify(self, data: Dataset) -> Tensor:
        """Return the logits ``(n, K)`` of the network for whole images."""
        self.to_device()
        return classify(self.method, data, self.fabric, self.normalise, self.workers)
