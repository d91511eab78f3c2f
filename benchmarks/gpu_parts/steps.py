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
from dataclasses import dataclass, field
from typing import Any

import adversarial_step
import msal
import pcss
import torch
import training_step
from common import Losses, compute_exactly, seconds
from gpu_parts import affinitynet
from gpu_parts.report import Report

from wsss_lib.methods.method import Engine, Method

PLAIN, OURS = "plain", "ours"
FP32, BF16 = "32-true", "bf16-mixed"

Call = Callable[[], dict[str, float]]


def count_seeds(step: Callable[[int], Any]) -> Call:
    """Return a step that gets its number, and returns its loss, as a step without a number that returns losses."""
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
    "acr": Step(build_acr, 8, 256, 1e-3, {"batch": 1, "crop": 128, "width": 0.0625}),
    "pcss": Step(build_pcss, 64, 224, 1e-3, {"batch": 2, "crop": 64, "depth": 3}),
    "msal": Step(build_msal, 16, 480, 2e-3, {"batch": 2, "crop": 128, "width": 0.125}),
}


@contextmanager
def networks_compiled(backend: str) -> Iterator[None]:
    """Within this context, a method compiles the networks that it trains when it is set up."""
    set_up = Method.setup

    def compile_first(method: Method, engine: Engine, total_steps: int) -> None:
        for network in method.trained().values():
            network.compile(backend=backend)
        set_up(method, engine, total_steps)

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


def measure(
    method: str, variants: Sequence[Variant], device_name: str, tiny: bool, report: Report, compared: int = 3
) -> None:
    """Time the variants of a step one after the other, and report a row for each.

    Each row has the first step with its set-up, the median of the following steps, the speed-up over the plain version
    in the same precision, the peak memory with networks and optimisers, and the greatest difference of the losses of
    the first steps from the first variant's.
    """
    device, chosen = torch.device(device_name), STEPS[method]
    compute_exactly(device)
    options = chosen.sizes(device_name, tiny)
    size = f"width {options.width:g}, " if method != "pcss" else f"depth {options.depth}, "
    report.note(f"Batch {options.batch}, crop {options.crop}, {size}TF32 off; ms of a step, median of the steps.")
    reference: Losses = []
    plain: dict[str, float] = {}
    for variant in variants:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with report.attempt(variant.name):
            mixed = variant.version == PLAIN and variant.precision == BF16
            with networks_compiled(variant.compiler) if variant.compiler else nullcontext():
                step = chosen.build(variant.version, variant.precision, options, device)
            with torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext():
                losses: list[dict[str, float]] = []
                first = seconds(lambda step=step, losses=losses: losses.append(step()), device)
                losses += [step() for _ in range(compared - 1)]
                times = repeat(step, device, tiny)
            reference = reference or losses
            median = statistics.median(times)
            if variant.version == PLAIN:
                plain[variant.precision] = median
            row: dict[str, Any] = {"variant": variant.name, "ms": 1000 * median, "steps": len(times)}
            row["images/s"] = options.batch / median
            if variant.precision in plain:
                row["speed-up"] = plain[variant.precision] / median
            if device.type == "cuda":
                row["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
            row |= {"first_step_s": first, "difference_of_losses": greatest_difference(losses, reference)}
            report.row(**row)
            if variant.precision == FP32 and not row["difference_of_losses"] <= chosen.tolerance:
                report.problem(f"{variant.name}: the losses differ by more than {chosen.tolerance:g} from plain.")
        step = None  # or its networks would stay on the device beside those of the next variant


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
