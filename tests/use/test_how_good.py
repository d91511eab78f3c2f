"""Trust in masks, pictures that are suggested, and estimates from drawn masks, on foreign maps."""

import csv
import json

import numpy as np
import pytest
import torch

from tests.data.trees import save_mask
from tests.exchange import foreign
from tests.runs.small import sentence_of
from tests.use.shell import runner
from tests.use.test_on_maps import authors_confusion, image_of, mean_iou
from wsss_lib.exchange.maps import open_maps, subset
from wsss_lib.ops.cam import cam_label
from wsss_lib.ops.dense_crf import dense_crf, unary_from_labels
from wsss_lib.ops.metrics import confusion_matrix
from wsss_lib.use.how_good import check_trust, estimate_maps, suggest_maps, trust_maps


@pytest.fixture
def one(tmp_path):
    pictures = foreign.pictures(tmp_path)
    return open_maps(
        foreign.as_psa(tmp_path / "maps"), pictures, masks=tmp_path / "masks", classes=tmp_path / "classes.txt"
    )


def plain_trust(one, index, threshold):
    classes, maps = foreign.expected(one.data.ids[index])
    values = torch.tensor([0, *(k + 1 for k in classes)])
    seed = cam_label(torch.from_numpy(maps), torch.arange(len(classes)), threshold).long()
    [solved] = dense_crf([image_of(one, index)], [unary_from_labels(seed, len(values), 0.7)], "irn")
    return mean_iou(confusion_matrix(values[solved.argmax(0)], values[seed], 5).numpy()) / len(classes)


def test_trust(one, tmp_path):
    found = trust_maps(one, tmp_path / "out", 0.5, workers=0)
    expected = {image_id: plain_trust(one, index, 0.5) for index, image_id in enumerate(one.data.ids)}
    assert [*found.ids] == sorted(expected, key=expected.get)
    assert found.trust.tolist() == pytest.approx(sorted(expected.values()), abs=1e-6)
    with (tmp_path / "out" / "trust.csv").open(encoding="utf-8") as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["picture", "trust"]
    assert {name: float(value) for name, value in rows[1:]} == pytest.approx(expected, abs=1e-4)
    again = trust_maps(one, tmp_path / "out", 0.5, workers=0)
    assert again.ids == found.ids


def test_trust_needs_no_mask(one, tmp_path):
    found = trust_maps(one, tmp_path / "out", workers=0)
    for mask in (tmp_path / "masks").iterdir():
        mask.unlink()
    blind = open_maps(one.store.folder, tmp_path / "pictures", classes=foreign.CLASSES)
    assert trust_maps(blind, tmp_path / "blind", workers=0).trust.equal(found.trust)
    assert "have no masks" in sentence_of(lambda: check_trust(blind, found))


def test_trust_in_label_maps(tmp_path):
    """Label maps count as masks; a picture whose mask is empty has no label, and so no trust."""
    pictures = foreign.pictures(tmp_path)
    labels = foreign.as_labels(tmp_path / "labels")
    save_mask(labels / "b.png", np.zeros((16, 16), np.uint8))
    found = trust_maps(open_maps(labels, pictures, classes=foreign.CLASSES), tmp_path / "out", workers=0)
    assert found.ids[-1] == "b"
    assert found.trust[-1].isnan()
    assert ((found.trust[:-1] > 0) & (found.trust[:-1] <= 1)).all()
    assert (tmp_path / "out" / "trust.csv").read_text().endswith("b,\n")


def test_the_check(one, tmp_path):
    (tmp_path / "masks" / "b.png").unlink()
    again = open_maps(one.store.folder, tmp_path / "pictures", tmp_path / "masks", classes=foreign.CLASSES)
    found = trust_maps(again, tmp_path / "out", workers=0)
    check = check_trust(again, found)
    assert check.pictures == 2
    trust = [float(found.trust[found.ids.index(image_id)]) for image_id in again.data.ids[:2]]
    iou = [mean_iou(authors_confusion(0.2, ids=[image_id])) for image_id in again.data.ids[:2]]
    order = np.argsort(trust)
    assert [part.trust for part in check.curve] == pytest.approx(np.array(trust)[order])
    assert [part.iou for part in check.curve] == pytest.approx(np.array(iou)[order])
    assert np.isnan(check.correlation)


