"""A run of AffinityNet: labels from CRF-refined CAMs, training, the random walk, and the CRF after it.

It refines the class activation maps of another run, its *seeds*. The stages, each of which continues where it was
stopped: :meth:`AffinityRun.label`, :meth:`~wsss_lib.pipeline.run.Run.train`, :meth:`AffinityRun.infer`,
:meth:`AffinityRun.refine`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.transforms import Normalise, crop_to_canvas, jitter_colour, random_crop_box, to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods.affinitynet import AffinityNet, enlarge, semi_labels
from wsss_lib.pipeline.earlier import earlier_run
from wsss_lib.pipeline.engine import loaded
from wsss_lib.pipeline.infer import Views, named
from wsss_lib.pipeline.provenance import require, source_of
from wsss_lib.pipeline.refine import Powers, Read, refine
from wsss_lib.pipeline.run import Run
from wsss_lib.pipeline.store import CamStore, MaskStore, ScoreStore, read_cams
from wsss_lib.pipeline.train import Example
from wsss_lib.show.progress import bar


@dataclass(frozen=True)
class LabelledCells:
    """The examples that AffinityNet learns from: crops at the original resolution and what is known of their cells.

    Attributes:
        data: The images.
        low: Their CRF probabilities with the low alpha.
        high: Their CRF probabilities with the high alpha.
        crop: Side of the crops in pixels.
        stride: Side of a cell in pixels.
        colour: Strength of the brightness, contrast and saturation jitter.
        hue: Strength of the hue jitter.
        normalise: From pixels to the network's input.
    """

    data: Dataset
    low: ScoreStore
    high: ScoreStore
    crop: int
    stride: int
    colour: float
    hue: float
    normalise: Normalise

    def __call__(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return ``(3, crop, crop)`` float32 and ``(crop / stride, crop / stride)`` uint8, rounded up."""
        image = self.data.image(index)
        pixels = to_tensor(jitter_colour(image, self.colour, self.hue, rng))
        low, high = (self._scores(store, index) for store in (self.low, self.high))
        box = random_crop_box(image.height, image.width, self.crop, rng)
        pixels = self.normalise(crop_to_canvas(pixels, box, self.crop))  # outside it is black, as in the authors' code
        scores = crop_to_canvas(torch.cat([low, high]), box, self.crop)
        if rng.getrandbits(1):
            pixels, scores = pixels.flip(-1), scores.flip(-1)
        margin = -self.crop % self.stride
        cells = F.avg_pool2d(F.pad(scores, (0, margin, 0, margin)), self.stride)
        return pixels, semi_labels(cells[: len(low)], cells[len(low) :])

    def _scores(self, store: ScoreStore, index: int) -> Tensor:
        path = store.path(self.data.ids[index])
        _, scores = store.read(self.data.ids[index])
        size, own = self.data.size(index), self.data.own_size(index)
        if tuple(scores.shape[1:]) != size:
            image = f"the image is {own}" + (f", of which labels are made at {size}" if size != own else "")
            raise InputError(f"{path} is {tuple(scores.shape[1:])} pixels but {image}; remove it and start again.")
        return scores


