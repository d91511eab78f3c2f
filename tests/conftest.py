"""Options and fixtures of all tests."""

import importlib

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where operators and networks are tested: cpu or cuda")


@pytest.fixture
def device(request):
    """The device under test; skips where it is absent."""
    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a screen."""
    chromium = importlib.import_module("tests.chromium").CHROMIUM
    with importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
        one = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield one
        one.close()
