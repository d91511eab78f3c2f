"""The notebooks under the real papermill command line, from where users call it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
PAPERMILL = [str(Path(sys.executable).with_name("papermill"))]
SMALL = ["-p", "limit", "16", "-p", "epochs", "1", "-p", "batch_size", "8"]


def papermill(folder, notebook, output, *parameters):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("JPY_SESSION_NAME", None)
    command = [*PAPERMILL, str(notebook), str(output), "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def run_on_photographs(name, root, folder, *parameters, fails=False):
    """Execute a notebook for one epoch on the pictures below ``root``, with made-up weights; return what it says."""
    import torch

    from wsss_lib.models import create_backbone

    torch.save(create_backbone("efficientnet_lite0").state_dict(), folder / "net.pth")
    result = papermill(
        ROOT, f"notebooks/{name}.ipynb", folder / "out.ipynb",
        "-p", "preset", "photos", "-p", "data_root", str(root), "-p", "weights", str(folder / "net.pth"),
        "-p", "epochs", "1", "-p", "batch_size", "1", "-p", "out", str(folder / "run"), *parameters,
    )  # fmt: skip
    assert bool(result.returncode) is fails, result.stderr[-3000:]
    return result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "notebook"), [(".", "notebooks/00_cam.ipynb"), ("notebooks", "00_cam.ipynb")])
def test_00_cam_runs_and_leaves_its_results(folder, notebook, tmp_path):
    own = ["-p", "out", str(tmp_path / "run"), "-p", "segmentation", "True"]
    result = papermill(ROOT / folder, notebook, tmp_path / "out.ipynb", *SMALL, *own)
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["preset"] == "toy"
    assert 0 < metrics["final"]["val"]["segmentation-crf"]["mean_iou"] < 1
    assert set(metrics["cams"]) == {"train", "val"}
    assert 0 < metrics["cams"]["val"]["swept"]["mean_iou"] < 1
    assert metrics["cams"]["val"]["swept"]["threshold"] == metrics["cams"]["train"]["oracle"]["threshold"]
    assert len(list((tmp_path / "run" / "cams" / "train").glob("*.npz"))) == 16
    assert "widgets" not in nbformat.read(tmp_path / "out.ipynb", as_version=4).metadata


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["voc", "folder"])
def test_00_cam_runs_on_photographs(layout, tmp_path):
    """A folder in VOC's layout, and one's own pictures; the weights come from a file."""
    from tests.data import trees

    root = tmp_path / "data"
    if layout == "voc":
        trees.voc_tree(root)
    else:
        trees.folder_tree(root)
        shutil.rmtree(root / "masks")  # CAM seeds can be made, but not scored
    run_on_photographs("00_cam", root, tmp_path, "-p", "scales", "1.0")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["cams"]) == ({"train", "val"} if layout == "voc" else set())
    assert list((tmp_path / "run" / "cams" / "val").glob("*.npz"))


@pytest.mark.slow
def test_01_affinitynet_makes_its_own_maps_or_continues(tmp_path):
    """First it makes maps by a short run; another run, given that run, makes none, and refuses one of other data."""
    run = ["notebooks/01_affinitynet.ipynb", tmp_path / "out.ipynb", *SMALL]
    result = papermill(ROOT, *run, "-p", "out", str(tmp_path / "first"), "-p", "segmentation", "True")
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert 0 < metrics["final"]["val"]["segmentation"]["mean_iou"] < 1
    assert (tmp_path / "first" / "segmentation" / "walk-crf" / "checkpoint.pt").is_file()
    scores = metrics["refinements"]["val"]
    assert {"cam", "walk", "walk-crf", "crf-4"} <= set(scores)
    assert all(0 < row["mean_iou"] < 1 for row in scores.values())
    assert len(list((tmp_path / "first" / "masks" / "walk" / "val").glob("*.png"))) == 16
    assert "widgets" not in nbformat.read(tmp_path / "out.ipynb", as_version=4).metadata

    maps = ["-p", "cams", str(tmp_path / "first" / "cam_run"), "-p", "out", str(tmp_path / "second")]
    result = papermill(ROOT, *run, *maps)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not (tmp_path / "second" / "cam_run").exists()
    again = json.loads((tmp_path / "second" / "metrics.json").read_text())["refinements"]["val"]
    assert again["cam"] == scores["cam"]

    result = papermill(ROOT, *run[:2], "-p", "limit", "12", *maps[:3], "-p", "out", str(tmp_path / "third"))
    assert result.returncode != 0
    assert "is a run on other data" in result.stderr
    assert not (tmp_path / "third").exists()


@pytest.mark.slow
def test_01_affinitynet_runs_on_photographs_without_masks(tmp_path):
    from tests.data import trees

    root = tmp_path / "data"
    trees.folder_tree(root)
    shutil.rmtree(root / "masks")
    run_on_photographs("01_affinitynet", root, tmp_path, "-p", "crop_size", "64")
    assert list((tmp_path / "run" / "masks" / "walk-crf" / "val").glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_oc_cse", "03_acr"])
def test_the_adversarial_notebooks_run_from_their_folder(name, tmp_path):
    """With a short classifier of their own, what is compared on the toy world, and a final network."""
    own = ["-p", "out", str(tmp_path / "run"), "-p", "segmentation", "True"]
    result = papermill(ROOT / "notebooks", f"{name}.ipynb", tmp_path / "out.ipynb", *SMALL, *own)
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    plain = {"02_oc_cse": "without erasing", "03_acr": "no adversary"}[name]
    assert {"ordinary classifier", plain} < set(metrics["comparison"])
    assert all(0 < row["val"] < 1 and 0 <= row["covered"] <= 1 for row in metrics["comparison"].values())
    assert {"cam", "crf-6", "crf-24"} <= set(metrics["refinements"]["val"])
    assert metrics["final"]["val"].keys() == {"segmentation", "segmentation-crf"}
    assert "widgets" not in nbformat.read(tmp_path / "out.ipynb", as_version=4).metadata


@pytest.mark.slow
def test_03_acr_runs_on_photographs_without_masks(tmp_path):
    from tests.data import trees

    root = tmp_path / "data"
    trees.folder_tree(root)
    shutil.rmtree(root / "masks")
    run_on_photographs("03_acr", root, tmp_path, "-p", "crop_size", "64", "-p", "scales", "1.0")
    assert list((tmp_path / "run" / "masks" / "crf-6" / "val").glob("*.png"))


@pytest.mark.slow
def test_02_oc_cse_refuses_a_classifier_that_does_not_classify(tmp_path):
    """One picture under four names, a class for each: nothing can be recognised."""
    from tests.data import trees

    names = ("cat", "dog", "sofa", "train")
    for name in names:
        trees.save_image(tmp_path / "data" / "images" / f"{name}.png", (70, 70), seed=0)
    rows = [f"{name}.png,{name},{'val' if name == 'dog' else 'train'}" for name in names]
    trees.write(tmp_path / "data" / "labels.csv", "\n".join(["image,labels,split", *rows]) + "\n")
    said = run_on_photographs("02_oc_cse", tmp_path / "data", tmp_path, "-p", "crop_size", "65", fails=True)
    assert "InputError: the ordinary classifier " in said
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_04_pcss_runs_from_its_folder(tmp_path):
    """With a census, and with each part alone."""
    result = papermill(
        ROOT / "notebooks", "04_pcss.ipynb", tmp_path / "out.ipynb", *SMALL, "-p", "epochs", "2",
        "-p", "ablations", "3", "-p", "segmentation", "True", "-p", "out", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    kinds = {"neither", "PCSS", "phase concentration alone", "shortcut suppression alone"}
    assert set(metrics["comparison"]) == set(metrics["reliance"]) == kinds
    assert all(0 <= row["precision_without"] <= 1 for row in metrics["reliance"].values())
    assert {"cam", "crf-6", "crf-24"} <= set(metrics["refinements"]["val"])
    assert metrics["final"]["val"].keys() == {"segmentation", "segmentation-crf"}


@pytest.mark.slow
def test_04_pcss_runs_mctformer(tmp_path):
    """V1, which has no maps of patches."""
    result = papermill(
        ROOT / "notebooks", "04_pcss.ipynb", tmp_path / "out.ipynb", *SMALL, "-p", "network", "v1",
        "-p", "out", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["parameters"]["phase_weight"] == 0


@pytest.mark.slow
def test_04_pcss_runs_on_coco(tmp_path):
    """With a transformer's weights, images without objects, and masks that are rendered."""
    import torch

    from tests.data import trees
    from wsss_lib.models.deit import DeiT

    root = trees.coco_splits_tree(tmp_path / "COCO2014")
    weights = {**DeiT(1).state_dict(), "head.weight": torch.zeros(1000, 384), "head.bias": torch.zeros(1000)}
    torch.save({"model": weights}, tmp_path / "deit.pth")
    result = papermill(
        ROOT, "notebooks/04_pcss.ipynb", tmp_path / "out.ipynb", "-p", "preset", "coco14", "-p", "data_root", str(root),
        "-p", "weights", str(tmp_path / "deit.pth"), "-p", "epochs", "1", "-p", "batch_size", "2",
        "-p", "crop_size", "32", "-p", "out", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["cams"]["val"]["swept"]["classes"]) == 81


