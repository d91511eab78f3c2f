"""The wheel, installed into an environment of its own: library and command without the clone and without the course.

The environment takes PyTorch and the other dependencies from that of the tests. What only the extra `course` installs
is refused there, as if it were not installed.
"""

import csv
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
COURSE = ("IPython", "ipykernel", "ipywidgets", "jupyterlab", "nbformat", "papermill", "traitlets")
"""Packages that only the extra `course` installs."""
REFUSE = f"""
import sys

class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {COURSE}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""

IMPORT_ALL = """
import importlib, json, pkgutil, warnings
import wsss_lib
warnings.simplefilter("ignore")
failed = []
for module in pkgutil.walk_packages(wsss_lib.__path__, "wsss_lib."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError:
        failed.append(module.name)
print(json.dumps([wsss_lib.__file__, failed]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return the folder of the programs of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    (packages / "sitecustomize.py").write_text(REFUSE)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, cwd=folder)
    return folder / "bin"


def run(installed, folder, *command):
    """Run a program of the environment in a folder and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{installed}{os.pathsep}{environment['PATH']}"
    command = [str(installed / command[0]), *command[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    listed = subprocess.run(["git", "ls-files", "wsss_lib"], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {*listed.stdout.split()} == inside
    assert "wsss_lib/py.typed" in inside


def test_the_library_needs_neither_the_clone_nor_the_course(installed, tmp_path):
    file, failed = json.loads(run(installed, tmp_path, "python", "-c", IMPORT_ALL))
    assert Path(file).is_relative_to(installed.parent)
    assert "wsss_lib.show.widgets" in failed  # sliders, which only notebooks show
    assert {name.rpartition(".")[0] for name in failed} == {"wsss_lib.show"}


def test_a_run_of_a_method_in_an_empty_folder(installed, tmp_path):
    run(installed, tmp_path, "wsss", "run", "cam", "preset=toy", "limit=8", "epochs=1", "batch_size=4")
    (metrics,) = (tmp_path / "runs" / "00_cam").glob("toy*/metrics.json")
    assert 0 <= json.loads(metrics.read_text())["cams"]["val"]["swept"]["mean_iou"] <= 1


def test_pictures_in_masks_out(installed, tmp_path):
    """From labelled pictures to masks, with the pre-trained weights of the package that `photos` installs."""
    rng = np.random.default_rng(0)
    pictures, work = tmp_path / "pictures", tmp_path / "work"
    (pictures / "images").mkdir(parents=True)
    work.mkdir()
    rows = [("image", "labels", "split")]
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(pictures / "images" / f"{number}.png")
        rows.append((f"{number}.png", ("cat", "dog")[number % 2], ("train", "val")[number > 3]))
    with (pictures / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    small = ["epochs=1", "batch_size=2", "final.epochs=1", "final.batch_size=2", "workers=0"]
    run(installed, work, "wsss", "fit", "../pictures", *small, "--model", "net.safetensors")
    assert {path.name for path in work.iterdir()} == {"net.safetensors", "runs"}
    said = run(installed, work, "wsss", "predict", "net.safetensors", "../pictures/images", "--out", "masks")
    assert said == "6 masks made, in masks\n"
    assert sorted(path.name for path in (work / "masks").glob("*.png")) == [f"{number}.png" for number in range(6)]
