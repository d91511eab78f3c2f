"""How much the image-level labels help at test time: the same maps with the given and with the predicted classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from wsss_lib.data.dataset import Dataset, DatasetView
from wsss_lib.errors import InputError
from wsss_lib.ops.cam import cam_label
from wsss_lib.ops.metrics import class_mean, confusion_matrix, intersection_over_union
from wsss_lib.runs.cam import CamRun
from wsss_lib.show.tables import markdown_table


@dataclass(frozen=True)
class LabelHelp:
    """Scores of the same maps with two choices of classes, in [0, 1].

    Attributes:
        given: Mean IoU with the maps of the classes that the image-level labels name.
        predicted: Mean IoU with the maps of the classes that the network itself predicts: those with a logit above 0
            or, if there is none, the class with the highest.
        right: Share of the pictures for which the two sets of classes are equal.
        pictures: Number of pictures.
    """

    given: float
    predicted: float
    right: float
    pictures: int


def label_help(run: CamRun, data: Dataset, threshold: float, most: int = 120) -> LabelHelp:
    """Score the CAM seeds of a run twice, at the pictures' working size.

    Args:
        run: A trained run.
        data: Pictures with masks, of the run's classes.
        threshold: Background threshold in [0, 1], for both scores.
        most: Greatest number of pictures; the first ones with a mask are taken.

    Raises:
        InputError: No picture has a mask, or a picture or a mask cannot be read.
    """
    chosen = data.masked[:most]
    if not chosen:
        raise InputError(f"the pictures of {data.name} have no masks, so they cannot be scored; give masks.")
    logits = run.classify(DatasetView(data, data.name, chosen))
    predicted = (logits > 0) | ((logits == logits.amax(1, keepdim=True)) & (logits.amax(1, keepdim=True) <= 0))
    given = data.labels[chosen] > 0
    number = len(data.classes) + 1
    confusions = torch.zeros(2, number, number, dtype=torch.int64)
    for row, index in enumerate(chosen):
        classes, cams = run.cam(data.image(index), data.classes)  # of all classes, so both choices have the same maps
        truth = torch.from_numpy(data.mask(index))
        for place, wanted in enumerate((given[row], predicted[row])):
            kept = wanted[classes]
            confusions[place] += confusion_matrix(truth, cam_label(cams[kept], classes[kept], threshold), number)
    with_given, with_predicted = (float(score) for score in class_mean(intersection_over_union(confusions)))
    right = float((given == predicted).all(1).double().mean())
    return LabelHelp(with_given, with_predicted, right, len(chosen))


def label_help_table(found: Mapping[str, LabelHelp]) -> str:
    """Return the results of :func:`label_help`, by name of the run, as a Markdown table in percent."""
    head = [
        "",
        "mIoU %, given classes",
        "mIoU %, predicted classes",
        "help of the labels, points",
        "all classes right, %",
    ]
    rows = [
        [f"`{name}`", *(f"{100 * x:.1f}" for x in (h.given, h.predicted, h.given - h.predicted, h.right))]
        for name, h in found.items()
    ]
    return markdown_table(head, rows)
