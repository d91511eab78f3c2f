"""Checks for the exercises. A check prints whether an answer is right, and otherwise how it differs for which input.

An exercise starts as a function that returns None. Its check then prints that the exercise is not solved yet, and does
not raise an error. So a notebook with unsolved exercises runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from wsss_lib.methods.acr import target_map
from wsss_lib.methods.affinitynet import semi_labels
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.irn import confident_labels
from wsss_lib.methods.oc_cse import erasing_mask, remaining_labels
from wsss_lib.models.mctformer import refine_by_patches
from wsss_lib.ops.calibration import calibration_error
from wsss_lib.ops.cam import cam_label, normalise_maximum, normalise_range
from wsss_lib.ops.metrics import intersection_over_union
from wsss_lib.show.choices import CHOICES
from wsss_lib.show.pencil import NUMBERS

_NEAR = 0.0051
"""Greatest difference of two numbers that are equal when they are rounded to two digits after the point."""

_EQUAL = 1e-4
"""Greatest difference of two results that count as equal."""


def check_cam(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from features ``(C, h, w)`` and head weights ``(K, C)`` to normalised CAMs ``(K, h, w)``."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(8, 5, 7, generator=random).relu()
    weights = torch.randn(3, 8, generator=random)
    signed = torch.einsum("chw,kc->khw", features, weights)
    wanted = normalise_maximum(signed.relu())
    mistakes = {
        "You did not rectify the maps.": normalise_maximum(signed),
        "You did not divide each map by its maximum.": signed.relu(),
        "Each map is divided by its own maximum, not by that of all maps.": signed.relu() / signed.max(),
    }
    return _compare(answer(features, weights), wanted, "random features (8, 5, 7) and weights (3, 8)", mistakes)


def check_cam_label(answer: Callable[[Tensor, Tensor, float], Tensor | None]) -> bool:
    """Check a function from maps ``(n, H, W)``, classes ``(n,)`` and a threshold to the CAM seed ``(H, W)``."""
    random = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 6, 6, generator=random)
    classes = torch.tensor([4, 11])
    wanted = cam_label(maps, classes, 0.6)
    mistakes = {
        "Class k has the label k + 1, because 0 is background.": cam_label(maps, classes - 1, 0.6),
        "The label is the class of the map, not its place among the maps.": cam_label(maps, torch.arange(2), 0.6),
    }
    inputs = "random maps of the classes 4 and 11, threshold 0.6"
    return _compare(answer(maps, classes, 0.6), wanted, inputs, mistakes)


def check_mean_iou(answer: Callable[[Tensor], float | None]) -> bool:
    """Check a function from a confusion matrix ``(C, C)`` (rows true, columns predicted) to the mean IoU."""
    confusion = torch.tensor([[50, 3, 7], [4, 20, 0], [6, 2, 8]])
    wanted = intersection_over_union(confusion).mean()
    hits, true, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    mistakes = {
        "This is the mean recall; divide by the union of true and predicted pixels.": (hits / true).mean(),
        "The right pixels are counted twice in the union; subtract them once.": (hits / (true + found)).mean(),
        "This is the share of all pixels that are right.": hits.sum() / confusion.sum(),
    }
    given = answer(confusion)
    result = torch.tensor(given) if isinstance(given, float | int) else given
    return _compare(result, wanted, f"the matrix {confusion.tolist()}", mistakes)


def check_affinity(answer: Callable[[Tensor, int, int], Tensor | None]) -> bool:
    """Check a function from features ``(C, h, w)`` and an offset ``dy, dx`` (both at least 0) to affinities.

    The result is ``(h - dy, w - dx)``: the affinity of each pixel with the pixel ``dy`` below and ``dx`` to the right.
    """
    random = torch.Generator().manual_seed(2)
    features = torch.randn(6, 5, 7, generator=random)
    apart = (features[:, 2:, 1:] - features[:, :-2, :-1]).abs()
    mistakes = {
        "This is the distance; the affinity is the exponential of minus the distance.": apart.mean(0),
        "Take the mean over the channels, not the sum.": torch.exp(-apart.sum(0)),
    }
    inputs = "random features (6, 5, 7) and the offset dy 2, dx 1"
    return _compare(answer(features, 2, 1), torch.exp(-apart.mean(0)), inputs, mistakes)


def check_walk(answer: Callable[[Tensor, Tensor, int], Tensor | None]) -> bool:
    """Check a function from a transition matrix ``(N, N)``, scores ``(N, 2)`` and t to the scores after t steps."""
    random = torch.Generator().manual_seed(3)
    transition, scores = torch.rand(5, 5, generator=random), torch.rand(5, 2, generator=random)
    transition = transition / transition.sum(1, keepdim=True)
    wanted = torch.linalg.matrix_power(transition, 3) @ scores
    mistakes = {
        "This is one step.": transition @ scores,
        "The power of a matrix is not the power of its entries.": transition**3 @ scores,
        "Multiply by T from the left, not by its transpose.": torch.linalg.matrix_power(transition.t(), 3) @ scores,
    }
    inputs = "a random matrix (5, 5), random scores (5, 2) and t = 3"
    return _compare(answer(transition, scores, 3), wanted, inputs, mistakes)


def check_semi_labels(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from low- and high-alpha scores ``(1 + n, h, w)`` to the three-way label map ``(h, w)``."""
    random = torch.Generator().manual_seed(4)
    low, high = (torch.rand(3, 6, 6, generator=random).softmax(0) for _ in range(2))
    mistakes = {"You exchanged the low and the high α.": semi_labels(high, low)}
    inputs = "random scores of background and two classes"
    return _compare(answer(low, high), semi_labels(low, high), inputs, mistakes)


