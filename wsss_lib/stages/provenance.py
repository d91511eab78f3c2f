"""Records of the sources, versions and times of a run's files, one beside every store, and digests of networks."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import wsss_lib
from wsss_lib.errors import InputError
from wsss_lib.stages.store import Store, read_json, write_json

RECORD = "made.json"
"""Name of the record in the folder of a store."""

DAMAGED = "a damaged record"

UNKNOWN = "unknown"
"""The source of a store without a record."""


def versions() -> dict[str, str]:
    """Return the versions that a number may depend on."""
    names = ("torch", "torchvision", "lightning-fabric", "pillow")
    found = {name: version(name) for name in names}
    return {"wsss_lib": wsss_lib.__version__, "python": platform.python_version(), "numpy": np.__version__, **found}


def device_name(device: torch.device) -> str:
    """Return the name of a device: of a GPU its model, of a CPU its architecture and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def maker(device: torch.device) -> dict[str, Any]:
    """Return what makes something now: time (UTC), versions and device, as plain values."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": now, "versions": versions(), "device": device_name(device)}


def add_maker(makers: Iterable[Mapping[str, Any]], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a list of makers with one more, unless that has the versions and the device of the last one."""
    known = [dict(one) for one in makers]
    same = known and all(known[-1].get(name) == new[name] for name in ("versions", "device"))
    return known if same else [*known, dict(new)]


# -------------------------------------------------------------------------------------------------------- networks


def network_digest(state: Mapping[str, Any]) -> str:
    """Return a digest of 16 digits of the tensors in a nested dictionary such as a state dictionary.

    Args:
        state: Tensors, and dictionaries of them, by name; any device and dtype.
    """
    digest = hashlib.sha256()
    for name, tensor in _tensors(state, ""):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _tensors(state: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


# ---------------------------------------------------------------------------------------------------------- stores


def read_record(store: Store) -> dict[str, Any] | None:
    """Return the record of a store, or None if the store has none; the source of a damaged record is `DAMAGED`."""
    path = store.folder / RECORD
    if not path.is_file():
        return None
    try:
        record = read_json(path)
    except InputError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("source"), str) or not are_makers(record.get("made")):
        return {"source": DAMAGED, "made": []}
    return record


def are_makers(value: Any) -> bool:
    """Return whether a value is a list of what :func:`maker` returns."""
    return isinstance(value, list) and all(isinstance(one, dict) and "versions" in one for one in value)


def begin(store: Store, source: str, ids: Sequence[str], made_by: Mapping[str, Any], adopt: bool) -> None:
    """Make a store ready for files that are made from a source; files from another source are removed.

    Args:
        store: A store of this run.
        source: Name of the source that the store's files are made from, for example ``network 0123456789abcdef``.
        ids: Ids of the images whose files belong into it.
        made_by: Result of :func:`maker`.
        adopt: Whether files without a record may stay, because their run is older than the records.

    Raises:
        InputError: There are files that this run has not written.
    """
    record = read_record(store)
    found = _first_file(store) if record is None else None
    if found is not None and not adopt:
        raise InputError(
            f"{found} was not written by this run; move the files in {store.folder} elsewhere and start the run again."
        )
    if record is not None and record["source"] not in (source, UNKNOWN):
        print(f"{store.folder} is made again: it was made from {record['source']}, and now there is {source}.")
        remove_files(store, ids)
        record = None
    makers = record.get("made", []) if record else []
    if any(image_id not in store for image_id in ids):  # otherwise nothing is made now
        makers = add_maker(makers, made_by)
    new = {"source": source, "made": makers}
    if new != record:
        write_json(store.folder / RECORD, new)


def require(store: Store, source: Callable[[], str]) -> None:
    """Raise InputError if a store has a record that names another source.

    Args:
        store: A store of this run.
        source: Returns what its files should have been made from; called only for a store with a record.
    """
    record = read_record(store)
    if record is not None and record["source"] != UNKNOWN and record["source"] != (now := source()):
        raise InputError(
            f"{store.folder} was made from {record['source']}, and now there is {now}; "
            "run the stage that makes this folder again."
        )


def source_of(store: Store) -> str:
    """Return the source of a store, which is also the source of everything that is made from the store."""
    record = read_record(store)
    return UNKNOWN if record is None else record["source"]


def _first_file(store: Store) -> Path | None:
    """Return a file of the store's kind, or None if the store is empty."""
    return next(store.folder.glob(f"*{store.suffix}"), None) if store.folder.is_dir() else None


def remove_files(store: Store, ids: Iterable[str]) -> None:
    """Remove the files of a store and its record; other files in the folder stay, and so does the folder then."""
    for image_id in ids:
        store.path(image_id).unlink(missing_ok=True)
    (store.folder / RECORD).unlink(missing_ok=True)
    remove_empty(store.folder)


def remove_empty(folder: Path) -> None:
    """Remove a folder unless something lies in it."""
    try:
        folder.rmdir()
    except OSError:
        return
