"""Runs that are killed at any moment and started again: the same scores as undisturbed, and only whole files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tests.runs.small import TOY_COUNTS, silent, without_seconds
from wsss_lib.data import toy
from wsss_lib.methods import load_method
from wsss_lib.runs import earlier
from wsss_lib.runs import with_classifier as adversarial
from wsss_lib.runs.affinitynet import AffinityNetRun
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import open_run
from wsss_lib.runs.run import Run
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.store import read_checkpoint, read_json

ROOT = Path(__file__).parents[2]
KILLS = 6
"""Of each method."""

SMALL = {"epochs": 2, "batch_size": 8, "alphas": (4.0,)}
TINY = {
    "cam": {**SMALL, "epochs": 3, "crop_size": 48, "scales": (1.0, 0.5), "dropout": 0.5},
    "affinitynet": {**SMALL, "crop_size": 64, "low_alpha": 4.0, "walk_steps": 8},
    "oc_cse": {**SMALL, "crop_size": 48, "scales": (1.0,)},
    "acr": {**SMALL, "crop_size": 32, "scales": (1.0,)},
    "pcss": {
        **SMALL,
        "epochs": 3,
        "crop_size": 32,
        "backbone_options": {"channels": 24, "depth": 3, "heads": 2, "patch": 8, "grid": 4},
        "merge_block": 1,
        "plain_share": 0.0,
        "shortcut_interval": 1,
        "probed_images": 2,
    },
    "msal": {**SMALL, "crop_size": 96, "min_long_side": 96, "max_long_side": 112, "scales": (1.0,)},
    "superpixels": {"epochs": 1, "batch_size": 8, "crop_size": 96, "width": 0.125},
}
"""What makes the networks and the training of the toy world small."""


def tiny(method: str):
    config_class = load_method(method).Config
    return config_class.for_preset("toy", config_class().backbone if method == "pcss" else "").replace(**TINY[method])


def open_tiny(method: str, folder: Path) -> Run:
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        settings = Settings(f"nn_{method}", method, "toy", tiny(method), folder, accelerator="cpu", workers=0)
        return open_run(replace(settings, keep_epochs=method == "cam"))


# --------------------------------------------------------------------------------- in a process that is there to die


def live(method: str, folder: Path) -> dict[str, object]:
    """Do what a notebook does, and return its numbers."""
    run = open_tiny(method, folder)
    if isinstance(run, AffinityNetRun):
        run.cam_run.train(silent)
        run.cam_run.infer("fit")
        run.cam_run.infer("val")
        run.label()
    history = run.train(silent)
    run.infer("val")
    stores = run.refine("crf", "val")
    if isinstance(run, AffinityNetRun):
        stores |= run.refine("walk", "val")
    seeds = run.cam_run if isinstance(run, AffinityNetRun) else run
    assert isinstance(seeds, CamRun)
    return {
        "history": without_seconds(history),
        "seeds": seeds.score("val").confusions.tolist(),
        "masks": run.score_masks(stores, "val"),
    }


def after_writes(count: int) -> Callable[[Path, Path], Path]:
    """Return what renames files in place of `Path.replace`, and kills its process at the call of this number.

    The file is then written, but has not its name yet.
    """
    plain, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, target)

    return replace


def fork(method: str, folder: Path, writes: int = 0) -> int:
    """Start a process that lives until its end or until so many writes, and return its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with mock.patch.object(Path, "replace", after_writes(writes)):
            numbers = live(method, folder)
        Path(f"{folder}.json").write_text(json.dumps(numbers))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def end_of(process: int) -> int:
    """Wait for a process and return its status: negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def numbers_of(folder: Path) -> object:
    return json.loads(Path(f"{folder}.json").read_text())


def check_files(folder: Path, unfinished: bool) -> int:
    """Read every file of a run, and return how many there are that must be there whenever it was killed.

    Those with the seconds need not: a network may be finished, and its process killed before it writes them.
    """
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in paths:
        if path.name.startswith(".tmp-"):
            assert unfinished, path
        elif path.name in (".lock", ".owner"):
            continue
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".npz":
            with np.load(path) as file:
                dict(file)
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        else:
            assert path.suffix == ".pt", path
            read_checkpoint(path)
    return len([path for path in paths if path.name not in ("seconds.json", ".lock", ".owner")])


def torment(method: str, folder: Path, kills: int) -> None:
    """Live once undisturbed; then again and again, killed at moments drawn by lot, until so many kills are done."""
    earlier._short = lambda *_: tiny("cam").replace(epochs=1)
    adversarial._MARGIN = -1.0  # what has learned so little need not classify
    superpixels = load_method("superpixels").Config
    superpixels.preset = lambda *_: superpixels.for_preset("toy", "").replace(**TINY["superpixels"])

    whole, start = folder / "whole", time.monotonic()
    assert end_of(fork(method, whole)) == 0
    seconds, files = time.monotonic() - start, check_files(whole, unfinished=False)
    rng, killed, lives, done = random.Random(method), 0, 0, 0
    while killed < kills:
        again = folder / f"life {lives}"
        if killed % 2:
            process = fork(method, again, writes=rng.randint(1, max(1, (files - done) // 2)))
        else:
            process = fork(method, again)
            time.sleep(rng.uniform(0.05, 0.4) * seconds)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        status = end_of(process)
        assert status in (0, -signal.SIGKILL), status
        killed += status != 0
        done = check_files(again, unfinished=True)
        if status == 0 or killed == kills:
            assert end_of(fork(method, again)) == 0
            assert numbers_of(again) == numbers_of(whole), f"after {killed} kills"
            assert check_files(again, unfinished=False) == files
            lives, done = lives + 1, 0
    print(f"{killed} kills in {lives} lives of {files} files and {seconds:.1f} s")


# ---------------------------------------------------------------------------------------------------------- the test


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in TINY if name != "superpixels"])
def test_killed_anywhere(method, tmp_path):
    """The attempts are forks of one process, which has loaded PyTorch but not used it."""
    code = (
        "import sys; from pathlib import Path; from tests.runs.test_killed import torment;"
        "torment(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, method, str(tmp_path), str(KILLS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    assert done.stdout.splitlines()[-1].startswith(f"{KILLS} kills in ")
