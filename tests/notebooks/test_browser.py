"""Every notebook in JupyterLab in a real browser: all cells run, no errors, and a slider changes its picture."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium; install the package chromium"),
]

TINY = {"epochs": 1, "limit": 16, "batch_size": 8, "ablations": -1}
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent)"
ERRORS = "[...document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.error\"]')].map(e => e.textContent)"
PICTURES = "[...document.querySelectorAll('.widget-image')].map(e => e.src).join()"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def tiny_copy(path, folder):
    """Copy a notebook without outputs, with tiny parameters as far as it has them."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in TINY.items():
                cell.source = re.sub(rf"^({name}: \w+ = )\S+", rf"\g<1>{value}", cell.source, flags=re.MULTILINE)
    nbformat.write(notebook, folder / path.name)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A running JupyterLab on tiny copies of all notebooks; yields its address."""
    folder = tmp_path_factory.mktemp("lab")
    for path in NOTEBOOKS:
        tiny_copy(path, folder)
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


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield one
        one.close()


def run_all(page):
    """Choose "Run All Cells"; return whether it has an effect. While a kernel starts, JupyterLab asks for one."""
    if page.locator(".jp-Dialog").count():
        page.locator(".jp-Dialog .jp-mod-accept").click()
    try:
        for words in ("Run", "Run All Cells"):
            page.get_by_text(words, exact=True).first.click(timeout=3000)
    except sync_api.TimeoutError:  # a dialog has come in between
        return False
    page.wait_for_timeout(3000)
    return any(prompt != "[ ]:" for prompt in page.evaluate(PROMPTS))


def move_a_slider(page):
    before = page.evaluate(PICTURES)
    assert before, "no picture belongs to a slider"
    page.locator(".widget-slider .noUi-handle").first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_for(lambda: page.evaluate(PICTURES) != before, 60, "the slider does not change its picture")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_in_the_browser(path, lab, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1200, "height": 1600})
    page.goto(f"{lab}/lab/tree/{path.name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    wait_for(lambda: page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").count(), 60, "no kernel")
    wait_for(lambda: run_all(page), 60, "the cells do not start to run")

    def ended():
        return page.evaluate(ERRORS) or all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in page.evaluate(PROMPTS))

    wait_for(ended, 400, "it never ends")
    assert page.evaluate(ERRORS) == []
    if path.stem != "06_compare":  # which has no sliders
        move_a_slider(page)
    page.screenshot(path=tmp_path / f"{path.stem}.png")
    page.close()
