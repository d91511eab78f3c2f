"""Scores of the networks that a run has kept after its epochs, and what choosing among them on scored masks adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from wsss_lib.data.dataset import Dataset, DatasetView
from wsss_lib.errors import InputError
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.epochs import KeptEpochs
from wsss_lib.runs.report import choose_threshold
from wsss_lib.show.tables import markdown_table
from wsss_lib.stages.evaluate import CamScores, score_cams
from wsss_lib.stages.infer import infer


@dataclass(frozen=True)
class EpochScores:
    """The scores of the CAM seeds of one epoch's network, on a sample of each split that has masks.

    Attributes:
        epoch: Number of the epoch, from 1.
        threshold: Background threshold of :attr:`mean_iou`.
        chosen: Words that say how the threshold was chosen, see :func:`wsss_lib.runs.report.choose_threshold`.
        mean_iou: Mean IoU in [0, 1] at this threshold, by split.
        best: Mean IoU in [0, 1] at the threshold that is best on the same split, by split.
    """

    epoch: int
    threshold: float
    chosen: str
    mean_iou: Mapping[str, float]
    best: Mapping[str, float]


def follow(run: CamRun, sample: int = 100, ids: Sequence[str] = ()) -> list[EpochScores]:
    """Score every network that a run has kept, on the same sample of pictures.

    The maps stay in the folders of ``run.at_epoch``, where a later call or :meth:`CamRun.infer` finds them. The run may
    still be in training, if it was opened as a guest.

    Args:
        run: A run that keeps the networks of its epochs (setting ``keep_epochs``).
        sample: Number of pictures with masks that are scored of each split, evenly spaced in its list; 0 for all.
        ids: Ids of the pictures from which the sample is taken; empty for all. A split with none of them is left out.

    Returns:
        A row for each kept epoch, in ascending order.

    Raises:
        InputError: The run has kept no network, the data has no masks, or an id belongs to no picture with a mask.
    """
    epochs = KeptEpochs(run.folder).numbers()
    if not epochs:
        raise InputError(f"{run.folder} has kept no network; train with keep_epochs=True in another folder.")
    masked = run.splits.with_masks
    if not masked:
        raise InputError(f"the data of {run.folder} has no masks to score epochs with; give data with masks.")
    known = {data.ids[index] for data in masked.values() for index in data.masked}
    if unknown := [image_id for image_id in ids if image_id not in known]:
        raise InputError(
            f"{unknown[0]!r} is not the id of a picture with a mask in {' or '.join(masked)} ({len(unknown)} of "
            f"{len(ids)} are not); correct the list."
        )
    wanted = known.intersection(ids) or known
    samples = {name: _sample(data, sample, wanted) for name, data in masked.items() if not wanted.isdisjoint(data.ids)}
    return [_scored(run.at_epoch(epoch), epoch, samples) for epoch in epochs]


def _sample(data: Dataset, count: int, wanted: Set[str]) -> Dataset:
    """Return some of the images with masks and wanted ids, evenly spaced."""
    masked = [index for index in data.masked if data.ids[index] in wanted]
    count = min(count, len(masked)) if count > 0 else len(masked)
    return DatasetView(data, f"a sample of {data.name}", [masked[i * len(masked) // count] for i in range(count)])


def _scored(run: CamRun, epoch: int, samples: Mapping[str, Dataset]) -> EpochScores:
    scores: dict[str, CamScores] = {}
    for split, data in samples.items():
        store, source = run.cams(split), run.source()
        with run.working():
            run.begin(store, split, source)
            run.to_device()
            infer(run.method, data, store, run.context)
        scores[split] = score_cams(store, data)
    threshold, chosen = choose_threshold(scores)
    reached = {split: float(score.mean_iou[score.position(threshold)]) for split, score in scores.items()}
    best = {split: float(score.mean_iou[score.best]) for split, score in scores.items()}
    return EpochScores(epoch, threshold, chosen, reached, best)


def epochs_table(rows: Sequence[EpochScores]) -> str:
    """Return the result of :func:`follow` as a Markdown table."""
    splits = list(rows[0].mean_iou)
    head = ["epoch", "threshold", *(f"mIoU % {split}" for split in splits)]
    head += [f"mIoU % {split}, threshold best on {split}" for split in splits]
    lines = [
        [
            str(row.epoch),
            f"{row.threshold:.2f}",
            *(f"{100 * scores[split]:.1f}" for scores in (row.mean_iou, row.best) for split in splits),
        ]
        for row in rows
    ]
    return markdown_table(head, lines)


@dataclass(frozen=True)
class Choice:
    """What choosing an epoch, or an epoch and a threshold, on the scored masks adds to an honest score.

    Attributes:
        split: Name of the scored split.
        last: Number of the last kept epoch, with which nothing is chosen.
        score: Mean IoU in [0, 1] of the last kept epoch, at the threshold of :class:`EpochScores`.
        best_epoch: Number of the epoch with the highest mean IoU on the split, at each epoch's own threshold.
        epoch_adds: Mean IoU that choosing this epoch adds to `score`.
        both_add: Mean IoU that choosing the best pair of epoch and threshold on the split adds to `score`.
    """

    split: str
    last: int
    score: float
    best_epoch: int
    epoch_adds: float
    both_add: float

    def __str__(self) -> str:
        return (
            f"On {self.split} the network of epoch {self.last}, the last one kept, reaches {100 * self.score:.1f} %. "
            f"The best epoch on the scored masks, {self.best_epoch}, would add {100 * self.epoch_adds:.1f} points; the "
            f"best epoch together with the best threshold would add {100 * self.both_add:.1f}. A score that is chosen "
            "in this way is not comparable with one that is not."
        )


def gain_of_choice(rows: Sequence[EpochScores], split: str = "val") -> Choice:
    """Return what choosing the best epoch on the scored masks of a split would add.

    Args:
        rows: Result of :func:`follow`.
        split: Name of the split.

    Raises:
        InputError: The split was not scored.
    """
    if split not in rows[0].mean_iou:
        raise InputError(f"split {split!r} was not scored; choose one of {', '.join(rows[0].mean_iou)}.")
    last, best = rows[-1], max(rows, key=lambda row: row.mean_iou[split])
    score = last.mean_iou[split]
    highest = max(row.best[split] for row in rows)
    return Choice(split, last.epoch, score, best.epoch, best.mean_iou[split] - score, highest - score)
