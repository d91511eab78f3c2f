"""Effect of `channels_last` on the small networks: inference and training steps with and without it, in turns.

Columns: milliseconds of an inference pass (two views of 289 x 385 pixels) and of a training step (16 images of
257 x 257 pixels, batch normalisation frozen), medians over the turns; ratio: the plain order over ours.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import torch
from common import alternate, begin, machine, parser, speed_up, table
from torch import Tensor, nn

from wsss_lib.models import create_backbone
from wsss_lib.stages.engine import keep_freed_memory

NETWORKS = ("efficientnet_lite0", "mobilenet_v2")


def main() -> None:
    """Print the table."""
    options = parser(__doc__, repeats=5).parse_args()
    device = begin(options)
    keep_freed_memory()
    lines = []
    for name in NETWORKS:
        ours = create_backbone(name)
        ours.freeze()
        ours.to(device)
        plain = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
        for stage, make, shape in (
            ("inference", inference, (2, 3, 289, 385)),
            ("training", training, (16, 3, 257, 257)),
        ):
            images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
            difference = (make(plain, images)() - make(ours, images)()).abs().max().item()
            assert difference < 1e-3, f"{name}, {stage}: the outputs differ by {difference}"
            times = alternate({"plain": make(plain, images), "ours": make(ours, images)}, options.repeats, device)
            milliseconds = [f"{1000 * statistics.median(times[order]):.0f}" for order in ("plain", "ours")]
            lines.append([name, stage, *milliseconds, f"{speed_up(times, 'plain', 'ours'):.2f}"])
    print(machine(device))
    print(table(["network", "stage", "plain ms", "ours ms", "ratio"], lines))


def inference(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a function that makes the features of images."""

    def run() -> Tensor:
        with torch.inference_mode():
            return list(network(images).values())[-1]

    return run


def training(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a function that makes the gradients of a training step."""

    def run() -> Tensor:
        network.zero_grad()
        mean = list(network(images).values())[-1].mean()
        mean.backward()
        return mean.detach()

    return run


if __name__ == "__main__":
    main()
