"""Common parts of the benchmark scripts: turns, tables, peak memory in a separate process, a plain ResNet-38."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from wsss_lib.data.dataset import Dataset
from wsss_lib.models.resnet38d import ResNet38d
from wsss_lib.stages.engine import keep_freed_memory

Losses = Sequence[Mapping[str, float]]
"""Parts of the loss at each step, by name."""

MEASURE = "--measure"
"""Hidden option: measure one variant in this process, in most scripts its peak memory, and print JSON."""


_CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_CHOSEN = ["wall"]
"""The clock that :func:`seconds` reads; :func:`begin` chooses it."""


def parser(text: str, repeats: int, threads: int = 0) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have.

    Args:
        text: Documentation of the script, shown unchanged by ``--help``.
        repeats: Default of ``--repeats``.
        threads: Default of ``--threads``.
    """
    result = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    result.add_argument(
        "--threads",
        type=int,
        default=threads,
        help=f"threads of PyTorch; 0 leaves its choice (default: {threads})",
    )
    result.add_argument(
        "--repeats", type=int, default=repeats, help=f"turns of every variant; the median counts (default: {repeats})"
    )
    result.add_argument(
        "--clock",
        choices=[*_CLOCKS],
        default="wall",
        help="what is timed: wall-clock time, or on a CPU the processor time of this process alone, for a machine that "
        "does other work, too (default: wall)",
    )
    result.add_argument(MEASURE, metavar="VARIANT", default="", help=argparse.SUPPRESS)
    return result


def begin(options: argparse.Namespace) -> torch.device:
    """Apply the common options and return the device.

    Raises:
        SystemExit: CUDA is wanted but missing, or a number is out of range.
    """
    if options.repeats < 1:
        raise SystemExit("--repeats must be at least 1.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda was asked for, but PyTorch finds no CUDA device; use --device cpu.")
    if options.clock != "wall" and options.device == "cuda":
        raise SystemExit("--clock processor does not see the work of a CUDA device; use --clock wall.")
    _CHOSEN[0] = options.clock
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    return torch.device(options.device)


def choose_sizes(options: argparse.Namespace, **sizes: tuple[Any, Any]) -> argparse.Namespace:
    """Give each option that is None its default for a CPU or for CUDA, and return all options.

    Args:
        options: Parsed command line.
        sizes: Default for a CPU and default for CUDA, by name of the option.
    """
    for name, defaults in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, defaults[options.device == "cuda"])
    return options


def compute_exactly(device: torch.device) -> None:
    """Turn off TF32 rounding on CUDA, and keep freed memory on a CPU, as all runs do."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cpu":
        keep_freed_memory()


def machine(device: torch.device) -> str:
    """Return one line that describes the machine and the versions."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    timed = ", processor time" if _CHOSEN[0] == "processor" else ""
    return f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores, PyTorch {torch.__version__}{timed}"


# ------------------------------------------------------------------------------------------------------------ time


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that one call takes, by the clock of the options."""
    clock = _CLOCKS[_CHOSEN[0]]
    synchronise(device)
    start = clock()
    function()
    synchronise(device)
    return clock() - start


def alternate(
    variants: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time several functions in turns (A B A B ...), so that a slow phase of the machine affects all of them.

    Args:
        variants: Functions to time, by name.
        repeats: Number of timed calls of each function.
        device: Device on which the functions compute.
        warm_up: Number of earlier calls of each function that are not timed.

    Returns:
        Seconds of each timed call, by name.
    """
    for _ in range(warm_up):
        for function in variants.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, function in variants.items():
            times[name].append(seconds(function, device))
    return times


def speed_up(times: Mapping[str, Sequence[float]], baseline: str, name: str) -> float:
    """Return the speed-up of ``name`` over ``baseline``, as the median over the turns."""
    return statistics.median(a / b for a, b in zip(times[baseline], times[name], strict=True))


# ---------------------------------------------------------------------------------------------------------- memory


def resident_peak() -> float:
    """Return the largest resident memory of this process so far, in MiB.

    On Linux a process inherits ``ru_maxrss`` from the process that starts it. So the kernel's own value for this
    process is read there, if it exists.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (mark := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(mark[1]) / 1024
    import resource  # noqa: PLC0415, RUF100  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def peak_of(function: Callable[[], object], device: torch.device) -> float:
    """Call a function and return the growth of memory at its peak, in MiB; use it once per process.

    On CUDA this is the memory allocated by PyTorch minus the memory allocated before; on a CPU the resident memory.
    """
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = resident_peak()
    function()
    return resident_peak() - before


def forget_peak() -> None:
    """Reset the peak to the memory in use now, so that :func:`peak_of` counts from there; on Linux only.

    Otherwise, a peak from making the inputs or loading code can hide the memory of small functions.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # or freed memory is used again, and does not count
        Path("/proc/self/clear_refs").write_text("5")


def print_peak(mebibytes: float) -> None:
    """Print a peak in the measuring process, for :func:`peaks`."""
    print(json.dumps({"peak": mebibytes}))


