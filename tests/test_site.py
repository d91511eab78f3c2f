"""The site, built once, in a real browser: pages, pictures, equations and search, without any other host."""

import base64
import functools
import hashlib
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.chromium import MARKS

pytest.importorskip("sphinx", reason="Sphinx is not installed; say pip install '.[site]'")
nodes = pytest.importorskip("docutils.nodes")
ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
pytestmark = MARKS


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the pages; that there are any means that nothing was warned of."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "scripts" / "build_site.py"), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def address(html):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(browser, address):
    """An empty page of the browser; what it complains of, or asks another host for, fails the test at its end."""
    one = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors, requests = [], []
    one.on("console", lambda line: errors.append(line.text) if line.type in ("error", "warning") else None)
    one.on("pageerror", lambda error: errors.append(str(error)))
    one.on("response", lambda reply: errors.append(reply.url) if reply.status >= 400 else None)
    one.on("request", lambda request: requests.append(request.url))
    yield one
    one.close()
    assert errors == []
    assert requests
    assert [url for url in requests if not url.startswith((address, "data:"))] == []


def loaded(page):
    """Return the heights of the pictures in the text, after the browser has loaded all of them."""
    pictures = "[...document.querySelectorAll('article img')]"
    page.evaluate(f"Promise.all({pictures}.map(one => {{ one.loading = 'eager'; return one.decode(); }}))")
    return page.evaluate(f"{pictures}.map(one => one.naturalHeight)")


def test_the_first_page_is_the_readme(page, address):
    page.goto(address)
    title = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    assert page.locator("article h1").inner_text() == title
    assert min(loaded(page)) > 100
    assert page.locator(".sidebar-tree .caption").all_inner_texts() == ["COURSE", "DOCUMENTS", "REFERENCE"]
    links = page.locator(".sidebar-tree a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    lessons = [f"notebooks/{path.stem}.html" for path in LESSONS]
    assert [link for link in links if re.match(r"notebooks/\d", link)] == lessons
    for link in lessons:
        assert page.locator(f"article a[href='{link}']").count() > 0


def test_a_lesson_has_its_pictures_and_equations(page, address):
    page.goto(f"{address}notebooks/00_cam.html")
    heights = loaded(page)
    cells = json.loads(LESSONS[0].read_text(encoding="utf-8"))["cells"]
    outputs = [kind for c in cells for o in c.get("outputs", []) for kind in o.get("data", {}) if "image/" in kind]
    assert len(heights) >= len(outputs) > 0
    assert min(heights) > 20
    equation = page.locator("article div.math").first
    assert equation.locator(".eqno").inner_text() == "(1)"
    assert equation.locator("math").evaluate("one => one.namespaceURI") == "http://www.w3.org/1998/Math/MathML"
    fraction = equation.locator("mfrac").first
    over, under = (fraction.locator(f":scope > *:nth-child({n})").bounding_box() for n in (1, 2))
    assert over["y"] + over["height"] <= under["y"]  # drawn as a fraction, not as letters in a line
    assert page.locator("article").inner_text().count("$$") == 0


def test_a_lesson_shows_the_map_of_the_course(page, address):
    for path in LESSONS:
        page.goto(f"{address}notebooks/{path.stem}.html")
        drawn = page.locator(f"article img[src$='{path.stem}.svg']")
        assert drawn.count() == 1, path.stem
        assert drawn.get_attribute("alt").startswith("Map of the course.")
        drawn.evaluate("one => one.decode()")
        assert drawn.bounding_box()["width"] > 500


def test_figures_have_the_words_that_the_lessons_hold(html):
    for path in LESSONS:
        shown = unescape((html / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8"))
        outputs = [o for c in json.loads(path.read_text("utf-8"))["cells"] for o in c.get("outputs", [])]
        words = [about["alt"] for o in outputs for about in o.get("metadata", {}).values() if "alt" in about]
        assert [text for text in words if f'alt="{text}"' not in shown] == []


def test_the_words_of_a_figure_find_it_by_its_content(tmp_path):
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "site" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    data = {"image/png": base64.b64encode(b"some figure").decode(), "text/plain": "Plot"}
    outputs = [{"data": data, "metadata": {"image/png": {"alt": "what it shows"}}}, {"text": "no figure"}]
    (tmp_path / "lesson.ipynb").write_text(json.dumps({"cells": [{"outputs": outputs}, {"source": "text"}]}))
    app = SimpleNamespace(env=SimpleNamespace(docname="lesson", doc2path=lambda name: tmp_path / f"{name}.ipynb"))
    page = nodes.section()
    page += nodes.image(uri=f"folder/{hashlib.sha256(b'some figure').hexdigest()}.png")
    page += nodes.image(uri="folder/other.png")
    conf._describe_figures(app, page)
    assert [image.get("alt") for image in page.findall(nodes.image)] == ["what it shows", None]


def test_tables_that_a_cell_makes_are_tables(page, address):
    page.goto(f"{address}notebooks/06_compare.html")
    assert page.locator("article .cell_output table").count() > 0
    assert "|---" not in page.locator("article").inner_text().replace("—", "-")


def test_every_module_has_a_page_of_the_reference(page, address):
    page.goto(f"{address}api/index.html")
    page.locator("article").get_by_role("link", name="dense_crf", exact=False).first.click()
    assert page.url.endswith("api/wsss_lib.ops.dense_crf.html#wsss_lib.ops.dense_crf.dense_crf")
    described = page.locator("dt[id='wsss_lib.ops.dense_crf.dense_crf'] + dd")
    assert "Parameters" in described.inner_text().title()
    assert "InputError" in described.inner_text()
    for path in (ROOT / "wsss_lib").glob("*/[a-z]*.py"):
        name = f"wsss_lib.{path.parent.name}.{path.stem}"
        assert page.request.get(f"{address}api/{name}.html").status == 200, name


def test_search_finds_a_term(page, address):
    page.goto(address)
    page.locator(".sidebar-search").fill("random walk")
    page.keyboard.press("Enter")
    lesson = page.locator("#search-results li a[href*='notebooks/01_affinitynet.html']").first
    lesson.wait_for(timeout=60_000)  # milliseconds
    assert page.locator("#search-results li a[href*='api/wsss_lib.ops.random_walk.html']").count() > 0
    lesson.click()
    assert page.locator("article h1").inner_text().startswith("01 · AffinityNet")


def test_no_page_loads_anything_from_elsewhere(html):
    pattern = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^"']*""")
    pages = sorted(html.rglob("*.html"))
    assert len(pages) > 100
    assert {found for path in pages for found in pattern.findall(path.read_text(encoding="utf-8"))} == set()
