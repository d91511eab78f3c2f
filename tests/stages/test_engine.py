"""Processes: what they are told about their place, and what happens when one of them ends."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from tests.runs.small import sentence_of, silent, without_seconds
from tests.runs.test_run import photo_run, photographs
from wsss_lib import __main__ as command
from wsss_lib.errors import InputError, ProcessError
from wsss_lib.stages import agent
from wsss_lib.stages.engine import (
    is_one_of_several,
    keep_freed_memory,
    launch_processes,
    loaded,
    loaders_watched,
    make_fabric,
)
from wsss_lib.stages.train import resume

ROOT = Path(__file__).parents[2]

ALLOCATION = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NODELIST": "node[1-2]"}
"""What SLURM says to every process in an allocation."""

BATCH = {**ALLOCATION, "SLURM_JOB_NAME": "job.sh", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
"""What it says to a batch script."""

STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "localhost",
}
"""What it says to one of the two tasks that ``srun --nodes 1 --ntasks 2`` starts in that allocation."""


@pytest.fixture
def at_root(monkeypatch):
    """The processes import the library from where the tests do."""
    monkeypatch.chdir(ROOT)


def say(monkeypatch, variables):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# --------------------------------------------------------------------------------------------------------------- SLURM


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),
        (ALLOCATION, False),
        ({**ALLOCATION, "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "interactive"}, False),
        (BATCH, False),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, False),  # srun --pty, or a notebook server that srun has started
        (STEP, True),
        ({**STEP, "SLURM_JOB_NAME": "interactive"}, True),  # srun in a shell of salloc
        ({**STEP, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, True),
        ({"TORCHELASTIC_RUN_ID": "1"}, True),
        ({**BATCH, "TORCHELASTIC_RUN_ID": "1"}, True),
    ],
)
def test_who_is_one_of_several(monkeypatch, variables, several):
    say(monkeypatch, variables)
    assert is_one_of_several() == several


@pytest.mark.parametrize("variables", [{"SLURM_NTASKS": "4"}, ALLOCATION, BATCH, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}])
def test_a_plain_run_in_an_allocation_is_alone(monkeypatch, tmp_path, variables):
    (tmp_path / "srun").write_text("")
    (tmp_path / "srun").chmod(0o755)
    say(monkeypatch, {**variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"})  # where there is srun, Fabric warns
    fabric = make_fabric("cpu")
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_tasks_that_are_shared_unevenly(monkeypatch):
    uneven = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "3,1"}
    say(monkeypatch, {**STEP, **uneven})
    assert sentence_of(lambda: make_fabric("cpu")).endswith("unevenly among 2 nodes; give it --ntasks-per-node.")


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_in_an_allocation_tasks_of_srun_do_what_torchrun_does(tmp_path, monkeypatch, capfd):
    data, runs = photographs(tmp_path / "data"), {}
    for name in ("tasks", "launched"):
        runs[name] = photo_run(tmp_path / name, data, devices=2, epochs=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    say(monkeypatch, BATCH)
    runs["launched"].train(silent)
    shared = {**os.environ, **STEP, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "wsss_lib", str(tmp_path / "tasks"), "train"]
    tasks = [subprocess.Popen(line, env={**shared, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in ("0", "1")]
    assert [task.wait(120) for task in tasks] == [0, 0]
    tasks, launched = (without_seconds(resume(run.method, run.folder)) for run in runs.values())
    assert len(tasks) == 1
    assert tasks == launched
    capfd.readouterr()


# ------------------------------------------------------------------------------------------------- the end of a process

WORKER = """
import os, subprocess, sys, time
from pathlib import Path
from wsss_lib.stages.agent import end_with_launcher, report

end_with_launcher()
folder, what, rank = Path(sys.argv[1]), sys.argv[2], os.environ["RANK"]
silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
loader = subprocess.Popen(["sleep", "600"], **silent)  # in the place of a process that loads images
(folder / f"new-{rank}").write_text(f"{os.getpid()} {os.getppid()} {loader.pid}")
(folder / f"new-{rank}").rename(folder / f"pids-{rank}")
while len(list(folder.glob("pids-*"))) < 2:
    time.sleep(0.01)
