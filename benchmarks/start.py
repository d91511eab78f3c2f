"""Start time of the library: its imports, without those of its dependencies, and its default toy world.

Each turn starts a new interpreter that first imports torch, torchvision and lightning_fabric, and then the measured
modules. A new interpreter also opens files, so the first turn on a machine is slower; it does not count. `--device` has
no effect here.

Columns: measured stage; milliseconds, median of the turns; least and greatest of the turns; share of the time of the
first three imports, which the library cannot change.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from common import begin, parser, table

BASE = "import torch, torchvision, lightning_fabric"
PACKAGE = "import wsss_lib"
PIPELINE = "import wsss_lib.runs.run"
WORLD = "open_splits('toy')"

CODE = f"""
import json, sys, time

def timed(code):
    start = time.perf_counter()
    exec(code, globals())
    return time.perf_counter() - start

times = {{"{BASE}": timed("{BASE}")}}
if sys.argv[1] != "0":
    torch.set_num_threads(int(sys.argv[1]))
times["{PACKAGE}"] = timed("{PACKAGE}")
times["{PIPELINE}"] = timed("{PIPELINE}")
from wsss_lib.data.splits import open_splits
if sys.argv[2] == "1":
    times["{WORLD}"] = timed("{WORLD}")
print(json.dumps(times))
"""


def start(threads: int, world: bool) -> dict[str, float]:
    """Return the seconds of each stage in a new interpreter.

    Raises:
        SystemExit: The interpreter failed, after printing the reason.
    """
    command = [sys.executable, "-c", CODE, str(threads), str(int(world))]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"a fresh interpreter failed with exit status {answer.returncode}.")
    return json.loads(answer.stdout.splitlines()[-1])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--skip-world", action="store_true", help="leave out the toy world")
    return options.parse_args()


def main() -> None:
    """Start several interpreters and print the table."""
    options = arguments()
    begin(options)
    start(options.threads, world=False)
    turns = [start(options.threads, not options.skip_world) for _ in range(options.repeats)]
    base = statistics.median(turn[BASE] for turn in turns)
    rows = []
    for stage in turns[0]:
        times = [turn[stage] for turn in turns]
        shown = [f"{1000 * t:.1f}" for t in (statistics.median(times), min(times), max(times))]
        rows.append((stage, *shown, f"{100 * statistics.median(times) / base:.1f} %"))
    print(
        f"Start: Python {sys.version.split()[0]}, {options.repeats} fresh interpreters; each line comes after the last"
    )
    print(table(("stage", "ms", "least", "most", "of the first"), rows))


if __name__ == "__main__":
    main()
