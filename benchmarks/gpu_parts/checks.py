"""Is what the device computes equal to what the CPU computes?"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import compute_exactly, statistics_of_a_batch
from common import machine as description
from torch import Tensor

import wsss_lib
from gpu_parts.report import Report
from gpu_parts.steps import OURS, STEPS
from wsss_lib.methods.method import backbone_options
from wsss_lib.models import BACKBONES, create_backbone
from wsss_lib.models.superpixel_net import SuperpixelNet
from wsss_lib.ops.affinity import pair_affinities
from wsss_lib.ops.cam import normalise_range, upsample
from wsss_lib.ops.dense_crf import dense_crf
from wsss_lib.ops.frequency import apply_filter, magnitude, with_magnitude
from wsss_lib.ops.masked_convolution import masked_convolution
from wsss_lib.ops.metrics import confusion_matrix, sweep_histogram
from wsss_lib.ops.paths import path_affinities
from wsss_lib.ops.propagation import propagate_affinity
from wsss_lib.ops.random_walk import random_walk
from wsss_lib.ops.superpixels import mix_neighbours, superpixel_pool, superpixel_upsample

TOLERANCE = {"operators": 1e-4, "networks": 1e-3, "steps": 5e-3}
"""Greatest difference from the CPU: of operators and networks relative to the greatest value, of losses relative."""

STEPS_COMPARED = 3
ROOT = Path(__file__).resolve().parent.parent.parent


def machine(device: str, tiny: bool, report: Report) -> None:  # noqa: ARG001
    """Report the hardware and the versions."""
    report.row(name="device", value=description(torch.device(device)))
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        report.row(name="memory, GiB", value=properties.total_memory / 2**30)
        report.row(name="compute capability", value=f"{properties.major}.{properties.minor}")
        report.row(name="multiprocessors", value=properties.multi_processor_count)
        report.row(name="CUDA, cuDNN", value=f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
        report.row(name="bf16", value=torch.cuda.is_bf16_supported())
    report.row(name="CPU cores", value=os.cpu_count())
    report.row(name="Python", value=platform.python_version())
    report.row(name="wsss_lib", value=wsss_lib.__version__)


# ---------------------------------------------------------------------------------------------------------- operators


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Return the result of a function and the gradients of its inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, waves(result))]


def waves(like: Tensor) -> Tensor:
    """Return values in [-1, 1], of the shape, type and device of a tensor."""
    return torch.arange(like.numel()).sin().view_as(like).to(like)


def draw(device: torch.device, *shape: int) -> Tensor:
    """Draw values in [0, 1) on the CPU, so that they are the same for every device."""
    return torch.rand(*shape).to(device)


def check_walk(device: torch.device) -> list[Tensor]:
    """Walk over two grids."""
    affinities = pair_affinities(3 * draw(device, 2, 8, 23, 31))
    return random_walk(list(draw(device, 2, 3, 23, 31)), list(affinities), beta=8.0, steps=256)


def check_crf(device: torch.device) -> list[Tensor]:
    """Solve the fields of two pictures."""
    coarse = F.interpolate(torch.rand(2, 3, 6, 8), (60, 80), mode="bilinear")
    pictures = (255 * coarse).round().to(device, torch.uint8)
    scores = F.interpolate(torch.rand(2, 4, 5, 7), (60, 80), mode="bilinear").to(device)
    return dense_crf(list(pictures), list(-scores.clamp(min=1e-3).log()), "psa", backend="torch")


def check_counts(device: torch.device) -> list[Tensor]:
    """Count labels for thresholds, and labels alone."""
    scores, classes = draw(device, 3, 40, 50), torch.tensor([4, 0, 7], device=device)
    truth = torch.randint(0, 9, (40, 50), dtype=torch.uint8).to(device)
    prediction = torch.randint(0, 9, (40, 50), dtype=torch.uint8).to(device)
    thresholds = torch.linspace(0, 0.9, 10).to(device)
    counts = sweep_histogram(scores, classes, truth, thresholds, 9)
    return [counts, confusion_matrix(truth, prediction, 9)]


def check_superpixels(device: torch.device) -> list[Tensor]:
    """Average over superpixels, give pixels the value of their superpixel, and mix neighbours."""
    association = torch.randn(2, 9, 48, 64).softmax(1).to(device)
    weights = torch.randn(2, 9, 3, 4).softmax(1).to(device)
    return [
        *with_gradients(superpixel_pool, draw(device, 2, 3, 48, 64), association),
        *with_gradients(superpixel_upsample, draw(device, 2, 5, 3, 4), association),
        *with_gradients(mix_neighbours, draw(device, 2, 32, 3, 4), weights),
    ]


def check_frequencies(device: torch.device) -> list[Tensor]:
    """Suppress frequencies and replace magnitudes."""
    images, other = draw(device, 2, 3, 48, 48), draw(device, 2, 3, 48, 48)
    return [apply_filter(images, draw(device, 48, 25)), with_magnitude(images, magnitude(other))]


OPERATORS: dict[str, Callable[[torch.device], list[Tensor]]] = {
    "pair affinities and gradient": lambda d: with_gradients(pair_affinities, 3 * draw(d, 2, 16, 24, 30)),
    "path affinities and gradient": lambda d: with_gradients(path_affinities, draw(d, 2, 24, 30)),
    "random walk, 256 steps": check_walk,
    "dense CRF, 10 updates": check_crf,
    "masked convolution and gradients": lambda d: with_gradients(
        masked_convolution, draw(d, 2, 16, 8, 8) - 0.5, draw(d, 2, 1, 64, 64), draw(d, 8, 16, 4, 4) - 0.5
    ),
    "superpixels and gradients": check_superpixels,
    "affinity propagation and gradients": lambda d: with_gradients(
        lambda maps, features: propagate_affinity(maps, features, 4), draw(d, 2, 5, 12, 15), draw(d, 2, 32, 12, 15)
    ),
    "frequencies": check_frequencies,
    "enlarged and stretched maps": lambda d: [normalise_range(upsample(draw(d, 2, 4, 9, 11), (70, 90)))],
    "counts of labels": check_counts,
}


def difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the greatest difference, relative to the greatest value of each tensor; infinity for other sizes."""
    worst = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        a, b = ours.detach().cpu().double(), theirs.detach().cpu().double()
        value = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-12)
        worst = value if not value <= worst else worst  # a NaN counts
    return worst