def answers(variants: Sequence[str]) -> dict[str, Any]:
    """Run this script again for each variant, with the same options, and return the last line of each, read as JSON.

    Raises:
        SystemExit: A measuring process failed, after printing the reason.
    """
    results = {}
    for variant in variants:
        answer = subprocess.run(
            [sys.executable, *sys.argv, MEASURE, variant], stdout=subprocess.PIPE, text=True, check=False
        )
        if answer.returncode:
            raise SystemExit(f"measuring {variant!r} failed with exit status {answer.returncode}.")
        results[variant] = json.loads(answer.stdout.splitlines()[-1])
    return results


def peaks(variants: Sequence[str]) -> dict[str, float]:
    """Return the peak of each variant in MiB, measured in separate processes, see :func:`answers`."""
    return {variant: float(answer["peak"]) for variant, answer in answers(variants).items()}


def peaks_within(group: str, names: Sequence[str]) -> dict[str, float]:
    """Return the peaks in MiB of the variants ``<group>/<name>``, by name."""
    return {key.partition("/")[2]: peak for key, peak in peaks([f"{group}/{name}" for name in names]).items()}


# ---------------------------------------------------------------------------------------------------------- losses


def assert_equal_losses(plain: Losses, ours: Losses, tolerance: float) -> None:
    """Check that each part of plain's losses over several steps equals the part of ours; ours may have more parts.

    Raises:
        AssertionError: A part is missing, is 0 and tests nothing, or differs by more than the relative ``tolerance``.
    """
    for t, (wanted, got) in enumerate(zip(plain, ours, strict=True), start=1):
        assert wanted.keys() <= got.keys(), f"parts are missing: {list(wanted)}, {list(got)}"
        for name, value in wanted.items():
            assert value, f"step {t}: {name} is 0; try another size"
            assert abs(got[name] / value - 1) <= tolerance, f"step {t}: {name} is {got[name]} instead of {value}"


def loss_table(losses: Mapping[str, Losses]) -> str:
    """Return the parts of the loss of the last step, a column for each variant."""
    last = {name: steps[-1] for name, steps in losses.items()}
    steps, parts = len(next(iter(losses.values()))), next(iter(last.values()))
    rows = [(part, *(f"{values[part]:.5f}" for values in last.values())) for part in parts]
    return table((f"losses of step {steps}", *last), rows)


# ---------------------------------------------------------------------------------------------------------- tables


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a text table; the first column is aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def comparison(
    times: Mapping[str, Sequence[float]], memory: Mapping[str, float], baseline: str, images: int = 1
) -> list[tuple[str, str, str, str, str]]:
    """Return a row for each variant: name, milliseconds per image, speed-up, peak in MiB, ratio of the baseline's peak.

    Args:
        times: Seconds of each turn, by variant.
        memory: Peak in MiB, by variant.
        baseline: Name of the variant to compare with.
        images: Number of images in one turn.
    """
    rows = []
    for name, turns in times.items():
        milliseconds = f"{1000 * statistics.median(turns) / images:.1f}"
        saved = f"{memory[baseline] / max(memory[name], 1e-3):.1f}x"
        rows.append((name, milliseconds, f"{speed_up(times, baseline, name):.1f}x", f"{memory[name]:.1f}", saved))
    return rows


# ------------------------------------------------------------------------------------------------------------ data


def megabytes(folder: Path) -> float:
    """Return the size of the files in a folder, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def smooth(rng: np.random.Generator, height: int, width: int, cells: int = 6) -> np.ndarray:
    """Return an ``(height, width)`` float32 field of blobs in [0, 1)."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    field = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    field = np.maximum(field - field.min(), 0)
    return field / (field.max() + np.float32(1e-5))


