"""Random walk along pair affinities: a polynomial of a sparse matrix against squaring a dense one.

The plain version does what AffinityNet's infer_aff.py does, image by image. It builds a dense matrix of the affinities,
N x N for a grid of N pixels, raises it to beta element by element, divides columns by their sums, squares it log2(t)
times, and multiplies it by the scores. The sparse version applies the library's sparse matrix t times to the few rows
of scores of all images. Ours is wsss_lib.ops.random_walk.random_walk on all images in one call, with a polynomial of
the matrix instead of its power. All versions get the affinities of the pairs. Their scores must be equal within 1e-5
(they are in [0, 1]).

The indices of the pairs depend only on the size of the grid. All versions compute them once and cache them, so they do
not count in the timed calls, but the measured memory includes them. The line above the table has the time of the first
call of ours, which computes them.

Columns: milliseconds per image, median of the turns; ratio: speed-up over plain in the same turn, median; peak MiB:
growth of memory above the affinities and scores, measured in a separate process (memory allocated by PyTorch on CUDA,
resident memory on a CPU), for plain with two squarings, which hold as many matrices as all; ratio: peak of plain over
this peak; products: products of two dense matrices, or of a sparse matrix with the scores; error: greatest difference
of a score from the walk in float64.

The second table measures the whole refinement of the features and class maps of one image, after the network:
affinities (plain gathers all pairs), the background score, cells of 8 pixels, the walk, scores of the image's size,
labels. At least 99.9 % of the labels must be equal. It belongs to AffinityNet's walk, so it is left out for another
stride, radius or beta.

IRN walks on cells of 4 pixels with beta 10: `--stride 4 --beta 10`. Plain then needs about 2 GB of memory for an image
of 500 x 375, and minutes for each call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    alternate,
    begin,
    comparison,
    forget_peak,
    machine,
    parser,
    peak_of,
    peaks,
    plain_offsets,
    print_peak,
    seconds,
    smooth,
    table,
)
from pair_affinity import plain_affinities
from scipy.sparse import coo_array
from torch import Tensor

from wsss_lib.methods.affinitynet import enlarge
from wsss_lib.ops.affinity import pair_affinities
from wsss_lib.ops.cam import background_power
from wsss_lib.ops.random_walk import random_walk, transition_matrix, walk_coefficients
from wsss_lib.stages.refine import label_map

PLAIN, SPARSE, OURS = "plain", "sparse", "ours"
STRIDE = 8
BETA = 8
RADIUS = 5
TOLERANCE = 1e-5
CHANNELS, ALPHA, SHARE = 448, 16, 0.999
"""Channels of AffinityNet's features, power of the background, and least share of equal labels."""


@dataclass(frozen=True)
class Graph:
    """Settings of the walk; the defaults are AffinityNet's.

    Attributes:
        beta: Power of the affinities.
        radius: Upper bound, excluded, of the distance of a pair, in cells.
    """

    beta: float = BETA
    radius: int = RADIUS


AFFINITYNET = Graph()

Inputs = tuple[list[Tensor], list[Tensor]]
"""The scores ``(C, h, w)`` and the affinities ``(P, n)`` of every image."""


@lru_cache
def plain_indices(height: int, width: int, radius: int, device: torch.device) -> Tensor:
    """Return row and column of the matrix's entries ``(2, 2 P n + N)``: pairs, transposed pairs, main diagonal."""
    reach = radius - 1
    offsets = plain_offsets(radius)
    grid = np.arange(height * width).reshape(height, width)
    start = grid[: height - reach, reach : width - reach].ravel()
    end = np.concatenate([start + dy * width + dx for dy, dx in offsets])
    start = np.tile(start, len(offsets))
    pairs = [np.concatenate([start, end, grid.ravel()]), np.concatenate([end, start, grid.ravel()])]
    return torch.from_numpy(np.stack(pairs)).to(device)


@torch.no_grad()
def plain_walk(scores: list[Tensor], affinities: list[Tensor], steps: int, graph: Graph = AFFINITYNET) -> list[Tensor]:
    """Return the scores of all images after ``steps`` steps, by squaring dense matrices."""
    results = []
    for maps, pairs in zip(scores, affinities, strict=True):
        height, width = maps.shape[1:]
        size = height * width
        values = torch.cat([pairs.flatten(), pairs.flatten(), pairs.new_ones(size)])
        indices = plain_indices(height, width, graph.radius, maps.device)
        matrix = torch.sparse_coo_tensor(indices, values, (size, size), check_invariants=False).to_dense()
        matrix = torch.pow(matrix, graph.beta)
        transition = matrix / matrix.sum(dim=0, keepdim=True)
        for _ in range(steps.bit_length() - 1):
            transition = torch.matmul(transition, transition)
        results.append(torch.matmul(maps.flatten(1), transition).view_as(maps))
    return results


