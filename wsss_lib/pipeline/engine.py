"""Devices and precision, checked before anything starts."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from lightning_fabric import Fabric

from wsss_lib.errors import InputError

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

_LOG_OF_TORCHRUN = re.compile(r"\[?[IWE]\d{4} ")
"""How a line of torchrun's own log begins: the level, month and day."""

T = TypeVar("T")


def make_fabric(accelerator: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """Return Lightning Fabric for this process, launched.

    Args:
        accelerator: ``auto`` (CUDA where there is a device), ``cpu`` or ``cuda``.
        devices: How many; more than one needs as many processes. Inside torchrun, its number of processes counts.
        precision: ``32-true``, or ``bf16-mixed`` or ``16-mixed`` for automatic mixed precision.

    Raises:
        InputError: A value is unknown, or there are fewer CUDA devices than asked for.
    """
    check_devices(accelerator, devices, precision)
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu":
        keep_freed_memory()
    nodes = 1
    if inside_torchrun():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next allocation instead of giving it back to the system.

    By default glibc maps every large block anew and unmaps it when it is freed, so that the system must clear and
    map it again, page by page, for every layer of a network. Without that, MobileNetV2 on a CPU inferred 1.5 times
    and trained 1.35 times as fast (`benchmarks/memory.py`). Where there is no glibc, nothing happens.
    """
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
        yield from batches
        return
    except InputError as error:
        sentence = str(error).rpartition(f"{InputError.__name__}: ")[2].strip()
        error.with_traceback(None)
    raise InputError(sentence)


def inside_torchrun() -> bool:
    """Return whether this process is one of several that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch_processes(count: int, arguments: Sequence[str]) -> None:
    """Run Python with ``arguments`` in ``count`` processes on this machine, through torchrun, and show what they say.

    Raises:
        InputError: A process failed; the message is the last line that they printed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *arguments]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "WSSS_LAUNCHER": str(os.getpid()),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
    }
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if not _LOG_OF_TORCHRUN.match(line):
                print(line, end="", flush=True)
    if process.returncode:
        said = [line for line in lines if line.startswith("InputError: ")]
        if said:
            raise InputError(said[0].removeprefix("InputError: "))
        raise RuntimeError("a training process failed:\n" + "\n".join(lines[-40:]))