if rank == "1":
    if what == "kill":
        os.kill(os.getpid(), 9)
    if what == "kill agent":
        os.kill(os.getppid(), 9)
    if what == "break":
        print("last of the lines")
        report("Traceback\\n  in line 1\\nKeyError: 'the first'\\n")
        (folder / "broken").touch()
        sys.exit(1)
while not (folder / "broken").exists():
    time.sleep(0.01)
report("KeyError: 'the second'")
sys.exit(1)
"""
"""Two workers that wait for each other, and then for their end."""


@pytest.fixture
def worker(tmp_path):
    """The arguments of such a worker without the last one, which says how it ends."""
    (tmp_path / "worker.py").write_text(WORKER)
    return [str(tmp_path / "worker.py"), str(tmp_path)]


def started(folder):
    """Wait for the workers, and return the numbers of all their processes."""
    limit = time.monotonic() + 120
    while len(files := list(folder.glob("pids-*"))) < 2:
        assert time.monotonic() < limit
        time.sleep(0.05)
    return {int(number) for file in files for number in file.read_text().split()}


def wait_until_gone(numbers):
    """Fail if one of the processes is alive after two minutes, and end it."""
    alive, limit = numbers, time.monotonic() + 120
    while alive and time.monotonic() < limit:
        time.sleep(0.05)
        alive = {number for number in alive if is_alive(number)}
    for number in alive:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    assert not alive


def is_alive(number):
    """Return whether there is a process; one that has ended, but for which nobody has waited, is none."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_launcher(tmp_path, worker, number):
    code = "import sys; from wsss_lib.stages.engine import launch_processes; launch_processes(2, sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", code, *worker, "wait"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as launcher:
        workers = started(tmp_path)
        launcher.send_signal(number)
        wait_until_gone(workers)
        said = launcher.communicate(timeout=60)[0].decode()
    # Python ends with 1 instead of the signal if code runs after the interrupt, as PyTorch's may at the exit.
    assert launcher.returncode in ((-number, 1) if number == signal.SIGINT else (-number,))
    assert said.count("Traceback") == (number == signal.SIGINT)


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("kill", "worker process 2 was ended by signal 9 (SIGKILL, perhaps because memory was short); start the run"),
        ("kill agent", "the process that starts the others was ended by signal 9 (SIGKILL"),
    ],
)
def test_a_process_that_is_killed(tmp_path, worker, capfd, what, sentence):
    with pytest.raises(ProcessError) as caught:
        launch_processes(2, [*worker, what])
    assert str(caught.value).startswith(sentence)
    assert capfd.readouterr() == ("", "")
    wait_until_gone(started(tmp_path) - {os.getpid()})


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_a_process_that_fails(worker, capfd):
    with pytest.raises(RuntimeError) as caught:
        launch_processes(2, [*worker, "break"])
    assert type(caught.value) is RuntimeError
    assert str(caught.value) == "a training process failed:\nTraceback\n  in line 1\nKeyError: 'the first'"
    assert capfd.readouterr() == ("last of the lines\n", "")