def test_suggestions(one):
    found = suggest_maps(one, 2)
    assert found == suggest_maps(one, 2)
    assert found.pictures == 3
    assert {*found.drawn} < {*one.data.ids}
    assert len({suggest_maps(one, 2, seed).drawn for seed in range(20)}) > 1
    assert suggest_maps(one, 3).probabilities == (1, 1, 1)


@pytest.mark.parametrize("count", [-1, 0, 1, 4])
def test_more_pictures_than_there_are(one, count):
    assert f"{count} pictures are wanted of the 3 with maps" in sentence_of(lambda: suggest_maps(one, count))


def test_one_picture_is_too_few(one):
    assert "maps of one picture alone" in sentence_of(lambda: suggest_maps(subset(one, one.data.ids[:1]), 2))


def test_estimates(one):
    every = estimate_maps(one, suggest_maps(one, 3), 0.35)
    assert every.mean_iou == pytest.approx(mean_iou(authors_confusion(0.35)))
    assert every.interval == pytest.approx((every.mean_iou,) * 2)
    some = suggest_maps(one, 2)
    found = estimate_maps(one, some, 0.35)
    weighted = sum(
        authors_confusion(0.35, ids=[image_id]) / p for image_id, p in zip(some.drawn, some.probabilities, strict=True)
    )
    assert found.mean_iou == pytest.approx(mean_iou(weighted))
    assert (found.drawn, found.pictures) == (2, 3)


def test_masks_that_are_missing_or_empty(one, tmp_path):
    some = suggest_maps(one, 2)
    path = tmp_path / "masks" / f"{some.drawn[1]}.png"
    save_mask(tmp_path / "masks" / f"{some.drawn[0]}.png", np.zeros(foreign.SIZES[some.drawn[0]], np.uint8))
    save_mask(path, np.zeros(foreign.SIZES[some.drawn[1]], np.uint8))
    assert "cannot be scored: every pixel is background" in sentence_of(lambda: estimate_maps(one, some))
    path.unlink()
    again = open_maps(one.store.folder, tmp_path / "pictures", tmp_path / "masks", classes=foreign.CLASSES)
    sentence = sentence_of(lambda: estimate_maps(again, some))
    assert f"{some.drawn[1]} has no mask (1 of 2 suggested pictures have none); draw the masks" in sentence


def test_other_pictures_and_thresholds(one, tmp_path):
    (tmp_path / "ids.txt").write_text("b\n2007_000001\n")
    few = open_maps(
        one.store.folder, tmp_path / "pictures", tmp_path / "masks", classes=foreign.CLASSES, ids=tmp_path / "ids.txt"
    )
    assert "maps of 2 pictures, which are not the 3" in sentence_of(lambda: estimate_maps(few, suggest_maps(one, 2)))
    assert "threshold 1.0 is out of range" in sentence_of(lambda: estimate_maps(one, suggest_maps(one, 2), 1.0))


# -------------------------------------------------------------------------------------------------------- the commands


@pytest.fixture
def said(one, tmp_path, monkeypatch, capsys):
    """Runs a command in the folder of the maps, and returns its exit status and what it says."""
    monkeypatch.chdir(tmp_path)
    assert one.data.masked
    return runner(monkeypatch, capsys)


