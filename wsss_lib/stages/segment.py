"""The masks of a final segmentation network for a whole data set, and what the CRF after it sees."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from wsss_lib.data.dataset import Dataset, DatasetView
from wsss_lib.methods.segmentation import Segmentation
from wsss_lib.models.backbone import Normalisation
from wsss_lib.show.progress import bar
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import loaded
from wsss_lib.stages.infer import Views, named
from wsss_lib.stages.refine import label_map
from wsss_lib.stages.store import MaskStore, ScoreStore

_NEGLIGIBLE = 0.01
"""A class that is nowhere more probable than this is left out of what the CRF gets; it could not win."""


class WrappedColours(DatasetView):
    """Images as DeepLab's code hands them to the CRF: without the mean colour, in the wrong range, BGR.

    Negative values are rounded towards 0 and taken modulo 256. The lattice is not an exact Gaussian, so the order of
    the channels shows.

    Args:
        whole: The images.
        normalisation: Normalisation of the network, whose mean is subtracted.
    """

    def __init__(self, whole: Dataset, normalisation: Normalisation) -> None:
        super().__init__(whole, whole.name, range(len(whole)))
        self.mean = torch.tensor(normalisation.mean) * normalisation.divisor

    def image(self, index: int) -> Image.Image:
        """Return image ``index``, whose 8-bit "RGB" is BGR."""
        return wrapped_colours(super().image(index), self.mean)


def wrapped_colours(image: Image.Image, mean: Tensor) -> Image.Image:
    """Return one image of :class:`WrappedColours`; ``mean`` is the mean colour ``(3,)``, from 0 to 255."""
    pixels = torch.from_numpy(np.array(image)).float() - mean
    return Image.fromarray(pixels.flip(-1).trunc().remainder(256).to(torch.uint8).numpy())


def likely_classes(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a CRF gets of class probabilities ``(1 + K, H, W)``, background first.

    Returns:
        The n classes that may be in the image, ``(n,)`` int64 from 0, and their probabilities ``(1 + n, H, W)``,
        background first.
    """
    classes = (scores[1:].amax((1, 2)) > _NEGLIGIBLE).nonzero().flatten()
    return classes, torch.cat([scores[:1], scores[1 + classes]])


def probabilities_of(store: ScoreStore, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
    """Return the classes that may be in an image and their probabilities ``(1, 1 + n, H, W)``, background first."""
    classes, scores = store.read(data.ids[index])
    return classes, scores[None]


@torch.inference_mode()
def infer_masks(
    method: Segmentation,
    data: Dataset,
    masks: MaskStore,
    scores: ScoreStore,
    done: set[str],
    context: Context,
) -> None:
    """Write the masks of every image of a data set that is not done yet, and what a CRF needs.

    Args:
        method: The method that makes the probabilities; it is put into evaluation mode.
        data: The images; their labels are not used.
        masks: The store that receives the most probable labels.
        scores: The store that receives the probabilities of the classes that are not negligible.
        done: The ids of the images that need not be looked at.
        context: Engine, normalisation and number of loading processes.
    """
    method.train(False)
    fabric = context.fabric
    views = Views(data, (1.0,), context.normalise, None, enlarged=max(method.config.scales))
    todo = views.missing_batches(done, fabric)
    loader = DataLoader(views, batch_sampler=todo, num_workers=context.workers)
    for indices, (images,) in bar(loaded(loader), f"masks of {data.name}", len(todo)):
        with named(data, int(indices[0])), fabric.autocast():
            found = method.probabilities(fabric.to_device(images.contiguous()))
        for index, image_scores in zip(indices.tolist(), found, strict=True):
            scores.write(data.ids[index], *likely_classes(image_scores))
            every = torch.arange(len(image_scores) - 1, device=image_scores.device)
            masks.write(data.ids[index], label_map(every, image_scores, data.own_size(index)))
    fabric.barrier()
