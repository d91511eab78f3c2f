"""Effect of keeping freed memory on a CPU: forward passes and training steps in processes with and without it.

Each variant runs in a separate process, in turns. Columns: milliseconds of an inference pass and of a training step
(medians), and the ratio of the plain variant to ours.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from common import answers, begin, machine, parser, table

from wsss_lib.models import create_backbone
from wsss_lib.stages.engine import keep_freed_memory


def median_milliseconds(function: Callable[[], object], count: int) -> float:
    """Return the median time of ``count`` calls after a first one."""
    function()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(keep: bool) -> dict[str, float]:
    """Return the times of one process."""
    if keep:
        keep_freed_memory()
    network = create_backbone("mobilenet_v2")
    network.freeze()
    image, batch = torch.randn(2, 3, 289, 385), torch.randn(8, 3, 257, 257)

    def infer() -> None:
        with torch.inference_mode():
            network(image)

    def step() -> None:
        list(network(batch).values())[-1].mean().backward()

    return {"inference": median_milliseconds(infer, 10), "training": median_milliseconds(step, 4)}


def main() -> None:
    """Print the table."""
    options = parser(__doc__, repeats=3).parse_args()
    device = begin(options)
    if options.measure:
        print(json.dumps(measure(options.measure == "ours")))
        return
    rows: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
    for _ in range(options.repeats):
        for variant, answer in answers(list(rows)).items():
            rows[variant].append(answer)
    print(machine(device))
    lines = []
    for stage in ("inference", "training"):
        plain, ours = (statistics.median(r[stage] for r in rows[v]) for v in ("plain", "ours"))
        lines.append([stage, f"{plain:.0f}", f"{ours:.0f}", f"{plain / ours:.2f}"])
    print(table(["MobileNetV2", "plain ms", "ours ms", "ratio"], lines))


if __name__ == "__main__":
    main()
