"""The benchmark for a GPU: no part stops the others, what is done is kept, and every part works at a tiny size."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

FAKES = """
import json, os, time

def works(device, tiny, report, *words):
    report.row(device=device, tiny=tiny, words=list(words))

def raises(device, tiny, report):
    report.row(kept=1)
    raise ValueError("the sum is wrong")

def goes_on(device, tiny, report):
    with report.attempt("first"):
        raise ValueError("it is too large\\nsecond line")
    report.row(kept=2)

def hangs(device, tiny, report):
    report.row(kept=3)
    time.sleep(600)

def is_killed(device, tiny, report):
    os.kill(os.getpid(), 9)

def looks(device, tiny, report):
    report.row(seen=[p["name"] for p in json.loads((report.path.parent.parent / "results.json").read_text())["parts"]])
"""

ALL_PARTS = """
import importlib, pathlib, sys
import gpu
from gpu_parts.report import Report

for part in gpu.PARTS:
    module, _, name = part.function.partition(":")
    report = Report(pathlib.Path(sys.argv[1]) / f"{part.name}.json")
    getattr(importlib.import_module(module), name)("cpu", True, report, *part.arguments)
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


@pytest.fixture
def fake_parts(gpu, tmp_path, monkeypatch):
    """A function from names to parts of the module above."""
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return lambda *names, limit=60: [gpu.Part(name, f"Part {name}", f"fakes:{name}", limit) for name in names]


def test_a_part_that_fails_does_not_stop_the_others(gpu, fake_parts, tmp_path):
    parts = fake_parts("raises", "goes_on", "is_killed", "looks")
    parts.append(gpu.Part("works", "Part works", "fakes:works", 60, ("a", "b")))
    results = {r.name: r for r in gpu.run_parts(parts, tmp_path / "out", "cpu", True, 600)}
    assert {name: r.state for name, r in results.items()} == {
        "raises": "failed",
        "goes_on": "failed",
        "is_killed": "failed",
        "looks": "done",
        "works": "done",
    }
    assert results["raises"].rows == [{"kept": 1}]
    assert results["raises"].reason == "It ended with: ValueError: the sum is wrong"
    assert (results["goes_on"].rows, results["goes_on"].reason) == ([{"kept": 2}], "")
    assert results["goes_on"].problems == ["first: ValueError: it is too large"]
    assert results["is_killed"].reason == "Its process was ended by signal 9."
    assert results["looks"].rows == [{"seen": ["raises", "goes_on", "is_killed"]}]  # written after each part
    assert results["works"].rows == [{"device": "cpu", "tiny": True, "words": ["a", "b"]}]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [part["state"] for part in written["parts"]] == [r.state for r in results.values()]
    text = (tmp_path / "out" / "results.md").read_text()
    for sentence in ("ended by signal 9.", "- first: ValueError: it is too large", "| raises | failed |", "| kept |"):
        assert sentence in text


def test_a_part_over_its_limit_is_stopped_and_keeps_its_rows(gpu, fake_parts, tmp_path):
    hanging, after = fake_parts("hangs", limit=3) + fake_parts("works")
    first, second = gpu.run_parts([hanging, after], tmp_path / "out", "cpu", True, 600)
    assert (first.state, first.reason) == ("stopped", "It was stopped at its limit of 3 s.")
    assert first.rows == [{"kept": 3}]
    assert second.state == "done"


def test_no_part_begins_when_the_time_is_over(gpu, fake_parts, tmp_path):
    [result] = gpu.run_parts(fake_parts("works"), tmp_path / "out", "cpu", True, 0)
    assert result.state == "not started"
    assert result.reason == "The 0 s of --seconds were over; run it with --parts works."
    assert not (tmp_path / "out" / "parts" / "works.json").exists()


def test_rows_of_an_earlier_run_are_not_shown(gpu, fake_parts, tmp_path):
    gpu.run_parts(fake_parts("works"), tmp_path / "out", "cpu", True, 600)
    killed = gpu.Part("works", "Part works", "fakes:is_killed", 60)
    [result] = gpu.run_parts([killed], tmp_path / "out", "cpu", True, 600)
    assert result.rows == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "PyTorch finds no CUDA device; use --device cpu --tiny to try every part on the CPU."),
        (["--device", "cpu"], "--device cpu only tries the parts; add --tiny."),
        (["--parts", "walk", "wlak"], "part 'wlak' is unknown; --help lists the parts."),
    ],
)
def test_a_wrong_call_gets_one_sentence(gpu, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert f": {message}\n" in f": {ended.value}\n{capsys.readouterr().err}"
    assert list(tmp_path.iterdir()) == []


def test_every_method_has_its_parts(gpu):
    names = [part.name for part in gpu.PARTS]
    assert len({*names}) == len(names)
    assert {f"{kind}_{method}" for kind in ("step", "compile") for method in gpu.METHODS} <= {*names}


@pytest.mark.slow
def test_every_part_gives_a_result(gpu, tmp_path):
    """In one process, because importing PyTorch for each part would take longer than the parts."""
    path = os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # several threads slow tiny sizes down
    command = [sys.executable, "-W", "ignore", "-c", ALL_PARTS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in gpu.PARTS:
        content = json.loads((tmp_path / f"{part.name}.json").read_text())
        assert content["rows"], part.name
        assert content["problems"] == [], part.name
    rows = json.loads((tmp_path / "step_acr.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["plain, fp32", "ours, fp32", "plain, bf16", "ours, bf16"]
    compiled = json.loads((tmp_path / "compile_pcss.json").read_text())["rows"][-1]
    assert compiled["graphs"] > 0


@pytest.mark.slow
def test_the_command(tmp_path):
    words = ["--device", "cpu", "--tiny", "--out", str(tmp_path / "out"), "--parts", "machine", "operators"]
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| pair affinities and gradient | 0 |" in (tmp_path / "out" / "results.md").read_text()
    assert (tmp_path / "out" / "results.md").read_text() in done.stdout
