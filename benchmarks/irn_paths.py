"""IRN's affinities along paths, alone and with their loss, forward and backward: runs of cells against gathered paths.

The plain version does what IRN's code does. It gathers the boundary values of all cells of all paths with index tensors
into (B, paths, cells, n), one tensor for each number of cells. Max pooling over the cells and the three-part loss over
all pairs follow, with PyTorch's autograd. Ours are wsss_lib.ops.paths.path_affinities, which splits each path into a
few straight runs of cells, and wsss_lib.methods.irn.boundary_loss, which never holds all pairs. Label maps are random.

The affinities must be equal to the last bit, the losses within 1e-5 of their value, the gradients of the boundaries
within 1e-5 of the greatest one.

Rows: "affinities" are the affinities and the gradient of a weighted sum of them, "loss" is the loss and its gradient.
Columns: milliseconds, median of the turns; ratio: speed-up over plain in the same turn, median; peak MiB: growth of
memory above boundaries, labels and indices, with the gradient, measured in a separate process (memory allocated by
PyTorch on CUDA, resident memory on a CPU); ratio: peak of plain over this peak. The indices of the plain version do not
count; a line below the table gives their size.

The full size is `--device cuda --batch 32`, which is the default on CUDA.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from common import (
    alternate,
    begin,
    choose_sizes,
    comparison,
    forget_peak,
    machine,
    parser,
    peak_of,
    peaks,
    plain_offsets,
    print_peak,
    table,
)
from torch import Tensor

from wsss_lib.methods.affinitynet import affinity_loss
from wsss_lib.methods.irn import boundary_loss
from wsss_lib.ops.affinity import UNKNOWN, pair_labels
from wsss_lib.ops.paths import official_order, path_affinities

PLAIN, OURS = "plain", "ours"
LOSSES, GRADIENTS = 1e-5, 1e-5


@lru_cache
def plain_indices(height: int, width: int, radius: int, device: torch.device) -> list[Tensor]:
    """Return the flat indices ``(paths, cells, n)`` of all paths, one tensor for every number of cells."""
    reach = radius - 1
    grid = torch.arange(height * width, device=device).view(height, width)
    groups: dict[int, list[Tensor]] = {}
    for dy, dx in plain_offsets(radius):
        box = [(y, x) for y in range(dy + 1) for x in range(min(dx, 0), max(dx, 0) + 1)]
        cells = [(y, x) for y, x in box if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
        cells.sort(key=lambda cell: -cell[0] - abs(cell[1]))
        rows, columns = height - reach, width - 2 * reach
        found = [grid[y : y + rows, reach + x : reach + x + columns].flatten() for y, x in cells]
        groups.setdefault(len(cells), []).append(torch.stack(found))
    return [torch.stack(groups[length]) for length in sorted(groups)]


def plain_affinities(boundaries: Tensor, radius: int) -> Tensor:
    """Return the affinities ``(B, P, n)`` by gathering, the shorter paths first."""
    flat = boundaries.flatten(1)
    parts = []
    for index in plain_indices(boundaries.shape[1], boundaries.shape[2], radius, boundaries.device):
        values = flat.index_select(1, index.flatten()).view(-1, *index.shape)
        parts.append(1 - F.max_pool2d(values, (index.shape[1], 1)).squeeze(2))
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Inputs:
    """Inputs of the loss.

    Attributes:
        boundaries: ``(B, h, w)`` float32.
        labels: ``(B, h, w)`` uint8.
        kinds: Three ``(B, P, n)`` bool, the shorter paths first: both background, the same class, different.
        weights: ``(B, P, n)`` float32, the shorter paths first.
        radius: Radius of the pairs, in cells.
    """

    boundaries: Tensor
    labels: Tensor
    kinds: list[Tensor]
    weights: Tensor
    radius: int


def make_inputs(batch: int, height: int, width: int, radius: int, device: torch.device) -> Inputs:
    """Draw boundaries, and labels of which a quarter is unknown."""
    generator = torch.Generator().manual_seed(0)
    boundaries = torch.rand(batch, height, width, generator=generator)
    labels = torch.randint(0, 3, (batch, height, width), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.25] = UNKNOWN
    kinds = [kind[:, official_order(radius)].to(device) for kind in pair_labels(labels, radius)]
    weights = torch.randn(kinds[0].shape, generator=generator).to(device)
    return Inputs(boundaries.to(device).requires_grad_(), labels.to(device), kinds, weights, radius)


def affinities(name: str, inputs: Inputs) -> Tensor:
    """Return the affinities of a variant, the shorter paths first."""
    if name == PLAIN:
        return plain_affinities(inputs.boundaries, inputs.radius)
    return path_affinities(inputs.boundaries, inputs.radius)


def only_affinities(name: str, inputs: Inputs) -> Tensor:
    """Compute affinities and a gradient; the order of the pairs does not matter for the costs."""
    found = affinities(name, inputs)
    (found * inputs.weights).sum().backward()
    return found.detach()


def loss(name: str, inputs: Inputs) -> Tensor:
    """Compute the loss and its gradient."""
    if name == PLAIN:
        found = affinity_loss(affinities(name, inputs), *inputs.kinds)["loss"]
    else:
        found = boundary_loss(inputs.boundaries, inputs.labels, inputs.radius)["loss"]
    found.backward()
    return found.detach()


WORK: dict[str, Callable[[str, Inputs], Tensor]] = {"affinities": only_affinities, "loss": loss}
VARIANTS = [f"{work}, {name}" for work in WORK for name in (PLAIN, OURS)]


def step(variant: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the result of a variant and the gradient of the boundaries."""
    work, name = variant.split(", ")
    inputs.boundaries.grad = None
    result = WORK[work](name, inputs)
    assert inputs.boundaries.grad is not None
    return result, inputs.boundaries.grad


