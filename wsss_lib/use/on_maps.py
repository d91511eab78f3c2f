"""Scoring, refining, comparing and converting maps that other code made, with the stages of our own runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.voc import read_ids
from wsss_lib.errors import InputError
from wsss_lib.exchange.maps import MapSet, shared, subset
from wsss_lib.exchange.paired import Difference, difference, image_counts
from wsss_lib.exchange.write import HeatMapStore, IrnStore, PsaStore, write_coco, write_maps, write_voc_results
from wsss_lib.ops import dense_crf
from wsss_lib.ops.cam import argmax
from wsss_lib.runs.folder import RunFolder
from wsss_lib.runs.report import FIXED_ALPHA, FIXED_THRESHOLD
from wsss_lib.stages.engine import make_fabric
from wsss_lib.stages.evaluate import CamScores, confusion_summary, score_cams, score_masks
from wsss_lib.stages.provenance import begin, maker
from wsss_lib.stages.refine import PowerBackgrounds, ReadScores, Threshold, refine
from wsss_lib.stages.store import CamStore, MaskStore
from wsss_lib.use.predict import make_folder, refuse_pictures_folder


@dataclass(frozen=True)
class HardLabels:
    """Labels of maps at one background threshold, all right with the same probability, as the input of IRN's CRF.

    Attributes:
        store: The maps.
        threshold: The background score.
        confidence: Probability of the label, in (0, 1); the other labels have equal shares of the rest.
    """

    store: CamStore
    threshold: float
    confidence: float = 0.7

    def __call__(self, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
        """Return classes and scores of an image."""
        classes, scores = Threshold(self.store, self.threshold)(data, index)
        labels = argmax(scores[0], 0)
        return classes, (-dense_crf.unary_from_labels(labels, scores.shape[1], self.confidence)).exp()[None]


@dataclass(frozen=True)
class Scored:
    """Scores of maps at all thresholds, and the threshold that a policy chooses.

    Attributes:
        scores: The scores of the pictures that are reported.
        position: Position of the chosen threshold.
        chosen: Policy by which the threshold was chosen, in words.
    """

    scores: CamScores
    position: int
    chosen: str

    @property
    def threshold(self) -> float:
        """The chosen background score."""
        return self.scores.thresholds[self.position]

    def summary(self) -> dict[str, Any]:
        """Return the scores at the chosen threshold, and the mean at every threshold, as plain values."""
        curve = dict(zip(map(str, self.scores.thresholds), self.scores.mean_iou.tolist(), strict=True))
        return {**self.scores.summary(self.position, self.chosen), "curve": curve}


def score_maps(one: MapSet, threshold: float | str = "fixed") -> Scored:
    """Score maps at all background thresholds in one pass.

    Args:
        one: The maps and pictures, with masks.
        threshold: The policy: a number; ``fixed`` for 0.2; ``best`` for the best on the masks that are scored, as
            papers do; or a file that lists pictures, on which the best is chosen, and which are not scored.

    Raises:
        InputError: There are no masks, the policy cannot be used, or maps or masks are damaged or do not fit.
    """
    if not one.data.masked:
        raise InputError(f"the pictures of {one.name} have no masks, so they cannot be scored; give a folder of masks.")
    one = subset(one, [one.data.ids[index] for index in one.data.masked])
    fixed, policy = _as_threshold(threshold), str(threshold)
    if fixed is None and policy != "best":
        chosen_on = [i for i in read_ids(Path(policy)) if i in one.store.index]
        rest = [i for i in one.data.ids if i not in set(chosen_on)]
        if not chosen_on or not rest:
            raise InputError(
                f"threshold {threshold} lists {len(chosen_on)} of the {len(one.data)} pictures with maps; list some, "
                "and leave some to be scored."
            )
        there = score_cams(one.store, subset(one, chosen_on).data)
        return Scored(score_cams(one.store, subset(one, rest).data), there.best, f"best on {Path(policy).stem}")
    scores = score_cams(one.store, one.data)
    if fixed is None:
        return Scored(scores, scores.best, "best on these masks")
    return Scored(scores, scores.position(fixed), "fixed" if threshold == "fixed" else "given")


def _as_threshold(policy: float | str) -> float | None:
    """Return the threshold that a policy names; None for a policy that needs masks."""
    if policy == "fixed":
        return FIXED_THRESHOLD
    try:
        value = float(policy)
    except ValueError:
        if policy != "best" and not Path(str(policy)).is_file():
            raise InputError(
                f"threshold {policy!r} is not a policy; choose fixed, best, a number or a file that lists pictures."
            ) from None
        return None
    if not 0 <= value < 1:
        raise InputError(f"threshold {policy} is out of range; give a number of at least 0 and below 1.")
    return value


def refine_maps(
    one: MapSet,
    out: str | os.PathLike[str],
    preset: str = "psa",
    alphas: Sequence[float] = (FIXED_ALPHA,),
    hard: float | None = None,
    confidence: float = 0.7,
    workers: int = -1,
    device: str = "auto",
) -> dict[str, MaskStore]:
    """Write the missing masks of maps after a dense CRF, one folder for each alpha.

    Args:
        one: The maps and pictures.
        out: Folder of the results: ``<out>/crf-<alpha>/<id>.png``, or ``<out>/hard-<threshold>/<id>.png``.
        preset: Name of the settings of the CRF, see :data:`wsss_lib.ops.dense_crf.PRESETS`.
        alphas: Powers of the background score ``(1 - max)^alpha``.
        hard: Background threshold at which maps become labels, as in IRN, instead of alphas; None for alphas.
        confidence: Probability that such a label is right.
        workers: Number of processes; -1 chooses, on a CPU one for each core.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The stores by name.

    Raises:
        InputError: A parameter is out of range, the folder holds other files, or maps are damaged or do not fit.
    """
    out = Path(out)
    if not all(0 < alpha <= 1000 for alpha in alphas) or not alphas:
        raise InputError(f"alphas {', '.join(map(str, alphas))} are out of range; give numbers above 0 and up to 1000.")
    if hard is not None and not 0 <= hard < 1:
        raise InputError(f"hard {hard} is out of range; give a background threshold of at least 0 and below 1.")
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is out of range; give a number above 0 and below 1.")
    if workers < -1:
        raise InputError(f"workers {workers} is out of range; give a number of processes, or -1.")
    dense_crf.check(preset, "auto")
    read: ReadScores = PowerBackgrounds(one.store, alphas)
    names = [f"crf-{alpha:g}" for alpha in alphas]
    if hard is not None:
        read, names = HardLabels(one.store, hard, confidence), [f"hard-{hard:g}"]
    fabric = make_fabric(device)
    if workers == -1:
        workers = _workers(fabric.device.type)
    refuse_pictures_folder(out, dict(zip(one.data.ids, one.data.image_files, strict=True)))
    make_folder(out)
    stores = {name: MaskStore(out / name) for name in names}
    source = f"{one.store.source()}, {preset}" + ("" if hard is None else f", confidence {confidence:g}")
    with RunFolder(out).locked():
        for store in stores.values():
            begin(store, source, one.data.ids, maker(fabric.device), adopt=False)
        refine(one.data, read, list(stores.values()), fabric, preset, workers=workers)
    return stores


def score_refined(one: MapSet, stores: dict[str, MaskStore]) -> dict[str, dict[str, Any]]:
    """Return the scores of masks as plain values, by name; an empty dictionary without true masks."""
    if not one.data.masked:
        return {}
    classes = ("background", *one.data.classes)
    return {name: confusion_summary(score_masks(store, one.data), classes) for name, store in stores.items()}


@dataclass(frozen=True)
class Comparison:
    """Several sets of maps over the pictures that all of them have.

    Attributes:
        thresholds: Background threshold of every set, by its name.
        chosen: Policy by which the thresholds were chosen, in words.
        differences: Differences of all pairs of sets.
    """

    thresholds: dict[str, float]
    chosen: str
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def compare_maps(
    sets: Sequence[MapSet], threshold: float | str = "fixed", repetitions: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two or more sets of maps over the pictures that all of them have.

    Args:
        sets: The sets, with masks.
        threshold: Policy by which the background threshold of each set is chosen, see :func:`score_maps`.
        repetitions: Number of repetitions of the bootstrap.
        seed: Random seed of the bootstrap, at least 0.

    Raises:
        InputError: There are fewer than two sets, they share no picture, or as in :func:`score_maps`.
    """
    if len(sets) < 2:
        raise InputError("only one set of maps is given; give two or more to compare.")
    if not 10 <= repetitions <= 1_000_000:
        raise InputError(f"repetitions {repetitions} is out of range; give a number from 10 to 1,000,000.")
    if seed < 0:
        raise InputError(f"seed {seed} is out of range; give a number of at least 0.")
    named = shared(_with_own_names(sets))
    scored = [score_maps(one, threshold) for one in named]
    if _as_threshold(threshold) is None and threshold != "best":
        left = [i for i in named[0].data.ids if i not in set(read_ids(Path(str(threshold))))]
        named = [subset(one, left) for one in named]
    counts = {one.name: image_counts(one, found.threshold) for one, found in zip(named, scored, strict=True)}
    pairs = tuple(difference(counts[a], counts[b], (a, b), repetitions, seed) for a, b in combinations(counts, 2))
    return Comparison(
        {one.name: found.threshold for one, found in zip(named, scored, strict=True)}, scored[0].chosen, pairs
    )


