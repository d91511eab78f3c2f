"""The commands of the shell, in this process and once as a user types them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs.small import open_run, sentence_of, tiny_config
from tests.use.models import final_run, write_pictures
from tests.use.shell import assert_one_sentence
from wsss_lib import __main__ as command
from wsss_lib.runs.parameters import read_parameters, run_names
from wsss_lib.use.chains import NOTEBOOKS, explain, final_parameters, known_parameters, read_words

ROOT = Path(__file__).parents[2]
QUICK = ["preset=toy", "limit=4", "epochs=1", "batch_size=2", "crop_size=32", "min_long_side=32", "max_long_side=40"]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(monkeypatch, capsys):
    """Runs a command and returns its exit status and what it says."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["wsss", *map(str, words)])
        status = command.main()
        return status, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("words", "shown"), [(["--help"], "predict"), ([], "fit"), (["fit", "--help"], "final.epochs")]
)
def test_help(words, shown, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wsss", *words])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize("method", run_names())
def test_every_parameter_is_explained(method):
    assert [name for name in known_parameters(method) if not explain(method).get(name)] == []


def test_every_parameter_of_the_final_network_is_explained():
    assert [name for name in final_parameters() if not explain("segmentation").get(name)] == []


def test_parameters_of_notebooks_are_those_of_the_command():
    for method, name in NOTEBOOKS.items():
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        theirs = {line.partition(":")[0] for line in first.splitlines()} - {"segmentation", "ablations"}
        assert theirs <= {*known_parameters(method)}
        paths = {"cams", "classifier", "superpixels", "saliency", "pseudo_masks"}
        assert paths & {*known_parameters(method)} == paths & theirs


def test_words_are_read():
    found = read_words(
        ["method=acr", "epochs=5", "final.epochs=2", "final.scales=0.5,1", "final.backbone=mobilenet_v2"]
    )
    assert found.method == "acr"
    assert found.values == {"epochs": "5"}
    off = read_words(["method=oc_cse", "erasing_weight=0", "final.weight_decay=0"])
    assert read_parameters("02_oc_cse", "oc_cse", off.values).config.erasing_weight == 0
    assert off.final == {"weight_decay": 0}
    assert found.final == {"epochs": 2, "scales": (0.5, 1.0), "backbone": "mobilenet_v2"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["epochs"], "'epochs' is not a parameter; write name=value"),
        (["=5"], "is not a parameter"),
        (["epochs=5", "epochs=6"], "parameter epochs is given twice"),
        (["epoch_s=5"], "perhaps epochs is meant"),
        (["final.epoch=5"], "perhaps final.epochs is meant"),
        (["final.epochs=x"], "parameter epochs must be of type int"),
        (["final.data_root=x"], "parameter final.data_root is unknown"),
        (["epochs=0"], "parameter epochs must be at least 1, not 0; leave it out for the preset's value."),
        (["dropout=-1"], "parameter dropout must be at least 0, not -1.0; leave it out"),
        (["final.learning_rate=0"], "parameter learning_rate must be above 0, not 0.0; leave it out"),
        (["cams=x"], "parameter cams is unknown"),
        (["ablations=1"], "parameter ablations is unknown"),
        (["method=sam"], "method 'sam' is unknown; choose one of cam"),
    ],
)
def test_words_that_are_refused(words, sentence):
    assert sentence in sentence_of(lambda: read_words(words))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit"], "the following arguments are required"),
        (["fit", "nowhere"], "data_root nowhere does not exist"),
        (["fit", "preset=photos"], "the folder of the pictures is missing"),
        (["fit", ".", "data_root=."], "data_root is given, and so is the folder ."),
        (["fit", ".", "preset=toy"], "preset toy draws its own data"),
        (["fit", "preset=toy", "--model", "m.pt"], "must end with .safetensors"),
        (["run", "sam"], "method 'sam' is unknown"),
        (["run", "cam", "epochs=-1"], "epochs must be at least 1"),
        (["predict", "m.safetensors", "."], "the following arguments are required: --out"),
        (["predict", "m.safetensors", ".", "--out", "out"], "model file m.safetensors does not exist"),
        (["predict", ".", ".", "--out", "out", "--maps"], ". holds no picture; give another folder"),
        (["save", "nowhere", "m.safetensors"], "nowhere is not a folder"),
        (["export", "m.safetensors", "net.onnx"], "model file m.safetensors does not exist"),
        (["export", "m.safetensors", "net.pb"], "file net.pb must end with .onnx or .pt2"),
        (["report", "nowhere"], "nowhere is not a folder"),
        (["report", "."], "config.json is missing; give the folder of a run"),
        (["fti", "x"], "perhaps fit is meant"),
    ],
)
def test_commands_that_fail_with_a_sentence(words, sentence, said, tmp_path):
    status, text = said(*words)
    assert_one_sentence(status, text, sentence)
    assert list(tmp_path.iterdir()) == []


