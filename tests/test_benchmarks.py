"""Benchmarks take too long to be run by tests, but what they import must be there."""

import ast
import importlib.util
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.runs.small import TOY_COUNTS
from wsss_lib.data import toy

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


@pytest.mark.slow
def test_the_worlds_of_the_traps_differ(monkeypatch, capsys):
    """In the world without the pattern, the images with and without the pattern are the same."""
    monkeypatch.syspath_prepend(SCRIPTS[0].parent)
    traps = importlib.import_module("toy_traps")
    monkeypatch.setattr(sys, "argv", ["toy_traps.py", "--epochs", "1", "--worlds", "all traps", "no shortcut"])
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        traps.main()
    rows = {line[:11].strip(): line[11:].split() for line in capsys.readouterr().out.splitlines()}
    with_pattern, without = rows["no shortcut"][-4], rows["no shortcut"][-2]
    assert with_pattern == without
    assert rows["all traps"] != rows["no shortcut"]


def test_errors_are_planted_as_the_benchmark_says(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS[0].parent)
    doubts = importlib.import_module("label_doubts")
    labels = torch.zeros(100, 4)
    labels[torch.arange(60), torch.arange(60) % 4] = 1
    labels[60:70] = 1
    given, planted = doubts.plant(labels, 0.1, 0)
    assert torch.equal((given - labels).abs(), planted)
    assert planted.sum(1).max() == 1
    assert ((planted == 1) & (labels == 1)).sum() == ((planted == 1) & (labels == 0)).sum() == 5
    assert torch.equal(planted, doubts.plant(labels, 0.1, 0)[1])
    assert not torch.equal(planted, doubts.plant(labels, 0.1, 1)[1])
    everything, quality = torch.ones(100, 4).bool(), 1 - planted
    assert doubts.precision(quality, planted, everything) == 1
    assert doubts.precision(planted, planted, everything) == 0
    assert doubts.rows_to_half(quality, planted) == 5
