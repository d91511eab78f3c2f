"""What the lesson on use begins with: a finished run that is there, or else a short one of its own."""

import shutil
from dataclasses import replace

import pytest

from tests.runs.small import settings, silent, tiny_config
from tests.use.models import final_run, small_model, write_pictures
from wsss_lib.data.pictures import find_pictures
from wsss_lib.methods import cam, segmentation
from wsss_lib.runs.cam import CamRun
from wsss_lib.use import lesson

USUAL = tiny_config(epochs=4)
FINAL = segmentation.Config.preset("toy", "resnet101_caffe").replace(epochs=5)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Settings of the toy world that take no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cam.Config, "preset", lambda *_: USUAL)
    monkeypatch.setattr(segmentation.Config, "preset", lambda *_: FINAL)


def asked(tmp_path, **changes):
    return settings(tmp_path / "own", changes.pop("config", USUAL), limit=4, **changes)


def earlier(tmp_path, **changes):
    """A run of 00_cam that is trained, in its usual folder."""
    run = CamRun(replace(asked(tmp_path, **changes), folder=tmp_path / "runs" / "00_cam" / "toy-limit=4"))
    run.train(silent)
    return run


def with_final(run, tmp_path):
    final = final_run(tmp_path / "final")
    final.train(silent)
    shutil.copytree(final.folder, run.folder / "segmentation" / "crf-4")
    return run


def test_a_new_run_takes_half_of_the_epochs(tmp_path):
    run = lesson.open_classifier(asked(tmp_path))
    assert (run.folder, run.settings.config.epochs) == (tmp_path / "own", 2)
    run.train(silent)
    network = lesson.open_network(run)
    assert network.settings.config.epochs == 2
    assert network.folder.is_relative_to(run.folder)
    again = lesson.open_network(lesson.open_classifier(asked(tmp_path)))
    assert again.folder.samefile(network.folder)


def test_whoever_says_how_many_epochs_gets_them(tmp_path):
    earlier(tmp_path)
    run = lesson.open_classifier(asked(tmp_path, config=USUAL.replace(epochs=3)))
    assert (run.folder, run.settings.config.epochs) == (tmp_path / "own", 3)


def test_a_finished_run_is_taken(tmp_path):
    run = with_final(earlier(tmp_path), tmp_path)
    found = lesson.open_classifier(asked(tmp_path))
    assert found.folder.samefile(run.folder)
    assert lesson.open_network(found).is_trained
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("what", ["no final network", "not trained", "another seed", "damaged"])
def test_other_runs_are_not_taken(tmp_path, what, capsys):
    run = earlier(tmp_path, **({"seed": 1} if what == "another seed" else {}))
    if what != "no final network":
        with_final(run, tmp_path)
    if what == "not trained":
        (run.folder / "checkpoint.pt").unlink()
    if what == "damaged":
        (run.folder / "config.json").write_text("{")
    assert lesson.open_classifier(asked(tmp_path)).folder == tmp_path / "own"
    assert ("is not used" in capsys.readouterr().out) is (what in ("no final network", "damaged"))


def test_val_of_a_model(path, tmp_path, capsys):
    model = small_model(path)
    assert lesson.open_val(asked(tmp_path), model).classes == model.classes
    assert lesson.open_val(replace(asked(tmp_path), preset="photos"), model) is None
    assert "No data_root is given" in capsys.readouterr().out
    model.about = replace(model.about, classes=("another",))
    assert lesson.open_val(asked(tmp_path), model) is None
    assert "does not have the classes of the model" in capsys.readouterr().out


def test_pictures_as_a_data_set(tmp_path, capsys):
    folder = write_pictures(tmp_path / "pictures")
    (folder / "cut.png").write_bytes((folder / "tall.png").read_bytes()[:-300])
    (folder / "text.jpg").write_text("no picture")
    data = lesson.as_dataset(find_pictures(folder), ("cat", "dog"))
    said = capsys.readouterr().out.splitlines()
    assert [name for name in ("cut.png", "text.jpg") if any(name in line for line in said)] == ["cut.png", "text.jpg"]
    assert [data.size(i) for i in range(len(data))] == [(48, 48), (48, 48), (71, 40), (33, 57)]
    assert not data.labels.any()
    assert not data.has_masks
