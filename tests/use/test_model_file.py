"""The model file: it gives what the run gives, needs nothing else, and anything else is refused in one sentence."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

import wsss_lib
from tests.runs.small import Pictures, sentence_of
from tests.use.models import SIZES, final_run, small_model
from wsss_lib.data.files import read_mask, voc_palette
from wsss_lib.data.splits import Splits
from wsss_lib.runs.segmentation import SegmentationRun
from wsss_lib.use import model_file
from wsss_lib.use.model_file import final_network, load_model, save_model


def content_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def written(path, texts, tensors):
    """Write a model file with the right digest."""
    texts = {**texts, "digest": model_file._digest(texts, tensors)}
    safetensors.torch.save_file(tensors, path, texts)
    return path


def changed(path, target, **parts):
    """Write a model file whose description differs."""
    texts, tensors = content_of(path)
    description = {**json.loads(texts["description"]), **parts}
    return written(target, {**texts, "description": json.dumps(description)}, tensors)


@pytest.mark.parametrize("rule", [{}, {"inference": "max", "crf_image": "wrapped", "pyramid": (0.5,)}])
def test_a_file_gives_the_masks_of_its_run(tmp_path, monkeypatch, rule):
    """On odd sizes, after the run is gone, with and without the CRF."""
    monkeypatch.chdir(tmp_path)
    run = final_run(tmp_path / "run", **rule)
    run.train(lambda _row: None)
    path = save_model(run, tmp_path / "model.safetensors")
    sizes = list(dict.fromkeys(SIZES.values()))
    data = Pictures(sizes, [[1, 0, 0, 0, 0, 0]] * len(sizes))
    run.splits = Splits(run.splits.fit, {"val": data})
    run.infer("val")
    run.refine("crf", "val")
    stores = {crf: run.masks("segmentation-crf" if crf else "segmentation", "val") for crf in (False, True)}
    expected = {crf: [read_mask(store.path(i), 6) for i in data.ids] for crf, store in stores.items()}
    assert len(np.unique(np.concatenate([mask.ravel() for mask in expected[False]]))) > 2
    shutil.rmtree(run.folder)
    model = small_model(path)
    for crf, masks in expected.items():
        for index, mask in enumerate(masks):
            found, scores = model.predict(data.image(index), crf=crf)
            assert found.dtype == np.uint8
            assert scores.shape == (7, *data.size(index))
            np.testing.assert_array_equal(found, mask)
    assert (expected[True][0] != expected[False][0]).any()


def test_what_a_file_says(path):
    about = small_model(path).about
    assert about.config.backbone == "resnet101_caffe"
    assert about.config.backbone_options == {"width": 0.125}
    assert len(about.classes) == 6
    np.testing.assert_array_equal(about.palette, voc_palette())
    assert about.normalisation.divisor in (1, 255)
    assert about.trained_on["images"] == 4
    assert set(about.trained_on["images_of_classes"]) == set(about.classes)
    assert len(about.trained_on["pictures"]) == 16
    assert about.made[0]["versions"]["wsss_lib"] == wsss_lib.__version__
    assert content_of(path)[0]["wsss_lib_model"] == "1"


def test_results_come_from_the_metrics_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = final_run(tmp_path / "run")
    run.train(lambda _row: None)
    (run.folder / "metrics.json").write_text(json.dumps({"masks": {"val": {"segmentation": {"mean_iou": 0.25}}}}))
    about = small_model(save_model(run, tmp_path / "m.safetensors")).about
    assert about.results == {"val": {"segmentation": {"mean_iou": 0.25}}}


def test_the_normalisation_of_the_run_travels(tmp_path, path):
    texts = json.loads(content_of(path)[0]["description"])
    other = {**texts["normalisation"], "mean": [0.1, 0.2, 0.3], "bgr": True}
    model = small_model(changed(path, tmp_path / "other.safetensors", normalisation=other))
    assert model.about.normalisation.mean == (0.1, 0.2, 0.3)
    picture = Image.new("RGB", (40, 30), (200, 100, 50))
    assert np.abs(model.predict(picture).scores - small_model(path).predict(picture).scores).max() > 0.01


def truncated(path, folder):
    target = folder / "cut.safetensors"
    target.write_bytes(path.read_bytes()[:-100])
    return target


def garbled(path, folder, position=-50):
    target, content = folder / "garbled.safetensors", bytearray(path.read_bytes())
    content[position] ^= 64
    target.write_bytes(content)
    return target


def without_tensor(path, folder):
    texts, tensors = content_of(path)
    del tensors["head.classified.bias"]
    return written(folder / "few.safetensors", texts, tensors)


def with_nan(path, folder):
    texts, tensors = content_of(path)
    tensors["head.classified.bias"][0] = float("nan")
    return written(folder / "nan.safetensors", texts, tensors)


def wider(path, folder):
    config = json.loads(content_of(path)[0]["description"])["config"]
    return changed(path, folder / "wide.safetensors", config={**config, "backbone_options": {"width": 1000.0}})


def plain(_path, folder):
    safetensors.torch.save_file({"weight": torch.zeros(2)}, folder / "plain.safetensors")
    return folder / "plain.safetensors"


def newer(path, folder):
    texts, tensors = content_of(path)
    return written(folder / "new.safetensors", {**texts, "wsss_lib_model": "2", "version": "9.1"}, tensors)


def with_config(**parts):
    def make(path, folder):
        config = json.loads(content_of(path)[0]["description"])["config"]
        return changed(path, folder / "other.safetensors", config={**config, **parts})

    return make


def with_parts(**parts):
    return lambda path, folder: changed(path, folder / "other.safetensors", **parts)


def with_text(name, text):
    def make(path, folder):
        texts, tensors = content_of(path)
        texts[name] = text
        return written(folder / "other.safetensors", texts, tensors)

    return make


def other_file(name, content):
    def make(_path, folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


REFUSED = {
    "no file": (lambda _, folder: folder / "none.safetensors", "does not exist"),
    "a folder": (lambda _, folder: folder, "is a folder"),
    "an empty file": (other_file("m.safetensors", b""), "cannot be read"),
    "a picture": (other_file("m.png", b"\x89PNG\r\n\x1a\n0000000000"), "is not a model file"),
    "a checkpoint": (other_file("checkpoint.pt", b"PK\x03\x04" + b"0" * 60), "is not a model file"),
    "weights": (plain, "not a model of wsss_lib"),
    "a newer format": (newer, "written by wsss_lib 9.1"),
    "cut off": (truncated, "cut off or damaged"),
    "cut off in the header": (
        lambda path, folder: other_file("m.safetensors", path.read_bytes()[:40])(path, folder),
        "cut off or damaged",
    ),
    "a flipped bit in a tensor": (garbled, "damaged"),
    "a flipped bit in the description": (lambda path, folder: garbled(path, folder, 300), "damaged"),
    "a tensor missing": (without_tensor, "no tensor head.classified.bias"),
    "NaN": (with_nan, "NaN"),
    "a network that fills the memory": (wider, "its network's"),
    "an unknown backbone": (with_config(backbone="resnet7"), "resnet7"),
    "an unknown head": (with_config(head="foot"), "foot"),
    "an unknown option": (with_config(backbone_options={"depth": 7}), "depth"),
    "an unknown CRF": (with_config(crf="none"), "none"),
    "an unknown field": (with_config(colour="blue"), "colour"),
    "no classes": (with_parts(classes=[]), "classes"),
    "a class twice": (with_parts(classes=["a", "A", "c", "d", "e", "f"]), "a class has two places"),
    "classes too few": (with_parts(classes=["a"], palette=[[0, 0, 0]] * 2), "its network's"),
    "no palette": (with_parts(palette=[1]), "the palette"),
    "a standard deviation of 0": (
        with_parts(normalisation={"mean": [0, 0, 0], "std": [0, 1, 1], "divisor": 1, "bgr": False}),
        "divides by 0",
    ),
    "a description that is not JSON": (with_text("description", "{"), "cannot be used"),
    "a description that is a list": (with_text("description", "[]"), "cannot be used"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, path, tmp_path):
    make, words = REFUSED[name]
    file = make(path, tmp_path)
    sentence = sentence_of(lambda: load_model(file, "cpu"))
    assert words in sentence
    assert file.name in sentence


@pytest.mark.parametrize(("device", "precision", "words"), [("tpu", "32-true", "tpu"), ("cpu", "8-bit", "8-bit")])
def test_unknown_devices_and_precisions(path, device, precision, words):
    assert words in sentence_of(lambda: load_model(path, device, precision))


def test_half_precision_is_nearly_the_same(path, model):
    picture = Image.new("RGB", (40, 30), (200, 100, 50))
    half, full = (m.predict(picture).scores for m in (load_model(path, "cpu", "bf16-mixed"), model))
    assert 0 < np.abs(half - full).max() < 0.2


def test_what_is_not_saved(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    run = final_run(tmp_path / "run")
    file = tmp_path / "m.safetensors"
    assert "not trained to its end" in sentence_of(lambda: save_model(run, file))
    assert not file.exists()
    run.train(lambda _row: None)
    assert "must end with .safetensors" in sentence_of(lambda: save_model(run, tmp_path / "m.pt"))
    safetensors.torch.save_file({"weight": torch.zeros(2)}, file)
    before = file.read_bytes()
    assert "is not a model file" in sentence_of(lambda: save_model(run, file))
    assert file.read_bytes() == before
    shutil.copy(path, file)
    save_model(run, file)  # over an earlier model
    assert small_model(file).about.digest != small_model(path).about.digest
    with torch.no_grad():
        run.method.network.head.classified.bias[0] = float("inf")
    monkeypatch.setattr(SegmentationRun, "is_trained", True)  # which would read the checkpoint again
    assert "is not finite" in sentence_of(lambda: save_model(run, file))


def test_the_final_network_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = final_run(tmp_path / "run")
    assert final_network(run.folder).folder == run.folder
    assert "is not a folder" in sentence_of(lambda: final_network(tmp_path / "none"))
