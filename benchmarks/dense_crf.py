"""Dense CRF with AffinityNet's settings, 10 updates: the library's backends against pydensecrf's C++ code.

There is a row for each backend: torch, and on a CPU numba, if it is installed. The first call of numba, which compiles
its code, is not timed.

Images are drawn, with shaded patches and noise, or read from a folder (`--images`) and resized. Scores are smooth maps
of L - 1 classes after the background score (1 - max)^alpha; alpha is 4, and also 32 in rows with two alphas. Both
backends get the same energies -log p. In rows with two alphas, pydensecrf solves the two fields of an image one after
the other, and ours solves them together on one lattice. pydensecrf always uses one thread, and solves one image at a
time. The labels of at least 99.9 % of the pixels must be equal, and probabilities must agree within 1e-4 on average.

The lattice of positions depends only on the size of the images. Ours caches it for images of the same size, so the
timed calls do not build it; pydensecrf builds it each time. The measured memory includes it.

Columns, all per image:
  pydensecrf ms, ours ms   median of the turns
  ratio                    speed-up over pydensecrf in the same turn, median
  lattice ms               part of ours that builds the bilateral lattice and its normalisation
  M                        corners of the bilateral lattice (the line above the table has those of the other lattice)
  equal %, mean |dQ|       pixels with the same most probable label; mean difference of probabilities
  peak MiB                 growth of memory above images and energies, in a separate process that solves one batch
                           (memory allocated by PyTorch on CUDA, resident memory on a CPU)
On CUDA, the rows are batches of several sizes, pydensecrf runs in one process on the CPU of the same machine, and there
are more columns:
  images/s                 images per second of ours
  launches                 launches of kernels, counted by torch.profiler (without copies and fills by the driver)
  MB                       least memory traffic of the updates. A product of a sparse matrix of n rows, m columns and e
                           entries with m x GL values, for G fields of L labels, reads e columns and e weights (8 e
                           bytes), the starts of the rows if their lengths differ (4 n), and each value once (4 m GL),
                           and writes n GL results (4 n GL). For each of the two lattices, an update does one splat
                           (n = M, m = N, e = (d + 1) N), d + 1 blurs (n = m = M, e = 3 M) and one slice (n = N,
                           m = M, e = (d + 1) N), with N pixels and d = 2 or 5. Softmax and transposing do not count
  GB/s                     MB divided by the time without building the lattice
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from common import (
    alternate,
    begin,
    choose_sizes,
    forget_peak,
    machine,
    parser,
    peak_of,
    peaks,
    print_peak,
    smooth,
    speed_up,
    synchronise,
    table,
)
from PIL import Image
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from wsss_lib.ops import dense_crf as crf
from wsss_lib.ops.sparse import SparseRows

PLAIN, OURS, LATTICE = "pydensecrf", "ours", "lattice"
ALPHAS = (4, 32)
STEPS = 10
KERNELS = crf.PRESETS["psa"].kernels


@dataclass(frozen=True)
class Case:
    """A row of the table: number of labels, of fields per image, and of images solved at once, and the backend."""

    labels: int
    fields: int
    batch: int
    backend: Literal["torch", "numba"] = "torch"

    @property
    def name(self) -> str:
        """Name of the row."""
        alphas = f", {self.fields} alphas" if self.fields > 1 else ""
        at_once = f", {self.batch} at once" if self.batch > 1 else ""
        return f"{self.labels} labels{alphas}{at_once}, {self.backend}"


# ------------------------------------------------------------------------------------------------------------ data


def made_up(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an ``(H, W, 3)`` uint8 image: patches with sharp borders, shaded, with noise."""
    patches = (8 * smooth(rng, height, width, cells=7)).astype(int)
    colours = rng.uniform(20, 235, (8, 3))[patches]
    shading = 50 * (smooth(rng, height, width)[..., None] - 0.5)
    return np.clip(colours + shading + rng.normal(0, 6, colours.shape), 0, 255).astype(np.uint8)