@dataclass(frozen=True)
class Walked:
    """Scores after the random walk, enlarged to the image.

    Attributes:
        store: The scores at the network's stride.
        stride: The network's stride.
    """

    store: ScoreStore
    stride: int

    def __call__(self, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
        """Return classes and scores ``(1, 1 + n, H, W)`` of an image, normalised over the labels."""
        classes, scores = self.store.read(data.ids[index])
        enlarged = enlarge(scores, self.stride, data.size(index))
        return classes, (enlarged / enlarged.sum(0).clamp(min=1e-5))[None]


@torch.inference_mode()
def walk(
    method: AffinityNet,
    data: Dataset,
    cams: CamStore,
    store: ScoreStore,
    fabric: Fabric,
    normalise: Normalise,
    workers: int = 0,
) -> None:
    """Write the walked scores of every image of a data set that the store does not have yet.

    Args:
        method: Makes the affinities; put into evaluation mode.
        data: The images.
        cams: Their class activation maps.
        store: Where the scores go, at the network's stride.
        fabric: The engine; with several processes each does its share.
        normalise: From pixels to the network's input.
        workers: Processes that decode; 0 for none.

    Raises:
        InputError: The maps of an image are missing, damaged or do not fit it, or its affinities are not finite.
    """
    method.train(False)
    views = Views(data, (1.0,), normalise, None)
    todo = views.missing_batches(store, fabric)
    loader = DataLoader(views, batch_sampler=todo, num_workers=workers)
    for indices, (images,) in bar(loaded(loader), f"walks of {data.name}", len(todo)):
        read = [read_cams(cams, data, int(i)) for i in indices]
        maps = [fabric.to_device(cams_of_image) for _, cams_of_image in read]
        with named(data, int(indices[0])), fabric.autocast():
            walked = method.walk(fabric.to_device(images.contiguous()), maps)
        for index, (classes, _), scores in zip(indices.tolist(), read, walked, strict=True):
            store.write(data.ids[index], classes, scores)
    fabric.barrier()


class AffinityRun(Run[AffinityNet]):
    """A run of AffinityNet.

    Attributes:
        seeds: The run whose class activation maps are refined.
    """

    stages = ("label", "train", "infer", "refine")
    final_masks = "walk-crf"

    def prepare(self) -> None:
        """Find the seeds.

        They are the run that the settings name, or else that of 00_cam if it is on the same data, or else a short run
        in this run's own folder.
        """
        self.seeds, folder = earlier_run(self.settings, self.own_identity, "seeds", self.folder / "seeds")
        self.settings = replace(self.settings, seeds=folder)

    @property
    def has_short_seeds(self) -> bool:
        """Whether there was no run of 00_cam, so that the seeds are a short one in this run's own folder."""
        return self.settings.seeds is None

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers of the run; the seeds are part of it."""
        return {**self.own_identity, "seeds": self.seeds.fingerprint()}

    def scores(self, what: str, split: str) -> ScoreStore:
        """Return a store of scores: ``walk``, or ``crf-4`` for the CRF with the alpha 4."""
        return ScoreStore(self.folder / "scores" / what / self.split_folder(split), half=what != "walk")

    def label(self) -> None:
        """Refine the maps of the training images with the low and the high alpha, for :meth:`train` to learn from."""
        config, data, cams = self.method.config, self.data("training"), self.seeds.cams("training")
        self.seeds.require(cams)
        read = Powers(cams, (config.low_alpha, config.high_alpha))
        with self.working(), self.timed("labels"):
            for store in self._label_stores():
                self.begin(store, "training", source_of(cams))
            if not self.delegate("label"):
                refine(data, read, self._label_stores(), self.fabric, workers=self.refine_workers)

    def training_sources(self) -> dict[str, str]:
        """Return the source of the labels, which must be the present maps of the seeds."""
        cams, stores = self.seeds.cams("training"), self._label_stores()
        for store in stores:
            require(store, lambda: source_of(cams))
        return {"labels": source_of(stores[0])}

    def _label_stores(self) -> tuple[ScoreStore, ScoreStore]:
        """Return where the probabilities with the low and with the high alpha lie."""
        config = self.method.config
        low, high = (self.scores(f"crf-{alpha:g}", "training") for alpha in (config.low_alpha, config.high_alpha))
        return low, high

    def example(self) -> Example:
        """Return what makes training examples: crops with labels from the two stores of :meth:`label`."""
        config = self.method.config
        return LabelledCells(
            self.data("training"),
            *self._label_stores(),
            config.crop_size,
            self.method.network.stride,
            config.colour_jitter,
            config.hue_jitter,
            self.normalise,
        )

    def infer(self, split: str) -> ScoreStore:
        """Write the walked scores of a split, those that are not there yet, and return their store."""
        data, store, cams = self.data(split), self.scores("walk", split), self.seeds.cams(split)
        self.seeds.require(cams)
        with self.working(), self.timed(f"walk {split}"):
            self.begin(store, split, f"{self.source()} on {source_of(cams)}")
            if not self.delegate("infer", split):
                self.to_device()
                walk(self.method, data, cams, store, self.fabric, self.normalise, self.workers)
        return store

    def refine(self, what: str, split: str) -> dict[str, MaskStore]:
        """Write masks of a split, those that are not there yet.

        Args:
            what: ``crf``: the CAMs after a CRF, once for each of the configuration's alphas; ``walk``: the walked
                scores as they are; ``walk-crf``: the walked scores after a CRF.
            split: Name of the split.

        Returns:
            The stores by name.

        Raises:
            InputError: There is no such refinement, or what is refined of an image is missing, damaged or does not fit.
        """
        config, cams, walks = self.method.config, self.seeds.cams(split), self.scores("walk", split)
        walked = Walked(walks, self.method.network.stride)
        of_cams, of_walks = source_of(cams), source_of(walks)
        reads: dict[str, tuple[Read, list[str], str | None, str]] = {
            "crf": (Powers(cams, config.alphas), [f"crf-{a:g}" for a in config.alphas], "psa", of_cams),
            "walk": (walked, ["walk"], None, of_walks),
            "walk-crf": (walked, ["walk-crf"], config.walk_crf, of_walks),
        }
        if what not in reads:
            raise InputError(f"refinement {what!r} is unknown; choose one of {', '.join(reads)}.")
        self.seeds.require(cams)
        require(walks, lambda: f"{self.source()} on {of_cams}")
        return self.write_masks(what, split, *reads[what])