def _with_own_names(sets: Sequence[MapSet]) -> list[MapSet]:
    """Return the sets with different names: if folders have the same name, their paths become the names."""
    names = [one.name for one in sets]
    if len({*names}) < len(names):
        names = [str(one.store.folder) for one in sets]
    if len({*names}) < len(names):
        raise InputError(f"the folder {sets[0].store.folder} is given twice; give different sets of maps.")
    return [replace(one, name=name) for one, name in zip(sets, names, strict=True)]


# --------------------------------------------------------------------------------------------------------- other forms

FORMS = ("npy", "irn", "pictures", "masks", "coco", "voc")
"""Forms in which :func:`convert_maps` writes."""


def convert_maps(
    one: MapSet,
    out: str | os.PathLike[str],
    to: str,
    threshold: float = FIXED_THRESHOLD,
    half: bool = False,
    bits: int = 8,
    competition: str = "comp6",
) -> Path:
    """Write maps, or masks made from maps, in a form that other tools read; files that are there already stay.

    Args:
        one: The maps and pictures; label maps count as masks.
        out: Folder of the results.
        to: One of :data:`FORMS`: ``npy``: dictionaries as psa reads them; ``irn``: dictionaries as IRN reads them;
            ``pictures``: a grey picture for every class; ``masks``: palette PNGs; ``coco``: an instances JSON with
            run-length codes, ``instances.json``; ``voc``: the archive of VOC's test server, ``results.tar.gz``.
        threshold: Background score of masks.
        half: Whether dictionaries hold float16 instead of float32.
        bits: Bits per pixel of grey pictures, 8 or 16.
        competition: Name of the competition on VOC's server, ``comp5`` or ``comp6``.

    Returns:
        The folder or file that was written.

    Raises:
        InputError: A parameter is unknown, or as in :func:`refine_maps`.
    """
    out = Path(out)
    for name, value, known in (("to", to, FORMS), ("bits", bits, (8, 16)), ("competition", competition, _COMPETITIONS)):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; choose one of {', '.join(map(str, known))}.")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold {threshold} is out of range; give a number of at least 0 and below 1.")
    refuse_pictures_folder(out, dict(zip(one.data.ids, one.data.image_files, strict=True)))
    make_folder(out)
    fabric = make_fabric("cpu")
    with RunFolder(out).locked():
        if to in ("npy", "irn", "pictures"):
            stores: dict[str, PsaStore | HeatMapStore] = {
                "npy": PsaStore(out, half),
                "irn": IrnStore(out, half),
                "pictures": HeatMapStore(out, one.data, bits),
            }
            kind = f"float{16 if half else 32}" if to != "pictures" else f"{bits} bit"
            begin(stores[to], f"{one.store.source()}, {to}, {kind}", one.data.ids, maker(fabric.device), adopt=False)
            write_maps(one.data, one.store.read, stores[to])
            return out
        masks = MaskStore(out if to == "masks" else out / "masks")
        source = f"{one.store.source()}, threshold {threshold:g}"
        begin(masks, source, one.data.ids, maker(fabric.device), adopt=False)
        refine(one.data, Threshold(one.store, threshold), [masks], fabric, None, workers=_workers(fabric.device.type))
        if to == "coco":
            write_coco(out / "instances.json", one.data, masks)
            return out / "instances.json"
        if to == "voc":
            write_voc_results(out / "results.tar.gz", one.data.ids, masks, competition)
            return out / "results.tar.gz"
        return out


_COMPETITIONS = ("comp5", "comp6")


def _workers(kind: str) -> int:
    """Return the number of processes for a kind of device: on a CPU one for each core."""
    cores = os.cpu_count() or 1
    return cores if kind == "cpu" else min(4, cores)
