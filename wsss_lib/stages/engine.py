"""Devices and precision, checked before anything starts."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import IO, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from wsss_lib.errors import InputError, ProcessError
from wsss_lib.stages import agent

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

_LOG_OF_TORCHRUN = re.compile(r"(\[rank\d+\]:)?\[?[IWEF]\d{4} ")
"""Beginning of a line in the log of torchrun and of PyTorch's C++ code: the level, month and day."""

_LOST_LOADER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) ([^.]*)")
"""Words with which PyTorch says that a process of a data loader is gone."""

T = TypeVar("T")


def make_fabric(accelerator: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """Return Lightning Fabric for this process, launched.

    Args:
        accelerator: ``auto`` (CUDA where there is a device), ``cpu`` or ``cuda``.
        devices: Number of devices; each needs a process of its own. Inside torchrun or srun, the number of processes
            there counts.
        precision: ``32-true``, or ``bf16-mixed`` or ``16-mixed`` for automatic mixed precision.

    Raises:
        InputError: A value is unknown, or there are fewer CUDA devices than `devices`.
    """
    check_devices(accelerator, devices, precision)
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu":
        keep_freed_memory()
    environment, devices, nodes = _place_of_this_process(devices)
    check_devices(accelerator, devices, precision)
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=precision,  # type: ignore[arg-type]
        plugins=environment,
    )
    fabric.launch()
    return fabric


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next allocation instead of giving it back to the system.

    By default glibc maps every large block anew and unmaps it when it is freed, so that the system must clear and
    map it again, page by page, for every layer of a network. Without that, MobileNetV2 on a CPU inferred 1.5 times
    and trained 1.35 times as fast (`benchmarks/memory.py`). The setting is that of the whole process; with the
    environment variable ``WSSS_KEEP_MEMORY=0`` it stays as it is. On a system without glibc, nothing happens.
    """
    if os.environ.get("WSSS_KEEP_MEMORY") == "0":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    try:
        library = ctypes.CDLL(None)
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)
    except (AttributeError, OSError, TypeError):
        return


def check_devices(accelerator: str, devices: int, precision: str) -> None:
    """Raise InputError if :func:`make_fabric` could not deliver what these words ask for."""
    if accelerator not in ACCELERATORS:
        raise InputError(f"accelerator {accelerator!r} is unknown; choose one of {', '.join(ACCELERATORS)}.")
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wants_cuda = accelerator == "cuda" or (accelerator == "auto" and available)
    if accelerator == "cuda" and not available:
        raise InputError("accelerator 'cuda' was asked for, but PyTorch finds no CUDA device; use 'cpu' or 'auto'.")
    if wants_cuda and devices > available:
        raise InputError(f"devices is {devices}, but PyTorch finds {available} CUDA devices; ask for fewer.")
    if precision == "16-mixed" and not wants_cuda:
        raise InputError("precision '16-mixed' needs CUDA; use 'bf16-mixed' or '32-true' on a CPU.")


def loaded(batches: Iterable[T]) -> Iterator[T]:
    """Yield what a data loader yields; an InputError of one of its processes comes out as its sentence alone.

    PyTorch puts the stack of the worker process into the message, and keeps the exception in a circle of references,
    which would make the garbage collector wait for the processes for seconds.
    """
    try:
        with loaders_watched(), loaders_watched():  # PyTorch may raise while the inner one is left
            yield from batches
        return
    except InputError as error:
        sentence = str(error).rpartition(f"{InputError.__name__}: ")[2].strip()
        error.with_traceback(None)
    raise InputError(sentence)


@contextmanager
def loaders_watched() -> Iterator[None]:
    """Turn what PyTorch raises when a process of a data loader was killed into a ProcessError.

    PyTorch raises it wherever the main thread happens to be, for example in the middle of a training step.
    """
    try:
        try:
            yield
            return
        except (ConnectionError, EOFError):  # the sockets of a process close before the system says that it has ended
            time.sleep(1)  # PyTorch raises in here
            raise
    except RuntimeError as error:
        found = _LOST_LOADER.match(str(error))
        if not found:
            raise
    raise ProcessError(
        f"a process that loads images {found[1]} (perhaps because memory or shared memory was short); start the run "
        "again, and it continues; give it fewer workers if this happens again."
    )


def is_one_of_several() -> bool:
    """Return whether this process is one of several that torchrun or SLURM's srun started to work together."""
    return _inside_torchrun() or _tasks_of_srun() > 1


