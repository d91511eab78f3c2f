"""The random walk over a whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wsss_lib.data.dataset import Dataset
from wsss_lib.methods.affinitynet import enlarge
from wsss_lib.methods.irn import final_scores
from wsss_lib.show.progress import bar
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import loaded
from wsss_lib.stages.infer import Views, named
from wsss_lib.stages.store import CamStore, ScoreStore, read_cams


@dataclass(frozen=True)
class WalkedScores:
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


@dataclass(frozen=True)
class WalkedScoresOverBackground:
    """Scores after IRN's random walk, enlarged to the image, with a background that has the same score everywhere.

    Attributes:
        store: The scores at the network's stride, without a row of the background.
        stride: The network's stride.
        background: The background score.
    """

    store: ScoreStore
    stride: int
    background: float

    def __call__(self, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
        """Return classes and scores ``(1, 1 + n, H, W)`` of an image; the highest score of a class is 1."""
        classes, walked = self.store.read(data.ids[index])
        scores = final_scores(walked, self.stride, data.size(index))
        return classes, torch.cat([scores.new_full((1, *scores.shape[1:]), self.background), scores])[None]


class Walker(Protocol):
    """A method whose network knows how the maps of an image walk."""

    def train(self, mode: bool = True) -> None:
        """Put all networks into training or evaluation mode."""

    def walk(self, images: Tensor, cams: Sequence[Tensor], /) -> list[Tensor]:
        """Return walked scores at the network's stride, for each of the normalised images ``(B, 3, H, W)``."""


@torch.inference_mode()
def walk(
    method: Walker,
    data: Dataset,
    cams: CamStore,
    store: ScoreStore,
    context: Context,
) -> None:
    """Write the walked scores of every image of a data set that the store does not have yet.

    Args:
        method: Method that makes the affinities; it is put into evaluation mode.
        data: The images.
        cams: Their class activation maps.
        store: The store that receives the scores, at the network's stride.
        context: Engine, normalisation and number of loading processes.

    Raises:
        InputError: The maps of an image are missing, damaged or do not fit it, or its affinities are not finite.
    """
    method.train(False)
    fabric, views = context.fabric, Views(data, (1.0,), context.normalise, None)
    todo = views.missing_batches(store, fabric)
    loader = DataLoader(views, batch_sampler=todo, num_workers=context.workers)
    for indices, (images,) in bar(loaded(loader), f"walks of {data.name}", len(todo)):
        read = [read_cams(cams, data, int(i)) for i in indices]
        maps = [fabric.to_device(cams_of_image) for _, cams_of_image in read]
        with named(data, int(indices[0])), fabric.autocast():
            walked = method.walk(fabric.to_device(images.contiguous()), maps)
        for index, (classes, _), scores in zip(indices.tolist(), read, walked, strict=True):
            store.write(data.ids[index], classes, scores)
    fabric.barrier()
