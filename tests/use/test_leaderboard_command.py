"""``wsss leaderboard`` on small finished runs."""

import sys

import pytest

from wsss_lib.__main__ import main
from wsss_lib.results.leaderboard import read_entry
from wsss_lib.stages.store import read_json


def wsss(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["wsss", *map(str, words)])
    return main()


@pytest.mark.slow
def test_runs_become_an_entry_and_a_page(tmp_path, monkeypatch, capsys):
    entries, out = tmp_path / "leaderboard", tmp_path / "page.md"
    small = ("preset=toy", "limit=8", "epochs=2", "workers=0", "keep_epochs=True", "pretrained=False")
    folders = [tmp_path / f"run-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        assert wsss(monkeypatch, "run", "cam", *small, f"seed={seed}", f"out={folder}") == 0
    assert wsss(monkeypatch, "leaderboard", "add", *folders, "--name", "cam", "--entries", entries) == 0
    again = ("leaderboard", "add", folders[0], "--name", "one", "--control", "cam", "--entries", entries)
    assert wsss(monkeypatch, *again) == 0
    assert wsss(monkeypatch, "leaderboard", "page", "--entries", entries, "--out", out) == 0
    entry = read_entry(entries / "cam.json")
    assert entry.settings["epochs"] == 2
    assert not [part for part in entry.settings if part.startswith(("data", "pictures", "seed"))]
    for one, folder in zip(entry.seeds, folders, strict=True):
        metrics = read_json(folder / "metrics.json")
        assert one.mean_iou("val", "CAM seed") == pytest.approx(metrics["cams"]["val"]["swept"]["mean_iou"])
        crf = [row["mean_iou"] for name, row in metrics["refinements"]["val"].items() if name.startswith("crf-")]
        assert min(abs(one.mean_iou("val", "CRF") - value) for value in crf) < 1e-9
        assert one.choice["split"] == "val"
    assert str(tmp_path) not in (entries / "cam.json").read_text()
    text = out.read_text()
    assert "| `cam` | 0, 1 | CAM seed |" in text
    assert "+0.0 [+0.0, +0.0] (1 seed: pictures only)" in text
    capsys.readouterr()
    assert wsss(monkeypatch, "leaderboard", "add", folders[0], folders[0], "--name", "x", "--entries", entries) == 1
    assert "has the seed 0" in capsys.readouterr().out


def test_wrong_words_are_refused(tmp_path, monkeypatch, capsys):
    assert wsss(monkeypatch, "leaderboard", "page", "--entries", tmp_path) == 1
    assert "holds no entry" in capsys.readouterr().out
    assert wsss(monkeypatch, "leaderboard", "add", tmp_path) == 1
    assert "name is missing" in capsys.readouterr().out
    assert wsss(monkeypatch, "leaderboard", "page", tmp_path) == 1
    assert "takes no run" in capsys.readouterr().out