def from_folder(folder: Path, count: int, height: int, width: int) -> list[np.ndarray]:
    """Read the first ``count`` JPEGs of a folder."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))[:count]
    if len(paths) < count:
        raise SystemExit(f"{folder} has {len(paths)} JPEGs, but {count} are asked for; give --count {len(paths)}.")
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.array(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)))
    return images


def make_images(options: argparse.Namespace, count: int) -> list[np.ndarray]:
    """Return ``count`` images ``(H, W, 3)`` uint8."""
    if options.images is not None:
        return from_folder(options.images, count, options.height, options.width)
    rng = np.random.default_rng(0)
    return [made_up(rng, options.height, options.width) for _ in range(count)]


def make_energies(case: Case, count: int, height: int, width: int) -> list[np.ndarray]:
    """Return the energies ``(G, L, H, W)`` float32 of each image."""
    rng = np.random.default_rng(1)
    energies = []
    for _ in range(count):
        maps = np.stack([smooth(rng, height, width) for _ in range(case.labels - 1)])
        maps = np.maximum(1.25 * maps - 0.3, 0)  # most of a map is 0
        fields = [np.concatenate([(1 - maps.max(0, keepdims=True)) ** a, maps]) for a in ALPHAS[: case.fields]]
        energies.append(-np.log(np.clip(np.stack(fields), 1e-5, 1)).astype(np.float32))
    return energies


# -------------------------------------------------------------------------------------------------------- variants


def plain(images: Sequence[np.ndarray], energies: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the probabilities ``(G, L, H, W)`` of each image, computed as in AffinityNet's code."""
    from pydensecrf.densecrf import DenseCRF2D  # noqa: PLC0415, RUF100  # optional

    results = []
    for image, fields in zip(images, energies, strict=True):
        height, width = image.shape[:2]
        solved = []
        for energy in fields:
            field = DenseCRF2D(width, height, len(energy))
            field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(len(energy), -1)))
            field.addPairwiseGaussian(sxy=3, compat=3)
            field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.copy(image), compat=10)
            solved.append(np.array(field.inference(STEPS)).reshape(energy.shape))
        results.append(np.stack(solved))
    return results


def ours(
    images: Sequence[Tensor], energies: Sequence[Tensor], backend: Literal["torch", "numba"] = "torch"
) -> list[Tensor]:
    """Return the probabilities of the library, for ``(3, H, W)`` uint8 images."""
    return crf.dense_crf(images, energies, "psa", backend)


@torch.no_grad()
def build(images: Sequence[Tensor], batch: int) -> list[list[crf.Kernel]]:
    """Return the torch backend's kernels of each batch; the library caches the kernel of positions alone."""
    return [[crf.make_kernel(images[i : i + batch], k) for k in KERNELS] for i in range(0, len(images), batch)]


