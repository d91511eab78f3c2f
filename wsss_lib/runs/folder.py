"""The folder of a run: to whom it belongs, what lies in it, which process works in it, and how it is emptied.

``config.json`` is written when a run claims its folder. It says in which format the folder is, which version of the
library wrote it, and what decides the numbers of the run (its identity).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import wsss_lib
from wsss_lib.data.files import is_unfinished
from wsss_lib.errors import InputError
from wsss_lib.stages.agent import LAUNCHER
from wsss_lib.stages.contents import Digests
from wsss_lib.stages.engine import is_one_of_several, rank
from wsss_lib.stages.provenance import RECORD, read_record, remove_empty
from wsss_lib.stages.store import Store, read_json, write_json

FORMAT = 2
"""Format of a run's folder. Version 0.1.0 wrote format 1: no number, no records beside stores, and float16 maps."""

SUBRUNS = ("cam_run", "seeds", "classifier", "superpixels")
"""Folders that hold another run; ``seeds`` is the name of ``cam_run`` in runs of version 0.1.0."""

_RENAMED = {"data training": "data fit", "pictures training": "pictures fit", "seeds": "cams"}
"""Present names of those parts of an identity that had other names in version 0.1.0."""

SUBRUN_GROUPS = ("segmentation", "variants", "refined")
"""Folders that hold a folder for each of several other runs."""

STORES = {"cams": 1, "growth": 1, "scores": 2, "masks": 2}
"""Folders that hold stores, and how deep the folder of a store lies in them."""

EPOCHS = "epochs"
"""Folder of the networks that a run has kept after each epoch, see `wsss_lib.runs.epochs`."""

FILES = (
    "checkpoint.pt",
    "log.jsonl",
    "metrics.json",
    "seconds.json",
    "training.json",
    "images.json",
    "model.safetensors",
    "report.html",
)
"""Files of a run besides ``config.json``."""

_ADDED_IN_FORMAT_2 = ("pictures ", "saliency content")
"""Beginnings of the parts of an identity that folders of format 1 do not have."""

_SUFFIX_OF = {"cams": ".npz", "growth": ".npz", "scores": ".npz", "masks": ".png"}
"""Endings of the files in stores."""

_SPLIT = "(train|val|training)"
_OLD_STORE = re.compile(
    rf"cams/{_SPLIT}|growth/\d{{3}}|scores/(crf-[\d.]+|walk|segmentation)/{_SPLIT}"
    rf"|masks/(crf-[\d.]+|seed-[\d.]+|walk|walk-crf|segmentation|segmentation-crf)/{_SPLIT}"
)
"""Folders of stores that a run of format 1 makes."""

_locks: dict[Path, tuple[FileLock | None, int]] = {}
"""The locks that this process holds, and how often it has entered each."""


def holds_run(folder: Path) -> bool:
    """Return whether a run has claimed a folder."""
    return (folder / "config.json").is_file()


def epoch_files(folder: Path) -> list[Path]:
    """Return the files of the networks that the run in a folder has kept, ``epochs/<number>.pt``."""
    return [path for path in sorted((folder / EPOCHS).glob("*.pt")) if re.fullmatch(r"\d{3,}", path.stem)]


