"""The commands on foreign maps, as a user types them."""

import json
import re

import numpy as np
import pytest

from tests.exchange import foreign
from tests.use.shell import runner
from wsss_lib.results.choose import MEASURED
from wsss_lib.runs.report import FIXED_ALPHA


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with pictures, masks and maps, and returns its exit status and what it says."""
    monkeypatch.chdir(tmp_path)
    foreign.pictures(tmp_path)
    foreign.as_psa(tmp_path / "maps")
    foreign.as_irn(tmp_path / "irn")
    return runner(monkeypatch, capsys)


def test_score(said, tmp_path):
    status, text = said("score", "maps", "pictures", "--masks", "masks", "--threshold", "best", "--json", "all.json")
    assert status == 0
    assert "maps: 3 pictures, .npy dictionaries {class: map}, as psa writes them, classes from 0" in text
    assert "best on these masks" in text
    found = json.loads((tmp_path / "all.json").read_text())
    assert len(found["maps"]["curve"]) == 100
    assert set(found["maps"]["classes"]) == {"background", *foreign.CLASSES}
    assert f"{100 * found['maps']['mean_iou']:.2f}" in text


def test_score_with_a_crf(said, tmp_path):
    status, text = said("score", "maps", "pictures", "--masks", "masks", "--crf", "out", "--workers", "0")
    assert status == 0
    assert f"the fixed threshold lost {MEASURED['threshold']['fixed'][0]:.1f} points" in text
    assert f"crf-{FIXED_ALPHA:g}" in text
    assert len(list((tmp_path / "out" / f"crf-{FIXED_ALPHA:g}").glob("*.png"))) == 3


def test_refine(said, tmp_path):
    status, text = said("refine", "irn", "pictures", "--out", "out", "--alphas", "4,16", "--workers", "2")
    assert (status, "3 masks in out/crf-16" in text, "mIoU" in text) == (0, True, False)
    assert len(list((tmp_path / "out").glob("crf-*/*.png"))) == 6


def test_choose(said, tmp_path):
    for mask in (tmp_path / "masks").iterdir():
        mask.unlink()  # no mask is needed
    status, text = said("choose", "maps", "pictures", "--other", "irn", "--sample", "1")
    assert status == 0
    assert re.search(r"\| agreement with other maps \| 0\.\d\d \| \d+\.\d \| \d+\.\d \|", text)
    rows = re.findall(r"\| ([^|]+) \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|", text)
    assert rows.count(("fixed", *(f"{regret:.1f}" for regret in MEASURED["threshold"]["fixed"]))) == 1
    assert rows.count(("fixed", *(f"{regret:.1f}" for regret in MEASURED["alpha"]["fixed"]))) == 1
    assert len(rows) == 13
    assert "The defaults are" in text
    status, text = said("choose", "maps", "pictures", "--sample", "1")
    assert (status, "other maps" in text) == (0, False)


def test_compare(said, tmp_path):
    foreign.as_psa(tmp_path / "worse", seed=5)
    status, text = said(
        "compare", "maps", "irn", "worse", "pictures", "--masks", "masks", "--repetitions", "20", "--json", "c.json"
    )
    assert status == 0
    assert "3 pictures, 20 repetitions, seed 0" in text
    pairs = json.loads((tmp_path / "c.json").read_text())["differences"]
    assert [pair["names"] for pair in pairs] == [["maps", "irn"], ["maps", "worse"], ["irn", "worse"]]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["score", "maps", "pictures"], "the following arguments are required: --masks"),
        (["score", "nowhere", "pictures", "--masks", "masks"], "nowhere is not a folder"),
        (["score", "maps", "nowhere", "--masks", "masks"], "nowhere does not exist"),
        (["refine", "maps", "pictures", "--out", "out", "--alphas", "x"], "alphas 'x' are not numbers"),
        (["refine", "maps", "pictures", "--out", "out", "--preset", "x"], "'x'"),
        (["refine", "maps", "pictures", "--out", "pictures"], "is the folder of the pictures"),
        (["choose", "maps", "pictures", "--sample", "0"], "sample 0 is out of range"),
        (["compare", "maps", "pictures", "--masks", "masks"], "only one set of maps is given"),
        (["compare", "maps", "irn", "pictures", "--masks", "masks", "--seed", "-1"], "seed -1 is out of range"),
        (["scor", "maps"], "perhaps score is meant"),
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
    assert lines[0].endswith(".")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_map_is_named(said, tmp_path):
    (tmp_path / "maps" / "b.npy").write_bytes((tmp_path / "maps" / "b.npy").read_bytes()[:300])
    status, text = said("refine", "maps", "pictures", "--out", "out", "--workers", "2")
    assert (status, "b.npy is not a dictionary of number arrays" in text) == (1, True)
    np.save(tmp_path / "maps" / "b.npy", {0: np.full((16, 16), 2.0)})
    status, text = said("refine", "maps", "pictures", "--out", "out", "--workers", "2")
    assert (status, "b.npy holds values from 2 to 2" in text) == (1, True)


@pytest.mark.parametrize(("form", "made"), [("npy", "b.npy"), ("coco", "instances.json"), ("voc", "results.tar.gz")])
def test_convert(form, made, said, tmp_path):
    status, text = said("convert", "irn", "pictures", "--to", form, "--out", "out")
    assert (status, "3 pictures in out" in text) == (0, True)
    assert (tmp_path / "out" / made).is_file()