def test_export_and_report(path, said, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    status, text = said("export", path, "net.onnx")
    assert (status, "compared with PyTorch: net.onnx" in text) == (0, True)
    assert onnx.load("net.onnx").graph.input[0].name == "pixels"
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    assert said("report", "run")[0] == 0
    assert (run.folder / "report.html").is_file()
    assert said("report", "run", "--out", "here.html") == (0, "report: here.html\n")
    assert "must end with .html" in said("report", "run", "--out", "here.txt")[1]
    assert not (tmp_path / "here.txt").exists()


def test_an_export_without_its_packages_ends_before_anything_is_read(said, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, text = said("export", "m.safetensors", "net.onnx")
    assert status == 1
    assert "the package onnxruntime is missing" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run", "fit", "other"])
def test_a_stage_of_a_run_in_a_folder_with_any_name(name, said, tmp_path):
    """``FOLDER STAGE``, which several processes are started with, means the same if the folder is called like one."""
    run = open_run(tmp_path / name, tiny_config(epochs=1), limit=4)
    assert said(name, "train")[0] == 0
    assert run.is_trained
    assert said("stage", name, "infer", "val")[0] == 0
    assert all(image_id in run.cams("val") for image_id in run.data("val").ids)
    assert "the arguments of stage infer do not fit" in said(name, "infer")[1]
    assert "stage 'trian' is unknown" in said(name, "trian")[1]
    assert "parameter epoc is unknown" in said("run", "cam", "epoc=1")[1]
    assert "parameter epoc is unknown" in said("fit", "preset=toy", "epoc=1")[1]
    assert "has not kept the network of epoch 1 but none" in said("fit", "preset=toy", "epoch=1", "out=new")[1]
    assert not Path("new").exists()


@pytest.mark.slow
def test_from_labels_to_masks_of_new_pictures(said, tmp_path):
    """fit, predict, maps and save, then fit again, which finds everything done."""
    final = ["final.epochs=1", "final.batch_size=2", "final.crop_size=32"]
    status, text = said("fit", *QUICK, *final, "out=run")
    assert status == 0
    path = tmp_path / "run" / "model.safetensors"
    assert f"model file: {Path('run') / 'model.safetensors'}" in text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["cams"]) == {"train", "val"}
    assert "crf-4" in metrics["refinements"]["val"]
    pictures = write_pictures(tmp_path / "pictures")
    (pictures / "broken.jpg").write_text("no picture")
    status, text = said("predict", path, pictures, "--out", "masks", "--overlay", "--no-mirror", "--scales", "1")
    assert status == 1  # because of the broken one
    assert "4 masks made" in text
    assert "broken.jpg" in text
    (pictures / "broken.jpg").unlink()
    status, text = said("predict", path, pictures, "--out", "masks", "--overlay", "--no-mirror", "--scales", "1")
    assert (status, "0 masks made, 4 were there already" in text) == (0, True)
    status, text = said("predict", "run", pictures, "--out", "maps", "--maps")
    assert (status, "4 maps made" in text) == (0, True)
    content = path.read_bytes()
    assert said("save", "run", "saved.safetensors")[0] == 0
    metrics["comparison"] = {"of": "a notebook"}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    seconds = (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns
    assert said("fit", *QUICK, *final, "out=run")[0] == 0
    assert (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns == seconds
    assert len(path.read_bytes()) == pytest.approx(len(content), rel=0.01)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["comparison"] == {"of": "a notebook"}


@pytest.mark.slow
def test_a_prediction_that_is_killed_goes_on(path, tmp_path):
    """As a user types it, in processes of their own."""
    pictures = write_pictures(tmp_path / "pictures")
    for count in range(30):
        (pictures / f"copy{count}.png").write_bytes((pictures / "wide.png").read_bytes())

    def start(out):
        line = [sys.executable, "-m", "wsss_lib", "predict", str(path), str(pictures), "--out", str(out), "--crf"]
        return subprocess.Popen(line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)

    with start(tmp_path / "out") as process:
        while process.poll() is None and not list((tmp_path / "out").glob("*.png")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = len(list((tmp_path / "out").glob("*.png")))
    assert 0 < done < 34
    with start(tmp_path / "out") as process:
        text = process.communicate()[0].decode()
    assert process.returncode == 0
    assert f"{34 - done} masks made, {done} were there already" in text
    with start(tmp_path / "whole") as process:
        process.communicate()
    for mask in (tmp_path / "whole").glob("*.png"):
        assert (tmp_path / "out" / mask.name).read_bytes() == mask.read_bytes()
    assert (tmp_path / "out" / "predictions.csv").read_text() == (tmp_path / "whole" / "predictions.csv").read_text()
    assert not list((tmp_path / "out").glob(".tmp-*"))


# -------------------------------------------------------------------------------------------------- following epochs


def test_epochs_are_followed(said, tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=2), keep_epochs=True, limit=4)
    run.train(lambda _row: None)
    status, text = said("follow", "run", "--sample", "2")
    assert status == 0
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows == ["epoch", "---", "1", "2"]
    assert "On val the network of epoch 2, the last one kept, reaches " in text
    (tmp_path / "list.txt").write_text(run.data("train").ids[1] + "\n")
    status, text = said("follow", "run", "--ids", "list.txt")
    assert (status, "mIoU % val" in text, "On train the network of epoch 2" in text) == (0, False, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--sample", "-1"], "sample -1 is out of range"),
        (["run"], "has kept no network; train with keep_epochs=True"),
        (["final"], "is a run of segmentation, which makes no CAM seeds"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_followed(words, sentence, said, tmp_path):
    open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    final_run(tmp_path / "final")
    status, text = said("follow", *words)
    assert (status, sentence in text) == (1, True)
