"""Everything that is to be known about the library on one GPU, in one command and at most ten minutes.

The parts run from small to large: are operators, networks and training steps on the device equal to those on the CPU;
random walk, dense CRF, multi-scale maps and the six training steps against plain versions, with time and peak memory;
at last the training steps with torch.compile. Each part runs in a process of its own and has its own time limit. An
error, a crash or a hang in a part is reported, and the next part begins. Each result is written at once:

  OUT/results.json, OUT/results.md   all parts so far, written again after each part
  OUT/parts/NAME.json                rows of a part, written again after each row
  OUT/parts/NAME.log                 output of a part

PyTorch and the other packages that the library itself needs are enough. Where pytest is installed, the tests of the
repository that can run on the device are run, too; where pydensecrf is installed, it is compared with.

`--device cpu --tiny` tries every part on the CPU with networks and pictures so small that their times mean nothing.
The exit status is 0 if every part was done, else 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_parts.report import Report, write_whole

METHODS = {
    "cam": "CAM classifier",
    "affinitynet": "AffinityNet",
    "oc_cse": "OC-CSE",
    "acr": "ACR",
    "pcss": "PCSS",
    "msal": "MSAL",
}


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        name: Name of its files, and of the part in ``--parts``.
        title: Title of its table.
        function: ``module:function``; the function gets the device, whether sizes are tiny, and a `Report`.
        limit: Time limit in seconds.
        arguments: Further arguments of the function.
    """

    name: str
    title: str
    function: str
    limit: float
    arguments: tuple[str, ...] = ()


PARTS = (
    Part("machine", "Machine", "gpu_parts.checks:machine", 40),
    Part("operators", "Operators on the device against the CPU", "gpu_parts.checks:operators", 40),
    Part("networks", "Networks on the device against the CPU", "gpu_parts.checks:networks", 60),
    Part("steps", "Training steps on the device against the CPU", "gpu_parts.checks:steps", 90),
    Part("tests", "Tests of the repository on the device", "gpu_parts.checks:tests", 90),
    Part("walk", "Random walk against dense squarings", "gpu_parts.refinement:walk", 40),
    Part("crf", "Dense CRF against pydensecrf in one process", "gpu_parts.refinement:crf", 60),
    Part("maps_deit_s", "Multi-scale maps, DeiT-S", "gpu_parts.maps:multi_scale", 45, ("deit_small",)),
    Part("maps_resnet38", "Multi-scale maps, ResNet-38", "gpu_parts.maps:multi_scale", 75, ("resnet38d",)),
    *(Part(f"step_{n}", f"Training step, {title}", "gpu_parts.steps:timed", 60, (n,)) for n, title in METHODS.items()),
    *(
        Part(f"compile_{n}", f"Training step with torch.compile, {title}", "gpu_parts.steps:compiled", 75, (n,))
        for n, title in METHODS.items()
    ),
)


@dataclass
class Result:
    """What is known about a part.

    Attributes:
        name: Name of the part.
        title: Title of the part.
        state: ``done``, ``failed``, ``stopped`` or ``not started``.
        reason: Sentence on why the part is not done; "" if it is.
        seconds: Time that it took.
        rows: Rows of its table.
        notes: Sentences below its table.
        problems: Sentences on what is wrong.
    """

    name: str
    title: str
    state: str
    reason: str = ""
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


# --------------------------------------------------------------------------------------------------------- processes