def read_config(folder: Path, removing: bool = False) -> dict[str, Any]:
    """Return the content of a folder's ``config.json``.

    Args:
        folder: Folder of a run.
        removing: Whether a run may be read although its removal has begun.

    Raises:
        InputError: The file is missing, damaged, of another program or of a newer version, or the run is half removed.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a run.")
    if not path.exists():
        raise InputError(f"{path} is missing; give the folder of a run.")
    content = read_json(path, "put back a copy of this file, or give another folder as out")
    parts = ("identity", "settings")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in parts):
        raise InputError(f"{path} is not the configuration of a run; give another folder as out.")
    if not isinstance(content.get("format", 1), int) or content.get("format", 1) > FORMAT:
        raise InputError(
            f"{path} has the format {content['format']}, written by wsss_lib {writer(content)}, and wsss_lib "
            f"{wsss_lib.__version__} reads formats up to {FORMAT}; use the newer version, or give another "
            "folder as out."
        )
    if content.get("state") == "removing" and not removing:
        raise InputError(f"{folder} is half removed; start its own notebook again, which finishes the removal.")
    return content


def writer(content: Mapping[str, Any]) -> str:
    """Return which version of the library wrote a ``config.json``."""
    return str(content.get("version", "0.1.0"))


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # ---------------------------------------------------------------------------------------------------- one owner

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, which one process can have at a time; the process's own helpers share it.

        The operating system frees the lock of a process that is killed.

        Raises:
            InputError: Another process holds the lock.
        """
        if is_helper():
            yield
            return
        key = self.path.resolve()
        lock, count = _locks.get(key) or (self._acquire(), 0)
        _locks[key] = lock, count + 1
        try:
            yield
        finally:
            lock, count = _locks.pop(key)
            if count > 1:
                _locks[key] = lock, count - 1
            else:
                with contextlib.suppress(OSError):
                    (self.path / ".owner").unlink(missing_ok=True)
                    if [path.name for path in self.path.iterdir()] == [".lock"]:  # the run was refused
                        (self.path / ".lock").unlink()
                        self.path.rmdir()
                if lock is not None:
                    lock.release()

    def _acquire(self) -> FileLock | None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"out {self.path} is a file; give a folder.")
        owner = self.path / ".owner"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%H:%M:%S')}")
        except Timeout:
            try:
                who = owner.read_text(errors="replace") or "another process"
            except OSError:
                who = "another process"
            raise InputError(
                f"{self.path} is in use ({who}); wait for its end, stop it, or give another folder as out."
            ) from None
        except NotImplementedError:  # a file system without locks, as some clusters have
            return None
        except OSError as error:
            raise InputError(
                f"{self.path / 'config.json'} cannot be written ({error.strerror or error}); make room on the disk or "
                "choose a folder that you may write to."
            ) from None
        return lock

    # --------------------------------------------------------------------------------------------------- what it is

    @property
    def is_claimed(self) -> bool:
        """Whether a run has claimed the folder."""
        return holds_run(self.path)

    @property
    def is_old(self) -> bool:
        """Whether the folder is of format 1, whose stores have no records."""
        return self.is_claimed and read_config(self.path).get("format", 1) == 1

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers of the run in the folder."""
        return {_RENAMED.get(name, name): value for name, value in read_config(self.path)["identity"].items()}

    @property
    def has_old_names(self) -> bool:
        """Whether the folder's files have the names of version 0.1.0, such as ``training`` for the split ``fit``."""
        return self.is_claimed and not _RENAMED.keys().isdisjoint(read_config(self.path)["identity"])

    def store_records(self) -> dict[str, Any]:
        """Return by what and when the stores of maps, scores and masks were made, by the names of their folders."""
        found = {}
        for name, depth in STORES.items():
            if name != "growth":
                for path in sorted((self.path / name).glob("/".join([*["*"] * depth, RECORD]))):
                    found[path.parent.relative_to(self.path).as_posix()] = read_record(Store(path.parent)) or {}
        return found

    def fingerprint(self) -> str:
        """Return a short name of the identity that the run had when it claimed the folder."""
        content = read_config(self.path)
        added = content.get("added", [])  # parts that came later; the name is that of the identity at the beginning
        return _fingerprint({name: value for name, value in content["identity"].items() if name not in added})

    def digests(self) -> Digests:
        """Return the digests of files that the run has read, as far as they are known."""
        content = _read_or_none(self.path / "images.json")
        files = content.get("files") if isinstance(content, dict) else None
        return Digests(files if isinstance(files, dict) else {})  # without the digests every file is read again

    def refuse_orphans(self) -> None:
        """Raise InputError if files of a run lie in the folder without ``config.json``, which says what made them."""
        if self.is_claimed:
            return
        found = next((name for name in FILES if (self.path / name).is_file()), None)
        found = found or next((str(path.relative_to(self.path)) for path in epoch_files(self.path)), None)
        for name, depth in STORES.items():
            inside = (self.path / name).glob("/".join(["*"] * (depth + 1)))
            found = found or next((str(p.relative_to(self.path)) for p in inside if p.suffix == _SUFFIX_OF[name]), None)
        if found:
            raise InputError(
                f"{self.path} holds {found} but not the config.json that says what made this file; give another "
                "folder as out, or put config.json back."
            )

    def refuse_other(self, identity: Mapping[str, Any], defaults: Mapping[str, Any], names: Sequence[str] = ()) -> None:
        """Raise InputError if the folder holds a run with another identity.

        Args:
            identity: Everything that decides the numbers of the run that wants the folder.
            defaults: Values of settings that are newer than the folder's run, by name.
            names: The parts of the identity to compare; empty for all.
        """
        if not self.is_claimed:
            return
        identity, defaults = (json.loads(json.dumps(values)) for values in (identity, defaults))  # as in the file
        found = {**defaults, **self.identity()}
        for name in names or [*identity, *found]:
            if name not in found and self.is_old and name.startswith(_ADDED_IN_FORMAT_2):
                continue
            there, here = found.get(name), identity.get(name)
            if there != here:
                raise InputError(
                    f"{self.path} holds another run ({name} is {there!r} there and {here!r} here); give another "
                    "folder as out, or resume=False to remove it and start over."
                )

    def claim(
        self,
        identity: Mapping[str, Any],
        settings: Mapping[str, Any],
        ids: Iterable[str],
        digests: Digests,
        part: bool = False,
    ) -> None:
        """Make the folder belong to a run: write ``images.json`` and ``config.json``, if they change.

        Args:
            identity: Everything that decides the numbers of the run.
            settings: All settings, as plain values.
            ids: Ids of all images of the run.
            digests: Digests of all files that the run reads.
            part: Whether another run has made this one for its own use, and removes it together with its own files.
        """
        known = read_config(self.path) if self.is_claimed else {}
        before = known.get("identity", {})
        names = {_RENAMED.get(name, name) for name in before}
        new = {name: value for name, value in identity.items() if name not in names}
        added = [*known.get("added", []), *(new if known else ())]
        content = {
            **({} if known.get("format", 1) == 1 and known else {"format": FORMAT}),
            "version": writer(known) if known else wsss_lib.__version__,
            **({"added": added} if added else {}),
            **({"part": True} if part or known.get("part") else {}),
            "identity": {**new, **before},
            "settings": dict(settings),
        }
        images = {"ids": sorted(ids), "files": digests.to_dict()}
        if content != known:  # first: without config.json, the other files would belong to no run
            write_json(self.path / "config.json", content)
        if images != _read_or_none(self.path / "images.json"):
            write_json(self.path / "images.json", images, indent=None)

    def update_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings that do not decide numbers, such as where the data lie, if they have changed."""
        content = read_config(self.path)
        if content["settings"] != settings:
            write_json(self.path / "config.json", {**content, "settings": dict(settings)})

    # ------------------------------------------------------------------------------------------------- emptying it

    def remove_unfinished(self) -> None:
        """Remove what a process of this run that was killed while it wrote has left; the lock must be held.

        The same is done for the runs in this folder, but for one in which another process works.
        """
        for part in self._subruns():
            if part.is_claimed:
                with contextlib.suppress(InputError), part.locked():
                    part.remove_unfinished()
        patterns = (".tmp-*", f"{EPOCHS}/.tmp-*", *(f"{name}/**/.tmp-*" for name in STORES))
        for path in [path for pattern in patterns for path in self.path.glob(pattern) if is_unfinished(path)]:
            path.unlink(missing_ok=True)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove the files that runs have written here, and no others; the lock must be held.

        A removal that is killed is finished by the next one: ``config.json`` is removed last, and its ``state`` says
        that the removal has begun.

        Args:
            ids: Ids of the images whose files a run of format 1 may have written.

        Raises:
            InputError: Another process works in a run that this run has made for its own use; nothing is removed then.
        """
        content = read_config(self.path, removing=True)  # another program's config.json is not ours to remove
        old = content.get("format", 1) == 1
        with ExitStack() as locks:
            parts = [part for part in self._subruns() if part.is_claimed and part._is_part(old)]
            for part in parts:
                locks.enter_context(part.locked())
            write_json(self.path / "config.json", {**content, "state": "removing"})
            images = _read_or_none(self.path / "images.json")
            listed = images.get("ids") if isinstance(images, dict) else None
            known = set(listed if isinstance(listed, list) else ids)
            for part in parts:
                part.remove(known)
                (part.path / ".lock").unlink(missing_ok=True)
                (part.path / ".owner").unlink(missing_ok=True)
                remove_empty(part.path)
            for name in SUBRUN_GROUPS:
                remove_empty(self.path / name)
            for name, depth in STORES.items():
                for folder in sorted((self.path / name).glob("/".join(["*"] * depth))):
                    named = _OLD_STORE.fullmatch(folder.relative_to(self.path).as_posix())
                    if (folder / RECORD).is_file() or (old and named):
                        _remove_store(folder, known, _SUFFIX_OF[name])
                        remove_empty(folder.parent)
                remove_empty(self.path / name)
            for path in epoch_files(self.path):
                path.unlink()
            remove_empty(self.path / EPOCHS)
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            (self.path / "config.json").unlink()

    def finish_removal(self, ids: Iterable[str]) -> None:
        """Finish a removal that was killed; the lock must be held."""
        content = _read_or_none(self.path / "config.json")
        if isinstance(content, dict) and content.get("state") == "removing":
            self.remove(ids)

    def _subruns(self) -> list[RunFolder]:
        """Return the folders in which runs of this run's own may lie."""
        groups = [folder for group in SUBRUN_GROUPS for folder in sorted((self.path / group).glob("*"))]
        return [RunFolder(folder) for folder in (*(self.path / name for name in SUBRUNS), *groups)]

    def _is_part(self, old: bool) -> bool:
        """Return whether the run in this folder was made by the one around it; runs of format 1 do not say so."""
        content = read_config(self.path, removing=True)
        return bool(content.get("part")) or (old and content.get("format", 1) == 1)


def is_helper() -> bool:
    """Return whether this process helps another one that holds the lock of its run."""
    return LAUNCHER in os.environ or (is_one_of_several() and rank() > 0)


def _fingerprint(identity: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(identity, sort_keys=True).encode()):08x}"


def _read_or_none(path: Path) -> Any:
    try:
        return read_json(path)
    except InputError:
        return None


def _remove_store(folder: Path, ids: Collection[str], suffix: str) -> None:
    for path in [path for path in folder.iterdir() if path.stem in ids and path.suffix == suffix]:
        path.unlink()
    (folder / RECORD).unlink(missing_ok=True)
    remove_empty(folder)
