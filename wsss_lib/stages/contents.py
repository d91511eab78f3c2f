"""Short digests of the content of files, by which a run notices that its pictures have changed.

Reading 82,783 pictures takes minutes; reading their sizes and times takes under a second. So a digest is kept together
with the size, the times and the inode number of its file. A file is read again only if one of these has changed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wsss_lib.data.dataset import Dataset
from wsss_lib.errors import InputError
from wsss_lib.show.progress import bar

_READERS = 8
"""Threads that read files."""

_SETTLED = 2_000_000_000
"""Nanoseconds after a file's last change from which its times show the next change; file systems count coarsely."""

Remembered = Mapping[str, Sequence[Any]]
"""For every path, the digest of the file, then the values of :func:`_signature`."""

_of_this_process: dict[str, list[Any]] = {}


class Digests:
    """Digests of files: the first 16 hexadecimal digits of SHA-256.

    Args:
        remembered: Result of an earlier :meth:`to_dict`.
        read_all: Whether every file is read once, even if its digest is remembered.
    """

    def __init__(self, remembered: Remembered | None = None, read_all: bool = False) -> None:
        self.remembered = {name: entry for name, entry in (remembered or {}).items() if _is_entry(entry)}
        self.read_all = read_all
        self._known: dict[str, list[Any]] = {}

    def of(self, paths: Sequence[Path], title: str) -> list[str]:
        """Return the digest of every file.

        Args:
            paths: Files.
            title: Name of the files, for the progress bar.

        Raises:
            InputError: A file is missing or cannot be read.
        """
        names = [os.fspath(path) for path in paths]
        signatures = [_signature(name) for name in names]
        stale = [i for i, name in enumerate(names) if not self._is_known(name, signatures[i])]
        if stale:
            with ThreadPoolExecutor(_READERS) as pool:
                found = pool.map(lambda i: file_digest(Path(names[i]))[:16], stale)
                for i, digest in zip(stale, bar(found, f"contents of {title}", len(stale)), strict=True):
                    self._remember(names[i], digest, signatures[i])
        return [self._known[name][0] for name in names]

    def changed(self, paths: Sequence[Path]) -> list[Path]:
        """Return the files, of those that were remembered when this object was made, that hold something else now."""
        names = [os.fspath(path) for path in paths]
        before = self.remembered
        return [Path(name) for name in names if name in before and before[name][0] != self._known[name][0]]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the digests of all files that :meth:`of` was called with, as plain values."""
        return dict(self._known)

    def _is_known(self, name: str, signature: list[int]) -> bool:
        for source in (self._known, *(() if self.read_all else (_of_this_process, self.remembered))):
            entry = source.get(name)
            if entry is not None and list(entry[1:]) == signature:
                self._known[name] = list(entry)
                return True
        return False

    def _remember(self, name: str, digest: str, signature: list[int]) -> None:
        settled = time.time_ns() - max(signature[1:3]) > _SETTLED
        self._known[name] = [digest, *signature] if settled else [digest]  # without a signature the file is read again
        _of_this_process[name] = self._known[name]


def _is_entry(entry: Any) -> bool:
    """Return whether an entry of a file has the form that :meth:`Digests.to_dict` gives it."""
    if not isinstance(entry, list) or len(entry) not in (1, 5) or not isinstance(entry[0], str):
        return False
    return all(type(value) is int for value in entry[1:])


def _signature(name: str) -> list[int]:
    """Return size, time of change, time of change of the entry, and number of a file: another content changes one."""
    try:
        found = Path(name).stat()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}); put the file there.") from None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give the path of a file that exists.") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); give the path of a file that exists."
        ) from None


def combined(digests: Iterable[str]) -> str:
    """Return one digest of 16 digits for many in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def picture_files(data: Dataset) -> list[Path]:
    """Return the file of every image, or nothing if the images are drawn or lie in memory."""
    files = [data.image_file(index) for index in range(len(data))]
    return [file for file in files if file is not None]


def picture_digest(data: Dataset, digests: Digests) -> str:
    """Return one digest for all pictures of a data set: of their files, or of their pixels if they are drawn.

    Args:
        data: Images.
        digests: Digests of files; those of the data set are added.
    """
    files = picture_files(data)
    if files:
        return combined(digests.of(files, data.name))
    pictures = hashlib.sha256()
    for index in range(len(data)):
        pixels = np.asarray(data.image(index))
        pictures.update(f"{pixels.shape}".encode())
        pictures.update(pixels.tobytes())
    return pictures.hexdigest()[:16]