def compare(
    group: str, functions: Mapping[str, Callable[[torch.device], list[Tensor]]], device: str, report: Report
) -> None:
    """Report how much the results of functions differ from those on the CPU."""
    compute_exactly(torch.device(device))
    for name, function in functions.items():
        with report.attempt(name):
            results = []
            for where in (device, "cpu"):
                torch.manual_seed(0)
                results.append(function(torch.device(where)))
            error, tolerance = difference(*results), TOLERANCE[group]
            report.row(**{group: name, "difference": error, "tolerance": tolerance})
            if not error <= tolerance:
                report.problem(f"{name}: the device differs from the CPU by {error:.3g}, more than {tolerance:g}.")


def operators(device: str, tiny: bool, report: Report) -> None:  # noqa: ARG001
    """Compare the operators."""
    compare("operators", OPERATORS, device, report)


# ----------------------------------------------------------------------------------------------------------- networks


def small_backbone(name: str) -> torch.nn.Module:
    """Return a small variant of a backbone with statistics that keep its activations in bounds."""
    if name == "superpixel_net":
        network: torch.nn.Module = SuperpixelNet()
    elif name == "deit_small":
        network = create_backbone(name, channels=96, depth=4, heads=3, grid=6)
    else:
        network = create_backbone(name, **backbone_options("toy", name))
    with statistics_of_a_batch(network):
        network(torch.rand(2, 3, 96, 96))
    return network.eval()


def outputs_and_gradient(name: str, device: torch.device) -> list[Tensor]:
    """Return the outputs of a backbone, and the gradient of the images.

    The gradient is computed in float64: in float32, a rectified value near 0 can be 0 on one device alone.
    """
    network = small_backbone(name).to(device)
    images = torch.rand(2, 3, 96, 96).to(device)
    with torch.no_grad():
        outputs = outputs_of(network, images)
    exact = images.double().requires_grad_()
    values = outputs_of(network.double(), exact)
    total = sum((value * waves(value)).mean() / value.detach().abs().max() for value in values)
    return [*outputs, *torch.autograd.grad(total, [exact])]


