"""Benchmarks take too long to be run by tests, but what they import must be there."""

import ast
import importlib.util
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_what_it_imports_is_there(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module.partition(".")[0] in ("wsss_lib", "common", "gpu_parts")]
    assert ours
    for node in ours:
        module = importlib.import_module(node.module)
        for alias in node.names:
            found = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
            assert found, f"{node.module} has no {alias.name}"
