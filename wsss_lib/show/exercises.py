"""Checks for the exercises. A check prints whether an answer is right, and otherwise how it differs for which input.

An exercise starts as a function that returns None. Its check then prints that the exercise is not solved yet, and does
not raise an error. So a notebook with unsolved exercises runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wsss_lib.methods.acr import masked_error
from wsss_lib.methods.affinitynet import semi_labels
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.irn import confident_labels
from wsss_lib.methods.oc_cse import erasing_mask, remaining_labels
from wsss_lib.models.mctformer import refine_by_patches
from wsss_lib.ops.calibration import calibration_error
from wsss_lib.ops.cam import cam_label, normalise_maximum, normalise_range
from wsss_lib.ops.frequency import magnitude, with_magnitude
from wsss_lib.ops.metrics import intersection_over_union
from wsss_lib.ops.propagation import propagate_affinity
from wsss_lib.show.choices import CHOICES
from wsss_lib.show.pencil import NUMBERS

_NEAR = 0.0051
"""Greatest difference of two numbers that are equal when they are rounded to two digits after the point."""


def check_cam(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from features ``(C, h, w)`` and head weights ``(K, C)`` to normalised CAMs ``(K, h, w)``."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(8, 5, 7, generator=random).relu()
    weights = torch.randn(3, 8, generator=random)
    wanted = normalise_maximum(torch.einsum("chw,kc->khw", features, weights).relu())
    return _compare(answer(features, weights), wanted, "random features (8, 5, 7) and weights (3, 8)")


def check_cam_label(answer: Callable[[Tensor, Tensor, float], Tensor | None]) -> bool:
    """Check a function from maps ``(n, H, W)``, classes ``(n,)`` and a threshold to the CAM seed ``(H, W)``."""
    random = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 6, 6, generator=random)
    classes = torch.tensor([4, 11])
    wanted = cam_label(maps, classes, 0.6)
    return _compare(answer(maps, classes, 0.6), wanted, "random maps of the classes 4 and 11, threshold 0.6")


def check_mean_iou(answer: Callable[[Tensor], float | None]) -> bool:
    """Check a function from a confusion matrix ``(C, C)`` (rows true, columns predicted) to the mean IoU."""
    confusion = torch.tensor([[50, 3, 7], [4, 20, 0], [6, 2, 8]])
    wanted = intersection_over_union(confusion).mean()
    given = answer(confusion)
    return _compare(
        torch.tensor(given) if isinstance(given, float | int) else given, wanted, f"the matrix {confusion.tolist()}"
    )


def check_affinity(answer: Callable[[Tensor, int, int], Tensor | None]) -> bool:
    """Check a function from features ``(C, h, w)`` and an offset ``dy, dx`` (both at least 0) to affinities.

    The result is ``(h - dy, w - dx)``: the affinity of each pixel with the pixel ``dy`` below and ``dx`` to the right.
    """
    random = torch.Generator().manual_seed(2)
    features = torch.randn(6, 5, 7, generator=random)
    wanted = torch.exp(-(features[:, 2:, 1:] - features[:, :-2, :-1]).abs().mean(0))
    return _compare(answer(features, 2, 1), wanted, "random features (6, 5, 7) and the offset dy 2, dx 1")


def check_walk(answer: Callable[[Tensor, Tensor, int], Tensor | None]) -> bool:
    """Check a function from a transition matrix ``(N, N)``, scores ``(N, 2)`` and t to the scores after t steps."""
    random = torch.Generator().manual_seed(3)
    transition, scores = torch.rand(5, 5, generator=random), torch.rand(5, 2, generator=random)
    transition = transition / transition.sum(1, keepdim=True)
    wanted = torch.linalg.matrix_power(transition, 3) @ scores
    return _compare(answer(transition, scores, 3), wanted, "a random matrix (5, 5), random scores (5, 2) and t = 3")


def check_semi_labels(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from low- and high-alpha scores ``(1 + n, h, w)`` to the three-way label map ``(h, w)``."""
    random = torch.Generator().manual_seed(4)
    low, high = (torch.rand(3, 6, 6, generator=random).softmax(0) for _ in range(2))
    return _compare(answer(low, high), semi_labels(low, high), "random scores of background and two classes")


def check_erasing_mask(answer: Callable[[Tensor, tuple[int, int]], Tensor | None]) -> bool:
    """Check a function from signed maps ``(B, 1, h, w)`` and a size to masks ``(B, 1, H, W)``, image by image."""
    maps = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(5))
    wanted = erasing_mask(maps, (8, 10), "image")
    return _compare(answer(maps, (8, 10)), wanted, "random maps (3, 1, 4, 5) and the size (8, 10)")


def check_erasing_loss(answer: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from logits ``(B, K)``, labels ``(B, K)`` and targets ``(B,)`` to OC-CSE's erasing loss."""
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(6))
    labels, targets = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]), torch.tensor([2, 1])
    wanted = classification_loss(logits, remaining_labels(labels, targets))
    inputs = f"random logits, the labels {labels.int().tolist()} and the targets {targets.tolist()}"
    return _compare(answer(logits, labels.clone(), targets), wanted, inputs)


