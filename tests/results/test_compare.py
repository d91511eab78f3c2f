"""Runs side by side: what is missing is made, and each is scored at its own threshold."""

import pytest

from tests.runs import small as runs
from wsss_lib.data import toy
from wsss_lib.results.compare import compare, comparison_table, differences

pytestmark = pytest.mark.slow


@pytest.fixture
def two(tmp_path, monkeypatch):
    for split, count in runs.TOY_COUNTS.items():
        monkeypatch.setitem(toy.COUNTS, split, count)
    one = runs.open_run(tmp_path / "one", runs.tiny_config(epochs=2))
    one.train(runs.silent)
    return {"trained": one, "variant": one.variant("slower", learning_rate=1e-5)}


def test_what_is_missing_is_made(two, monkeypatch):
    trained = two["trained"]
    before = trained.method.state_dict()
    monkeypatch.setattr(trained, "train", None)  # needs no training
    comparison = compare(two)
    runs.assert_same_state(trained.method.state_dict(), before)
    assert two["variant"].is_trained
    assert two["variant"].folder == trained.folder / "variants" / "slower"
    for name, run in two.items():
        scores = {split: run.score(split) for split in ("train", "val")}
        best = scores["train"].best
        assert comparison[name]["threshold"] == scores["train"].thresholds[best]
        assert comparison[name]["val"] == float(scores["val"].mean_iou[best])
        assert {"part", "peaks", "covered", "own", "other"} < set(comparison[name])
    assert comparison["trained"] != comparison["variant"]


def test_table(two):
    comparison = compare(two)
    lines = comparison_table(comparison).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert f"{100 * comparison['trained']['val']:.1f}" in lines[2]
    assert comparison_table({}) == "The data has no masks, so the runs cannot be compared."


def test_photographs_know_no_parts():
    table = comparison_table({"a": {"threshold": 0.3, "train": 0.4, "val": 0.38}})
    assert table.splitlines()[-1] == "| a | 40.0 | 38.0 | 0.30 |"


def test_differences_have_the_sign_of_the_first(two):
    comparison = compare(two)
    names = ("trained", "variant")
    gained = differences(two["trained"], two["variant"], comparison, names)
    assert gained.shape == (len(two["trained"].splits.scored["val"]),)
    lost = differences(two["variant"], two["trained"], comparison, names[::-1])
    assert (gained + lost).abs().max() == 0
    assert gained.abs().max() > 0


def test_without_masks_there_is_nothing(two, monkeypatch):
    for run in two.values():
        for data in run.splits.scored.values():
            monkeypatch.setattr(data, "has_masks", False)
    assert compare(two) == {}
    assert list(two["variant"].cams("val").folder.glob("*.npz"))


def test_masks_of_one_split_alone(two, monkeypatch):
    """Without those of train the threshold is the fixed one; without those of val no image of it can be compared."""
    for run in two.values():
        monkeypatch.setattr(run.splits.scored["train"], "has_masks", False)
    comparison = compare(two)
    for name, run in two.items():
        scores = run.score("val")
        assert comparison[name]["threshold"] == 0.2
        assert comparison[name]["val"] == float(scores.mean_iou[scores.position(0.2)])
        assert "train" not in comparison[name]
    monkeypatch.undo()
    for run in two.values():
        monkeypatch.setattr(run.splits.scored["val"], "has_masks", False)
    comparison = compare(two)
    assert "val" not in comparison["trained"]
    assert differences(two["trained"], two["variant"], comparison, ("trained", "variant")).isnan().all()