def check_erasing_mask(answer: Callable[[Tensor, tuple[int, int]], Tensor | None]) -> bool:
    """Check a function from signed maps ``(B, 1, h, w)`` and a size to masks ``(B, 1, H, W)``, image by image."""
    maps = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(5))
    wanted = erasing_mask(maps, (8, 10), "image")
    mistakes = {
        "You divided by the maximum of the batch.": erasing_mask(maps, (8, 10)),
        "You rectified before you enlarged the maps.": erasing_mask(maps.relu(), (8, 10), "image"),
    }
    return _compare(answer(maps, (8, 10)), wanted, "random maps (3, 1, 4, 5) and the size (8, 10)", mistakes)


def check_erasing_loss(answer: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from logits ``(B, K)``, labels ``(B, K)`` and targets ``(B,)`` to OC-CSE's erasing loss."""
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(6))
    labels, targets = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]), torch.tensor([2, 1])
    wanted = classification_loss(logits, remaining_labels(labels, targets))
    inputs = f"random logits, the labels {labels.int().tolist()} and the targets {targets.tolist()}"
    mistakes = {"The labels still hold the target.": classification_loss(logits, labels)}
    return _compare(answer(logits, labels.clone(), targets), wanted, inputs, mistakes)


def check_target_share(answer: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from signed maps ``(B, K, h, w)``, labels ``(B, K)`` and targets ``(B,)`` to ACR's shares."""
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    maps[0, 0] = maps[0, 0].abs() + 1
    labels, targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2])
    wanted = target_map(maps, labels, targets, (4, 5))
    chosen, shown = maps[range(2), targets][:, None].relu(), labels[range(2), targets].view(2, 1, 1, 1)
    highest = chosen.amax((2, 3), keepdim=True)
    mistakes = {
        "You did not subtract the minimum.": shown * (chosen - 1e-5).relu() / (highest + 1e-5),
        "You forgot the labels: the second image does not show its target.": normalise_range(chosen),
    }
    inputs = f"random maps, the labels {labels.int().tolist()} and the targets {targets.tolist()}"
    return _compare(answer(maps.clone(), labels.clone(), targets), wanted, inputs, mistakes)


