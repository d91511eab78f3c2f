"""Image-level labels that are perhaps wrong, found by cross-validation.

A logistic regression for each class learns from the pooled features of a pre-trained network, which has seen no label
of the data. The images are divided into folds, and the classifier that gives an image its probability has learned from
the other folds only, so that a wrong label cannot vouch for itself. cleanlab turns probabilities and given labels into
the quality of each label (Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
JAIR 2021; for several labels per image Thyagarajan, Snorrason, Northcutt, Mueller, "Identifying Incorrect Annotations
in Multi-Label Classification Data", 2022). Labels of the lowest quality are the most doubtful.

``docs/label_doubts.md`` says how many wrong labels are found in this way.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.names import listed
from wsss_lib.errors import InputError
from wsss_lib.show.progress import bar

FOLDS = 5
"""Number of parts that the images are divided into."""

STRENGTH = 0.01
"""Inverse strength of the regularisation, scikit-learn's ``C``, for standardised features."""

_STEPS = 1000
"""Most steps of a logistic regression's optimiser."""


@dataclass(frozen=True)
class LabelDoubt:
    """A label that is perhaps wrong.

    Attributes:
        image: Position of the image in the data set.
        label: Position of the class.
        given: Whether the image has the label.
        probability: Probability in [0, 1] that the image shows the class, by a classifier that has not seen the image.
        quality: Quality in [0, 1] of the given label, or of its absence, by cleanlab; the lowest are most doubtful.
    """

    image: int
    label: int
    given: bool
    probability: float
    quality: float

    @property
    def kind(self) -> str:
        """``superfluous`` for a label that is given, ``missing`` for one that is not."""
        return "superfluous" if self.given else "missing"


_PACKAGES = {"sklearn": "scikit-learn", "cleanlab": "cleanlab"}
"""Names under which the packages are installed, by the names under which they are imported."""


def require_packages() -> None:
    """Raise InputError unless the packages cleanlab and scikit-learn are installed."""
    for name in _PACKAGES:
        _package(name)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = _PACKAGES[name.partition(".")[0]]
        raise InputError(
            f"the package {package} is missing, which doubts about labels need: type pip install cleanlab."
        ) from None


def judged_classes(labels: Tensor, names: tuple[str, ...], folds: int = FOLDS) -> tuple[list[int], str]:
    """Return the classes that can be judged, and a sentence about the others.

    A class is judged if at least ``folds`` images have its label and as many do not, so that each fold has both.

    Args:
        labels: ``(n, K)``, 1 for a given label, else 0.
        names: Names of the K classes.
        folds: Number of folds, at least 2.

    Returns:
        Positions of the classes, ascending; and the sentence, "" if all classes are judged.

    Raises:
        InputError: No image has a label, or no class can be judged.
    """
    if folds < 2:
        raise InputError(f"folds is {folds}; give at least 2.")
    counts, images = labels.bool().sum(0).tolist(), len(labels)
    if not any(counts):
        raise InputError(f"none of the {images} images has a label, so no label can be doubted; give labels.")
    judged = [k for k, count in enumerate(counts) if folds <= count <= images - folds]
    always = [k for k, count in enumerate(counts) if count == images]
    if not judged and always:
        raise InputError(
            f"all {images} images have the label {names[always[0]]}, so nothing shows what its absence looks like; add "
            f"at least {folds} images that do not show the class."
        )
    left = listed([names[k] for k in range(len(counts)) if k not in judged])
    if not judged:
        most = max(min(count, images - count) for count in counts)
        raise InputError(
            f"no label can be judged with {folds} folds, because fewer than {folds} of the {images} images have or "
            f"lack it: {left}; give {f'at most {most} folds or ' if most > 1 else ''}more images."
        )
    sentence = f"labels not judged, because fewer than {folds} images have or lack the label: {left}."
    return judged, sentence if left else ""


