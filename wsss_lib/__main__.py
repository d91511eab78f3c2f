"""One stage of an existing run, for several processes: ``torchrun --nproc-per-node 8 -m wsss_lib FOLDER train``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wsss_lib.errors import InputError
from wsss_lib.pipeline.run import Run


def main() -> int:
    """Run one stage of the run in a folder; a notebook has made the folder and its ``config.json``."""
    parser = argparse.ArgumentParser(prog="python -m wsss_lib", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a run, with its config.json")
    parser.add_argument("stage", choices=["train", "infer"])
    parser.add_argument("split", nargs="?", default="train", help="for infer: which split")
    arguments = parser.parse_args()
    try:
        run = Run.reopen(arguments.folder)
        if arguments.stage == "train":
            run.train()
        else:
            run.infer(arguments.split)
    except InputError as error:
        sys.stdout.write(f"\nInputError: {error}\n")  # in one piece: other processes write to the same pipe
        sys.stdout.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
