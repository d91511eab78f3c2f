"""How good maps are that other code made: trust in each mask, and the mean IoU estimated from a few drawn masks."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import write_csv
from wsss_lib.errors import InputError
from wsss_lib.exchange.maps import ForeignMaps, MapSet, subset
from wsss_lib.exchange.paired import image_counts, iou_of_counts
from wsss_lib.ops.metrics import class_mean
from wsss_lib.results.choose import CONFIDENCE
from wsss_lib.results.suggest import (
    Estimate,
    Suggestion,
    by_class,
    class_shares,
    digest_of,
    draw,
    estimate,
    probabilities,
)
from wsss_lib.results.trust import Bin, rank_correlation, reliability_curve, trust_of_counts
from wsss_lib.runs.report import FIXED_THRESHOLD
from wsss_lib.stages.evaluate import refuse_empty_masks
from wsss_lib.use.on_maps import refine_maps


@dataclass(frozen=True)
class Trust:
    """Trust in the mask of every picture.

    Attributes:
        ids: Ids of the pictures, from the least to the most trusted; pictures without labels come last.
        trust: ``(n,)`` float64 in [0, 1], in the same order; NaN for a picture without labels.
    """

    ids: tuple[str, ...]
    trust: Tensor


@dataclass(frozen=True)
class Check:
    """Trust beside the true IoU of the pictures that have true masks.

    Attributes:
        correlation: Spearman's rank correlation of trust and IoU.
        curve: Mean trust and mean IoU of pictures with similar trust.
        pictures: Number of the pictures.
    """

    correlation: float
    curve: tuple[Bin, ...]
    pictures: int


def trust_maps(
    one: MapSet,
    out: str | os.PathLike[str],
    threshold: float = FIXED_THRESHOLD,
    workers: int = -1,
    device: str = "auto",
) -> Trust:
    """Rank pictures by the trust in their masks, without true masks, and write the table ``trust.csv``.

    Args:
        one: The maps and pictures; label maps count as masks.
        out: Folder of the results: the table, and the masks of the CRF, ``<out>/hard-<threshold>/<id>.png``. Masks that
            are there already stay.
        threshold: The background score at which maps become masks.
        workers: Number of processes; -1 chooses, on a CPU one for each core.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: As in :func:`wsss_lib.use.on_maps.refine_maps`.
    """
    [store] = refine_maps(
        one, out, "irn", hard=threshold, confidence=CONFIDENCE, workers=workers, device=device
    ).values()
    old = one.data
    solved = FileDataset(
        old.name, old.classes, old.ids, old.labels, old.image_files, [store.path(image_id) for image_id in old.ids]
    )
    maps = ForeignMaps(one.store.folder, one.store.files, one.store.reading, solved, one.said)
    values = trust_of_counts(image_counts(replace(one, data=solved, store=maps), threshold), old.labels)
    order = values.argsort(stable=True)  # NaN comes last
    found = Trust(tuple(old.ids[index] for index in order.tolist()), values[order])
    pairs = zip(found.ids, found.trust.tolist(), strict=True)
    rows = [(image_id, "" if value != value else f"{value:.4f}") for image_id, value in pairs]
    write_csv(Path(out) / "trust.csv", [("picture", "trust"), *rows])
    return found


def check_trust(one: MapSet, found: Trust, threshold: float = FIXED_THRESHOLD) -> Check:
    """Compare trust with the true IoU of the pictures that have true masks.

    Args:
        one: The maps and pictures, with true masks.
        found: The trust.
        threshold: The background score that the trust was made with.

    Raises:
        InputError: There are no masks, or they do not fit.
    """
    counts = image_counts(one, threshold)
    iou = class_mean(iou_of_counts(counts))
    places = {image_id: place for place, image_id in enumerate(found.ids)}
    trust = found.trust[[places[one.data.ids[index]] for index in one.data.masked]]
    return Check(rank_correlation(trust, iou), tuple(reliability_curve(trust, iou)), int((~trust.isnan()).sum()))


def suggest_maps(one: MapSet, count: int, seed: int = 0) -> Suggestion:
    """Choose pictures at random whose masks are to be drawn.

    Args:
        one: The maps and pictures. No mask is read.
        count: Number of pictures that are chosen.
        seed: Random seed of the choice, at least 0.

    Raises:
        InputError: The number is below 2 or above the number of pictures, or the seed is negative.
    """
    data = one.data
    if len(data) < 2:
        raise InputError(f"{one.store.folder} has maps of one picture alone; give maps of two or more.")
    if not 2 <= count <= len(data):
        raise InputError(
            f"{count} pictures are wanted of the {len(data)} with maps in {one.store.folder}; give a number from 2 to "
            f"{len(data)}."
        )
    if seed < 0:
        raise InputError(f"seed {seed} is out of range; give a number of at least 0.")
    rng = np.random.default_rng(seed)
    chances = probabilities(class_shares(data.labels), count)
    chosen = draw(chances, by_class(data.labels, rng), rng)
    return Suggestion(
        tuple(data.ids[index] for index in chosen),
        tuple(chances[chosen].tolist()),
        len(data),
        digest_of(data.ids),
        seed,
    )


def estimate_maps(one: MapSet, suggestion: Suggestion, threshold: float = FIXED_THRESHOLD) -> Estimate:
    """Estimate the mean IoU of all maps from the masks of suggested pictures.

    Args:
        one: Maps of the pictures that the suggestion was made of, with the drawn masks. The maps may be others than
            those that the suggestion was made with. Other masks are not read.
        suggestion: The suggestion.
        threshold: The background score, chosen without the drawn masks.

    Raises:
        InputError: The pictures are others than those of the suggestion, a mask is missing or does not fit, or the
            threshold is out of range.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"threshold {threshold} is out of range; give a number of at least 0 and below 1.")
    if digest_of(one.data.ids) != suggestion.digest:
        raise InputError(
            f"{one.store.folder} has maps of {len(one.data)} pictures, which are not the {suggestion.pictures} that "
            "the suggestion was made of; give maps of the same pictures."
        )
    chosen = subset(one, suggestion.drawn)
    missing = [image_id for i, image_id in enumerate(chosen.data.ids) if not chosen.data.has_mask(i)]
    if missing:
        raise InputError(
            f"{missing[0]} has no mask ({len(missing)} of {len(chosen.data)} suggested pictures have none); draw the "
            "masks of all of them, since an estimate without the hard ones would be too high."
        )
    counts = image_counts(chosen, threshold)
    refuse_empty_masks(counts[:, 2].sum(0).diag(), chosen.data)
    chances = torch.tensor(suggestion.probabilities, dtype=torch.float64)
    return estimate(counts, chances, suggestion.pictures)