def test_trust_from_the_shell(said, tmp_path):
    words = ("trust", "maps", "pictures", "--out", "out", "--workers", "0", "--threshold", "0.5")
    status, text = said(*words, "--show", "2")
    assert status == 0
    assert text.count("| 0.") == 2
    assert "all pictures in out/trust.csv" in text
    assert "mean IoU" not in text
    assert len(list((tmp_path / "out" / "hard-0.5").glob("*.png"))) == 3
    status, text = said(*words, "--masks", "masks")
    assert status == 0
    assert "rank correlation of trust and IoU: " in text
    assert "3 pictures" in text
    (tmp_path / "masks" / "b.png").unlink()
    text = said(*words, "--masks", "masks")[1]
    assert "IoU: unknown (fewer than three pictures, or equal values), 2 pictures" in text


def test_from_the_suggestion_to_the_estimate(said, tmp_path):
    status, text = said("suggest", 2, "maps", "pictures", "--out", "s.json", "--seed", "3")
    assert (status, "2 of 3 pictures, with their probabilities in s.json" in text) == (0, True)
    names = json.loads((tmp_path / "s.json").read_text())["drawn"]
    assert all(name in text.splitlines() for name in names)
    words = ("estimate", "maps", "pictures", "--masks", "masks", "--suggested", "s.json")
    status, text = said(*words, "--json", "e.json")
    assert status == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert f"mIoU % of 3 pictures, estimated from 2 masks: {100 * found['mean_iou']:.1f}" in text
    low, high = (f"{100 * end:.1f}" for end in found["interval"])
    assert f"95 % interval: {low} to {high}" in text


def test_a_suggestion_is_not_replaced_by_another(said, tmp_path):
    """The masks of the first may have been drawn, and its probabilities stand nowhere else."""
    words = ("suggest", 2, "maps", "pictures", "--out", "s.json")
    assert said(*words, "--seed", "3")[0] == said(*words, "--seed", "3")[0] == 0
    before = (tmp_path / "s.json").read_bytes()
    status, text = said(*words, "--seed", "4")
    assert (status, "has another suggestion" in text) == (1, True)
    assert (tmp_path / "s.json").read_bytes() == before


def test_classes_that_no_drawn_picture_shows_are_named(said, tmp_path):
    suggestion = {"drawn": ["2007_000001", "2007_000002"], "probabilities": [0.5, 0.5], "pictures": 3, "seed": 0}
    maps = open_maps("maps", "pictures", classes="classes.txt")
    digest = suggest_maps(maps, 2).digest
    (tmp_path / "s.json").write_text(json.dumps({**suggestion, "digest": digest}))
    status, text = said("estimate", "maps", "pictures", "--masks", "masks", "--suggested", "s.json")
    assert (status, "left out, as no drawn picture shows them: boat" in text) == (0, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["suggest", "20", "maps", "pictures", "--out", "s.json"], "20 pictures are wanted of the 3 with maps"),
        (["suggest", "two", "maps", "pictures", "--out", "s.json"], "invalid int value: 'two'"),
        (["suggest", "2", "nowhere", "pictures", "--out", "s.json"], "nowhere is not a folder"),
        (["suggest", "2", "maps", "pictures", "--out", "s.txt"], "out s.txt must end with .json"),
        (["suggest", "2", "maps", "pictures", "--out", "s.json", "--seed", "-1"], "seed -1 is out of range"),
        (["trust", "maps", "pictures", "--out", "pictures"], "is the folder of the pictures"),
        (["trust", "maps", "pictures", "--out", "out", "--threshold", "1"], "1.0 is out of range"),
        (["trust", "nowhere", "pictures", "--out", "out"], "nowhere is not a folder"),
        (["estimate", "maps", "pictures", "--masks", "masks", "--suggested", "no.json"], "no.json is missing"),
        (["estimate", "maps", "pictures", "--masks", "masks"], "the following arguments are required: --suggested"),
    ],
)
def test_commands_that_fail_with_a_sentence(words, sentence, said, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    status, text = said(*words)
    lines = [line for line in text.splitlines() if line and "writes them" not in line]
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("InputError: ")
    assert sentence in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
