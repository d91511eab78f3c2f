"""Every notebook in JupyterLab in a real browser: all cells run, no errors, and a slider changes its picture."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from tests.chromium import MARKS

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
LAST = next(path for path in NOTEBOOKS if path.stem == "07_use")
pytestmark = MARKS

TINY = {"epochs": 1, "limit": 16, "batch_size": 8, "ablations": -1}
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
CELLS = "jupyterapp.shell.currentWidget.context.model.toJSON().cells.filter(cell => cell.cell_type === 'code')"
RUN_ALL = "void jupyterapp.commands.execute('notebook:run-all-cells')"  # what the line of the menu does
ON_SCREEN = "document.querySelectorAll('.jp-CodeCell .jp-InputPrompt').length"
PICTURES = "[...document.querySelectorAll('.widget-image')].map(e => e.src).join()"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def tiny_copy(path, target):
    """Copy a notebook without outputs, with tiny parameters as far as it has them."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in TINY.items():
                cell.source = re.sub(rf"^({name}: \w+ = )\S+", rf"\g<1>{value}", cell.source, flags=re.MULTILINE)
    nbformat.write(notebook, target)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A running JupyterLab on tiny copies of all notebooks; yields its address."""
    folder = tmp_path_factory.mktemp("lab")
    for path in NOTEBOOKS:
        tiny_copy(path, folder / path.name)
    tiny_copy(LAST, folder / "own.ipynb")  # by another name, or it would go on in the kernel of 07_use.ipynb
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # or cells that are out of sight are not there
    port = free_port()
    options = [
        f"--port={port}",
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        f"--notebook-dir={folder}",
        "--expose-app-in-browser",  # as jupyterapp: its page says "idle" before there is a kernel
    ]
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "OMP_NUM_THREADS": "1"},
        )
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/api"), 60, "JupyterLab does not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_for(condition, seconds, what, pause=0.5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(pause)


def move_a_slider(page):
    before = page.evaluate(PICTURES)
    assert before, "no picture belongs to a slider"
    page.locator(".widget-slider .noUi-handle").first.focus()
    page.keyboard.press("ArrowLeft")  # or a slider that begins at its end would stay
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    wait_for(lambda: page.evaluate(PICTURES) != before, 60, "the slider does not change its picture")


def choose_an_image(page):
    before = page.evaluate(PICTURES)
    chooser = page.locator(".widget-dropdown select").first
    names = chooser.locator("option").all_inner_texts()
    assert len(names) == len(set(names)) > 1
    chooser.select_option(label=names[1])
    wait_for(lambda: page.evaluate(PICTURES) != before, 60, "the image does not change its picture")


def ended(cells, done):
    """Whether all cells have been executed, after `done` others; an error in any of them fails."""
    errors = [output["evalue"] for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert errors == []
    return [cell["execution_count"] for cell in cells] == list(range(done + 1, done + len(cells) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_in_the_browser(path, lab, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1200, "height": 1600})
    page.set_default_timeout(90_000)  # milliseconds
    page.goto(f"{lab}/lab/tree/{path.name}?reset")
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    wait_for(lambda: page.evaluate(KERNEL) == "idle" and page.evaluate(ON_SCREEN) == cells, 150, "no kernel")
    for done in (0, cells):  # once more, as a reader does, in the same kernel
        page.evaluate(RUN_ALL)
        wait_for(lambda: ended(page.evaluate(CELLS), done), 400, "it never ends")  # noqa: B023
    move_a_slider(page)
    choose_an_image(page)
    page.screenshot(path=tmp_path / f"{path.stem}.png")
    page.close()


def choose(page, path):
    """Press the button of the upload, and choose a file."""
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").click()
    chooser.value.set_files(path)


def test_a_picture_of_ones_own(lab, browser, tmp_path):
    """Chosen from the disk in 07_use: its maps and its mask take the place of the example."""

    from wsss_lib.data.toy import ToyWorld

    ToyWorld("val", 1, seed=7).image(0).resize((150, 110)).save(tmp_path / "mine.jpg")
    (tmp_path / "broken.jpg").write_text("no picture")
    page = browser.new_page(viewport={"width": 1200, "height": 1600})
    page.set_default_timeout(90_000)  # milliseconds
    page.goto(f"{lab}/lab/tree/own.ipynb?reset")
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(LAST, as_version=4).cells)
    wait_for(lambda: page.evaluate(KERNEL) == "idle" and page.evaluate(ON_SCREEN) == cells, 150, "no kernel")
    page.evaluate(RUN_ALL)
    wait_for(lambda: ended(page.evaluate(CELLS), 0), 400, "it never ends")
    before = page.evaluate(PICTURES)
    choose(page, tmp_path / "mine.jpg")
    wait_for(lambda: page.evaluate(PICTURES) != before, 60, "the picture does not appear")
    wait_for(lambda: page.get_by_text("mine.jpg", exact=True).count() == 1, 60, "its name does not appear")
    after = page.evaluate(PICTURES)
    choose(page, tmp_path / "broken.jpg")
    wait_for(lambda: page.get_by_text("broken.jpg is not an image").count() == 1, 60, "nothing is said")
    assert page.evaluate(PICTURES) == after
    page.screenshot(path=tmp_path / "07_use.png")
    page.close()
