"""Scores of CAM seeds against masks, at all background thresholds in one pass over the data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.errors import InputError
from wsss_lib.ops.cam import enlarged_bands
from wsss_lib.ops.metrics import (
    class_mean,
    confusion_matrix,
    frequency_weighted_iou,
    intersection_over_union,
    occurring,
    pixel_accuracy,
    precision,
    recall,
    sweep_confusions,
    sweep_histogram,
)
from wsss_lib.show.progress import bar
from wsss_lib.stages.store import CamStore, MaskStore, read_cams

S = TypeVar("S")
T = TypeVar("T")

THRESHOLDS = tuple(i / 100 for i in range(100))
"""Background thresholds of the sweep: 0.00, 0.01, ..., 0.99."""


_PIXELS = 2**20
"""Pixels of a mask that are counted at once."""


@dataclass(frozen=True)
class CamScores:
    """The confusion matrices of a data set at several background thresholds.

    Attributes:
        classes: The C class names, ``background`` first.
        thresholds: ``(T,)`` ascending.
        confusions: ``(T, C, C)`` int64, true class × predicted class.
    """

    classes: tuple[str, ...]
    thresholds: Sequence[float]
    confusions: Tensor

    @cached_property
    def iou(self) -> Tensor:
        """Intersection over union, ``(T, C)`` float64; NaN for a class that neither occurs nor is predicted."""
        return intersection_over_union(self.confusions)

    @cached_property
    def mean_iou(self) -> Tensor:
        """The mean of :attr:`iou` over the classes, ``(T,)`` float64, NaN left out."""
        return class_mean(self.iou)

    @property
    def best(self) -> int:
        """Position of the threshold with the highest mean; the lowest of equals."""
        return int(self.mean_iou.argmax())

    def position(self, threshold: float) -> int:
        """Return the position of a threshold.

        Raises:
            InputError: The threshold is not one of the sweep.
        """
        distances = [abs(t - threshold) for t in self.thresholds]
        position = min(range(len(distances)), key=distances.__getitem__)
        if distances[position] > 1e-9:
            raise InputError(f"threshold {threshold} is not one of the sweep; give a multiple of 0.01 below 1.")
        return position

    def summary(self, position: int, chosen: str) -> dict[str, Any]:
        """Return the scores at one threshold as plain values.

        Args:
            position: Position of the threshold.
            chosen: Words that say how the threshold was chosen.
        """
        return {
            "threshold": self.thresholds[position],
            "threshold_chosen": chosen,
            **confusion_summary(self.confusions[position], self.classes),
        }


def confusion_summary(confusion: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores that follow from a confusion matrix as plain values.

    Args:
        confusion: ``(C, C)`` int64, true class × predicted class.
        classes: The C class names, ``background`` first.
    """
    columns = {
        "iou": intersection_over_union(confusion),
        "precision": precision(confusion),
        "recall": recall(confusion),
    }
    return {
        **{f"mean_{column}": float(class_mean(values)) for column, values in columns.items()},
        "mean_iou_occurring": float(class_mean(occurring(columns["iou"], confusion))),
        "pixel_accuracy": float(pixel_accuracy(confusion)),
        "frequency_weighted_iou": float(frequency_weighted_iou(confusion)),
        "classes": {
            name: {column: float(values[i]) for column, values in columns.items()} for i, name in enumerate(classes)
        },
    }