def rank() -> int:
    """Return the number of this process among those that work together; 0 if it works alone."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def _inside_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _tasks_of_srun() -> int:
    """Return how many tasks the job step has to which this process belongs; 0 for none.

    In a batch script and in an interactive shell the variables of the whole allocation are set (``SLURM_NTASKS=4``),
    and in a batch script even ``SLURM_PROCID``, but there is one process. Only a step was started by srun.
    """
    if not {"SLURM_STEP_ID", "SLURM_STEPID"} & os.environ.keys() or "SLURM_PROCID" not in os.environ:
        return 0
    return _count("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")


def _count(*names: str) -> int:
    """Return the number at the beginning of the first of some environment variables that has one; 1 without any."""
    found = (re.match(r"\d+", os.environ.get(name, "")) for name in names)
    return next((int(match[0]) for match in found if match), 1)


def _environment_of_srun() -> SLURMEnvironment:
    """Return Fabric's SLURM environment for a job step; Fabric reads variables that may be those of the allocation.

    Raises:
        InputError: The nodes have different numbers of tasks.
    """
    tasks = _tasks_of_srun()
    nodes = _count("SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    shares = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if tasks % nodes or "," in shares:
        raise InputError(f"srun shares {tasks} tasks unevenly among {nodes} nodes; give it --ntasks-per-node.")
    os.environ |= {"SLURM_NTASKS": str(tasks), "SLURM_NNODES": str(nodes), "SLURM_NTASKS_PER_NODE": str(tasks // nodes)}
    if "SLURM_STEP_NODELIST" in os.environ:
        os.environ["SLURM_NODELIST"] = os.environ["SLURM_STEP_NODELIST"]
    os.environ.setdefault("SLURM_NODEID", "0")
    return SLURMEnvironment(auto_requeue=False)


def _place_of_this_process(devices: int) -> tuple[ClusterEnvironment, int, int]:
    """Return Fabric's environment, the devices of this node and the number of nodes.

    Fabric itself would take every process in a SLURM allocation for one of several.
    """
    if _inside_torchrun():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        return TorchElasticEnvironment(), devices, int(os.environ["WORLD_SIZE"]) // devices
    if _tasks_of_srun() > 1:
        environment = _environment_of_srun()
        return environment, int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ["SLURM_NNODES"])
    return LightningEnvironment(), devices, 1


def launch_processes(count: int, arguments: Sequence[str]) -> None:
    """Run Python with ``arguments`` in ``count`` processes on this machine, through torchrun, and show what they say.

    When this process ends, they end as well, however it ends; see :mod:`wsss_lib.stages.agent`.

    Raises:
        InputError: A process raised it.
        ProcessError: A process was killed.
        RuntimeError: A process failed otherwise; the message is its traceback, or what the processes printed last.
    """
    torchrun = ["-m", agent.__name__, "--standalone", f"--nproc-per-node={count}"]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        agent.LAUNCHER: str(os.getpid()),
    }
    with subprocess.Popen(
        [sys.executable, *torchrun, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,  # an interrupt reaches this process alone, which then ends the others
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        Thread(target=_end_others, args=(process, process.stdin), daemon=True).start()
        try:
            said, reason = _show(process.stdout)
        finally:
            process.stdin.close()
            process.wait()
    if process.returncode:
        for kind in (InputError, ProcessError):
            if reason.startswith(f"{kind.__name__}: "):
                raise kind(reason.removeprefix(f"{kind.__name__}: "))
        if process.returncode < 0:
            name = agent.signal_name(-process.returncode)
            raise ProcessError(f"the process that starts the others was ended by {name}; start the run again.")
        raise RuntimeError("a training process failed:\n" + (reason or said))


def _end_others(process: subprocess.Popen[str], pipe: IO[str]) -> None:
    """Close the pipe that keeps the workers alive as soon as the process that started them has ended."""
    process.wait()
    pipe.close()


def _show(output: Iterable[str]) -> tuple[str, str]:
    """Print the output of the processes as it comes, and return its last lines and the reason of a failure."""
    last: deque[str] = deque(maxlen=40)
    reason = ""
    for line in output:
        if reason or line.startswith(agent.LAST_WORD):
            reason += line
        elif not _LOG_OF_TORCHRUN.match(line):
            last.append(line)
            print(line, end="", flush=True)
    return "".join(last), reason.removeprefix(agent.LAST_WORD).rstrip()
