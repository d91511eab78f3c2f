"""A picture from the reader's disk: an example where nobody can choose, an upload where somebody does."""

import io
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from wsss_lib.show import figures, upload


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    things = []
    monkeypatch.setattr(upload, "display", things.append)
    for name in ("WSSS_HEADLESS", "JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)
    return things


@pytest.fixture
def drawn():
    return []


@pytest.fixture
def draw(drawn):
    def draw(picture):
        drawn.append(picture)
        return {"picture": picture, "grey": np.asarray(picture.convert("L"), np.float32) / 255}

    return draw


def content(size, kind="PNG", **options):
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(stream, kind, **options)
    return stream.getvalue()


def choose(chooser, name, what):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    file = {"name": name, "type": "", "size": len(what), "content": memoryview(what), "last_modified": now}
    chooser.value = (file,)


def test_nobody_watches(shown, draw, drawn):
    upload.explore_own(draw, Image.new("RGB", (20, 10)))
    [figure] = shown
    assert isinstance(figure, figures.Plot)
    assert [picture.size for picture in drawn] == [(20, 10)]


def test_a_picture_is_chosen(shown, draw, drawn, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "07_use.ipynb")
    upload.explore_own(draw, Image.new("RGB", (20, 10)))
    chooser, line, screen = shown[0].children
    assert isinstance(chooser, ipywidgets.FileUpload)
    before = screen.value
    exif = Image.Exif()
    exif[0x0112] = 6
    choose(chooser, "../mine.jpg", content((30, 40), "JPEG", exif=exif))
    assert drawn[-1].size == (40, 30)  # as viewers show it
    assert line.value == "../mine.jpg"
    assert screen.value != before


def test_what_is_not_a_picture_is_named(shown, draw, drawn, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "07_use.ipynb")
    upload.explore_own(draw, Image.new("RGB", (20, 10)))
    chooser, line, screen = shown[0].children
    before = screen.value
    choose(chooser, "mine.jpg", b"no picture")
    assert line.value.startswith("mine.jpg ")
    assert line.value.endswith(".")
    assert (len(drawn), screen.value) == (1, before)
