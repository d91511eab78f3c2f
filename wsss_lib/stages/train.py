"""The training loop, in the open. Lightning Fabric takes care of devices and precision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from wsss_lib.errors import InputError
from wsss_lib.methods.method import Batch, Method
from wsss_lib.ops.values import all_finite
from wsss_lib.show.progress import bar
from wsss_lib.stages.engine import loaded
from wsss_lib.stages.examples import TrainingImages
from wsss_lib.stages.provenance import network_digest
from wsss_lib.stages.store import read_checkpoint, restore_json_lines, write_checkpoint, write_json_lines

History = list[dict[str, Any]]


class TrainingBatches:
    """The shuffled batches of an epoch, on the right device, divided among the processes.

    Args:
        images: The augmented images.
        batch_size: Images per step, over all processes together; fewer, with a message, if there are not so many
            images.
        fabric: The engine.
        seed: Seed of the run; the order of an epoch depends on the seed and on the epoch.
        workers: Processes that decode and augment; 0 for none.

    Raises:
        InputError: A batch does not divide among the processes, or there are fewer images than processes.
    """

    def __init__(self, images: TrainingImages, batch_size: int, fabric: Fabric, seed: int, workers: int) -> None:
        if batch_size % fabric.world_size:
            raise InputError(
                f"batch_size {batch_size} is not a multiple of the number of devices, {fabric.world_size}."
            )
        if fabric.world_size > len(images):
            raise InputError(
                f"devices {fabric.world_size} are more than the {len(images)} images of {images.data.name}; give fewer."
            )
        if fabric.is_global_zero and (line := smaller_batches(batch_size, len(images), fabric.world_size)):
            print(line)
        batch_size = fitting_batch_size(batch_size, len(images), fabric.world_size)
        self.images = images
        self.fabric = fabric
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            images, fabric.world_size, fabric.global_rank, shuffle=True, seed=seed, drop_last=fabric.world_size > 1
        )
        self.loader = DataLoader(
            images,
            batch_size // fabric.world_size,
            sampler=self.sampler,
            num_workers=workers,
            drop_last=True,
            pin_memory=fabric.device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self.loader)

    def begin(self, epoch: int) -> None:
        """Choose the order and the augmentation of an epoch."""
        self.images.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels, indices in loaded(self.loader):
            yield Batch(*(self.fabric.to_device(x) for x in (images.contiguous(), labels, indices)))


def fitting_batch_size(batch_size: int, images: int, devices: int) -> int:
    """Return how many images a step takes: the wanted number, or all images if there are fewer.

    Args:
        batch_size: Wanted number of images.
        images: Number of training images.
        devices: Number of processes that share a batch equally.
    """
    return min(batch_size, images - images % devices)


def smaller_batches(batch_size: int, images: int, devices: int) -> str:
    """Say that batches are smaller than wanted, see :func:`fitting_batch_size`; "" if they are not."""
    fitting = fitting_batch_size(batch_size, images, devices)
    if fitting == batch_size:
        return ""
    return f"batch_size is lowered from {batch_size} to {fitting}, because the number of training images is {images}."


def train(
    method: Method,
    batches: TrainingBatches,
    fabric: Fabric,
    seed: int,
    folder: Path,
    report: Callable[[dict[str, Any]], None],
    after_epoch: Callable[[int], None],
    run: str = "",
) -> History:
    """Train a method to the end, or continue where an earlier call was stopped.

    Before the first and after every epoch ``checkpoint.pt`` is written to ``folder``, and after every epoch
    ``log.jsonl``. A run that is started again after a stop gives the same numbers as one that was never stopped.

    Args:
        method: The method to train.
        batches: The batches that the method is trained on.
        fabric: The engine.
        seed: Seed of the random draws inside the networks (dropout).
        folder: Folder of the run.
        report: Called with the summary of every finished epoch.
        after_epoch: Called with the number of an epoch, from 1, before the epoch is recorded as finished.
        run: Short name of the run, which its checkpoints carry.

    Returns:
        One row per epoch: `epoch` from 1, the mean losses, `learning_rate` of the first group, `seconds`.

    Raises:
        InputError: A loss or a weight is not finite.
    """
    epochs = method.config.epochs
    method.setup(fabric, total_steps=epochs * len(batches))
    path = folder / "checkpoint.pt"
    history = resume(method, folder, run)
    if fabric.is_global_zero and not path.is_file():  # in case the first epoch is interrupted
        write_training(path, method, [], run)
    if fabric.is_global_zero and history:
        restore_json_lines(folder / "log.jsonl", history)
    for epoch in range(len(history), epochs):
        start = time.perf_counter()
        batches.begin(epoch)
        torch.manual_seed((seed * 10_000 + epoch) * 1_000 + fabric.global_rank)
        method.train()
        method.begin_epoch(epoch, batches)
        losses = mean_over_processes(run_epoch(method, batches, epoch), fabric)
        check_weights(method, epoch)
        rate = next(iter(method.schedules.values())).get_last_lr()[0]
        history.append(
            {"epoch": epoch + 1, **losses, "learning_rate": rate, "seconds": round(time.perf_counter() - start, 2)}
        )
        if fabric.is_global_zero:
            after_epoch(epoch + 1)
            write_json_lines(folder / "log.jsonl", history)
            write_training(path, method, history, run)  # last: now the epoch is done
            report(history[-1])
        fabric.barrier()
    if fabric.world_size > 1:
        resume(method, folder, run)  # every process has running statistics of its own; those of the first are kept
    method.train(False)
    return history


def write_training(path: Path, method: Method, history: History, run: str) -> None:
    """Write a checkpoint: the state of a method, the epochs that it has seen, its run and a digest of its networks."""
    state = method.state_dict()
    digest = network_digest(state["networks"])
    write_checkpoint(path, {"method": state, "history": history, "run": run, "networks": digest})


def resume(method: Method, folder: Path, run: str = "") -> History:
    """Load ``checkpoint.pt`` of ``folder``, if there is one, and return the epochs that it has seen.

    Args:
        method: Method that gets the state.
        folder: Folder of the run.
        run: Short name of the run; a checkpoint that carries another name is refused, unless one of the two names is
            empty.

    Raises:
        InputError: The checkpoint is damaged, of another network or of another run, or holds weights that are not
            finite.
    """
    path = folder / "checkpoint.pt"
    if not path.is_file():
        return []
    state = read_checkpoint(path)
    try:
        owner, digest, networks = state.get("run", ""), state.get("networks"), state["method"]["networks"]
        broken = [name for network in networks.values() for name, x in network.items() if not all_finite(x)]
        if owner and run and owner != run:
            problem = "is of another run; put the checkpoint of this run back, or remove it"
        elif broken:
            problem = f"has NaN or infinite values in {broken[0]}; remove it to train again"
        elif digest is not None and digest != network_digest(networks):
            problem = "has changed since it was written; remove it to train again"
        else:
            method.load_state_dict(state["method"])
            return list(state["history"])
    except (AttributeError, LookupError, TypeError, RuntimeError, ValueError):
        raise InputError(f"checkpoint {path} is not one of this run; remove it to train again.") from None
    raise InputError(f"checkpoint {path} {problem}.")


def run_epoch(method: Method, batches: TrainingBatches, epoch: int) -> dict[str, float]:
    """Do one step per batch and return the mean of every loss.

    Raises:
        InputError: A loss is not finite, or the method says that it has diverged.
    """
    sums: dict[str, float] = {}
    for i, batch in enumerate(bar(batches, f"epoch {epoch + 1}/{method.config.epochs}", len(batches))):
        losses = {name: float(loss) for name, loss in method.step(batch).items()}
        if problem := method.diverged(losses):
            raise InputError(f"in step {i + 1} of epoch {epoch + 1} {problem}; {_slower(method)}")
        for name, value in losses.items():
            if not math.isfinite(value):
                raise InputError(f"{name} became {value} in step {i + 1} of epoch {epoch + 1}; {_slower(method)}")
            sums[name] = sums.get(name, 0.0) + value
    return {name: total / len(batches) for name, total in sums.items()}


def mean_over_processes(losses: dict[str, float], fabric: Fabric) -> dict[str, float]:
    """Average the losses of the processes that share the work."""
    mean = fabric.all_reduce(fabric.to_device(torch.tensor(list(losses.values()), dtype=torch.float64)))
    assert isinstance(mean, Tensor)
    return dict(zip(losses, mean.tolist(), strict=True))


def check_weights(method: Method, epoch: int) -> None:
    """Raise InputError if the last step of an epoch has broken a weight although its loss was finite."""
    for network in method.networks.values():
        for name, value in network.state_dict().items():
            if not torch.isfinite(value).all():
                raise InputError(f"{name} is no longer finite after epoch {epoch + 1}; {_slower(method)}")


def _slower(method: Method) -> str:
    return f"lower learning_rate (now {method.config.learning_rate:g}). The checkpoint holds the last whole epoch."
