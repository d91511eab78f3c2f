"""A run of PCSS, whose training stops now and then to ask about single frequencies."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from wsss_lib.methods.pcss import choose_census_images
from wsss_lib.runs.cam import CamRun
from wsss_lib.show.progress import epoch_line
from wsss_lib.stages.engine import loaded
from wsss_lib.stages.examples import ResizedToSquare
from wsss_lib.stages.train import History

_BATCH = 8
"""Images of a census that are loaded together; each is looked at in a hundred ways."""


class PcssRun(CamRun):
    """A run of a method that holds a census of frequencies."""

    def train(self, report: Callable[[dict[str, Any]], None] = epoch_line) -> History:
        """Train to the end, see :meth:`CamRun.train`."""
        self.method.census_images = self.census_images
        return super().train(report)

    def census_images(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's images of a census, in an order drawn anew for every epoch.

        Yields:
            ``(B, 3, S, S)`` normalised images, resized to the square size of training, and
            ``(B, C)`` bool, for which classes each of them counts.
        """
        data, size = self.splits.fit, self.method.config.crop_size
        order = list(range(len(data)))
        random.Random(f"{self.settings.seed}/census/{epoch}").shuffle(order)
        used = choose_census_images(data.labels[order], self.method.census_quota)
        mine = used.any(1).nonzero().flatten().tolist()[self.fabric.global_rank :: self.fabric.world_size]
        images = ResizedToSquare(data, [order[i] for i in mine], used[mine], size, self.normalise)
        for batch, some in loaded(DataLoader(images, _BATCH, num_workers=self.workers)):
            yield self.fabric.to_device(batch.contiguous()), self.fabric.to_device(some)
