"""The networks that a run keeps after each epoch, in the files ``epochs/<number>.pt`` of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsss_lib.errors import InputError
from wsss_lib.methods.method import Method
from wsss_lib.runs.folder import EPOCHS, epoch_files
from wsss_lib.stages.provenance import network_digest, remove_empty
from wsss_lib.stages.store import read_checkpoint, write_checkpoint


class KeptEpochs:
    """The kept networks of one run. Optimisers are not kept: training goes on from ``checkpoint.pt`` alone.

    Args:
        folder: Folder of the run; it need not hold networks yet.
    """

    def __init__(self, folder: Path) -> None:
        self.run_folder = folder
        self.folder = folder / EPOCHS

    def path(self, epoch: int) -> Path:
        """Return the file of an epoch, counted from 1."""
        return self.folder / f"{epoch:03d}.pt"

    def write(self, epoch: int, method: Method, run: str) -> None:
        """Keep the networks of a method.

        Args:
            epoch: Number of the epoch that is finished, from 1.
            method: The method as this epoch has left it.
            run: Short name of the run, which the file carries.
        """
        networks = method.state_dict()["networks"]
        write_checkpoint(self.path(epoch), {"networks": networks, "digest": network_digest(networks), "run": run})

    def history(self) -> list[dict[str, Any]]:
        """Return the rows of all finished epochs, those of networks that were not kept as well."""
        path = self.run_folder / "checkpoint.pt"
        return list(read_checkpoint(path)["history"]) if path.is_file() else []

    def numbers(self) -> list[int]:
        """Return the numbers of the finished epochs whose networks are kept, in ascending order."""
        done = len(self.history())
        return [number for number in sorted(int(path.stem) for path in epoch_files(self.run_folder)) if number <= done]

    def check(self, epoch: int) -> None:
        """Raise InputError unless the networks of an epoch, counted from 1, are kept."""
        if epoch not in (kept := self.numbers()):
            known = f"those of {', '.join(map(str, kept))}" if kept else "none"
            raise InputError(
                f"{self.run_folder} has not kept the network of epoch {epoch} but {known}; name a kept epoch, or train "
                "with keep_epochs=True in another folder (the number of epochs to train is called epochs)."
            )

    def checkpoint(self, epoch: int, run: str, reader: str) -> dict[str, Any]:
        """Return the checkpoint of a run that has the networks of an epoch.

        Args:
            epoch: Number of the epoch, from 1.
            run: Short name of the run that has kept the networks.
            reader: Short name of the run that gets the checkpoint.

        Raises:
            InputError: The networks of this epoch were not kept, or their file is damaged or of another run.
        """
        self.check(epoch)
        path, state = self.path(epoch), read_checkpoint(self.path(epoch))
        networks = state.get("networks")
        if state.get("run") != run or not isinstance(networks, dict) or network_digest(networks) != state.get("digest"):
            raise InputError(f"{path} is of another run or has changed since it was written; put the old file back.")
        return {
            "method": {"networks": networks, "optimizers": {}, "schedules": {}},
            "history": self.history()[:epoch],
            "run": reader,
            "networks": state["digest"],
        }

    def remove_after(self, epoch: int) -> None:
        """Remove the networks of the epochs after a number, because these epochs are trained anew."""
        for path in epoch_files(self.run_folder):
            if int(path.stem) > epoch:
                path.unlink(missing_ok=True)
        remove_empty(self.folder)