def outputs_of(network: torch.nn.Module, images: Tensor) -> list[Tensor]:
    """Return the outputs of a backbone as a list."""
    outputs = network(images)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def networks(device: str, tiny: bool, report: Report) -> None:
    """Compare the networks."""
    names = ["superpixel_net", "deit_small", "mobilenet_v2"] if tiny else [*BACKBONES, "superpixel_net"]
    functions = {name: lambda d, name=name: outputs_and_gradient(name, d) for name in names}
    compare("networks", functions, device, report)


# -------------------------------------------------------------------------------------------------------------- steps


@contextmanager
def dropout_from_cpu() -> Iterator[None]:
    """Within this context, dropout draws on the CPU, so that it is the same for every device."""
    kept = F.dropout, F.dropout2d

    def drop(x: Tensor, shape: tuple[int, ...], p: float, training: bool) -> Tensor:
        return x * (torch.rand(shape) >= p).to(x) / (1 - p) if training and p else x

    F.dropout = lambda x, p=0.5, training=True, inplace=False: drop(x, x.shape, p, training)  # noqa: ARG005
    F.dropout2d = lambda x, p=0.5, training=True, inplace=False: drop(x, (*x.shape[:2], 1, 1), p, training)  # noqa: ARG005
    try:
        yield
    finally:
        F.dropout, F.dropout2d = kept


def losses_of(method: str, device: torch.device) -> list[dict[str, float]]:
    """Return the losses of the first steps of a method at a tiny size."""
    step = STEPS[method].build(OURS, "32-true", STEPS[method].sizes(device.type, tiny=True), device)
    return [step() for _ in range(STEPS_COMPARED)]


def steps(device: str, tiny: bool, report: Report) -> None:  # noqa: ARG001
    """Compare the losses of the first steps of all methods."""
    compute_exactly(torch.device(device))
    tolerance = TOLERANCE["steps"]
    for method in STEPS:
        with report.attempt(method), dropout_from_cpu():
            found, wanted = (losses_of(method, torch.device(where)) for where in (device, "cpu"))
            errors: dict[str, Any] = {
                part: max(abs(a[part] - b[part]) / max(abs(b[part]), 1e-3) for a, b in zip(found, wanted, strict=True))
                for part in wanted[0]
            }
            part = max(errors, key=errors.__getitem__)
            report.row(method=method, part_of_the_loss=part, difference=errors[part], tolerance=tolerance)
            if not all(error <= tolerance for error in errors.values()):
                report.problem(f"{method}: the losses on the device differ from those on the CPU.")


# -------------------------------------------------------------------------------------------------------------- tests


class OnDevice:
    """A plug-in for pytest that keeps the tests that run on a device, and reports each file's numbers.

    Args:
        report: Report that gets a row for each file.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.counts: dict[str, Counter[str]] = {}

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Drop the tests without a device."""
        dropped = [item for item in items if "device" not in item.fixturenames]
        items[:] = [item for item in items if "device" in item.fixturenames]
        config.hook.pytest_deselected(items=dropped)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test, and name it if it failed."""
        file = report.nodeid.partition("::")[0]
        if file not in self.counts:
            self.flush()
            self.counts[file] = Counter()
        if report.when == "call" or report.outcome != "passed":
            self.counts[file][report.outcome] += 1
        if report.outcome == "failed":
            self.report.problem(f"{report.nodeid} failed; see tests.log.")

    def pytest_sessionfinish(self) -> None:
        """Report the last file."""
        self.flush()

    def flush(self) -> None:
        """Report the file whose tests have just ended."""
        if self.counts:
            file, counts = list(self.counts.items())[-1]
            self.report.row(file=file, **{kind: counts[kind] for kind in ("passed", "failed", "skipped")})


def tests(device: str, tiny: bool, report: Report) -> None:
    """Run those tests of the repository that can run on a device."""
    if importlib.util.find_spec("pytest") is None:
        report.note("pytest is not installed (pip install pytest), so the tests were not run; the checks above were.")
        return
    import pytest  # noqa: PLC0415, RUF100  # optional

    folders = ["tests/ops/test_affinity.py"] if tiny else ["tests/ops", "tests/models", "tests/methods"]
    os.chdir(ROOT)
    options = ["-q", "-m", "not slow", "-W", "ignore", "-p", "no:cacheprovider", "--device", device, *folders]
    status = pytest.main(options, plugins=[OnDevice(report)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        report.problem(f"pytest ended with {pytest.ExitCode(status).name}; see tests.log.")
