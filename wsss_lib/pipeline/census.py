"""A run of PCSS, whose training stops now and then to ask about single frequencies."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.transforms import Normalise, to_tensor
from wsss_lib.methods.pcss import PCSS, Config, choose_probed
from wsss_lib.pipeline.engine import loaded
from wsss_lib.pipeline.seeds import SeedRun
from wsss_lib.pipeline.train import History
from wsss_lib.show.progress import epoch_line

_BATCH = 8
"""Images of a census that are loaded together; each is looked at in a hundred ways."""


class Squared(TorchDataset[tuple[Tensor, Tensor]]):
    """Images that are resized to a square whatever their sides were, and for which classes they count.

    Args:
        data: The images.
        indices: Which of them.
        used: For each ``(C,)`` bool.
        size: Side of the square in pixels.
        normalise: From pixels to the network's input.
    """

    def __init__(self, data: Dataset, indices: Sequence[int], used: Tensor, size: int, normalise: Normalise) -> None:
        self.data = data
        self.indices = indices
        self.used = used
        self.size = size
        self.normalise = normalise

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        image = self.data.image(self.indices[position]).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return self.normalise(to_tensor(image)), self.used[position]


class CensusRun(SeedRun):
    """A run of a method that holds a census of frequencies."""

    def train(self, report: Callable[[dict[str, Any]], None] = epoch_line) -> History:
        """Train to the end, see :meth:`SeedRun.train`."""
        assert isinstance(self.method, PCSS)
        self.method.probed = self.probed
        return super().train(report)

    def probed(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's images of a census, in an order drawn anew for every epoch.

        Yields:
            ``(B, 3, S, S)`` normalised images, resized to the size of training whatever their sides were, and
            ``(B, C)`` bool, for which classes each of them counts.
        """
        config = self.method.config
        assert isinstance(config, Config)
        data, size = self.splits.training, config.crop_size
        order = list(range(len(data)))
        random.Random(f"{self.settings.seed}/census/{epoch}").shuffle(order)
        used = choose_probed(data.labels[order], config.probed_images)
        mine = used.any(1).nonzero().flatten().tolist()[self.fabric.global_rank :: self.fabric.world_size]
        images = Squared(data, [order[i] for i in mine], used[mine], size, self.normalise)
        for batch, some in loaded(DataLoader(images, _BATCH, num_workers=self.workers)):
            yield self.fabric.to_device(batch.contiguous()), self.fabric.to_device(some)
