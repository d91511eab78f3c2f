"""Measures of how well CAM seeds and superpixels follow the boundaries of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.segmentation import slic
from torch import Tensor

from wsss_lib.data.dataset import Dataset, DatasetView
from wsss_lib.data.files import IGNORE
from wsss_lib.data.large import resize_labels
from wsss_lib.data.transforms import Normalise, resize, to_tensor
from wsss_lib.models.superpixel_net import CELL, SuperpixelNet
from wsss_lib.ops.boundaries import achievable_accuracy, boundary_band, boundary_recall, superpixel_labels
from wsss_lib.results.compare import Comparison
from wsss_lib.runs.cam import CamRun
from wsss_lib.stages.evaluate import score_cams

Segmenter = Callable[[Image.Image], Tensor]
"""Function from an RGB picture to the ``(H, W)`` int64 number of each pixel's segment, from 0."""


class NearBoundaries(DatasetView):
    """A data set in which only the pixels near the boundaries of objects are scored.

    Args:
        whole: Data set with masks.
        radius: Greatest distance from a boundary, in pixels of the working size.
    """

    def __init__(self, whole: Dataset, radius: int = 5) -> None:
        super().__init__(whole, f"{whole.name}, near boundaries", range(len(whole)))
        self.radius = radius

    def mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index``, 255 far from all boundaries."""
        return boundary_band(torch.from_numpy(super().mask(index)), self.radius).numpy()

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask at the image's own size. Pixels far from boundaries are found at the working size."""
        if (size := self.own_size(index)) == self.size(index):
            return self.mask(index)
        far = resize_labels(self.mask(index), size) == IGNORE
        return np.where(far, np.uint8(IGNORE), super().own_mask(index))


def boundary_scores(runs: Mapping[str, CamRun], comparison: Comparison, radius: int = 5) -> dict[str, float]:
    """Return the mean IoU of each run on ``val`` near boundaries, at the run's threshold; empty without masks.

    Args:
        runs: Runs by name.
        comparison: Result of :func:`wsss_lib.results.compare.compare` for these runs.
        radius: See `NearBoundaries`.
    """
    scores = {}
    for name, run in runs.items():
        data = run.data("val")
        if name in comparison and data.has_masks:
            threshold = comparison[name]["threshold"]
            scores[name] = float(
                score_cams(run.cams("val"), NearBoundaries(data, radius), [threshold], partial=True).mean_iou[0]
            )
    return scores


@dataclass(frozen=True)
class SegmentQuality:
    """Scores of segments as means over the images; all except the last are in [0, 1].

    Attributes:
        accuracy: Achievable accuracy, see :func:`wsss_lib.ops.boundaries.achievable_accuracy`.
        recall: Boundary recall within 2 pixels, see :func:`wsss_lib.ops.boundaries.boundary_recall`; images without a
            boundary do not count.
        count: Number of segments per image.
    """

    accuracy: float
    recall: float
    count: float


def segment_quality(segmenter: Segmenter, data: Dataset, indices: Sequence[int]) -> SegmentQuality:
    """Score the segments of some images of a data set with masks."""
    rows = []
    for index in indices:
        segments, truth = segmenter(data.image(index)), torch.from_numpy(data.mask(index))
        rows.append(
            [achievable_accuracy(segments, truth), boundary_recall(segments, truth), float(len(segments.unique()))]
        )
    return SegmentQuality(*torch.tensor(rows, dtype=torch.float64).nanmean(0).tolist())


def grid_size(image: Image.Image, scale: float) -> tuple[int, int]:
    """Return the numbers of rows and columns of cells in an image that is enlarged by ``scale`` to whole cells."""
    rows, columns = (max(1, -(-round(length * scale) // CELL)) for length in (image.height, image.width))
    return rows, columns


def by_network(network: SuperpixelNet, normalise: Normalise, scale: float = 1.0) -> Segmenter:
    """Return a segmenter that enlarges a picture by ``scale`` to whole cells and applies the superpixel network."""

    @torch.inference_mode()
    def segment(image: Image.Image) -> Tensor:
        rows, columns = grid_size(image, scale)
        device = next(network.parameters()).device
        pixels = normalise(to_tensor(resize(image, rows * CELL, columns * CELL)))[None].to(device)
        labels = superpixel_labels(network.eval()(pixels)["association"]).cpu()
        return F.interpolate(labels[None].double(), (image.height, image.width), mode="nearest-exact")[0, 0].long()

    return segment


def by_slic(scale: float = 1.0, compactness: float = 10.0) -> Segmenter:
    """Return a segmenter that applies SLIC (Achanta et al., PAMI 2012), with one segment for each cell."""

    def segment(image: Image.Image) -> Tensor:
        rows, columns = grid_size(image, scale)
        count = rows * columns
        return torch.from_numpy(slic(np.asarray(image), count, compactness, start_label=0).astype(np.int64))

    return segment


def by_squares(scale: float = 1.0) -> Segmenter:
    """Return a segmenter whose segments are the cells."""

    def segment(image: Image.Image) -> Tensor:
        rows, columns = grid_size(image, scale)
        row = torch.arange(image.height) * rows // image.height
        column = torch.arange(image.width) * columns // image.width
        return row[:, None] * columns + column

    return segment
