"""Scores over the kept epochs: what they are, and what choosing among them adds."""

import pytest

from tests.runs.small import TOY_COUNTS, open_run, sentence_of, silent, tiny_config
from wsss_lib.data import toy
from wsss_lib.data.dataset import DatasetView
from wsss_lib.results.epochs import EpochScores, epochs_table, follow, gain_of_choice
from wsss_lib.stages.evaluate import score_cams


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    for split, count in TOY_COUNTS.items():
        monkeypatch.setitem(toy.COUNTS, split, count)


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=2), keep_epochs=True)
    run.train(silent)
    return run


def test_of_all_pictures_they_are_the_run_s_own_scores(run):
    rows = follow(run, sample=0)
    assert [row.epoch for row in rows] == [1, 2]
    for split in ("train", "val"):
        run.infer(split)
    scores = {split: run.score(split) for split in ("train", "val")}
    train = scores["train"]
    last = rows[-1]
    assert (last.threshold, last.chosen) == (train.thresholds[train.best], "best on train")
    for split, score in scores.items():
        assert last.mean_iou[split] == float(score.mean_iou[train.best])
        assert last.best[split] == float(score.mean_iou.max())
    assert rows[0].best != rows[1].best


def test_a_sample_is_spread_and_its_maps_are_used_again(run, monkeypatch):
    rows = follow(run, sample=4)
    view = run.at_epoch(2)
    store, data = view.cams("val"), view.data("val")
    assert [index for index, image_id in enumerate(data.ids) if image_id in store] == [0, 2, 4, 6]
    half = [data.ids[index] for index in (0, 2, 4, 6)]
    score = score_cams(store, DatasetView(data, "half", [data.ids.index(i) for i in half]))
    assert rows[-1].best["val"] == float(score.mean_iou.max())
    assert len(list(store.folder.glob("*.npz"))) == 4

    def no_network(*_):
        raise AssertionError

    monkeypatch.setattr(type(run.method), "cam", no_network)
    assert follow(run, sample=4) == rows
    monkeypatch.undo()


def test_a_list_says_which_pictures_are_sampled(run):
    val = [run.data("val").ids[index] for index in (1, 5, 6)]
    rows = follow(run, 0, val)
    assert [set(row.mean_iou) for row in rows] == [{"val"}, {"val"}]  # no picture of train is listed
    assert rows[0].chosen == "fixed"
    view = run.at_epoch(1)
    assert [image_id for image_id in view.data("val").ids if image_id in view.cams("val")] == val
    score = score_cams(view.cams("val"), DatasetView(view.data("val"), "three", [1, 5, 6]))
    assert rows[0].best["val"] == float(score.mean_iou.max())
    follow(run, 2, [*val, run.data("train").ids[3]])
    assert len(list(view.cams("train").folder.glob("*.npz"))) == 1
    says = sentence_of(lambda: follow(run, 0, [*val, "nobody"]))
    assert says == "'nobody' is not the id of a picture with a mask in train or val (1 of 4 are not); correct the list."


def test_while_the_run_is_in_training(run):
    """A guest needs no lock of the folder in which the training goes on."""
    with run.place.locked():
        assert len(follow(run, sample=2)) == 2


def test_without_networks_or_masks(tmp_path, run, monkeypatch):
    plain = open_run(tmp_path / "plain", tiny_config(epochs=1))
    assert "has kept no network; train with keep_epochs=True" in sentence_of(lambda: follow(plain))
    for data in run.splits.scored.values():
        monkeypatch.setattr(data, "has_masks", False)
    assert "has no masks" in sentence_of(lambda: follow(run))


ROWS = [
    EpochScores(1, 0.2, "best on train", {"train": 0.30, "val": 0.31}, {"train": 0.30, "val": 0.33}),
    EpochScores(2, 0.3, "best on train", {"train": 0.40, "val": 0.36}, {"train": 0.40, "val": 0.37}),
    EpochScores(3, 0.1, "best on train", {"train": 0.42, "val": 0.35}, {"train": 0.42, "val": 0.39}),
]


def test_the_table():
    assert epochs_table(ROWS).splitlines() == [
        (
            "| epoch | threshold | mIoU % train | mIoU % val | mIoU % train, threshold best on train | "
            "mIoU % val, threshold best on val |"
        ),
        "|---|---|---|---|---|---|",
        "| 1 | 0.20 | 30.0 | 31.0 | 30.0 | 33.0 |",
        "| 2 | 0.30 | 40.0 | 36.0 | 40.0 | 37.0 |",
        "| 3 | 0.10 | 42.0 | 35.0 | 42.0 | 39.0 |",
    ]


def test_what_choosing_adds():
    found = gain_of_choice(ROWS)
    assert (found.last, found.best_epoch) == (3, 2)
    assert [found.score, found.epoch_adds, found.both_add] == pytest.approx([0.35, 0.01, 0.04])
    assert "would add 1.0 points; the best epoch together with the best threshold would add 4.0" in str(found)
    assert gain_of_choice(ROWS, "train").epoch_adds == 0
    assert "split 'test' was not scored; choose one of train, val." in sentence_of(lambda: gain_of_choice(ROWS, "test"))
