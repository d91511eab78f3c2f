"""Predictions of new pictures: one, a folder, a list; stopped, continued, and refused."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.runs.small import sentence_of
from tests.use.models import SIZES, model_file, pixels, small_model, write_pictures
from wsss_lib.data import large
from wsss_lib.data.files import voc_palette
from wsss_lib.use import predict
from wsss_lib.use.model import Model
from wsss_lib.use.predict import predict_folder


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


def mask_of(path):
    with Image.open(path) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.reshape(mask.getpalette(), (-1, 3)), voc_palette())
        return np.array(mask)


def masks_of(out):
    return {path.stem: mask_of(path) for path in sorted(out.glob("*.png"))}


def rows_of(out):
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def seen(monkeypatch):
    """The sizes of the pictures that pass a network together, one entry for each batch."""
    batches, real = [], Model.scores

    def scores(self, pictures, options):
        batches.append([picture.size for picture in pictures])
        return real(self, pictures, options)

    monkeypatch.setattr(Model, "scores", scores)
    return batches


# ---------------------------------------------------------------------------------------------------------- one picture


def test_a_picture_is_a_file_an_image_or_an_array(model, pictures):
    values = pixels("wide", SIZES["wide"])
    masks = [
        model.predict(p).mask
        for p in (pictures / "wide.png", str(pictures / "wide.png"), Image.fromarray(values), values)
    ]
    assert masks[0].shape == SIZES["wide"]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_of_other_modes(model, mode):
    assert model.predict(Image.new(mode, (20, 30))).mask.shape == (30, 20)


def test_grey_arrays(model):
    assert model.predict(np.zeros((30, 20), np.uint8)).mask.shape == (30, 20)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        Image.new("F", (4, 4)),
    ],
)
def test_what_is_no_picture(model, picture):
    assert sentence_of(lambda: model.predict(picture)).startswith("the picture ")


def test_options_change_the_views(model, pictures):
    picture = pictures / "tall.png"
    usual = model.predict(picture).scores
    for changes in ({"scales": (1.0,)}, {"scales": "0.5"}, {"mirror": False}):
        assert np.abs(model.predict(picture, **changes).scores - usual).max() > 1e-4
    np.testing.assert_array_equal(model.predict(picture, mirror=True, scales=(1.0, 0.75)).scores, usual)


def test_only_the_classes_that_are_asked_for(model, pictures):
    everything = model.predict(pictures / "tall.png")
    shown = [k for k in np.unique(everything.mask) if k]
    assert len(shown) > 1
    name = model.classes[shown[0] - 1].upper()
    mask, scores = model.predict(pictures / "tall.png", classes=[name])
    assert set(np.unique(mask)) <= {0, shown[0]}
    others = [k for k in range(1, 7) if k != shown[0]]
    assert not scores[others].any()
    assert (mask[everything.mask == shown[0]] == shown[0]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["zebra"]}, "class 'zebra' is unknown"),
        ({"classes": []}, "no class is asked for"),
        ({"scales": ""}, "scales is empty"),
        ({"scales": "0.5,x"}, "must be numbers"),
        ({"scales": (9.0,)}, "up to 4"),
    ],
)
def test_options_that_are_refused(model, pictures, tmp_path, options, words):
    assert words in sentence_of(lambda: model.predict(pictures / "tall.png", **options))
    assert words in sentence_of(lambda: predict_folder(model, pictures, tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_a_picture_of_one_pixel(model):
    mask, scores = model.predict(np.full((1, 1, 3), 90, np.uint8))
    assert mask.shape == (1, 1)
    assert scores.shape == (7, 1, 1)


def test_a_large_picture_is_computed_with_reduced(model, tmp_path, monkeypatch, seen):
    monkeypatch.setattr(large, "WORKING_PIXELS", 2000)
    Image.fromarray(pixels("large", (90, 160))).save(tmp_path / "large.png")
    for picture in (tmp_path / "large.png", Image.open(tmp_path / "large.png")):
        mask, scores = model.predict(picture)
        assert mask.shape == (90, 160)
        assert scores.shape[1:] == large.working_size(90, 160)
    assert all(width * height <= 2000 for [(width, height)] in seen)


# ------------------------------------------------------------------------------------------------------------ a folder


def test_masks_of_a_folder(model, pictures, tmp_path, seen):
    (pictures / "notes.txt").write_text("no picture")
    (pictures / ".hidden.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    summary = predict_folder(model, pictures, out)
    assert (summary.made, summary.kept, summary.broken) == (4, 0, {})
    masks = masks_of(out)
    assert {name: mask.shape for name, mask in masks.items()} == SIZES
    assert [(48, 48), (48, 48)] in seen  # pictures of one size pass the network together
    rows = rows_of(out)
    assert list(rows) == sorted(f"{name}.png" for name in SIZES)
    for name, mask in masks.items():
        expected = model.predict(pictures / f"{name}.png")
        assert (expected.mask == mask).mean() > 0.999
        row = rows[f"{name}.png"]
        found = [k for k in np.unique(mask) if k]
        assert row["classes"].split(";") == [model.classes[k - 1] for k in found]
        assert [float(x) for x in row["share"].split(";")] == pytest.approx(
            [(mask == k).mean() for k in found], abs=1e-3
        )
        sure = [expected.scores[k][mask == k].mean() for k in found]
        assert [float(x) for x in row["confidence"].split(";")] == pytest.approx(sure, abs=1e-3)
        assert float(row["overall"]) == pytest.approx(expected.scores.max(0).mean(), abs=1e-3)
    record = json.loads((out / "predictions.json").read_text())
    assert record["predictions_of"]["model"] == model.about.digest
    assert {path.name for path in out.iterdir() if path.is_dir()} == set()


def test_overlays_and_scores_on_request(model, pictures, tmp_path):
    out = tmp_path / "out"
    predict_folder(model, pictures / "wide.png", out, overlay="jpg", scores=True)
    with Image.open(out / "overlays" / "wide.jpg") as overlay:
        assert (overlay.format, overlay.size) == ("JPEG", (57, 33))
    mask, expected = model.predict(pictures / "wide.png")
    with np.load(out / "scores" / "wide.npz") as scores:
        assert list(scores["classes"]) == ["background", *model.classes]
        np.testing.assert_allclose(scores["scores"], expected, atol=1e-3)
    predict_folder(model, pictures / "wide.png", out, overlay="png")
    with Image.open(out / "overlays" / "wide.png") as overlay:
        clear = np.array(overlay)[mask == 0]
    np.testing.assert_array_equal(clear, pixels("wide", SIZES["wide"])[mask == 0])
    assert "overlay 'gif' is unknown" in sentence_of(lambda: predict_folder(model, pictures, out, overlay="gif"))


def test_a_list_and_a_text_file(model, pictures, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(pictures / "wide.png", more / "other.png")
    predict_folder(model, [pictures / "tall.png", more, pictures / "tall.png"], tmp_path / "a")
    (tmp_path / "list.txt").write_text("pictures/tall.png\n\nmore/other.png\n")
    predict_folder(model, tmp_path / "list.txt", tmp_path / "b")
    for out in ("a", "b"):
        assert set(masks_of(tmp_path / out)) == {"tall", "other"}


def test_a_list_of_voc_names_pictures_in_jpegimages(model, tmp_path):
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (tmp_path / "VOC2012" / "JPEGImages").mkdir()
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        Image.fromarray(pixels("wide", (33, 57))).save(tmp_path / "VOC2012" / "JPEGImages" / f"{name}.jpg")
    (lists / "test.txt").write_text("2008_000003\n/JPEGImages/2008_000001.jpg\n")
    predict_folder(model, lists / "test.txt", tmp_path / "out")
    assert set(masks_of(tmp_path / "out")) == {"2008_000003", "2008_000001"}
    (lists / "test.txt").write_text("2008_000004\n")
    assert "2008_000004.jpg, which is not a file" in sentence_of(
        lambda: predict_folder(model, lists / "test.txt", tmp_path / "out")
    )


def test_the_exif_orientation_is_obeyed(model, tmp_path):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels("wide", (33, 57))).save(tmp_path / "in" / "turned.jpg", exif=exif, quality=95)
    predict_folder(model, tmp_path / "in", tmp_path / "out")
    assert mask_of(tmp_path / "out" / "turned.png").shape == (57, 33)


def test_a_broken_picture_is_named_and_the_others_are_done(model, pictures, tmp_path):
    (pictures / "broken.png").write_bytes((pictures / "tall.png").read_bytes()[:-300])
    (pictures / "text.jpg").write_text("no picture")
    said = []
    summary = predict_folder(model, pictures, tmp_path / "out", report=said.append)
    assert {path.name for path in summary.broken} == {"broken.png", "text.jpg"}
    assert len(said) == 2
    assert any("broken.png" in line for line in said)
    assert set(masks_of(tmp_path / "out")) == set(SIZES)
    assert set(rows_of(tmp_path / "out")) == {f"{name}.png" for name in SIZES}


def test_windows_of_pictures_give_the_same(model, pictures, tmp_path, monkeypatch):
    predict_folder(model, pictures, tmp_path / "one")
    monkeypatch.setattr(predict, "_WINDOW", 1)
    predict_folder(model, pictures, tmp_path / "other")
    for name, mask in masks_of(tmp_path / "one").items():
        assert (masks_of(tmp_path / "other")[name] == mask).mean() > 0.999


# --------------------------------------------------------------------------------------------------- after a stop


class _StopError(Exception):
    pass


def test_a_prediction_goes_on_after_a_stop(model, pictures, tmp_path, monkeypatch, seen):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict_folder(model, pictures, whole, overlay="png")
    real, calls = predict._write_mask, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise _StopError
        real(*arguments)

    monkeypatch.setattr(predict, "_write_mask", stop)
    with pytest.raises(_StopError):
        predict_folder(model, pictures, out, overlay="png")
    assert len(masks_of(out)) == 2
    assert not (out / "predictions.csv").exists()
    before = files(out)
    (out / f".tmp-{'0' * 32}").write_bytes(b"what a killed process has left")
    monkeypatch.setattr(predict, "_write_mask", real)
    seen.clear()
    summary = predict_folder(model, pictures, out, overlay="png")
    assert (summary.made, summary.kept) == (2, 2)
    assert sum(map(len, seen)) == 2
    after = files(out)
    assert {name: after[name] for name in before if name.endswith(".png")} == {
        name: content for name, content in before.items() if name.endswith(".png")
    }
    skip = ("predictions.json",)
    assert {n: c for n, c in after.items() if n not in skip} == {n: c for n, c in files(whole).items() if n not in skip}


def test_what_is_whole_is_kept_and_what_has_changed_is_made_again(model, pictures, tmp_path):
    out = tmp_path / "out"
    predict_folder(model, pictures, out, overlay="jpg")

    def again(**options):
        summary = predict_folder(model, pictures, out, **options)
        return summary.made, summary.kept

    assert again(overlay="jpg") == (0, 4)
    assert again() == (0, 4)
    (out / "overlays" / "tall.jpg").unlink()
    assert again(overlay="jpg") == (1, 3)
    content = (out / "wide.png").read_bytes()
    (out / "wide.png").write_bytes(content[:-40])  # as a power cut leaves it
    assert again() == (1, 3)
    assert (out / "wide.png").read_bytes() == content
    Image.fromarray(pixels("another", (20, 30))).save(pictures / "tall.png")
    assert again() == (1, 3)
    assert mask_of(out / "tall.png").shape == (20, 30)
    assert again(scales=(1.0,)) == (4, 0)
    assert not list((out / "overlays").iterdir())  # they showed other masks
    other = small_model(model_file(tmp_path, "other.safetensors"))
    other.about = other.about.__class__(**{**vars(other.about), "digest": "another"})
    assert predict_folder(other, pictures, out, scales=(1.0,)).made == 4


# ------------------------------------------------------------------------------------------------------------- refused


def test_folders_that_are_refused(model, pictures, tmp_path):
    def sentence(given, out=tmp_path / "out"):
        before = files(tmp_path)
        said = sentence_of(lambda: predict_folder(model, given, out))
        assert files(tmp_path) == before
        return said

    (tmp_path / "empty").mkdir()
    (tmp_path / "outer" / "images").mkdir(parents=True)
    shutil.copy(pictures / "wide.png", tmp_path / "outer" / "images")
    (tmp_path / "list.txt").write_text("none.png\n")
    (tmp_path / "nothing.txt").write_text("\n")
    assert "holds no picture" in sentence(tmp_path / "empty")
    assert f"give {tmp_path / 'outer' / 'images'}" in sentence(tmp_path / "outer")
    assert "does not exist" in sentence(tmp_path / "none")
    assert "none.png, which is not a file" in sentence(tmp_path / "list.txt")
    assert "names no picture" in sentence(tmp_path / "nothing.txt")
    assert "no picture is given" in sentence([])
    assert "cannot be used" in sentence("x" * 300)
    assert "is the folder of the pictures" in sentence(pictures, pictures)
    assert "is the folder of the pictures" in sentence([pictures / "wide.png"], pictures / ".." / "pictures")
    assert "is a file" in sentence(pictures, tmp_path / "list.txt")
    assert "cannot be made" in sentence(pictures, tmp_path / "list.txt" / "out")
    shutil.copy(pictures / "wide.png", pictures / "wide.jpg")
    said = sentence(pictures)
    assert "wide.jpg" in said
    assert "wide.png" in said
    assert "one name" in said


@pytest.mark.parametrize("name", ["wide.png", "predictions.csv", "predictions.json", "overlays/wide.jpg"])
@pytest.mark.parametrize("is_ours", [False, True])
def test_files_of_others_are_not_touched(model, pictures, tmp_path, name, is_ours):
    out = tmp_path / "out"
    if is_ours:
        if name != "wide.png":
            pytest.skip("these names are ours in a folder of ours")
        predict_folder(model, pictures / "tall.png", out)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".png"):
        Image.new("RGB", (3, 3)).save(out / name)
    else:
        (out / name).write_text("{}")
    before = (out / name).read_bytes()
    said = sentence_of(lambda: predict_folder(model, pictures, out, overlay="jpg"))
    assert "was not made by a prediction" in said
    assert (out / name).read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(model, pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    assert "cannot be written to" in sentence_of(lambda: predict_folder(model, pictures, out))


def test_a_full_disk_ends_the_prediction(model, pictures, tmp_path, monkeypatch):
    """It is not a fault of the picture, and no half of a file is left."""

    def full(_self, stream, *_arguments, **_options):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert "No space left on device" in sentence_of(lambda: predict_folder(model, pictures, tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"predictions.json", ".lock"}
