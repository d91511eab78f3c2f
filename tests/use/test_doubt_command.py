"""The command ``wsss doubt`` and its function, on pictures in a folder and on the toy world."""

import csv
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.runs.small import sentence_of
from tests.use.shell import assert_one_sentence
from wsss_lib import __main__ as command
from wsss_lib.models import create_backbone
from wsss_lib.use.label_doubts import HEAD, NAMES, doubt_labels

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 200)}


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Runs a command in a new folder and returns its exit status and what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["wsss", *map(str, words)])
        status = command.main()
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures of each colour; one is called by the name of another colour."""
    draw = np.random.default_rng(0)
    lines = ["image,labels"]
    (tmp_path / "pictures" / "images").mkdir(parents=True)
    for name, colour in COLOURS.items():
        for i in range(12):
            pixels = np.clip(colour + draw.normal(0, 12, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / "images" / f"{name}{i:02}.png")
            lines.append(f"{name}{i:02}.png,{'green' if (name, i) == ('red', 4) else name}")
    (tmp_path / "pictures" / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pictures"


@pytest.fixture
def weights(tmp_path):
    """Weights of the network that photographs are looked at with; colours can be told with random ones, too."""
    torch.manual_seed(0)
    state = create_backbone("efficientnet_lite0").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "weights.safetensors")
    return "weights=weights.safetensors"


def lines_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("pictures")
def test_a_wrong_label_of_pictures_in_a_folder(said, weights, tmp_path):
    pytest.importorskip("cleanlab")
    status, text = said("doubt", "pictures", weights, "backbone=efficientnet_lite0", "workers=0", "out=out")
    assert status == 0
    assert "108 labels of" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["doubts.csv", "doubts.png"]
    rows = lines_of(tmp_path / "out" / "doubts.csv")
    assert tuple(rows[0]) == HEAD
    assert {(row["picture"], row["class"], row["kind"], row["given"]) for row in rows[:2]} == {
        ("red04.png", "red", "missing", "no"),
        ("red04.png", "green", "superfluous", "yes"),
    }
    assert [int(row["rank"]) for row in rows] == list(range(1, 109))
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
    with Image.open(tmp_path / "out" / "doubts.png") as sheet:
        assert sheet.width > sheet.height / 2
    for kind in ("missing", "superfluous"):
        ranks = [int(row["rank_of_kind"]) for row in rows if row["kind"] == kind]
        assert ranks == list(range(1, len(ranks) + 1))
    again = said("doubt", "pictures", weights, "backbone=efficientnet_lite0", "workers=0", "out=again", "rows=5")
    assert again[0] == 0
    few = [row for row in rows if int(row["rank_of_kind"]) <= 5]
    assert lines_of(tmp_path / "again" / "doubts.csv") == [{**row, "rank": str(i)} for i, row in enumerate(few, 1)]


def test_the_toy_world(said, tmp_path):
    pytest.importorskip("cleanlab")
    status, text = said("doubt", "preset=toy", "limit=30", "folds=6", "rows=4", "out=out")
    assert status == 0
    assert "note: labels not judged, because fewer than 6 images have or lack the label: " in text
    assert len(lines_of(tmp_path / "out" / "doubts.csv")) == 8


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required"),
        (["nowhere"], "data_root nowhere does not exist"),
        (["preset=photos"], "write wsss doubt PICTURES"),
        ([".", "data_root=."], "data_root is given, and so is the folder ."),
        ([".", "preset=toy"], "preset toy draws its own data"),
        ([".", "folds"], "'folds' is not a parameter; write name=value, such as folds=10"),
        ([".", "folds=5", "folds=6"], "parameter folds is given twice"),
        ([".", "fold=5"], "parameter fold is unknown; perhaps folds is meant"),
        ([".", "epochs=5"], "parameter epochs is unknown"),
        ([".", "folds=1"], "folds"),
        ([".", "folds=0"], "folds"),
        ([".", "rows=-1"], "rows"),
        ([".", "out=."], "is the folder of the pictures"),
        (["preset=toy", "limit=3"], "no label can be judged with 5 folds"),
    ],
)
def test_commands_that_fail_with_a_sentence(words, sentence, said, tmp_path):
    pytest.importorskip("cleanlab")
    status, text = said("doubt", *words)
    assert_one_sentence(status, text, sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("pictures")
def test_an_unusable_folder_is_named_before_the_network_looks_at_pictures(said, tmp_path, monkeypatch):
    pytest.importorskip("cleanlab")
    monkeypatch.setattr("wsss_lib.use.label_doubts.pooled_features", None)
    (tmp_path / "file").touch()
    assert "out file is a file; give a folder" in said("doubt", "pictures", "out=file")[1]
    assert "is the folder of the pictures" in said("doubt", "pictures", "out=pictures/images")[1]


def test_a_missing_package_is_named_before_anything_is_read(said, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    status, text = said("doubt", ".")
    assert status == 1
    assert "missing" in text
    assert "pip install cleanlab" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("pictures")
def test_pictures_without_labels_or_with_one_for_all(tmp_path, weights):
    pytest.importorskip("cleanlab")
    parameters = {"preset": "photos", "data_root": str(tmp_path / "pictures"), "weights": str(tmp_path / weights[8:])}
    table = tmp_path / "pictures" / "labels.csv"
    names = [line.partition(",")[0] for line in table.read_text().splitlines()[1:]]
    table.write_text("image,labels\n" + "".join(f"{name},\n" for name in names))
    (tmp_path / "pictures" / "classes.txt").write_text("red\n")
    assert "have no labels" in sentence_of(lambda: doubt_labels(parameters))
    table.write_text("image,labels\n" + "".join(f"{name},red\n" for name in names))
    assert "all 36 images have the label red" in sentence_of(lambda: doubt_labels(parameters))


def test_every_parameter_is_explained(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wsss", "doubt", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    text = capsys.readouterr().out
    for name in NAMES:
        [line] = [line for line in text.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 3
