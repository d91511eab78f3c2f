"""The script that measures how well masks are judged."""

import sys

import numpy as np
import pytest
import torch

from tests.results.test_suggest import population, true_mean
from tests.runs.small import open_run, train_run
from tests.scripts import load_script
from wsss_lib.exchange.paired import iou_of_counts
from wsss_lib.ops.metrics import class_mean
from wsss_lib.runs.report import FIXED_THRESHOLD
from wsss_lib.stages.evaluate import image_confusions


@pytest.fixture(scope="module")
def script():
    return load_script("how_good")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = open_run(tmp_path_factory.mktemp("run") / "one")
    train_run(run)
    run.infer("val")
    return run


def test_everything_that_is_counted(script, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "reopen", lambda folder, guest: run)  # noqa: ARG005
    measured = script.load(run.folder, "val", run.folder, 1, tmp_path)
    data = run.data("val")
    confusions = [*image_confusions(run.cams("val"), data, FIXED_THRESHOLD)]
    assert measured["true"].equal(torch.stack([torch.stack([c.diagonal(), c.sum(0), c.sum(1)]) for c in confusions]))
    assert (script.ratings(measured)["agreement with the next run"] == 1).all()  # the same run
    monkeypatch.setattr(script, "measure", None)  # the file is read
    again = script.load(run.folder, "val", run.folder, 1, tmp_path)
    assert all(again[name].equal(values) for name, values in measured.items())
    with pytest.raises(TypeError):  # every third picture is another measurement
        script.load(run.folder, "val", run.folder, 3, tmp_path)
    monkeypatch.setattr(sys, "argv", ["how_good.py", str(run.folder), "--keep", str(tmp_path), "--draws", "0"])
    script.main()
    assert "| agreement of picture and mirror image, over n |" in capsys.readouterr().out


def test_pictures_without_labels_are_left_out(script, monkeypatch, capsys):
    labels, counts = population()
    labels[:20] = 0
    one = {"labels": labels, "true": counts, script.OWN: counts}
    seen = []
    monkeypatch.setattr(script, "load", lambda *_: one)
    monkeypatch.setattr(script, "level_table", lambda runs: str(seen.append(len(runs["run"]["true"]))))
    for words in ([], ["--labelled"]):
        monkeypatch.setattr(sys, "argv", ["how_good.py", "run", "--draws", "0", *words])
        script.main()
    assert seen == [60, 40]
    assert "few classes" in capsys.readouterr().out


def test_folders_of_one_name_are_refused(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["how_good.py", "a/run", "b/run"])
    with pytest.raises(SystemExit):
        script.main()
    assert "two folders have the same name" in capsys.readouterr().err


def test_every_nth_picture(script, run, monkeypatch):
    monkeypatch.setattr(script, "reopen", lambda folder, guest: run)  # noqa: ARG005
    some, every = (script.measure(run.folder, "val", None, step) for step in (3, 1))
    assert some["true"].equal(every["true"][::3])
    assert {*some} == {"labels", "true", script.OWN}


def test_simulations(script):
    labels, counts = population(n=80)
    one = {"labels": labels, "true": counts, script.OWN: counts}
    iou = class_mean(iou_of_counts(counts))
    assert script.picture_iou(one).equal(iou)
    found = script.simulate(one, 40)
    assert len(found) == len(script.designs(one)) * len(script.NUMBERS)
    for bias, error, inside, bootstrapped, width in found.values():
        assert abs(bias) <= error < 0.5 * true_mean(counts)
        assert 0 <= bootstrapped <= 1
        assert inside > 0.5
        assert width > 0
    assert found["at random", 40][1] < found["at random", 10][1]
    table = script.simulation_table({"one": one}, 2)
    assert table.count("\n") == 1 + len(found)


def test_tables(script):
    labels, counts = population()
    trusted = counts.clone()
    trusted[:, 0] = counts[:, 0] // 2  # the CRF agrees less, in the same order
    one = {"labels": labels, "true": counts, script.OWN: trusted, "constant": torch.ones(60)}
    rows = script.rank_table({"run": one}).splitlines()
    assert rows[0] == "| rating | mean | run |"
    assert any("| constant | nan (nan) |" in row for row in rows)
    [row] = [row for row in rows if row.startswith(f"| {script.OWN} |")]
    assert float(row.split("|")[2].split()[0]) > 0.5
    assert any("| few classes | " in row for row in rows)
    assert script.level_table({"run": one}).endswith("Inside: 0 of 1")
    assert script.curve_table({"run": one}).count("0.") >= 10
    assert np.isnan(script._mean([float("nan")]))