def draw_labels(count: int, num_classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Return labels ``(B, K)`` float32 of images that show one to three classes."""
    labels = torch.zeros(count, num_classes)
    for row in labels:
        shown = int(torch.randint(1, 4, (), generator=generator))
        row[torch.randperm(num_classes, generator=generator)[:shown]] = 1
    return labels


class Pictures(Dataset):
    """Pictures in memory, with labels and without masks.

    Args:
        name: Name of the data set.
        pictures: RGB pictures.
        labels: ``(n, K)``, 1 where a picture shows a class.
    """

    def __init__(self, name: str, pictures: Sequence[Image.Image], labels: Tensor) -> None:
        self.pictures = pictures
        names = [f"class {k}" for k in range(labels.shape[1])]
        super().__init__(name, names, [f"image_{i:04d}" for i in range(len(pictures))], labels, has_masks=False)

    def image(self, index: int) -> Image.Image:
        """Return picture ``index``."""
        return self.pictures[index]

    def mask(self, index: int) -> np.ndarray:
        """Raise an error, because the pictures have no masks."""
        raise NotImplementedError(index)

    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of picture ``index``."""
        picture = self.pictures[index]
        return picture.height, picture.width


class Blobs(Pictures):
    """Coloured blobs with noise; landscape and portrait images alternate, and show one to three classes.

    Args:
        count: Number of images.
        height: Height of an image in landscape format.
        width: Width of an image in landscape format.
        num_classes: Number of classes K.
    """

    def __init__(self, count: int, height: int, width: int, num_classes: int) -> None:
        rng = np.random.default_rng(0)
        pictures = []
        labels = torch.zeros(count, num_classes)
        for i in range(count):
            size = (width, height) if i % 4 == 3 else (height, width)
            blobs = np.stack([smooth(rng, *size) for _ in range(3)], axis=-1)
            pixels = np.clip(220 * blobs + 20 * rng.random(blobs.shape), 0, 255)
            pictures.append(Image.fromarray(pixels.astype(np.uint8)))
            labels[i, torch.from_numpy(rng.choice(num_classes, rng.integers(1, 4), replace=False))] = 1
        super().__init__("blobs", pictures, labels)


@contextmanager
def statistics_of_a_batch(network: nn.Module) -> Iterator[None]:
    """Within this context, set the statistics of each batch normalisation to those of its input.

    With random weights and the initial statistics, activations grow from layer to layer. With these statistics they
    have about the size that they have in a trained network.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    network.train()
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        yield
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


# -------------------------------------------------------------------------------------------- ResNet-38, the plain way


class PlainBlock(nn.Module):
    """A plain residual block with the layers of one of our blocks; `names` are its branches 2a, 2b1 and so on.

    Args:
        block: Block whose weights and shapes are copied.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.names = [n.removeprefix("conv_branch") for n, _ in block.named_children() if n.startswith("conv_branch2")]
        for name in self.names:
            setattr(self, f"bn{name}", plain_norm(getattr(block, f"bn_branch{name}")))
            setattr(self, f"conv{name}", plain_conv(getattr(block, f"conv_branch{name}")))
        self.shortcut = plain_conv(block.conv_branch1) if hasattr(block, "conv_branch1") else None
        self.dropout = nn.Dropout2d(block.dropout.p) if hasattr(block, "dropout") else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise, rectify and convolve, once per branch layer; return the first rectified features and the sum."""
        features = x
        for i, name in enumerate(self.names):
            features = F.relu(getattr(self, f"bn{name}")(features))
            if i == 0:
                first, shortcut = features, x if self.shortcut is None else self.shortcut(features)
            elif self.dropout is not None:
                features = self.dropout(features)
            features = getattr(self, f"conv{name}")(features)
        return first, shortcut + features


class PlainResNet38(nn.Module):
    """ResNet-38 without the library's optimisations.

    Args:
        backbone: Network whose weights and shapes are copied.
        frozen: Names of the layers that are not trained.
    """

    def __init__(self, backbone: ResNet38d, frozen: Sequence[str] = ResNet38d.frozen_layers) -> None:
        super().__init__()
        parts = dict(backbone.named_children())
        first, last = plain_conv(parts.pop("conv1a")), plain_norm(parts.pop("bn7"))
        blocks = {name: PlainBlock(block) for name, block in parts.items()}
        self.layers = nn.ModuleDict({"conv1a": first, **blocks, "bn7": last})
        self.frozen = frozen

    def train(self, mode: bool = True) -> PlainResNet38:
        """Set the mode, then freeze again, as the authors' code does in every call."""
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
                layer.weight.requires_grad = False
                layer.bias.requires_grad = False
        for name in self.frozen:
            for parameter in self.layers[name].parameters():
                parameter.requires_grad = False
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the same outputs as our network: ``conv4``, ``conv5`` and ``conv6``."""
        x = images
        taps = {}
        for name, layer in self.layers.items():
            if isinstance(layer, PlainBlock):
                rectified, x = layer(x)
                if name in ("b5", "b6"):
                    taps["conv4" if name == "b5" else "conv5"] = rectified
            else:
                x = layer(x)
        return {**taps, "conv6": F.relu(x)}


def plain_conv(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a copy of a convolution without bias."""
    copy = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=False,
    )
    copy.load_state_dict(layer.state_dict())
    return copy


def plain_norm(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Return a copy of a batch normalisation as PyTorch's own class."""
    copy = nn.BatchNorm2d(layer.num_features, eps=layer.eps)
    copy.load_state_dict(layer.state_dict())
    return copy


# ------------------------------------------------------------------------------------------- the plain way, elsewhere


def plain_stretch(maps: Tensor) -> Tensor:
    """Stretch every map of ``(B, K, h, w)`` to [0, 1)."""
    rectified = F.relu(maps)
    flat = rectified.flatten(2)
    most, least = (values[:, :, None, None] for values in (flat.max(dim=2)[0], flat.min(dim=2)[0]))
    return F.relu(rectified - least - 1e-5) / (most - least + 1e-5)


def plain_offsets(radius: int) -> list[tuple[int, int]]:
    """Return ``(dy, dx)`` from a pixel to the other pixel of each of its pairs in AffinityNet: an open half-disc."""
    reach = radius - 1
    right = [(0, dx) for dx in range(1, radius)]
    return right + [(y, x) for y in range(1, radius) for x in range(-reach, radius) if x * x + y * y < radius * radius]
