"""The report in a real browser: no error, no request to anywhere, and its pictures are there."""

import pytest

from tests.chromium import MARKS
from tests.runs.small import open_run, tiny_config
from wsss_lib.use.chains import run_method
from wsss_lib.use.report import write_report

pytestmark = MARKS

LOADED = "[...document.images].every(e => e.complete && e.naturalWidth > 20)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_shows_everything_and_asks_for_nothing(scheme, width, browser, path):
    said, asked = [], []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("document.images.length") >= 6
    assert page.evaluate(LOADED)
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    bright = {"light": paper, "dark": ink}[scheme]
    assert sum(int(part) for part in bright.removeprefix("rgb(").removesuffix(")").split(",")) > 600
    page.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    run = open_run(tmp_path_factory.mktemp("report") / "run", tiny_config(epochs=1), limit=4)
    run_method(run)
    return write_report(run)