def held_out_probabilities(
    features: Tensor, labels: Tensor, folds: int = FOLDS, seed: int = 0, strength: float = STRENGTH
) -> Tensor:
    """Return the probabilities that images show classes, by logistic regressions that have not seen these images.

    Each class has folds of its own, which share out the images with and without the label evenly.

    Args:
        features: ``(n, D)`` float.
        labels: ``(n, K)``, 1 for a given label, else 0; see :func:`judged_classes`.
        folds: Number of folds, at least 2 and at most the number of images with, or without, any of the labels.
        seed: Seed of the division into folds.
        strength: Inverse strength of the regularisation.

    Returns:
        ``(n, K)`` float64 in [0, 1].

    Raises:
        InputError: scikit-learn is not installed, or a feature is not finite.
    """
    linear, model = _package("sklearn.linear_model"), _package("sklearn.model_selection")
    broken = (~features.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(f"the features of {len(broken)} images are not finite; give other weights of the network.")
    x, found = _standardised(features).numpy(), np.zeros(labels.shape)
    classifier = linear.LogisticRegression(C=strength, max_iter=_STEPS)  # draws nothing at random
    division = model.StratifiedKFold(folds, shuffle=True, random_state=seed)
    for k in bar(range(labels.shape[1]), "classes", labels.shape[1]):
        given = labels[:, k].bool().numpy()
        found[:, k] = model.cross_val_predict(classifier, x, given, cv=division, method="predict_proba")[:, 1]
    return torch.from_numpy(found)


def _standardised(features: Tensor) -> Tensor:
    """Return features with mean 0 and standard deviation 1, ``(n, min(n, D))`` float64.

    With more features than images, the axes are turned so that n features remain and all distances between images stay
    as they are. The regularised classifiers are then the same, and are found several times as fast.
    """
    x = features.double()
    x = x - x.mean(0)
    deviation = x.std(0, correction=0)
    x = x / torch.where(deviation > 0, deviation, 1)
    if x.shape[1] <= len(x):
        return x
    left, values, _ = torch.linalg.svd(x, full_matrices=False)
    return left * values


def label_quality(labels: Tensor, probabilities: Tensor, adjusted: bool = False) -> Tensor:
    """Return cleanlab's quality of each given label, and of each absent one.

    Args:
        labels: ``(n, K)``, 1 for a given label, else 0; each class has images with and without its label.
        probabilities: ``(n, K)`` in [0, 1], see :func:`held_out_probabilities`.
        adjusted: Whether the probabilities of each class are first shifted by the mean probability of the images with,
            and without, the label.

    Returns:
        ``(n, K)`` float64 in [0, 1].

    Raises:
        InputError: cleanlab is not installed.
    """
    rank = _package("cleanlab.multilabel_classification.rank")
    given = [row.nonzero().flatten().tolist() for row in labels]
    scores = rank.get_label_quality_scores_per_class(given, probabilities.numpy(), adjust_pred_probs=adjusted)
    return torch.from_numpy(np.asarray(scores, np.float64))


def most_doubtful(
    labels: Tensor, probabilities: Tensor, quality: Tensor, classes: list[int], most: int = 0
) -> list[LabelDoubt]:
    """Return labels by their quality, the most doubtful first; of equals the first image, then the first class.

    Args:
        labels: ``(n, k)``, 1 for a given label, else 0, of the judged classes.
        probabilities: ``(n, k)`` in [0, 1].
        quality: ``(n, k)`` in [0, 1].
        classes: Positions of the k judged classes among all classes.
        most: Greatest number of labels of each kind, missing and superfluous, that are returned; 0 for all. Without a
            number for each kind, one of them can fill the whole list.
    """
    order = quality.flatten().argsort(stable=True)
    if most:
        given = labels.flatten()[order].bool()
        kept = torch.where(given, given.cumsum(0), (~given).cumsum(0)) <= most
        order = order[kept]
    rows, columns = (order // len(classes)).tolist(), (order % len(classes)).tolist()
    return [
        LabelDoubt(i, classes[j], bool(labels[i, j]), float(probabilities[i, j]), float(quality[i, j]))
        for i, j in zip(rows, columns, strict=True)
    ]


def find_label_doubts(
    features: Tensor, labels: Tensor, names: tuple[str, ...], folds: int = FOLDS, seed: int = 0, most: int = 0
) -> tuple[list[LabelDoubt], str]:
    """Return the labels that are perhaps wrong, the most doubtful first, and a sentence about classes left out.

    Args:
        features: ``(n, D)`` float, of a network that has not learned from these labels.
        labels: ``(n, K)``, 1 for a given label, else 0.
        names: Names of the K classes.
        folds: Number of folds, at least 2.
        seed: Seed of the division into folds.
        most: Greatest number of labels of each kind, missing and superfluous, that are returned; 0 for all.

    Returns:
        The doubts; and the sentence, "" if all classes are judged.

    Raises:
        InputError: A package is missing, no image has a label, or no class can be judged.
    """
    require_packages()
    judged, sentence = judged_classes(labels, names, folds)
    some = labels[:, judged]
    probabilities = held_out_probabilities(features, some, folds, seed)
    return most_doubtful(some, probabilities, label_quality(some, probabilities), judged, most), sentence