@torch.no_grad()
def sparse_walk(scores: list[Tensor], affinities: list[Tensor], steps: int, graph: Graph = AFFINITYNET) -> list[Tensor]:
    """Return the scores of all images after ``steps`` products with the sparse matrix of all images."""
    grids = [(m.shape[1], m.shape[2]) for m in scores]
    transition = transition_matrix(affinities, grids, graph.beta, graph.radius)
    x = torch.cat([maps.flatten(1).t() for maps in scores])
    for _ in range(steps):
        x = transition @ x
    parts = x.split([maps[0].numel() for maps in scores])
    return [part.t().reshape(maps.shape) for part, maps in zip(parts, scores, strict=True)]


def exact_walk(scores: list[Tensor], affinities: list[Tensor], steps: int, graph: Graph = AFFINITYNET) -> list[Tensor]:
    """Return the scores of all images, computed in float64."""
    results = []
    for maps, pairs in zip(scores, affinities, strict=True):
        size = maps[0].numel()
        half = pairs.flatten().double().cpu().numpy() ** graph.beta
        indices = plain_indices(maps.shape[1], maps.shape[2], graph.radius, torch.device("cpu")).numpy()
        matrix = coo_array((np.concatenate([half, half, np.ones(size)]), indices), shape=(size, size)).tocsr()
        sums = matrix.sum(1)[:, None]
        x = maps.flatten(1).t().double().cpu().numpy()
        for _ in range(steps):
            x = (matrix @ x) / sums
        results.append(torch.from_numpy(x.T.copy()).view(maps.shape))
    return results


def error(walked: list[Tensor], exact: list[Tensor]) -> float:
    """Return the greatest difference between two scores."""
    return max(float((a.cpu().double() - b).abs().max()) for a, b in zip(walked, exact, strict=True))


def products(steps: int) -> dict[str, int]:
    """Return the number of products of each variant: of dense matrices for plain, of a matrix with scores else."""
    return {PLAIN: steps.bit_length(), SPARSE: steps, OURS: min(steps, len(walk_coefficients(steps)))}


def our_walk(scores: list[Tensor], affinities: list[Tensor], steps: int, graph: Graph = AFFINITYNET) -> list[Tensor]:
    """Return the same by the library."""
    return random_walk(scores, affinities, beta=graph.beta, steps=steps, radius=graph.radius)


RUN: dict[str, Callable[..., list[Tensor]]] = {
    PLAIN: plain_walk,
    SPARSE: sparse_walk,
    OURS: our_walk,
}


def make_inputs(count: int, rows: int, height: int, width: int, device: torch.device, radius: int = RADIUS) -> Inputs:
    """Make smooth scores, and affinities that follow the borders of patches, for grids of ``height`` x ``width``."""
    rng = np.random.default_rng(0)
    scores, affinities = [], []
    for _ in range(count):
        scores.append(torch.from_numpy(np.stack([smooth(rng, height, width) for _ in range(rows)])).to(device))
        patches = np.stack([np.floor(5 * smooth(rng, height, width)) / 5 for _ in range(8)])
        noise = 0.1 * rng.random(patches.shape)
        affinities.append(pair_affinities(torch.from_numpy((patches + noise)[None]).to(device), radius)[0])
    return scores, affinities