def check_normalise_range(answer: Callable[[Tensor], Tensor | None]) -> bool:
    """Check a function from signed maps ``(B, K, h, w)`` to ACR's normalised maps."""
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    maps[0, 0], maps[0, 1] = maps[0, 0].abs() + 1, -maps[0, 1].abs()
    return _compare(answer(maps.clone()), normalise_range(maps), "random maps, one all positive and one all negative")


def check_masked_error(answer: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from drawn and true images ``(B, 3, H, W)`` and a mask ``(B, 1, H, W)`` to ACR's error."""
    random = torch.Generator().manual_seed(8)
    drawn, images = torch.randn(2, 2, 3, 4, 4, generator=random)
    mask = torch.rand(2, 1, 4, 4, generator=random)
    return _compare(answer(drawn, images, mask), masked_error(drawn, images, mask), "random images and a random mask")


def check_refine(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from attention among patches ``(B, N, N)`` and maps ``(B, C, h, w)`` to refined maps."""
    random = torch.Generator().manual_seed(9)
    among, maps = torch.rand(2, 12, 12, generator=random), torch.rand(2, 5, 3, 4, generator=random)
    wanted = refine_by_patches(among, maps)
    return _compare(answer(among, maps), wanted, "random attention (2, 12, 12) and random maps (2, 5, 3, 4)")


def check_mixture(answer: Callable[[Tensor, Tensor, float], Tensor | None]) -> bool:
    """Check a function from two features ``(B, D, h, w)`` and a share to those with the mixed magnitudes."""
    one, other = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(10))
    wanted = with_magnitude(one, 0.3 * magnitude(one) + 0.7 * magnitude(other))
    return _compare(answer(one, other, 0.3), wanted, "random features and the share 0.3")


def check_superpixel_means(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from features ``(C, N)`` and shares ``(M, N)`` of M superpixels to means ``(C, M)``."""
    random = torch.Generator().manual_seed(11)
    features, shares = torch.randn(3, 10, generator=random), torch.rand(4, 10, generator=random)
    wanted = features @ shares.t() / shares.sum(1)
    return _compare(answer(features, shares), wanted, "random features (3, 10) and shares (4, 10)")


def check_propagation(answer: Callable[[Tensor, Tensor, float], Tensor | None]) -> bool:
    """Check a function from maps ``(C, N)``, features ``(c, N)`` and a threshold to maps after a step of MSAL's AP."""
    random = torch.Generator().manual_seed(12)
    maps, features = torch.randn(3, 12, generator=random), torch.rand(5, 12, generator=random)
    wanted = propagate_affinity(maps[None, :, None], features[None, :, None], 1, 0.8)[0, :, 0]
    return _compare(answer(maps, features, 0.8), wanted, "random maps (3, 12), features (5, 12) and the threshold 0.8")


def check_path_affinity(answer: Callable[[Tensor, list[tuple[int, int]]], Tensor | None]) -> bool:
    """Check a function from boundaries ``(h, w)`` and a path's cells, (row, column) each, to the affinity ``()``."""
    boundaries = torch.rand(6, 8, generator=torch.Generator().manual_seed(13))
    cells = [(4, 5), (3, 4), (3, 3), (2, 3), (2, 2), (1, 1)]
    wanted = 1 - torch.stack([boundaries[cell] for cell in cells]).max()
    return _compare(answer(boundaries, cells), wanted, "random boundaries (6, 8) and a path of six cells")


def check_confident_labels(answer: Callable[[Tensor, Tensor], Tensor | None]) -> bool:
    """Check a function from two class maps ``(H, W)``, careful and generous, to the three-way label map ``(H, W)``."""
    random = torch.Generator().manual_seed(14)
    objects, background = (torch.randint(0, 3, (6, 6), generator=random) for _ in range(2))
    return _compare(answer(objects, background), confident_labels(objects, background), "random maps of two classes")


def check_displacement_error(answer: Callable[[Tensor, int, int], Tensor | None]) -> bool:
    """Check a function from displacements ``(2, h, w)`` within one object and an offset to their mean error ``()``."""
    field = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(15))
    differences = field[:, :-2, :-1] - field[:, 2:, 1:]
    wanted = (differences - torch.tensor([2.0, 1.0]).view(2, 1, 1)).abs().mean()
    return _compare(answer(field, 2, 1), wanted, "a random field (2, 5, 7) and the offset dy 2, dx 1")


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
    wanted = torch.stack([(ours - control).mean(), (ours - control).std()])
    return _compare(answer(ours, control), wanted, "the mean IoU of three random seeds")


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


def _compare(given: Any, wanted: Tensor, inputs: str) -> bool:
    if given is None:
        return _say(None)
    if not isinstance(given, Tensor):
        return _say(False, f"For {inputs}, the result must be a tensor, not {type(given).__name__}.")
    if given.shape != wanted.shape:
        return _say(False, f"For {inputs}, the shape must be {tuple(wanted.shape)}, not {tuple(given.shape)}.")
    difference = (given.double() - wanted.double()).abs().max().item()
    if not difference < 1e-4:
        return _say(False, f"For {inputs}, the result differs from the right one by up to {difference:.3g}.")
    return _say(True)


def _say(right: bool | None, remark: str = "") -> bool:
    verdict = {None: "Not solved yet.", True: "Right.", False: "Wrong."}[right]
    print(f"{verdict} {remark}".strip())
    return bool(right)
