"""How far the traps of the toy world mislead a method: the part, the context, the shortcut."""

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
    """Where on the objects the activation lies. Means over the classes of all images, in [0, 1]; NaN if all maps are 0.

    Attributes:
        share: Share of the activation on an object that falls on its discriminative part.
        area: Share of the object's visible pixels that are that part; what `share` would be for an even activation.
        peak: Share of the maps whose highest activation on the object lies on the part.
        covered: Share of the object's other pixels, its body, with an activation above the threshold.
    """

    share: float
    area: float
    peak: float
    covered: float


@dataclass(frozen=True)
class ContextLeak:
    """How strongly the background lights up. Means over the classes of all images.

    Attributes:
        own: Mean activation, in [0, 1], on the class's own background, where the image shows it.
        other: Mean activation on the rest of the background.
    """

    own: float
    other: float


@dataclass(frozen=True)
class ShortcutReliance:
    """How much a classifier owes to the frequency pattern, on the same images with and without it.

    Attributes:
        accuracy: Share of the images on which every label is right (logit above 0 or not), with the pattern.
        accuracy_without: The same without the pattern.
        precision: Mean average precision with the pattern.
        precision_without: The same without the pattern.
    """

    accuracy: float
    accuracy_without: float
    precision: float
    precision_without: float


def _shown_classes(store: CamStore, world: ToyWorld) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield the position of an image, a class it shows, the class's map ``(H, W)`` and its object's pixels."""
    for index, image_id in enumerate(world.ids):
        mask = torch.from_numpy(world.mask(index))
        for kind, cam in zip(*store.read(image_id), strict=True):
            yield index, int(kind), cam, mask == kind + 1


def _means(rows: list[list[Tensor]], columns: int) -> list[float]:
    """Return the mean of every column; NaN if there is no row."""
    return torch.tensor(rows).view(-1, columns).mean(0).tolist()


def part_focus(store: CamStore, world: ToyWorld, threshold: float) -> PartFocus:
    """Measure how much plain activation prefers the discriminative part to the body that two classes share.

    Args:
        store: The maps of the images of ``world``.
        world: A split of the toy world.
        threshold: The activation from which a pixel counts as found.
    """
    rows = []
    for index, kind, cam, thing in _shown_classes(store, world):
        part = torch.from_numpy(world.part(index) == kind + 1) & thing
        body = thing & ~part
        on_thing = cam * thing
        if part.any() and body.any() and on_thing.any():
            peak = part.flatten()[on_thing.argmax()]
            rows.append(
                [activation_share(on_thing, part), part.sum() / thing.sum(), peak, covered_share(cam, body, threshold)]
            )
    return PartFocus(*_means(rows, 4))


def context_leak(store: CamStore, world: ToyWorld) -> ContextLeak:
    """Measure whether a class's own background lights up more than other background.

    Args:
        store: The maps of the images of ``world``.
        world: A split of the toy world.
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
    """Measure what a classifier loses when the frequency pattern is taken off the images that it was trained on.

    Args:
        classify: Returns the logits ``(n, K)`` of a data set, see :meth:`wsss_lib.runs.cam.CamRun.classify`.
        world: The training split of the toy world.
    """
    results = []
    for data in (world, ShortcutFree(world)):
        logits = classify(data)
        right = ((logits > 0) == (data.labels > 0)).all(dim=1).float().mean()
        results.append((float(right), float(class_mean(average_precision(logits, data.labels)))))
    (accuracy, precision), (accuracy_without, precision_without) = results
    return ShortcutReliance(accuracy, accuracy_without, precision, precision_without)