def check_segment_error(answer: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from drawn and true images ``(B, 3, H, W)`` and masks ``(B, 1, H, W)`` to errors ``(B,)``.

    The error is averaged over the area of the mask, each image by itself.
    """
    random = torch.Generator().manual_seed(8)
    drawn, images = torch.randn(2, 2, 3, 4, 4, generator=random)
    mask = torch.rand(2, 1, 4, 4, generator=random)
    error = ((drawn - images).abs() * mask).sum((1, 2, 3))
    mistakes = {
        "You averaged over all values, as (3) does; divide by the area of the mask.": error / drawn[0].numel(),
        "You divided by the area, but the error has three channels.": error / mask.sum((1, 2, 3)),
    }
    wanted = error / (3 * mask.sum((1, 2, 3)))
    return _compare(answer(drawn, images, mask), wanted, "random images and a random mask", mistakes)


def check_refine(answer: Callable[[Tensor, Tensor, int], Tensor | None]) -> bool:
    """Check a function from attention among patches ``(B, N, N)``, maps ``(B, C, h, w)`` and a radius to refined maps.

    A patch takes only from patches at most ``radius`` rows and at most ``radius`` columns away.
    """
    random = torch.Generator().manual_seed(9)
    among, maps = torch.rand(2, 12, 12, generator=random), torch.rand(2, 5, 3, 4, generator=random)
    mistakes = {
        "Each patch takes from all patches; leave out those that are too far away.": refine_by_patches(among, maps),
        "You used the attention the wrong way round: patch i takes from patch j with the weight in row i.": (
            refine_by_patches(among.transpose(1, 2), maps, 1)
        ),
    }
    inputs = "random attention (2, 12, 12), random maps (2, 5, 3, 4) and the radius 1"
    return _compare(answer(among, maps, 1), refine_by_patches(among, maps, 1), inputs, mistakes)


def check_without_wave(answer: Callable[[Tensor, int, int], Tensor | None]) -> bool:
    """Check a function from a picture ``(H, W)`` and a wave, cycles down and across, to the picture without it."""
    picture = torch.rand(8, 10, generator=torch.Generator().manual_seed(10))
    coefficients = torch.fft.fft2(picture)
    coefficients[2, 3] = 0
    halved = torch.fft.ifft2(coefficients).real
    coefficients[-2, -3] = 0
    mistakes = {"The wave is only halved: remove the coefficient at the opposite frequency, too.": halved}
    wanted = torch.fft.ifft2(coefficients).real
    return _compare(answer(picture.clone(), 2, 3), wanted, "a random picture (8, 10) and the wave (2, 3)", mistakes)


def check_superpixel_means(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from features ``(C, N)`` and shares ``(M, N)`` of M superpixels to means ``(C, M)``."""
    random = torch.Generator().manual_seed(11)
    features, shares = torch.randn(3, 10, generator=random), torch.rand(4, 10, generator=random)
    sums = features @ shares.t()
    mistakes = {
        "These are sums; divide each by the sum of the shares of its superpixel.": sums,
        "You divided by the number of pixels; divide by the sum of the shares of each superpixel.": sums / 10,
    }
    wanted = sums / shares.sum(1)
    return _compare(answer(features, shares), wanted, "random features (3, 10) and shares (4, 10)", mistakes)


def check_prototypes(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from class maps ``(K, N)`` and directions ``(d, N)`` to MSAL's IPC loss of one patch."""
    random = torch.Generator().manual_seed(12)
    maps, directions = torch.rand(3, 12, generator=random), torch.randn(4, 12, generator=random)
    directions = directions / directions.norm(dim=0)

    def loss(shares: Tensor) -> Tensor:
        prototypes = directions @ shares.t() / shares.sum(1)
        return (prototypes @ shares - directions).square().sum(0).mean()

    mistakes = {
        "You left out the background and its prototype.": loss(maps),
        "The background is 1 minus the highest map, not 1 minus the sum.": loss(
            torch.cat([1 - maps.sum(0, keepdim=True), maps])
        ),
        "You averaged over the numbers of a direction, too; add them up.": (
            loss(torch.cat([1 - maps.amax(0, keepdim=True), maps])) / 4
        ),
    }
    wanted = loss(torch.cat([1 - maps.amax(0, keepdim=True), maps]))
    return _compare(answer(maps, directions), wanted, "random maps (3, 12) and directions (4, 12)", mistakes)


def check_path_affinity(answer: Callable[[Tensor, list[tuple[int, int]]], Tensor | None]) -> bool:
    """Check a function from boundaries ``(h, w)`` and a path's cells, (row, column) each, to the affinity ``()``."""
    boundaries = torch.rand(6, 8, generator=torch.Generator().manual_seed(13))
    cells = [(4, 5), (3, 4), (3, 3), (2, 3), (2, 2), (1, 1)]
    values = torch.stack([boundaries[cell] for cell in cells])
    mistakes = {
        "This is the highest boundary; the affinity is 1 minus it.": values.max(),
        "You used the two ends alone.": 1 - values[[0, -1]].max(),
    }
    inputs = "random boundaries (6, 8) and a path of six cells"
    return _compare(answer(boundaries, cells), 1 - values.max(), inputs, mistakes)


def check_confident_labels(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from two class maps ``(H, W)``, careful and generous, to the three-way label map ``(H, W)``."""
    random = torch.Generator().manual_seed(14)
    objects, background = (torch.randint(0, 3, (6, 6), generator=random) for _ in range(2))
    mistakes = {"You exchanged the two label maps.": confident_labels(background, objects)}
    wanted = confident_labels(objects, background)
    return _compare(answer(objects, background), wanted, "random maps of two classes", mistakes)


def check_displacement_error(answer: Callable[[Tensor, int, int], Tensor | None]) -> bool:
    """Check a function from displacements ``(2, h, w)`` within one object and an offset to their mean error ``()``."""
    field = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(15))
    differences = field[:, :-2, :-1] - field[:, 2:, 1:]
    offset = torch.tensor([2.0, 1.0]).view(2, 1, 1)
    mistakes = {
        "You added the offset instead of subtracting it.": (differences + offset).abs().mean(),
        "You left out the offset; this is the loss of background.": differences.abs().mean(),
    }
    wanted = (differences - offset).abs().mean()
    return _compare(answer(field, 2, 1), wanted, "a random field (2, 5, 7) and the offset dy 2, dx 1", mistakes)


def check_shares(answer: Callable[[Tensor, int], Tensor | None]) -> bool:
    """Check a function from a mask ``(H, W)`` uint8 and K to the shares of the area ``(K,)`` of the classes."""
    mask = torch.randint(0, 4, (7, 9), generator=torch.Generator().manual_seed(13)).to(torch.uint8)
    wanted = torch.stack([(mask == k + 1).double().mean() for k in range(5)])
    return _compare(answer(mask, 5), wanted, "a random mask (7, 9) and 5 classes, of which two are not shown")


def check_calibration_error(answer: Callable[[Tensor], Tensor | float | None]) -> bool:
    """Check a function from the counts of a reliability diagram ``(bins, 3)`` to the expected calibration error."""
    counts = torch.tensor([[0.0, 0.0, 0.0], [10.0, 4.0, 5.0], [20.0, 15.0, 12.0], [70.0, 65.0, 68.0]])
    given = answer(counts)
    wanted = torch.tensor(calibration_error(counts))
    return _compare(
        torch.tensor(given) if isinstance(given, float | int) else given, wanted, f"the counts {counts.tolist()}"
    )


def check_paired_difference(answer: Callable[[Tensor, Tensor], Tensor | float | None]) -> bool:
    """Check a function from two mean IoU ``(S,)`` to the mean and the deviation of their differences ``(2,)``."""
    random = torch.Generator().manual_seed(16)
    ours, control = (torch.rand(3, generator=random) for _ in range(2))
    differences = ours - control
    wanted = torch.stack([differences.mean(), differences.std()])
    mistakes = {
        "You took the deviations of the two methods; take that of their differences.": torch.stack(
            [differences.mean(), (ours.var() + control.var()).sqrt()]
        ),
        "With few values, divide by their number minus 1 (correction=1).": torch.stack(
            [differences.mean(), differences.std(correction=0)]
        ),
    }
    return _compare(answer(ours, control), wanted, "the mean IoU of three random seeds", mistakes)


def check_choice(given: str, lesson: str, exercise: int) -> bool:
    """Check the answer to a multiple-choice question.

    Args:
        given: Letter of the chosen answer; "" if not answered yet.
        lesson: Name of the notebook without its ending, such as ``00_cam``.
        exercise: Number of the exercise in that notebook.
    """
    right, why = CHOICES[lesson, exercise]
    if not given:
        return _say(None)
    if given not in why:
        print(f"Choose one of {', '.join(why)}.")
        return False
    return _say(given == right, why[given])


def check_number(given: float | None, lesson: str, exercise: int) -> bool:
    """Check a number that was worked out by hand, to two digits after the point, and explain how it comes about.

    Args:
        given: Number that was found; None if not answered yet.
        lesson: Name of the notebook without its ending, such as ``00_cam``.
        exercise: Number of the exercise in that notebook.
    """
    right, why, remarks = NUMBERS[lesson, exercise]
    if given is None:
        return _say(None)
    if not isinstance(given, float | int):
        return _say(False, f"The answer must be a number, not {type(given).__name__}.")
    for number, remark in {right: why, **remarks}.items():
        if abs(given - number) <= _NEAR:
            return _say(number == right, remark)
    return _say(False, f"{given:g} is not the number; write each step down and try again.")


def _compare(given: Any, wanted: Tensor, inputs: str, mistakes: Mapping[str, Tensor] | None = None) -> bool:
    """Compare a result with the right one; a typical wrong result gets the sentence under which it stands."""
    if given is None:
        return _say(None)
    if not isinstance(given, Tensor):
        return _say(False, f"For {inputs}, the result must be a tensor, not {type(given).__name__}.")
    if given.shape != wanted.shape:
        return _say(False, f"For {inputs}, the shape must be {tuple(wanted.shape)}, not {tuple(given.shape)}.")
    difference = (given.double() - wanted.double()).abs().max().item()
    if not difference < _EQUAL:
        for sentence, wrong in (mistakes or {}).items():
            if (given.double() - wrong.double()).abs().max().item() < _EQUAL:
                return _say(False, f"For {inputs}, the result differs by up to {difference:.3g}. {sentence}")
        return _say(False, f"For {inputs}, the result differs from the right one by up to {difference:.3g}.")
    return _say(True)


def _say(right: bool | None, remark: str = "") -> bool:
    verdict = {None: "Not solved yet.", True: "Right.", False: "Wrong."}[right]
    print(f"{verdict} {remark}".strip())
    return bool(right)