def assert_equal(inputs: Inputs) -> None:
    """Raise AssertionError unless the variants have the same affinities, losses and gradients."""
    order = official_order(inputs.radius)
    (wanted, slope), (found, our_slope) = (step(f"loss, {name}", inputs) for name in (PLAIN, OURS))
    torch.testing.assert_close(found, wanted, rtol=LOSSES, atol=0)
    torch.testing.assert_close(our_slope, slope, rtol=0, atol=GRADIENTS * float(slope.abs().max()))
    plain, ours = affinities(PLAIN, inputs), affinities(OURS, inputs)[:, order]
    torch.testing.assert_close(ours, plain, rtol=0, atol=0)
    slopes = [torch.autograd.grad((a * inputs.weights).sum(), inputs.boundaries)[0] for a in (plain, ours)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=GRADIENTS * float(slopes[0].abs().max()))


def arguments() -> argparse.Namespace:
    """Read the command line; the batch depends on the device."""
    options = parser(__doc__, repeats=3, threads=1)
    options.add_argument("--batch", type=int, help="B (default: 1, on CUDA 32)")
    options.add_argument("--height", type=int, default=128, help="height of the grid of cells (default: 128)")
    options.add_argument("--width", type=int, default=128, help="width of the grid of cells (default: 128)")
    options.add_argument("--radius", type=int, default=10, help="radius of the pairs, in cells (default: 10)")
    return choose_sizes(options.parse_args(), batch=(1, 32))


def main() -> None:
    """Compare, then time, then print the table."""
    options = arguments()
    device, radius = begin(options), options.radius
    inputs = make_inputs(options.batch, options.height, options.width, radius, device)
    if options.measure:
        tiny = make_inputs(1, radius, 2 * radius, radius, device)
        step(options.measure, tiny)  # loads code, whose memory must not count
        plain_indices(options.height, options.width, radius, device)
        forget_peak()
        print_peak(peak_of(lambda: step(options.measure, inputs), device))
        return

    memory = peaks(VARIANTS)
    assert_equal(inputs)
    times = alternate({v: lambda v=v: step(v, inputs) for v in VARIANTS}, options.repeats, device)

    indices = plain_indices(options.height, options.width, radius, device)
    size = f"{options.batch} × {options.height} × {options.width} cells, radius {radius}"
    print(f"Paths, forward and backward: {size}, {inputs.kinds[0][0].numel()} pairs per image")
    print(
        f"{machine(device)}; {options.repeats} turns; affinities are equal, losses ({LOSSES:g}) and gradients too "
        f"({GRADIENTS:g} of the greatest)"
    )
    rows = []
    for work in WORK:
        pair = [v for v in VARIANTS if v.startswith(work)]
        rows += comparison({v: times[v] for v in pair}, {v: memory[v] for v in pair}, pair[0])
    print(table(("variant", "ms", "ratio", "peak MiB", "ratio"), rows))
    print(f"Plain's indices, not counted above: {sum(i.numel() * i.element_size() for i in indices) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