def end(process: subprocess.Popen) -> None:
    """Kill a process and those that it has started, if it is still there, and wait for it."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def run_part(part: Part, out: Path, device: str, tiny: bool, limit: float) -> Result:
    """Run a part in a process of its own, for at most ``limit`` seconds, and return its result."""
    folder = out / "parts"
    rows, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--run", part.function, *part.arguments, "--rows", str(rows)]
    command += ["--device", device, *["--tiny"] * tiny]
    result = Result(part.name, part.title, "done")
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            result.state, result.reason = "stopped", f"It was stopped at its limit of {limit:.0f} s."
        else:
            if status < 0:
                result.state, result.reason = "failed", f"Its process was ended by signal {-status}."
            elif status:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
                result.state, result.reason = "failed", f"It ended with: {lines[-1][:300]}"
        finally:
            end(process)
    result.seconds = time.monotonic() - start
    if rows.is_file():
        for key, value in json.loads(rows.read_text(encoding="utf-8")).items():
            setattr(result, key, value)
    if result.problems and result.state == "done":
        result.state = "failed"
    return result


def run_parts(parts: Sequence[Part], out: Path, device: str, tiny: bool, seconds: float) -> list[Result]:
    """Run parts one after the other, for at most ``seconds`` together, and write all results after each."""
    (out / "parts").mkdir(parents=True, exist_ok=True)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    start = time.monotonic()
    results: list[Result] = []
    for part in parts:
        left = seconds - (time.monotonic() - start)
        if left < 1:
            reason = f"The {seconds:.0f} s of --seconds were over; run it with --parts {part.name}."
            result = Result(part.name, part.title, "not started", reason)
        else:
            print(f"{part.name} (at most {min(part.limit, left):.0f} s) ...", end=" ", flush=True)
            result = run_part(part, out, device, tiny, min(part.limit, left))
            print(f"{result.state}, {result.seconds:.0f} s", *result.problems[:1], result.reason, flush=True)
        results.append(result)
        whole = {"started": started, "device": device, "tiny": tiny, "parts": [asdict(r) for r in results]}
        write_whole(out / "results.json", json.dumps(whole, indent=1))
        write_whole(out / "results.md", markdown(results, device, tiny))
    return results


# ------------------------------------------------------------------------------------------------------------- tables


def cell(value: object) -> str:
    """Return a value as a cell of a Markdown table."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table; its columns are all that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[name.replace("_", " ") for name in columns], ["---"] * len(columns)]
    lines += [[cell(row.get(name, "")) for name in columns] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def markdown(results: Sequence[Result], device: str, tiny: bool) -> str:
    """Return the report on all parts so far."""
    lines = [f"# The library on one device ({device})", ""]
    if tiny:
        lines += ["The sizes are tiny (`--tiny`), so the times mean nothing.", ""]
    overview = [
        {"part": r.name, "state": r.state, "seconds": f"{r.seconds:.0f}", "problems": len(r.problems)} for r in results
    ]
    lines += markdown_table(overview)
    for result in results:
        lines += ["", f"## {result.title}", ""]
        lines += [f"{result.state.capitalize()}. {result.reason}".strip(), ""] * (result.state != "done")
        lines += [*markdown_table(result.rows), ""] * bool(result.rows)
        lines += [f"- {sentence}" for sentence in (*result.problems, *result.notes)]
    return "\n".join(lines).rstrip() + "\n"


# --------------------------------------------------------------------------------------------------------------- main


def run_function(options: argparse.Namespace) -> None:
    """Do the work of a part in this process."""
    module, _, name = options.run[0].partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    function(options.device, options.tiny, Report(options.rows), *options.run[1:])


def arguments() -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: An option is wrong.
    """
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to compute (default: cuda)")
    reader.add_argument("--tiny", action="store_true", help="try every part at a tiny size")
    reader.add_argument("--out", type=Path, default=Path("runs/gpu"), help="output folder (default: runs/gpu)")
    reader.add_argument(
        "--parts", nargs="+", metavar="NAME", help=f"parts to run (default: all): {', '.join(p.name for p in PARTS)}"
    )
    reader.add_argument(
        "--seconds", type=float, default=600, help="time limit of all parts together (default: 600 seconds)"
    )
    reader.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    reader.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = reader.parse_args()
    names = {part.name for part in PARTS}
    for name in options.parts or ():
        if name not in names:
            reader.error(f"part {name!r} is unknown; --help lists the parts.")
    if options.device == "cpu" and not options.tiny:
        reader.error("--device cpu only tries the parts; add --tiny.")
    return options


def main() -> None:
    """Run all parts, and print the report."""
    options = arguments()
    if options.run:
        run_function(options)
        return
    if options.device == "cuda":
        import torch  # noqa: PLC0415, RUF100  # slow, and the processes of the parts have their own

        if not torch.cuda.is_available():
            raise SystemExit("PyTorch finds no CUDA device; use --device cpu --tiny to try every part on the CPU.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the process of a part is ended, too
    chosen = [part for part in PARTS if options.parts is None or part.name in options.parts]
    results = run_parts(chosen, options.out, options.device, options.tiny, options.seconds)
    print((options.out / "results.md").read_text(encoding="utf-8"))
    print(f"Written to {options.out / 'results.md'} and {options.out / 'results.json'}.")
    if any(result.state != "done" for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
