"""AffinityNet's pair loss, forward and backward: slices of the features against gathering every pair.

The plain version does what AffinityNet's code does. It gathers the features of both pixels of all pairs with index
tensors into (B, C, 34, n), subtracts them, takes the absolute value, averages over C, negates and exponentiates, with
PyTorch's autograd. Ours is wsss_lib.ops.affinity.pair_affinities: two slices per offset, and a backward pass that
computes the differences again. Both then have the same three-part loss, with random label maps.

The affinities must be equal within 1e-5 (they are in (0, 1]), the gradients of the features within 1e-4 of the
greatest one.

Columns: milliseconds of loss and gradient, median of the turns; ratio: speed-up over plain in the same turn, median;
peak MiB: growth of memory above features, labels and indices, with the gradient, measured in a separate process (memory
allocated by PyTorch on CUDA, resident memory on a CPU); ratio: peak of plain over this peak.

The full size is `--device cuda --batch 8`, which is the default on CUDA.
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

from wsss_lib.ops.affinity import UNKNOWN, pair_affinities, pair_labels

PLAIN, OURS = "plain", "ours"
RADIUS = 5
VALUES, GRADIENTS = 1e-5, 1e-4


@lru_cache
def plain_indices(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the flat indices of the first pixels ``(n,)`` and of the second pixels ``(34 n,)``, offset by offset."""
    reach = RADIUS - 1
    grid = torch.arange(height * width, device=device).view(height, width)
    start = grid[: height - reach, reach : width - reach].flatten()
    return start, torch.cat([start + dy * width + dx for dy, dx in plain_offsets(RADIUS)])


def plain_affinities(features: Tensor) -> Tensor:
    """Return the affinities ``(B, 34, n)`` by gathering."""
    start, end = plain_indices(*features.shape[2:], features.device)
    flat = features.flatten(2)
    one = flat.index_select(2, start).unsqueeze(2)
    other = flat.index_select(2, end).unflatten(2, (-1, len(start)))
    return torch.exp(-torch.mean(torch.abs(other - one), dim=1))


def our_affinities(features: Tensor) -> Tensor:
    """Return the affinities of the library."""
    return pair_affinities(features, RADIUS)


AFFINITIES: dict[str, Callable[[Tensor], Tensor]] = {PLAIN: plain_affinities, OURS: our_affinities}


@dataclass(frozen=True)
class Inputs:
    """Features ``(B, C, h, w)``, and three ``(B, 34, n)`` float32: both background, the same class, different."""

    features: Tensor
    background: Tensor
    foreground: Tensor
    different: Tensor


def make_inputs(batch: int, channels: int, height: int, width: int, device: torch.device) -> Inputs:
    """Draw features that differ much at some pixels and little at others, and labels of which a quarter is unknown."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, height, width, generator=generator)
    features *= torch.rand(batch, 1, height, width, generator=generator)
    labels = torch.randint(0, 3, (batch, height, width), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.25] = UNKNOWN
    masks = [mask.float() for mask in pair_labels(labels.to(device), RADIUS)]
    return Inputs(F.elu(features).to(device).requires_grad_(), *masks)


def pair_loss(affinities: Tensor, inputs: Inputs) -> Tensor:
    """Return the mean cross-entropy of the three kinds of pairs, weighted 1 : 1 : 2."""
    e = 1e-5
    alike, unlike = -torch.log(affinities + e), -torch.log(1 + e - affinities)
    background, foreground, different = (
        (mask * loss).sum() / (mask.sum() + e)
        for mask, loss in ((inputs.background, alike), (inputs.foreground, alike), (inputs.different, unlike))
    )
    return background / 4 + foreground / 4 + different / 2


def step(name: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the affinities of a variant and the gradient of the features."""
    inputs.features.grad = None
    affinities = AFFINITIES[name](inputs.features)
    pair_loss(affinities, inputs).backward()
    assert inputs.features.grad is not None
    return affinities.detach(), inputs.features.grad


def assert_equal(inputs: Inputs) -> None:
    """Raise AssertionError unless the variants have the same affinities and gradients."""
    (plain, wanted), (ours, gradient) = (step(name, inputs) for name in (PLAIN, OURS))
    torch.testing.assert_close(ours, plain, rtol=0, atol=VALUES)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=GRADIENTS * float(wanted.abs().max()))


def arguments() -> argparse.Namespace:
    """Read the command line; the batch depends on the device."""
    options = parser(__doc__, repeats=5, threads=1)
    options.add_argument("--batch", type=int, help="B (default: 1, on CUDA 8)")
    options.add_argument("--channels", type=int, default=448, help="C (default: 448)")
    options.add_argument("--height", type=int, default=56, help="height of the grid of features (default: 56)")
    options.add_argument("--width", type=int, default=56, help="width of the grid of features (default: 56)")
    return choose_sizes(options.parse_args(), batch=(1, 8))


def main() -> None:
    """Compare, then time, then print the table."""
    options = arguments()
    device = begin(options)
    inputs = make_inputs(options.batch, options.channels, options.height, options.width, device)
    if options.measure:
        step(options.measure, make_inputs(1, 8, RADIUS, 2 * RADIUS, device))  # loads code, whose memory must not count
        plain_indices(options.height, options.width, device)
        forget_peak()
        print_peak(peak_of(lambda: step(options.measure, inputs), device))
        return

    memory = peaks(list(AFFINITIES))
    assert_equal(inputs)
    times = alternate({name: lambda name=name: step(name, inputs) for name in AFFINITIES}, options.repeats, device)

    shape = f"({options.batch}, {options.channels}, {options.height}, {options.width})"
    print(f"Pair loss, forward and backward: features {shape}, {inputs.different[0].numel()} pairs per image")
    print(
        f"{machine(device)}; {options.repeats} turns; affinities are equal (absolute tolerance {VALUES:g}), "
        f"gradients too ({GRADIENTS:g} of the greatest)"
    )
    print(table(("variant", "ms", "ratio", "peak MiB", "ratio"), comparison(times, memory, PLAIN)))


if __name__ == "__main__":
    main()