def read_with_mask(store: CamStore, data: Dataset, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``classes`` ``(n,)``, ``cams`` ``(n, h, w)``, and the mask ``(H, W)`` uint8 of an image at its own size.

    Raises:
        InputError: Mask or maps are missing, damaged, or the maps do not fit the image.
    """
    truth = torch.from_numpy(data.own_mask(index))
    classes, cams = read_cams(store, data, index)
    return classes, cams, truth


def _sweep(cams: Tensor, classes: Tensor, truth: Tensor, levels: Tensor, num_classes: int) -> Tensor:
    """Return what :func:`sweep_histogram` counts with the maps enlarged to the mask."""
    total = torch.zeros((), dtype=torch.int64)
    for rows, scores in enlarged_bands(cams, (truth.shape[0], truth.shape[1])):
        total = total + sweep_histogram(scores, classes, truth[rows], levels, num_classes)
    return total


def score_cams(
    store: CamStore, data: Dataset, thresholds: Sequence[float] = THRESHOLDS, partial: bool = False
) -> CamScores:
    """Score the maps of a store, enlarged to the images' own sizes, against the masks of a data set.

    Args:
        store: The maps, normalised to [0, 1].
        data: The images, with masks.
        thresholds: The background thresholds, ascending.
        partial: Whether the masks hold only a part of the true pixels, so that they may be empty.

    Raises:
        InputError: A mask or map is missing, damaged or of another size, or no mask shows a class.
    """
    num_classes = len(data.classes) + 1
    levels = torch.tensor(thresholds)

    def count(index: int) -> Tensor:
        classes, cams, truth = read_with_mask(store, data, index)
        return _sweep(cams, classes, truth, levels, num_classes)

    confusions = sweep_confusions(_sum_over_images(count, data))
    if not partial:
        refuse_empty_masks(confusions[0], data)
    return CamScores(("background", *data.classes), thresholds, confusions)


def score_masks(store: MaskStore, data: Dataset) -> Tensor:
    """Return the confusion matrix ``(C, C)`` int64, true class × predicted class, of the masks of a store.

    Raises:
        InputError: A mask is missing, damaged or of another size, or does not decide about every pixel, or no true mask
            shows a class.
    """
    confusion = _sum_over_images(lambda index: mask_confusion(store, data, index), data)
    refuse_empty_masks(confusion, data)
    return confusion


def mask_confusion(store: MaskStore, data: Dataset, index: int) -> Tensor:
    """Return the confusion matrix ``(C, C)`` int64 of one image's mask; see :func:`score_masks`.

    Raises:
        InputError: A mask is missing, damaged or of another size, or does not decide about every pixel.
    """
    truth = torch.from_numpy(data.own_mask(index))
    mask = store.read(data.ids[index], len(data.classes), data.own_size(index))
    if (mask == 255).any():
        raise InputError(f"{store.path(data.ids[index])} has ignored pixels, which cannot be scored; make it again.")
    rows = max(1, _PIXELS // truth.shape[1])
    parts = zip(truth.split(rows), mask.split(rows), strict=True)
    return torch.stack([confusion_matrix(*part, len(data.classes) + 1) for part in parts]).sum(0)


def refuse_empty_masks(confusion: Tensor, data: Dataset) -> None:
    """Raise for true masks with which nothing can be scored, as they are if a drawing program saved them in 0 and 255.

    Args:
        confusion: ``(C, C)`` int64 over all images, true class × predicted class.
        data: The images.

    Raises:
        InputError: The masks hold nothing but ignored pixels, or no class although the labels name some.
    """
    pixels = confusion.sum(1)
    if pixels.sum() > 0 and (pixels[1:].sum() > 0 or not data.labels.any()):
        return
    found = "background (0) and ignored (255)" if pixels.sum() > 0 else "ignored (255)"
    raise InputError(
        f"the masks of {data.name} ({data.truth or 'in memory'}) cannot be scored: every pixel is {found}, none shows "
        'a class; if 255 stands for a class, say so with mask_values, such as "0:0,255:1", else give masks that hold '
        "the class numbers."
    )


def _sum_over_images(count: Callable[[int], Tensor], data: Dataset) -> Tensor:
    """Add up what ``count`` returns for the position of every image."""
    total = torch.zeros((), dtype=torch.int64)
    with ThreadPoolExecutor(4) as pool:  # decoding waits for files and leaves the interpreter free
        for counts in bar(ahead(pool, count, range(len(data))), f"scores of {data.name}", len(data)):
            total = total + counts
    return total


def ahead(pool: ThreadPoolExecutor, function: Callable[[S], T], items: Iterable[S], count: int = 16) -> Iterator[T]:
    """Yield ``function`` of every item in order, while the pool works on the next ones.

    Unlike ``pool.map`` it never has more than ``count`` of them begun and not yielded, so that results which come
    faster than they are used do not fill the memory.
    """
    futures: deque[Future[T]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) == count:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def lowest(scores: Tensor, count: int) -> list[int]:
    """Return the positions of the lowest of the scores ``(n,)``, ascending; those that are NaN are left out."""
    order = scores.argsort()
    return order[~scores[order].isnan()][:count].tolist()


def score_images(store: CamStore, data: Dataset, threshold: float) -> Tensor:
    """Score every image separately, to find the failures.

    Args:
        store: The maps, normalised to [0, 1].
        data: The images, with masks.
        threshold: The background threshold.

    Returns:
        ``(n,)`` float64: the mean intersection over union of the classes that occur in the mask or in the CAM seed; NaN
        for an image without a mask.
    """
    confusions = image_confusions(store, data, threshold)
    return torch.stack([class_mean(intersection_over_union(confusion)) for confusion in confusions])


def image_confusions(store: CamStore, data: Dataset, threshold: float) -> Iterator[Tensor]:
    """Yield the confusion matrix ``(C, C)`` int64 of the CAM seed of every image, in order.

    Args:
        store: The maps, normalised to [0, 1].
        data: The images, with masks; the matrix of an image without a mask is zero.
        threshold: The background threshold.
    """
    num_classes = len(data.classes) + 1
    levels = torch.tensor([threshold])
    for index in range(len(data)):
        classes, cams, truth = read_with_mask(store, data, index)
        yield sweep_confusions(_sweep(cams, classes, truth, levels, num_classes))[0]