@pytest.mark.parametrize(
    ("exit_codes", "reported", "word"),
    [
        ({0: 1, 1: -15}, "KeyError: 1", "KeyError: 1"),  # torchrun ends the others with SIGTERM
        ({0: -15, 1: 1}, "InputError: x.", "InputError: x."),
        ({0: 1, 1: -9}, "RuntimeError: Connection closed by peer", "process 2 was ended by signal 9"),
        ({0: -15, 1: -11}, "", "process 2 was ended by signal 11 (SIGSEGV)"),
        ({0: 1, 1: -15}, "RuntimeError: Connection reset by peer", "process 2 was ended by signal 15"),
        ({0: -15, 1: -15}, "", "one of the worker processes was ended by signal 15"),
        ({0: -64}, "", "process 1 was ended by signal 64"),
        ({1: 3}, "", ""),
        ({0: -15, 1: 3}, "", ""),
    ],
)
def test_the_cause_of_a_failure(exit_codes, reported, word):
    said = agent.last_word(exit_codes, reported)
    assert word in said if "process" in word else word == said
    assert said.startswith("ProcessError: ") == ("process" in word)


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """Have the command line do a stage that raises, and return what it reports."""

    def run(error, launched):
        def fail(_):
            raise error

        watched = []
        monkeypatch.setattr(command, "reopen", fail)
        monkeypatch.setattr(command, "end_with_launcher", lambda: watched.append(True))
        monkeypatch.setattr(sys, "argv", ["wsss_lib", str(tmp_path), "train"])
        if launched:
            monkeypatch.setenv(agent._REPORT, str(tmp_path / "report"))
        assert command.main() == 1
        assert watched
        return (tmp_path / "report").read_text() if launched else ""

    return run


def test_what_a_worker_reports(stage, tmp_path, capsys):
    assert stage(InputError("one thing."), launched=True) == "InputError: one thing."
    assert stage(KeyError("another"), launched=True) == "InputError: one thing."  # the first is the cause
    (tmp_path / "report").unlink()
    assert stage(ProcessError("a third."), launched=True) == "ProcessError: a third."
    (tmp_path / "report").unlink()
    assert stage(KeyError("another"), launched=True).endswith("KeyError: 'another'\n")
    assert capsys.readouterr().out == ""


def test_a_process_without_a_launcher_speaks_for_itself(stage, capsys):
    stage(InputError("one thing."), launched=False)
    assert capsys.readouterr().out == "\nInputError: one thing.\n"
    with pytest.raises(KeyError):
        stage(KeyError("another"), launched=False)


def test_a_process_without_a_launcher_watches_nobody(monkeypatch):
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("its standard input is its own"))
    agent.end_with_launcher(lambda: None)


# ------------------------------------------------------------------------------------------ processes that load images


class Deadly:
    """Data whose third item kills the process that reads it."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


@pytest.mark.parametrize("_attempt", range(4))
def test_a_loader_that_is_killed(_attempt):
    """PyTorch notices it by a signal, by a socket or by asking, as it happens."""
    with pytest.raises(ProcessError) as caught:
        list(loaded(DataLoader(Deadly(), num_workers=1)))
    expected = (
        r"a process that loads images (is killed by signal: Killed|exited unexpectedly) \(perhaps .*; start the run"
    )
    assert re.match(expected, str(caught.value))


def take_and_sleep(batches):
    next(batches)
    time.sleep(60)


def test_a_loader_that_is_killed_while_nobody_waits_for_it():
    batches = iter(DataLoader(Deadly(), num_workers=1, prefetch_factor=1))
    next(batches)
    with pytest.raises(ProcessError, match=r"is killed by signal: Killed "), loaders_watched():
        take_and_sleep(batches)


def test_other_errors_stay_themselves():
    with pytest.raises(RuntimeError, match=r"^something else$") as caught, loaders_watched():
        raise RuntimeError("something else")
    assert type(caught.value) is RuntimeError


def test_a_notebook_shows_one_sentence():
    assert ProcessError("it ended.")._render_traceback_() == ["ProcessError: it ended."]


@pytest.mark.parametrize(("value", "calls"), [(None, 2), ("1", 2), ("0", 0)])
def test_the_allocator_is_left_alone_on_request(value, calls, monkeypatch):
    made = []

    class Library:
        def mallopt(self, *arguments):
            made.append(arguments)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    monkeypatch.delenv("WSSS_KEEP_MEMORY", raising=False)
    if value is not None:
        monkeypatch.setenv("WSSS_KEEP_MEMORY", value)
    keep_freed_memory()
    assert len(made) == calls