def to_tensors(
    images: Sequence[np.ndarray], energies: Sequence[np.ndarray], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Return images and energies in the format of the library."""
    pictures = [torch.from_numpy(image).permute(2, 0, 1).contiguous().to(device) for image in images]
    return pictures, [torch.from_numpy(energy).to(device) for energy in energies]


def solve_at_once(device: torch.device, batch: int, options: argparse.Namespace) -> None:
    """Set the number of images that the library solves at once."""
    crf.PIXELS_PER_BATCH[device.type] = batch * options.height * options.width


# ---------------------------------------------------------------------------------------------------------- counts


def count_launches(function: Callable[[], object], device: torch.device) -> int:
    """Return the number of CUDA kernels that one call runs; 0 if the profiler has no access to the device."""
    counts = []
    for _ in range(2):  # the profiler can miss kernels while it first attaches to the device
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            function()
            synchronise(device)
        names = [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]
        counts.append(sum(not name.startswith(("Memcpy", "Memset")) and not name.endswith(" Sync") for name in names))
    return max(counts)


def product_bytes(matrix: SparseRows, columns: int, values: int) -> int:
    """Return the least memory traffic of one product with ``(columns, values)`` float32, in bytes."""
    rows = len(matrix.columns) if matrix.offsets is None else len(matrix.offsets) - 1
    starts = 0 if matrix.offsets is None else rows
    return 8 * matrix.columns.numel() + 4 * starts + 4 * values * (columns + rows)


def update_bytes(kernels: Sequence[crf.Kernel], values: int) -> int:
    """Return the least memory traffic of the products of one update with ``values`` columns, in bytes."""
    total = 0
    for kernel in kernels:
        size, points = kernel.lattice.size, len(kernel.slicing.columns)
        total += product_bytes(kernel.splatting, points, values)
        total += sum(product_bytes(axis, size, values) for axis in kernel.lattice.axes)
        total += product_bytes(kernel.slicing, size, values)
    return total


# ------------------------------------------------------------------------------------------------------------ main


def difference(results: Sequence[Tensor], expected: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the percentage of equal labels and the mean difference; raise AssertionError if they are out of bounds."""
    equal, distance = [], []
    for q, other in zip(results, expected, strict=True):
        values = q.cpu().numpy()
        equal.append((values.argmax(1) == other.argmax(1)).mean())
        distance.append(np.abs(values - other).mean())
    share, mean = float(np.mean(equal)), float(np.mean(distance))
    assert share >= 0.999, f"only {100 * share:.2f} % of the labels are equal"
    assert mean <= 1e-4, f"probabilities differ by {mean:.2g} on average"
    return 100 * share, mean


def measure_peak(case: Case, options: argparse.Namespace, device: torch.device) -> None:
    """Print the growth of memory while ours solves one batch."""
    solve_at_once(device, case.batch, options)
    energies = make_energies(case, case.batch, options.height, options.width)
    pictures, unaries = to_tensors(make_images(options, case.batch), energies, device)
    del energies
    loads = [x[:, :8, :8] for x in pictures[:1]], [u[..., :8, :8] for u in unaries[:1]]
    ours(*loads, case.backend)
    forget_peak()
    print_peak(peak_of(lambda: ours(pictures, unaries, case.backend), device))


def row_of(
    case: Case, images: Sequence[np.ndarray], options: argparse.Namespace, device: torch.device, memory: float
) -> list[str]:
    """Compare and time one case and return its row."""
    solve_at_once(device, case.batch, options)
    energies = make_energies(case, len(images), options.height, options.width)
    pictures, unaries = to_tensors(images, energies, device)
    some = min(options.compared, len(images))
    variants: dict[str, Callable[[], object]] = {
        OURS: lambda: ours(pictures, unaries, case.backend),
        LATTICE: lambda: build(pictures, case.batch),
    }
    if case.backend == "numba":
        variants[LATTICE] = lambda: [crf.make_compiled_kernels(picture, crf.PRESETS["psa"]) for picture in pictures]
    agreement = ["-", "-"]
    results = ours(pictures, unaries, case.backend)
    if importlib.util.find_spec("pydensecrf") is not None:
        variants[PLAIN] = lambda: plain(images[:some], energies[:some])
        equal, mean = difference(results[:some], plain(images[:some], energies[:some]))
        agreement = [f"{equal:.3f}", f"{mean:.1e}"]
    del results
    kernels = build(pictures, case.batch)
    corners = sum(kernel[-1].lattice.size for kernel in kernels) / len(images)
    moved = STEPS * sum(update_bytes(kernel, case.fields * case.labels) for kernel in kernels) / len(images)
    del kernels
    times = alternate(variants, options.repeats, device, warm_up=0)

    seconds = statistics.median(times[OURS]) / len(images)
    lattice = statistics.median(times[LATTICE]) / len(images)
    if PLAIN in times:
        ratio = f"{speed_up(times, PLAIN, OURS) * len(images) / some:.2f}x"
        first = [f"{1000 * statistics.median(times[PLAIN]) / some:.0f}", f"{1000 * seconds:.1f}", ratio]
    else:
        first = ["-", f"{1000 * seconds:.1f}", "-"]
    row = [case.name, *first, f"{1000 * lattice:.1f}", f"{corners:.0f}", *agreement, f"{memory:.0f}"]
    if device.type == "cuda":
        batch = pictures[: case.batch], unaries[: case.batch]
        launches = count_launches(lambda: ours(*batch, case.backend), device) / case.batch
        speed = moved / max(seconds - lattice, 1e-9) / 1e9
        row += [f"{1 / seconds:.1f}", f"{launches:.1f}" if launches else "-", f"{moved / 1e6:.0f}", f"{speed:.0f}"]
    return row


def arguments() -> argparse.Namespace:
    """Read the command line; some defaults depend on the device."""
    options = parser(__doc__, repeats=3, threads=1)
    options.add_argument(
        "--images", type=Path, metavar="FOLDER", help="folder with JPEGs to use (default: drawn images)"
    )
    options.add_argument("--count", type=int, help="number of images (default: 2; on CUDA the largest batch)")
    options.add_argument(
        "--compared", type=int, default=8, help="greatest number of images that pydensecrf solves (default: 8)"
    )
    options.add_argument("--labels", type=int, nargs="+", help="L of the rows (default: 2 3 5 21, on CUDA 3)")
    options.add_argument(
        "--batches", type=int, nargs="+", help="images that ours solves at once (default: 1, on CUDA 1 4 16 64)"
    )
    options.add_argument(
        "--backends",
        nargs="+",
        choices=("torch", "numba"),
        help="backends of the library (default: torch, and on a CPU numba if it is installed)",
    )
    options.add_argument("--height", type=int, default=375, help="height of the images (default: 375)")
    options.add_argument("--width", type=int, default=500, help="width of the images (default: 500)")
    installed = ["torch", "numba"] if importlib.util.find_spec("numba") is not None else ["torch"]
    sizes = {"labels": ([2, 3, 5, 21], [3]), "batches": ([1], [1, 4, 16, 64]), "backends": (installed, ["torch"])}
    chosen = choose_sizes(options.parse_args(), **sizes)
    if min(chosen.labels) < 2 or min(chosen.batches) < 1 or chosen.compared < 1 or min(chosen.height, chosen.width) < 8:
        raise SystemExit("--labels must be at least 2, --batches and --compared 1, --height and --width 8.")
    if chosen.count is None:
        chosen.count = max(2, *chosen.batches)
    if chosen.count < max(chosen.batches):
        raise SystemExit(f"--count {chosen.count} is less than a batch; make it {max(chosen.batches)} or more.")
    return chosen


def main() -> None:
    """Compare, then time, then print the table."""
    options = arguments()
    device = begin(options)
    fields = [(labels, 1) for labels in options.labels] + [(3, len(ALPHAS))]
    combinations = product(fields, options.batches, options.backends)
    cases = {case.name: case for case in (Case(*field, batch, backend) for field, batch, backend in combinations)}
    if options.measure:
        measure_peak(cases[options.measure], options, device)
        return

    images = make_images(options, options.count)
    memory = peaks(list(cases))
    rows = [row_of(case, images, options, device, memory[name]) for name, case in cases.items()]
    blank = torch.zeros(3, options.height, options.width, dtype=torch.uint8, device=device)
    corners = crf.make_kernel([blank], KERNELS[0]).lattice.size
    source = "made up" if options.images is None else "photographs"
    print(f"Dense CRF: {len(images)} images of {options.width}x{options.height}, {source}, {STEPS} updates")
    print(f"{machine(device)}; {options.repeats} turns; {corners} corners in the lattice of positions")
    if importlib.util.find_spec("pydensecrf") is None:
        print("pydensecrf is not installed (pip install pydensecrf2), so the table has no comparison")
    head = ["fields", "pydensecrf ms", "ours ms", "ratio", "lattice ms", "M", "equal %", "mean |dQ|", "peak MiB"]
    if device.type == "cuda":
        head += ["images/s", "launches", "MB", "GB/s"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
