"""The browser of the fixture `browser`, and the marks of tests that need it."""

import shutil

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed; install the package chromium"),
]
