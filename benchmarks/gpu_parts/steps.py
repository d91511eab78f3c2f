"""The training steps of six methods against plain versions, in fp32, in bf16, and with torch.compile.

The plain versions are those of `training_step.py`, `adversarial_step.py`, `pcss.py`, `msal.py` and `affinitynet.py`.
Each variant is alone on the device. The batch is noise: the time of a step does not depend on the picture.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import adversarial_step
import msal
import pcss
import torch
import training_step
from common import Losses, compute_exactly, seconds
from torch import nn
from torch._dynamo.utils import counters

from gpu_parts import affinitynet
from gpu_parts.report import Report
from wsss_lib.methods.method import Engine, Method

PLAIN, OURS = "plain", "ours"
FP32, BF16 = "32-true", "bf16-mixed"
COMPARED = 3
"""Number of first steps whose losses are compared."""

Call = Callable[[], dict[str, float]]


def count_seeds(step: Callable[[int], Any]) -> Call:
    """Return a step that counts its own calls, from one that gets the number of the call and returns its loss."""
    done = iter(range(10**9))
    return lambda: {"loss": float(step(next(done)))}


def seeded(step: Call) -> Call:
    """Return a step that seeds its random draws with its number."""
    done = iter(range(10**9))

    def call() -> dict[str, float]:
        torch.manual_seed(next(done))
        return step()

    return call


def build_cam(variant: str, precision: str, options: argparse.Namespace, device: torch.device) -> Call:
    """Return the step of the CAM classifier."""
    if variant == PLAIN:
        return count_seeds(training_step.plain_step(options, device))
    return count_seeds(training_step.our_step(options, device, precision))


def build_affinitynet(variant: str, precision: str, options: argparse.Namespace, device: torch.device) -> Call:
    """Return the step of AffinityNet."""
    if variant == PLAIN:
        return seeded(affinitynet.plain_step(options, device))
    return seeded(affinitynet.our_step(options, device, precision))


def build_oc_cse(variant: str, precision: str, options: argparse.Namespace, device: torch.device) -> Call:
    """Return the step of OC-CSE."""
    if variant == PLAIN:
        return adversarial_step.plain_oc_cse(options, device).step
    return adversarial_step.our_oc_cse(options, device, precision).step


def build_acr(variant: str, precision: str, options: argparse.Namespace, device: torch.device) -> Call:
    """Return the step of ACR, of both its networks."""
    if variant == PLAIN:
        return adversarial_step.plain_acr(options, device).step
    return adversarial_step.our_acr(options, device, precision).step


def build_pcss(variant: str, precision: str, options: argparse.Namespace, device: torch.device) -> Call:
    """Return the step of PCSS."""
    step = pcss.plain_step(options, device) if variant == PLAIN else pcss.our_step(options, device, precision)
    return lambda: dict(step())  # type: ignore[call-overload]


def build_msal(variant: str, precision: str, options: argparse.Namespace, device: torch.device) -> Call:
    """Return the step of MSAL."""
    return msal.plain_step(options, device) if variant == PLAIN else msal.our_step(options, device, precision)


@dataclass(frozen=True)
class Step:
    """A training step.

    Attributes:
        build: Function that returns the step of a variant in a precision.
        batch: Images per step in the authors' code.
        crop: Side of the images in the authors' code.
        tolerance: Greatest relative difference of the losses in fp32 from those of the plain version.
        tiny: Sizes with ``--tiny``, instead of the authors'.
    """

    build: Callable[[str, str, argparse.Namespace, torch.device], Call]
    batch: int
    crop: int
    tolerance: float
    tiny: dict[str, Any] = field(default_factory=dict)

    def sizes(self, device: str, tiny: bool) -> argparse.Namespace:
        """Return the options of the script that has the plain version."""
        values = {"device": device, "batch": self.batch, "crop": self.crop, "width": 1.0, "depth": 12}
        return argparse.Namespace(**values | (self.tiny if tiny else {}))


NARROW = {"batch": 2, "crop": 64, "width": 0.0625}
STEPS = {
    "cam": Step(build_cam, 16, 448, 1e-3, NARROW),
    "affinitynet": Step(build_affinitynet, 8, 448, 1e-3, {**NARROW, "crop": 96}),
    "oc_cse": Step(build_oc_cse, 8, 384, 1e-3, NARROW),
    "acr": Step(build_acr, 8, 256, 1e-3, {**NARROW, "batch": 1}),
    "pcss": Step(build_pcss, 64, 224, 1e-3, {"batch": 2, "crop": 64, "depth": 3}),
    "msal": Step(build_msal, 16, 480, 2e-3, {"batch": 2, "crop": 128, "width": 0.125}),
}


class CompilingEngine:
    """An engine that compiles the networks that it prepares.

    Args:
        engine: Engine that does the rest.
        backend: Back end of torch.compile.
    """

    def __init__(self, engine: Engine, backend: str) -> None:
        self.engine = engine
        self.backend = backend

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Compile a network and prepare it."""
        module.compile(backend=self.backend)
        return self.engine.setup(module, *optimizers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


@contextmanager
def networks_compiled(backend: str) -> Iterator[None]:
    """Within this context, a method compiles the networks that it trains when it is set up."""
    set_up = Method.setup

    def compile_first(method: Method, engine: Engine, total_steps: int) -> None:
        set_up(method, CompilingEngine(engine, backend), total_steps)

    Method.setup = compile_first  # type: ignore[method-assign]
    try:
        yield
    finally:
        Method.setup = set_up  # type: ignore[method-assign]


@dataclass(frozen=True)
class Variant:
    """A row of the table: plain or ours, the precision, and the back end of torch.compile, "" without it."""

    version: str
    precision: str
    compiler: str = ""

    @property
    def name(self) -> str:
        """Name of the row."""
        compiler = f", compiled ({self.compiler})" if self.compiler else ""
        return f"{self.version}, {'fp32' if self.precision == FP32 else 'bf16'}{compiler}"


def greatest_difference(found: Losses, wanted: Losses) -> float:
    """Return the greatest relative difference of the parts of a loss that both have, over all steps."""
    return max(
        abs(ours[part] - value) / max(abs(value), 1e-6)
        for ours, plain in zip(found, wanted, strict=True)
        for part, value in plain.items()
        if part in ours
    )


def make_call(method: str, variant: Variant, options: argparse.Namespace, device: torch.device) -> Call:
    """Free what the last variant needed, and return the step of a variant; plain in bf16 is plain within autocast."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    counters.clear()
    with networks_compiled(variant.compiler) if variant.compiler else nullcontext():
        step = STEPS[method].build(variant.version, variant.precision, options, device)
    if variant.version == OURS or variant.precision == FP32:
        return step

    def mixed() -> dict[str, float]:
        # without a cache, which would keep the weights of the first of two updates within a step
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return step()

    return mixed


def measure(method: str, variants: Sequence[Variant], device_name: str, tiny: bool, report: Report) -> None:
    """Time the variants of a step one after the other, and report a row for each.

    Each row has the first step in seconds, the median of the later steps in ms, the speed-up over the plain version in
    the same precision, the peak memory with networks and optimisers, and the greatest relative difference of the losses
    of the first steps: from the first row's, or from those of the same step without torch.compile.
    """
    device, chosen = torch.device(device_name), STEPS[method]
    compute_exactly(device)
    options = chosen.sizes(device_name, tiny)
    size = f"depth {options.depth}" if method == "pcss" else f"width {options.width:g}"
    report.note(f"Batch {options.batch}, crop {options.crop}, {size}, TF32 off; ms: median of the steps.")
    losses: dict[Variant, Losses] = {}
    plain: dict[str, float] = {}
    for variant in variants:
        with report.attempt(variant.name):
            row, losses[variant] = run(make_call(method, variant, options, device), device, tiny)
            if variant.version == PLAIN:
                plain[variant.precision] = row["ms"]
            if variant.precision in plain:
                row["speed-up"] = plain[variant.precision] / row["ms"]
            same = replace(variant, compiler="") if variant.compiler else variants[0]
            if same in losses:
                row["difference_of_losses"] = greatest_difference(losses[variant], losses[same])
            report.row(variant=variant.name, **row, **{"images/s": 1000 * options.batch / row["ms"]})
            if variant.precision == FP32 and not row.get("difference_of_losses", 0.0) <= chosen.tolerance:
                report.problem(f"{variant.name}: the losses differ by more than {chosen.tolerance:g} from plain.")
            if variant.compiler and "graphs" not in row:
                report.problem(f"{variant.name}: torch.compile has compiled nothing.")


def run(step: Call, device: torch.device, tiny: bool) -> tuple[dict[str, Any], Losses]:
    """Do the steps of a variant, and return the columns that concern it alone, and the losses of the first steps."""
    losses: list[dict[str, float]] = []
    first = seconds(lambda: losses.append(step()), device)
    losses += [step() for _ in range(COMPARED - 1)]
    times = repeat(step, device, tiny)
    row: dict[str, Any] = {"ms": 1000 * statistics.median(times), "steps": len(times), "first_step_s": first}
    if device.type == "cuda":
        row["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
    if graphs := counters["stats"]["unique_graphs"]:
        row["graphs"] = graphs
    return row, losses


def repeat(step: Call, device: torch.device, tiny: bool) -> list[float]:
    """Return the seconds of at least 3 steps (1 if tiny), and of more until 4 seconds have passed, at most 30."""
    times: list[float] = []
    least, enough = (1, 0.0) if tiny else (3, 4.0)
    while len(times) < least or (sum(times) < enough and len(times) < 30):
        times.append(seconds(step, device))
    return times


def timed(device: str, tiny: bool, report: Report, method: str) -> None:
    """Measure a step in fp32 and in bf16."""
    variants = [Variant(version, precision) for precision in (FP32, BF16) for version in (PLAIN, OURS)]
    measure(method, variants, device, tiny, report)


def compiled(device: str, tiny: bool, report: Report, method: str) -> None:
    """Measure a step in bf16 without and with torch.compile; tiny sizes need no compiler, only PyTorch's tracing."""
    compiler = "eager" if tiny else "inductor"
    variants = [Variant(PLAIN, BF16), Variant(OURS, BF16), Variant(OURS, BF16, compiler)]
    measure(method, variants, device, tiny, report)
