"""Measures of how strongly the traps of the toy world mislead a method: part, context and shortcut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.toy import ShortcutFree, ToyWorld
from wsss_lib.ops.cam import activation_share, covered_share
from wsss_lib.ops.metrics import average_precision, class_mean
from wsss_lib.stages.store import CamStore


@dataclass(frozen=True)
class PartFocus:
    """Distribution of the activation on objects, as means over the classes of all images, in [0, 1].

    All values are NaN if all maps are 0.

    Attributes:
        share: Share of the activation on an object that is on its discriminative part.
        area: Share of the object's visible pixels that belong to the part. An even activation has this `share`.
        peak: Share of the maps whose highest activation on the object is on the part.
        covered: Share of the object's other pixels, its body, with an activation above the threshold.
    """

    share: float
    area: float
    peak: float
    covered: float


@dataclass(frozen=True)
class ContextLeak:
    """Activation on background, as means over the classes of all images.

    Attributes:
        own: Mean activation, in [0, 1], on the class's own background, if the image shows it.
        other: Mean activation, in [0, 1], on the rest of the background.
    """

    own: float
    other: float


@dataclass(frozen=True)
class ShortcutReliance:
    """Scores of a classifier on the same images with and without the frequency pattern.

    Attributes:
        accuracy: Share of the images with all labels right (logit above 0 or not), with the pattern.
        accuracy_without: Share of the images with all labels right, without the pattern.
        precision: Mean average precision with the pattern.
        precision_without: Mean average precision without the pattern.
    """

    accuracy: float
    accuracy_without: float
    precision: float
    precision_without: float


def _shown_classes(store: CamStore, world: ToyWorld) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield the position of an image, one of its classes, the class's map ``(H, W)`` and the pixels of its objects."""
    for index, image_id in enumerate(world.ids):
        mask = torch.from_numpy(world.mask(index))
        for kind, cam in zip(*store.read(image_id), strict=True):
            yield index, int(kind), cam, mask == kind + 1


def _means(rows: list[list[Tensor]], columns: int) -> list[float]:
    """Return the mean of each column; NaN if there are no rows."""
    return torch.tensor(rows).view(-1, columns).mean(0).tolist()


def part_focus(store: CamStore, world: ToyWorld, threshold: float) -> PartFocus:
    """Measure how the activation is divided between the discriminative part and the body, which two classes share.

    Args:
        store: Maps of the images of ``world``.
        world: Split of the toy world.
        threshold: Activation above which a pixel counts as found.
    """
    rows = []
    for index, kind, cam, pixels in _shown_classes(store, world):
        part = torch.from_numpy(world.part(index) == kind + 1) & pixels
        body = pixels & ~part
        inside = cam * pixels
        if part.any() and body.any() and inside.any():
            peak = part.flatten()[inside.argmax()]
            rows.append(
                [activation_share(inside, part), part.sum() / pixels.sum(), peak, covered_share(cam, body, threshold)]
            )
    return PartFocus(*_means(rows, 4))


def context_leak(store: CamStore, world: ToyWorld) -> ContextLeak:
    """Measure the activation on a class's own background and on other background.

    Args:
        store: Maps of the images of ``world``.
        world: Split of the toy world.
    """
    rows = []
    for index, kind, cam, _ in _shown_classes(store, world):
        background = torch.from_numpy(world.mask(index) == 0)
        own = torch.from_numpy(world.context(index) == kind + 1) & background
        other = background & ~own
        if own.any() and other.any():
            rows.append([cam[own].mean(), cam[other].mean()])
    return ContextLeak(*_means(rows, 2))


def shortcut_reliance(classify: Callable[[Dataset], Tensor], world: ToyWorld) -> ShortcutReliance:
    """Score a classifier on images with the frequency pattern, and on the same images without it.

    Args:
        classify: Function that returns the logits ``(n, K)`` of a data set, such as
            :meth:`wsss_lib.runs.cam.CamRun.classify`.
        world: Images of the toy world that have the pattern.
    """
    results = []
    for data in (world, ShortcutFree(world)):
        logits = classify(data)
        right = ((logits > 0) == (data.labels > 0)).all(dim=1).float().mean()
        results.append((float(right), float(class_mean(average_precision(logits, data.labels)))))
    (accuracy, precision), (accuracy_without, precision_without) = results
    return ShortcutReliance(accuracy, accuracy_without, precision, precision_without)
