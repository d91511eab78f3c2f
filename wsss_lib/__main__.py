"""One stage of an existing run, for several processes.

``torchrun --nproc-per-node 8 -m wsss_lib FOLDER train``, or ``srun --ntasks 8 python -m wsss_lib FOLDER train``.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import traceback
from pathlib import Path

from wsss_lib.errors import InputError, ProcessError
from wsss_lib.runs.kinds import reopen
from wsss_lib.stages.agent import end_with_launcher, report


def main() -> int:
    """Run one stage of the run in a folder; a notebook has made the folder and its ``config.json``."""
    parser = argparse.ArgumentParser(prog="python -m wsss_lib", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a run, with its config.json")
    parser.add_argument("stage", help="train, infer, refine and, for AffinityNet, label")
    parser.add_argument("arguments", nargs="*", help="infer: the split; refine: what, such as crf, and the split")
    options = parser.parse_args()
    end_with_launcher()
    try:
        run = reopen(options.folder)
        if options.stage not in run.stages:
            raise InputError(f"stage {options.stage!r} is unknown; choose one of {', '.join(run.stages)}.")
        stage = getattr(run, options.stage)
        wanted = [name for name, p in inspect.signature(stage).parameters.items() if p.default is p.empty]
        if len(options.arguments) != len(wanted):
            raise InputError(
                f"the arguments of stage {options.stage} do not fit ({' '.join(options.arguments) or 'none'}); "
                f"give {' and '.join(wanted) or 'none'}."
            )
        stage(*options.arguments)
    except (InputError, ProcessError) as error:
        sentence = f"{type(error).__name__}: {error}"
        if not report(sentence):
            sys.stdout.write(f"\n{sentence}\n")  # in one piece: other processes write to the same pipe
            sys.stdout.flush()
        return 1
    except Exception:
        if not report(traceback.format_exc()):
            raise
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
