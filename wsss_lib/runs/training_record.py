"""``training.json`` of a run: from which files besides the pictures, and by which versions, the run was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss_lib.errors import InputError
from wsss_lib.stages.provenance import add_maker, are_makers
from wsss_lib.stages.store import read_json, write_json


class TrainingRecord:
    """The record of one run.

    Args:
        folder: Folder of the run; it need not hold a record yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "training.json"

    def read(self) -> dict[str, Any]:
        """Return ``from``, the sources by name, and ``made``, the versions that trained the run from an epoch on."""
        try:
            record = read_json(self.path)
            sources, rows = dict(record["from"]), record["made"]
            fine = are_makers(rows) and all(isinstance(row.get("epoch"), int) for row in rows)
            return {"from": sources, "made": rows if fine else []}
        except (InputError, KeyError, TypeError, ValueError):  # missing, or damaged: then it is not known
            return {"from": {}, "made": []}

    def write(self, finished: int, sources: Mapping[str, str], maker: Mapping[str, Any]) -> None:
        """Write the record before training begins or continues.

        Args:
            finished: Number of epochs that are finished.
            sources: Sources of everything besides the pictures that training uses, by name.
            maker: Time, versions and device of this training, see :func:`wsss_lib.stages.provenance.maker`.
        """
        rows = [row for row in self.read()["made"] if row["epoch"] <= finished]
        write_json(self.path, {"from": dict(sources), "made": add_maker(rows, {"epoch": finished + 1, **maker})})

    def refuse_other_sources(self, sources: Mapping[str, str]) -> None:
        """Raise InputError if the run was trained from other sources than these."""
        for name, before in self.read()["from"].items():
            if sources.get(name, before) != before:
                raise InputError(
                    f"{self.folder} has learned from the {name} {before}, and now there is {sources[name]}; give "
                    "another folder as out, or resume=False to start over."
                )
