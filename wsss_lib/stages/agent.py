"""The process between a notebook and its workers: it runs torchrun, and reports why a worker has failed.

The launcher, which is the notebook's process, starts this module; this module starts the workers. All have the read end
of one pipe as their standard input. Only the launcher has the other end: when the launcher ends, however it ends, the
system closes the pipe, and all the other processes end too.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

LAUNCHER = "WSSS_LAUNCHER"
"""Environment variable of the workers: the number of the launcher's process."""

LAST_WORD = "\x1e"
"""Mark in the output before the reason of a failure."""

_REPORT = "WSSS_REPORT"
"""Environment variable of the workers: the file into which the first one that fails writes why."""

_OUT_OF_TOUCH = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""Words of Gloo and NCCL in a worker that can no longer reach another worker."""


def end_with_launcher(end: Callable[[], object] | None = None) -> None:
    """From now on, end this process as soon as its launcher has ended; without a launcher, do nothing.

    Args:
        end: Function that ends this process; the default kills this process and the processes that load its images.
    """
    if LAUNCHER in os.environ:
        Thread(target=_wait_for_end, args=(end or _kill,), daemon=True).start()


def _wait_for_end(end: Callable[[], object]) -> None:
    while os.read(0, 1024):  # nothing is written, so this returns at the end of the pipe
        pass
    end()


def _kill() -> None:
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # torchrun has made a group of each worker
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def report(reason: str) -> bool:
    """Tell the launcher why this worker fails, unless another worker has failed before.

    Args:
        reason: A traceback, or an exception as ``InputError: sentence``.

    Returns:
        Whether there is a launcher.
    """
    if _REPORT not in os.environ:
        return False
    with (
        suppress(OSError),
        Path(os.environ[_REPORT]).open("x") as file,
    ):  # the first report counts
        file.write(reason)
    return True


def last_word(exit_codes: dict[int, int], reported: str) -> str:
    """Return the reason why workers failed: a worker's own report, or one sentence on a worker that was killed.

    Args:
        exit_codes: Exit codes of the workers that failed, by the worker's number from 0; a signal is negative.
        reported: Report of the first worker that noticed an error, or "".
    """
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0}
    first = {rank: number for rank, number in killed.items() if number != signal.SIGTERM}
    if not first:  # torchrun itself ends with SIGTERM those that are left when one has failed
        lost = any(words in reported for words in _OUT_OF_TOUCH)
        if not lost and (reported or len(killed) < len(exit_codes)):
            return reported
    first = first or killed
    who = f"worker process {min(first) + 1}" if len(first) == 1 else "one of the worker processes"
    return f"ProcessError: {who} was ended by {signal_name(first[min(first)])}; start the run again, and it continues."


def signal_name(number: int) -> str:
    """Return a signal with its name, and what it usually means if that is not known to everybody."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"signal {number} ({name}{', perhaps because memory was short' * (name in ('SIGKILL', 'SIGBUS'))})"


def main() -> int:
    """Run torchrun with its arguments, and report at the end why workers failed."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    end_with_launcher(lambda: os.kill(os.getpid(), signal.SIGTERM))  # torchrun then ends the workers
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report"
        os.environ[_REPORT] = str(path)
        try:
            run.main()
        except ChildFailedError as error:
            for failure in error.failures.values():
                with suppress(OSError):
                    os.killpg(failure.pid, signal.SIGKILL)  # a worker's own processes, which outlive it
            exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            print(LAST_WORD + last_word(exit_codes, path.read_text() if path.is_file() else ""), flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
