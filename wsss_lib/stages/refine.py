"""Refine the scores of a whole data set with a dense CRF, and write probabilities or masks.

What is refined comes from a reader (powers of CAMs, a threshold over CAMs, walked scores); several fields over the same
image, such as several alphas, are solved together. Images that are in all the stores already are not refined again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.transforms import to_tensor
from wsss_lib.ops import dense_crf
from wsss_lib.ops.cam import argmax, background_power, enlarged_bands
from wsss_lib.show.progress import bar
from wsss_lib.stages.engine import loaded
from wsss_lib.stages.store import CamStore, MaskStore, ScoreStore, read_cams

ReadScores = Callable[[Dataset, int], tuple[Tensor, Tensor]]
"""Returns, for an image, the classes ``(n,)`` int64 that it shows and the scores ``(G, 1 + n, H, W)`` of G fields."""

SolveFields = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]

IMAGES_PER_BATCH = {"cpu": 1, "cuda": 16}
"""Number of images that are handed to the CRF at once."""


@dataclass(frozen=True)
class PowerBackgrounds:
    """Class activation maps, with a background ``(1 - max)^alpha`` for each of several alphas.

    Attributes:
        store: The maps.
        alphas: The powers, one field each.
    """

    store: CamStore
    alphas: Sequence[float]

    def __call__(self, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
        """Return classes and scores of an image."""
        classes, cams = read_cams(self.store, data, index)
        return classes, torch.stack([background_power(cams, alpha) for alpha in self.alphas])


@dataclass(frozen=True)
class Threshold:
    """Class activation maps, with a background that has the same score everywhere.

    Attributes:
        store: The maps.
        threshold: The background score.
    """

    store: CamStore
    threshold: float

    def __call__(self, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
        """Return classes and scores of an image."""
        classes, cams = read_cams(self.store, data, index)
        background = cams.new_full((1, *cams.shape[1:]), self.threshold)
        return classes, torch.cat([background, cams])[None]


Job = tuple[int, Tensor, Tensor, Tensor]
"""Position of an image, the image ``(3, H, W)`` uint8, its classes, and the scores of its fields."""


class _Jobs(TorchDataset[Job | None]):
    """Images that are to be refined. On a CPU the loader's processes do the whole work; otherwise they only read."""

    def __init__(
        self,
        data: Dataset,
        read: ReadScores,
        stores: Sequence[MaskStore | ScoreStore],
        solve: SolveFields,
        on_cpu: bool,
    ) -> None:
        self.data = data
        self.read = read
        self.stores = stores
        self.solve = solve
        self.on_cpu = on_cpu

    def __getitem__(self, index: int) -> Job | None:
        classes, scores = self.read(self.data, index)
        job = (index, to_tensor(self.data.image(index)), classes, scores)
        if not self.on_cpu:
            return job
        self.finish([job])
        return None

    def finish(self, jobs: Sequence[Job]) -> None:
        """Solve some images together and write each field to its store."""
        results = self.solve([job[1] for job in jobs], [job[3] for job in jobs])
        for (index, _, classes, _), fields in zip(jobs, results, strict=True):
            for store, field in zip(self.stores, fields, strict=True):
                if isinstance(store, MaskStore):
                    labels = label_map(classes, field.cpu(), self.data.own_size(index))
                    store.write(self.data.ids[index], labels)
                else:
                    store.write(self.data.ids[index], classes, field)


def _solve(
    preset: str | dense_crf.CRFSettings | None,
    backend: dense_crf.Backend,
    device: torch.device,
    images: Sequence[Tensor],
    scores: Sequence[Tensor],
) -> list[Tensor]:
    if preset is None:
        return list(scores)
    fields = [torch.ones_like(s) for s in scores]  # what a field of background alone ends in
    several = [i for i, s in enumerate(scores) if s.shape[1] > 1]
    unaries = [dense_crf.unary_from_scores(scores[i].to(device)) for i in several]
    solved = dense_crf.dense_crf([images[i].to(device) for i in several], unaries, preset, backend)
    for i, field in zip(several, solved, strict=True):
        fields[i] = field
    return fields


def label_map(classes: Tensor, scores: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Return the label with the highest score at every pixel; of equals the first.

    Args:
        classes: ``(n,)`` int64, from 0.
        scores: ``(1 + n, h, w)``, background first.
        size: ``(H, W)`` to which the scores are enlarged; None for their own.

    Returns:
        ``(H, W)`` uint8: 0 background, k + 1 class k.
    """
    values = torch.cat([classes.new_zeros(1), classes + 1]).to(torch.uint8)
    labels = values.new_empty(size or (scores.shape[1], scores.shape[2]))
    for rows, part in enlarged_bands(scores, (labels.shape[0], labels.shape[1])):
        labels[rows] = values[argmax(part, 0)]
    return labels


def refine(
    data: Dataset,
    read: ReadScores,
    stores: Sequence[MaskStore | ScoreStore],
    fabric: Fabric,
    preset: str | dense_crf.CRFSettings | None = "psa",
    backend: dense_crf.Backend = "auto",
    workers: int = 0,
) -> None:
    """Refine the scores of every image that is not in all the stores yet.

    Args:
        data: The images.
        read: Function that returns the scores of an image.
        stores: One for each of the G fields; a `MaskStore` gets the most probable labels.
        fabric: The engine; with several processes each does its share.
        preset: Settings of the CRF; None leaves the scores as they are.
        backend: See :func:`wsss_lib.ops.dense_crf.dense_crf`.
        workers: Processes that read, and on a CPU solve and write; 0 for none.

    Raises:
        InputError: The scores of an image are missing, damaged or do not fit it.
    """
    if preset is not None:
        dense_crf.check(preset, backend)

    on_cpu = fabric.device.type == "cpu"
    jobs = _Jobs(data, read, stores, partial(_solve, preset, backend, fabric.device), on_cpu)
    mine = range(len(data))[fabric.global_rank :: fabric.world_size]
    todo = [i for i in mine if not all(data.ids[i] in store for store in stores)]
    count = IMAGES_PER_BATCH.get(fabric.device.type, IMAGES_PER_BATCH["cuda"])
    chunks = [todo[i : i + count] for i in range(0, len(todo), count)]
    loader = DataLoader(jobs, batch_sampler=chunks, num_workers=workers, collate_fn=list)
    for chunk in bar(loaded(loader), f"refinement of {data.name}", len(chunks)):
        if not on_cpu:
            jobs.finish(chunk)
    fabric.barrier()