@pytest.mark.slow
def test_05_msal_runs_from_its_folder_and_without_masks(tmp_path):
    small = ["-p", "epochs", "1", "-p", "limit", "16", "-p", "batch_size", "8", "-p", "ablations", "4"]
    small += ["-p", "segmentation", "True"]
    result = papermill("notebooks", "05_msal.ipynb", tmp_path / "a.ipynb", *small, "-p", "out", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["comparison"]) == 7
    assert {"val", "boundary", "part"} <= metrics["comparison"]["no IPC"].keys()
    assert metrics["superpixels"]["squares"]["count"] == 144
    assert 0 < metrics["final"]["val"]["segmentation-crf"]["mean_iou"] < 1
    assert (tmp_path / "run" / "superpixels" / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_05_msal_runs_on_coco(tmp_path):
    """With ResNet-50 and a superpixel network from files, and images without objects."""
    import torch
    from torchvision.models import resnet50

    from tests.data import trees
    from wsss_lib.models.superpixel_net import SuperpixelNet

    root = trees.coco_splits_tree(tmp_path / "COCO2014")
    torch.save(resnet50().state_dict(), tmp_path / "resnet50.pth")
    torch.save({"state_dict": SuperpixelNet().state_dict()}, tmp_path / "SpixelNet_bsd_ckpt.tar")
    result = papermill(
        ROOT, "notebooks/05_msal.ipynb", tmp_path / "out.ipynb", "-p", "preset", "coco14", "-p", "data_root", str(root),
        "-p", "weights", str(tmp_path / "resnet50.pth"), "-p", "superpixels", str(tmp_path / "SpixelNet_bsd_ckpt.tar"),
        "-p", "epochs", "1", "-p", "batch_size", "2", "-p", "crop_size", "96", "-p", "out", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["cams"]["val"]["swept"]["classes"]) == 81


@pytest.mark.slow
def test_06_compare_says_what_is_missing(tmp_path):
    (tmp_path / "runs").mkdir()
    result = papermill(ROOT, "notebooks/06_compare.ipynb", tmp_path / "out.ipynb", "-p", "runs", str(tmp_path / "runs"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "out.ipynb").read_text().count("no run of 0") == 7


@pytest.mark.slow
def test_07_use_makes_a_model_and_then_uses_it_on_other_pictures(tmp_path):
    """From its own folder; the second time with the file of the first, on pictures of other sizes, without a run."""
    from tests.use.models import SIZES, write_pictures

    first, second = tmp_path / "first", tmp_path / "second"
    result = papermill(ROOT / "notebooks", "07_use.ipynb", tmp_path / "a.ipynb", *SMALL, "-p", "out", str(first))
    assert result.returncode == 0, result.stderr[-3000:]
    assert (first / "network.safetensors").is_file()
    assert len(list((first / "predictions").glob("new_*.png"))) == 24
    text = (tmp_path / "a.ipynb").read_text()
    assert "0 of 147456 pixels differ between the file and the run" in text
    assert "expected calibration error" in text
    assert (first / "network.onnx").is_file() or "package onnx" in text
    assert "widgets" not in nbformat.read(tmp_path / "a.ipynb", as_version=4).metadata

    given = write_pictures(tmp_path / "pictures")
    (given / "broken.jpg").write_text("no picture")
    own = ["-p", "model", str(first / "network.safetensors"), "-p", "pictures", str(given), "-p", "limit", "4"]
    result = papermill(ROOT, "notebooks/07_use.ipynb", tmp_path / "b.ipynb", *own, "-p", "out", str(second))
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path.stem for path in (second / "predictions").glob("*.png")} == {*SIZES}
    assert not (second / "config.json").exists()
    assert "broken.jpg" in (tmp_path / "b.ipynb").read_text()

    result = papermill(ROOT, "notebooks/07_use.ipynb", tmp_path / "c.ipynb", "-p", "model", "none.safetensors")
    assert result.returncode != 0
    assert "InputError: model none.safetensors does not exist" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (["-p", "epochss", "3"], "parameter epochss is unknown; perhaps epochs is meant."),
        (["-p", "epoch", "3"], "{out} has not kept the network of epoch 3 but none; name a kept epoch"),
        (["-p", "epochs", "three"], "parameter epochs must be of type int, but 'three' is str."),
        (["-p", "preset", "photos", "-p", "data_root", "nowhere"], "data_root nowhere does not exist"),
    ],
)
def test_a_wrong_parameter_gives_one_sentence_and_no_folder(parameters, sentence, tmp_path):
    result = papermill(
        ROOT, "notebooks/00_cam.ipynb", tmp_path / "out.ipynb", *parameters, "-p", "out", str(tmp_path / "r")
    )
    assert result.returncode != 0
    assert f"InputError: {sentence.format(out=tmp_path / 'r')}" in result.stderr
    assert "wsss_lib/" not in result.stderr, "the stack of calls is shown"
    assert not (tmp_path / "r").exists()
