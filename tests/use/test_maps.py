"""The class activation maps of any picture: those of the run's own inference, for the classes that are asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs.small import open_run, sentence_of, silent, tiny_config
from tests.use.models import SIZES, final_run, write_pictures
from wsss_lib.stages.store import CamStore
from wsss_lib.use.maps import map_folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    run.train(silent)
    return run


def test_the_maps_are_those_of_the_inference(run):
    data = run.data("val")
    store = run.infer("val")
    for index, image_id in enumerate(data.ids):
        expected, cams = store.read(image_id)
        names = [data.classes[k] for k in expected]
        for picture in (data.image(index), np.asarray(data.image(index))):
            classes, maps = run.cam(picture, names)
            assert classes.equal(expected)
            torch.testing.assert_close(maps, cams, rtol=0, atol=1e-4)


def test_without_names_the_network_says_which_classes(run, monkeypatch):
    picture = run.data("val").image(0)
    logits = torch.tensor([[-1.0, 2.0, -3.0, 0.5, -1.0, -1.0]])
    monkeypatch.setattr(type(run.method), "logits", lambda *_: logits)
    assert run.cam(picture)[0].tolist() == [1, 3]
    logits -= 5
    assert run.cam(picture)[0].tolist() == [1]
    assert run.cam(picture)[1].shape == (1, picture.height, picture.width)


def test_one_name_and_an_unknown_one(run):
    name = run.splits.classes[2]
    assert run.cam(run.data("val").image(0), name.upper())[0].tolist() == [2]
    assert "class 'zebra' is unknown" in sentence_of(lambda: run.cam(run.data("val").image(0), ["zebra"]))


def test_maps_of_a_folder(run, tmp_path):
    pictures, out = write_pictures(tmp_path / "pictures"), tmp_path / "out"
    name = run.splits.classes[2]
    (pictures / "broken.png").write_text("no picture")
    summary = map_folder(run.folder, pictures, out, overlay=True, classes=[name])
    assert (summary.made, summary.kept) == (4, 0)
    assert [path.name for path in summary.broken] == ["broken.png"]
    for picture, size in SIZES.items():
        classes, maps = CamStore(out).read(picture)
        assert classes.tolist() == [2]
        assert maps.shape == (1, *size)
        with Image.open(out / "overlays" / f"{picture}.png") as figure:
            assert figure.format == "PNG"
    again = map_folder(run.folder, pictures, out, overlay=True, classes=[name])
    assert (again.made, again.kept) == (0, 4)
    other = map_folder(run.folder, pictures, out, classes=[run.splits.classes[0]])
    assert (other.made, other.kept) == (4, 0)
    assert CamStore(out).read("wide")[0].tolist() == [0]
    assert not list((out / "overlays").iterdir())


def test_runs_that_make_no_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = write_pictures(tmp_path / "pictures")
    final, fresh = final_run(tmp_path / "final"), open_run(tmp_path / "fresh", tiny_config(epochs=1), limit=4)
    for folder, words in ((final.folder, "makes no maps"), (fresh.folder, "not trained to its end")):
        assert words in sentence_of(lambda folder=folder: map_folder(folder, pictures, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