@torch.no_grad()
def plain_labels(features: Tensor, maps: Tensor, steps: int) -> Tensor:
    """Return the labels ``(H, W)`` of an image, from features ``(1, C, h, w)`` and class maps ``(n, H, W)``."""
    size = maps.shape[1:]
    margin = (0, -size[1] % STRIDE, 0, -size[0] % STRIDE)
    scores = F.pad(torch.cat([(1 - maps.max(0, keepdim=True)[0]) ** ALPHA, maps]), margin)
    (walked,) = plain_walk([F.avg_pool2d(scores, STRIDE)], list(plain_affinities(features)), steps)
    large = F.interpolate(walked[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]
    return large[:, : size[0], : size[1]].argmax(0)


@torch.no_grad()
def our_labels(features: Tensor, maps: Tensor, steps: int) -> Tensor:
    """Return the same by the library."""
    size = (maps.shape[1], maps.shape[2])
    margin = (0, -size[1] % STRIDE, 0, -size[0] % STRIDE)
    scores = F.avg_pool2d(F.pad(background_power(maps, ALPHA), margin), STRIDE)
    (walked,) = our_walk([scores], list(pair_affinities(features, RADIUS)), steps)
    return label_map(torch.arange(len(maps), device=maps.device), enlarge(walked, STRIDE, size))


LABEL: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {PLAIN: plain_labels, OURS: our_labels}


def time_refinement(options: argparse.Namespace, device: torch.device) -> None:
    """Compare and time the whole refinement after the network, and print the table."""
    rng = np.random.default_rng(1)
    height, width = -(-options.height // STRIDE), -(-options.width // STRIDE)
    patches = np.stack([np.floor(5 * smooth(rng, height, width)) / 5 for _ in range(CHANNELS)])
    features = torch.from_numpy(patches + 0.1 * rng.random(patches.shape, dtype=np.float32))[None].to(device)
    shown = max(options.rows - 1, 1)
    maps = torch.from_numpy(np.stack([smooth(rng, options.height, options.width) for _ in range(shown)])).to(device)
    plain, ours = (LABEL[name](features, maps, options.steps) for name in LABEL)
    share = float((plain == ours).float().mean())
    assert share >= SHARE, f"only {share:.2%} of the labels are equal"
    variants = {name: lambda run=run: run(features, maps, options.steps) for name, run in LABEL.items()}
    times = alternate(variants, options.repeats, device)
    print(f"\nThe whole refinement, network aside, {CHANNELS} channels; {share:.3%} of the labels are equal")
    rows = [row[:3] for row in comparison(times, dict.fromkeys(LABEL, 0.0), PLAIN)]
    print(table(("variant", "ms/image", "ratio"), rows))


def arguments() -> argparse.Namespace:
    """Read the command line and refuse options that the plain version does not support."""
    options = parser(__doc__, repeats=3, threads=1)
    options.add_argument("--height", type=int, default=375, help="height of the image (default: 375)")
    options.add_argument("--width", type=int, default=500, help="width of the image (default: 500)")
    options.add_argument(
        "--stride", type=int, default=STRIDE, help=f"side of a cell of the grid, in pixels (default: {STRIDE})"
    )
    options.add_argument(
        "--radius", type=int, default=RADIUS, help=f"radius of the pairs, in cells (default: {RADIUS})"
    )
    options.add_argument("--beta", type=float, default=BETA, help=f"power of the affinities (default: {BETA})")
    options.add_argument(
        "--steps", type=int, default=256, help="t, a power of two, because plain squares a matrix (default: 256)"
    )
    options.add_argument("--rows", type=int, default=3, help="rows of scores: classes and background (default: 3)")
    options.add_argument("--images", type=int, default=1, help="number of images in one call of ours (default: 1)")
    chosen = options.parse_args()
    if chosen.steps < 1 or chosen.steps & (chosen.steps - 1):
        raise SystemExit(f"--steps {chosen.steps} is not a power of two, and plain can only square; try 256.")
    if chosen.rows < 1 or chosen.images < 1 or chosen.stride < 1:
        raise SystemExit("--rows, --images and --stride must be at least 1.")
    if chosen.radius < 2 or -(-chosen.height // chosen.stride) < chosen.radius:
        raise SystemExit("--radius must be at least 2, and no more than the rows of the grid.")
    return chosen


def main() -> None:
    """Compare, then time, then print the tables."""
    options = arguments()
    device, graph = begin(options), Graph(options.beta, options.radius)
    height, width = -(-options.height // options.stride), -(-options.width // options.stride)
    inputs = make_inputs(options.images, options.rows, height, width, device, graph.radius)
    if options.measure:
        run, tiny = RUN[options.measure], (graph.radius, 2 * graph.radius)
        loads = make_inputs(1, options.rows, *tiny, device, graph.radius)
        run(*loads, 2, graph)  # loads code, whose memory must not count
        forget_peak()
        steps = min(options.steps, 4) if options.measure == PLAIN else options.steps
        print_peak(peak_of(lambda: run(*inputs, steps, graph), device))
        return

    memory = peaks(list(RUN))
    first = seconds(lambda: our_walk(*inputs, options.steps, graph), device)
    sparse_walk(*inputs, 1, graph)
    plain_indices(height, width, graph.radius, device)
    walked: dict[str, list[Tensor]] = {}

    def walk(name: str) -> None:
        walked[name] = RUN[name](*inputs, options.steps, graph)

    times = alternate({name: lambda name=name: walk(name) for name in RUN}, options.repeats, device, warm_up=0)
    for name in (SPARSE, PLAIN):
        for ours, other in zip(walked[OURS], walked[name], strict=True):
            torch.testing.assert_close(ours, other, rtol=0, atol=TOLERANCE)
    exact = exact_walk(*inputs, options.steps, graph)

    print(
        f"Random walk: {options.images} images of {options.width}x{options.height}, grid {height}x{width}, radius "
        f"{graph.radius}, beta {graph.beta:g}, {options.steps} steps, {options.rows} rows; the first call of ours took "
        f"{1000 * first:.0f} ms"
    )
    print(f"{machine(device)}; {options.repeats} turns; scores are equal (absolute tolerance {TOLERANCE:g})")
    needed = products(options.steps)
    rows = [
        (*row, needed[row[0]], f"{error(walked[row[0]], exact):.1e}")
        for row in comparison(times, memory, PLAIN, options.images)
    ]
    print(table(("variant", "ms/image", "ratio", "peak MiB", "ratio", "products", "error"), rows))
    if graph == AFFINITYNET and options.stride == STRIDE:
        time_refinement(options, device)


if __name__ == "__main__":
    main()
