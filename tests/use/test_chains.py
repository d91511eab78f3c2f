"""Whole chains without a notebook, from labelled pictures to the model file: every method, killed, and as notebooks."""

import ast
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from tests.runs.small import sentence_of, tiny_config
from tests.runs.test_irn_run import tiny as tiny_irn
from tests.runs.test_killed import TINY, end_of, tiny
from tests.use.models import small_model
from wsss_lib.data.toy import ToyWorld
from wsss_lib.methods import load_method
from wsss_lib.methods import method as methods
from wsss_lib.methods.segmentation import Config as FinalConfig
from wsss_lib.models import pretrained
from wsss_lib.runs import earlier, with_classifier
from wsss_lib.runs.kinds import open_run, reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.refiners import REFINERS
from wsss_lib.runs.report import FIXED_ALPHA, FIXED_THRESHOLD
from wsss_lib.runs.segmentation import final_stage
from wsss_lib.stages.store import read_checkpoint, read_json
from wsss_lib.use.chains import NOTEBOOKS, fit, open_method, read_words
from wsss_lib.use.model_file import final_network

ROOT = Path(__file__).parents[2]


def shrink(patch):
    """Make the networks and the training of all methods tiny, whatever the preset."""
    patch.setattr(methods, "TOY_PRETRAINED", False)  # the weights are for larger networks
    configs = {name: tiny(name) for name in TINY}
    configs["cam"] = tiny_config(epochs=2, scales=(1.0,))
    configs["affinitynet"] = configs["affinitynet"].replace(walk_steps=4)
    configs["irn"] = tiny_irn()
    configs["segmentation"] = FinalConfig.preset("toy").replace(
        backbone_options={"width": 0.125}, epochs=2, batch_size=4, crop_size=48
    )
    for name, config in configs.items():
        patch.setattr(load_method(name).Config, "for_preset", classmethod(lambda *_, config=config: config))
    patch.setattr(earlier, "_short", lambda *_: configs["cam"].replace(epochs=1))
    patch.setattr(with_classifier, "_MARGIN", -1.0)  # what has learned so little need not classify


