"""The random walk over a whole data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wsss_lib.data.dataset import Dataset
from wsss_lib.methods.affinitynet import AffinityNet, enlarge
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


@torch.inference_mode()
def walk(
    method: AffinityNet,
    data: Dataset,
    cams: CamStore,
    store: ScoreStore,
    context: Context,
) -> None:
    """Write the walked scores of every image of a data set that the store does not have yet.

    Args:
        method: The method that makes the affinities; it is put into evaluation mode.
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
