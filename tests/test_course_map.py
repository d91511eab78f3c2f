"""The map of the course: every lesson has its place, nothing overlaps, and the reader is at one place."""

import itertools
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.scripts import load_script

STEMS = sorted(path.stem for path in (Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def script():
    return load_script("course_map")


def test_every_lesson_has_a_place_of_its_own(script):
    assert sorted(script.LESSONS) == STEMS
    width, height = script.SIZE
    boxes = [*(box for box, _ in script.LESSONS.values()), *(box for box, _ in script.THINGS)]
    for left, top, wide, high in boxes:
        assert 0 < left < left + wide < width
        assert 0 < top < top + high < height
    for (x, y, w, h), (left, top, wide, high) in itertools.combinations(boxes, 2):
        assert x + w <= left or left + wide <= x or y + h <= top or top + high <= y


@pytest.mark.parametrize("stem", STEMS)
def test_one_place_is_marked(script, stem):
    root = ElementTree.fromstring(script.drawing(stem))
    assert root.find(f"{SVG}title").text.endswith(f"You are here: {stem.partition('_')[0]}.")
    [here] = [one for one in root.iter(f"{SVG}rect") if one.get("class") == "here"]
    assert tuple(int(here.get(name)) for name in ("x", "y", "width", "height")) == script.LESSONS[stem][0]
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert texts.count("you are here") == 1
    assert {"dense CRF", "final network", "masks"} <= set(texts)


def test_the_command_writes_the_committed_drawings(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["course_map.py", "--out", str(tmp_path / "map")])
    script.main()
    committed = Path(__file__).parents[1] / "docs" / "pictures" / "map"
    made = {path.name: path.read_bytes() for path in (tmp_path / "map").iterdir()}
    assert made == {path.name: path.read_bytes() for path in committed.iterdir()}