def draw_pictures(root, masks=True, val=True):
    """Write pictures of the toy world as one's own: 8 to train on, of which the first shows no class, and 4 more."""
    rows, classes = ["image,labels,split"], ToyWorld("train", 1).classes
    for split, count in {"train": 8, "val": 4}.items():
        data = ToyWorld(split, count)
        for index in range(count):
            name, first = f"{split}{index}", split == "train" and index == 0
            labels = [] if first else [classes[k] for k in data.labels[index].nonzero().flatten().tolist()]
            rows.append(f"{name}.png,{';'.join(labels)},{split if val else 'train'}")
            for folder, picture in {"images": data.image(index), "masks": Image.fromarray(data.mask(index))}.items():
                if folder == "images" or (masks and not first):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    picture.save(root / folder / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def open_fit(method, data, out, *more):
    """Open what ``wsss fit DATA method=METHOD out=OUT`` opens."""
    words = [f"method={method}", "preset=photos", f"data_root={data}", f"out={out}", "workers=0", "accelerator=cpu"]
    parameters = read_words([*words, *more])
    return open_method(parameters, with_final=True), parameters.final


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shrink(monkeypatch)


# ------------------------------------------------------------------------------------------------------ every method


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", NOTEBOOKS)
def test_every_method_ends_in_a_model_file(method, tmp_path, capsys):
    data = draw_pictures(tmp_path / "data")
    path = fit(*open_fit(method, data, "run"))
    assert path == Path("run") / "model.safetensors"
    said = capsys.readouterr().out
    assert "| network, then CRF |" in said
    assert said.endswith(f"model file: {path}\nuse it: wsss predict {path} PICTURES --out FOLDER\n")
    metrics = read_json(Path("run/metrics.json"))
    assert set(metrics["cams"]) == {"train", "val"}
    masks = [name for name in metrics["refinements"]["val"] if name != "cam"]
    last = final_network(Path("run"))
    assert last.settings.pseudo_masks.parent.name in masks  # one of those that are scored
    assert last.settings.pseudo_masks.parent.name.startswith("walk-crf" if method in REFINERS else "crf-")
    mask, _ = small_model(path).predict(data / "images" / "val0.png")
    assert mask.shape == (96, 96)
    assert set(small_model(path).about.results) == {"train", "val"}
    times = {file: file.stat().st_mtime_ns for file in Path("run").rglob("*") if file.suffix in (".pt", ".npz", ".png")}
    fit(*open_fit(method, data, "run"))
    assert {file: file.stat().st_mtime_ns for file in times} == times


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("val", [True, False])
def test_pictures_without_any_mask_are_enough(val, tmp_path, capsys):
    path = fit(*open_fit("cam", draw_pictures(tmp_path / "data", masks=False, val=val), "run"))
    said = capsys.readouterr().out
    assert final_network(Path("run")).settings.pseudo_masks.parent.name == "crf-4"  # of 4 and 32
    assert "mIoU" not in said
    assert "no masks: crf-4 is the fixed choice" in said
    assert small_model(path).predict(tmp_path / "data" / "images" / "train1.png")[0].shape == (96, 96)


def test_without_masks_the_background_of_photographs_agrees_with_the_fixed_threshold():
    alphas = load_method("cam").Config.preset("photos").alphas
    distances = {alpha: abs((1 - FIXED_THRESHOLD) ** alpha - FIXED_THRESHOLD) for alpha in alphas}
    assert min(distances, key=distances.get) == FIXED_ALPHA


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_model_is_there_before_its_network_is_scored(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    data = draw_pictures(tmp_path / "data")
    monkeypatch.setattr("wsss_lib.runs.segmentation.infer_masks", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(*open_fit("cam", data, "run"), tmp_path / "early.safetensors")
    assert small_model(tmp_path / "early.safetensors").about.results == {}


@pytest.mark.usefixtures("small")
def test_a_target_that_is_not_a_model_file_is_refused_before_any_work(tmp_path):
    run, final = open_fit("cam", draw_pictures(tmp_path / "data"), "run")
    before = sorted(Path("run").rglob("*"))
    (tmp_path / "notes.safetensors").write_text("mine")
    assert "is not a model file of wsss_lib" in sentence_of(lambda: fit(run, final, tmp_path / "notes.safetensors"))
    assert sorted(Path("run").rglob("*")) == before


def test_without_weights_for_photographs_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wsss_lib.use.chains.check_final_network", lambda *_: None)
    monkeypatch.setattr("wsss_lib.runs.parameters.check_final_network", lambda *_: None)

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pretrained.torch.hub, "download_url_to_file", unreachable)
    said = sentence_of(lambda: open_fit("pcss", draw_pictures(tmp_path / "data"), "run"))
    assert "deit_small_patch16_224-cd65a155.pth" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


# -------------------------------------------------------------------------------------------- the run of the notebook


def parameters_cell(notebook):
    """Return the code of a notebook's cell of parameters, and the name of the class of its run."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    calls = [node for source in sources[1:2] for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    [kind] = [c.func.id for c in calls if c.args and isinstance(c.args[0], ast.Call) and "Run" in ast.unparse(c.func)]
    assert any("final_stage(run)" in source for source in sources)
    return sources[0], kind


@pytest.mark.parametrize("preset", ["toy", "photos"])
@pytest.mark.parametrize(("method", "notebook"), NOTEBOOKS.items())
def test_the_run_is_that_of_the_notebook(method, notebook, preset, tmp_path, monkeypatch):
    """Same folder, same settings, same identity; so either continues what the other has begun."""
    monkeypatch.chdir(tmp_path)
    shrink(monkeypatch)
    given = {"preset": preset, "limit": 4, "epochs": 1, "accelerator": "cpu"}
    if preset == "photos":
        given["data_root"] = str(draw_pictures(tmp_path / "data"))
    code, kind = parameters_cell(notebook)
    namespace = {}
    exec(code, namespace)
    theirs = open_run(read_parameters(notebook, method, {**namespace, **given, "segmentation": True}))
    assert type(theirs).__name__ == kind
    mine = open_method(read_words([f"method={method}", *(f"{k}={v}" for k, v in given.items())]), with_final=True)
    assert type(mine) is type(theirs)
    assert mine.settings == theirs.settings
    assert mine.identity() == theirs.identity()
    assert mine.fingerprint() == theirs.fingerprint()
    assert mine.folder.parent == Path.cwd() / "runs" / notebook


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", ["cam", "affinitynet"])
def test_the_final_network_is_that_of_the_notebook(method, tmp_path):
    run, final = open_fit(method, draw_pictures(tmp_path / "data"), "run")
    fit(run, final)
    last = final_stage(reopen(Path("run")))
    assert last.is_trained
    assert last.folder == final_network(Path("run")).folder
    assert last.identity() == final_network(Path("run")).identity()


# ------------------------------------------------------------------------------------------------ killed in each stage


def stage_of(folder, path):
    """Return what is being made by a file: the folder of maps or masks, or the file itself if it ends something."""
    name = path.relative_to(folder).as_posix()
    if "growth" in name or "variants" in name:
        return None
    if path.suffix in (".npz", ".png"):
        return path.relative_to(folder).parent.as_posix()
    return name if path.name in ("checkpoint.pt", "metrics.json", "model.safetensors") else None


def live(method, data, folder, stage=""):
    """Do the whole chain in a process of its own; be killed at the second file of a stage, or its only one."""
    process = os.fork()
    if process:
        return end_of(process)
    status, plain, found = 1, Path.replace, Counter()
    only = stage.endswith((".json", ".safetensors"))

    def replace(self, target):
        name = stage_of(folder, Path(target).absolute()) if self.name.startswith(".tmp-") else None
        found[name] += 1
        if name == stage and (only or found[name] == 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, target)

    try:
        with mock.patch.object(Path, "replace", replace):
            fit(*open_fit(method, data, folder))
        stages = [name for name in found if name]
        Path(f"{folder}.json").write_text(json.dumps([n for n in stages if found[n] > 1 or n.endswith(".json")]))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def results_of(folder):
    """Return numbers and masks of a run and of its final network, and the losses of all trainings."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "metrics.json":
            metrics = read_json(path)
            found[name] = {key: metrics.get(key) for key in ("cams", "refinements", "classification", "masks")}
        elif path.suffix == ".png":
            found[name] = path.read_bytes()
        elif path.name == "checkpoint.pt":
            history = read_checkpoint(path)["history"]
            found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    return found


def torment(method, folder):
    """Do the chain once undisturbed; then kill it once in each of its stages, and compare."""
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        data = draw_pictures(folder / "data")
        assert live(method, data, folder / "whole") == 0
        stages = json.loads(Path(f"{folder / 'whole'}.json").read_text())
        for stage in stages:
            assert live(method, data, folder / "parts", stage) == -signal.SIGKILL, stage
        assert live(method, data, folder / "parts") == 0
    assert results_of(folder / "parts") == results_of(folder / "whole")
    assert not list((folder / "parts").rglob(".tmp-*"))
    print(" ".join(stages))


@pytest.mark.slow
@pytest.mark.parametrize("method", NOTEBOOKS)
def test_killed_in_each_stage(method, tmp_path):
    """The attempts are forks of one process, which has loaded PyTorch but not used it."""
    code = (
        "import sys; from pathlib import Path; from tests.use.test_chains import torment;"
        "torment(sys.argv[1], Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, method, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    stages = done.stdout.splitlines()[-1].split()
    assert {"checkpoint.pt", "metrics.json", "model.safetensors"} <= {*stages}
    assert {name.partition("/")[0] for name in stages} >= {"masks", "segmentation"}
