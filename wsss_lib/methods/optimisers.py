"""Parameter groups, optimisers and learning rate schedules that several methods share."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    pretrained: nn.Module,
    new: nn.Module,
    learning_rate: float,
    weight_decay: float,
    new_factor: float = 10.0,
    bias_factor: float = 2.0,
) -> list[dict[str, Any]]:
    """Return the four parameter groups of AffinityNet's code, without empty ones.

    Pre-trained weights have the learning rate, pre-trained biases ``bias_factor`` times that, new weights
    ``new_factor`` times, and new biases ``bias_factor * new_factor`` times. Biases do not decay. Trained parameters of
    batch normalisation count as biases; frozen parameters are in no group.

    Args:
        pretrained: The module that starts from ImageNet weights.
        new: The module that starts from random weights.
        learning_rate: Learning rate of the first group.
        weight_decay: Weight decay of the weights.
        new_factor: Factor by which new layers learn faster.
        bias_factor: Factor by which biases learn faster than weights.
    """
    groups = []
    for module, factor in ((pretrained, 1.0), (new, new_factor)):
        trained = [p for p in module.parameters() if p.requires_grad]
        weights = [p for p in trained if p.ndim > 1]
        biases = [p for p in trained if p.ndim == 1]
        groups.append({"params": weights, "lr": factor * learning_rate, "weight_decay": weight_decay})
        groups.append({"params": biases, "lr": bias_factor * factor * learning_rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def create_optimizer(
    name: Literal["sgd", "adamw"], groups: list[dict[str, Any]], learning_rate: float, momentum: float
) -> Optimizer:
    """Return stochastic gradient descent as in the papers, or AdamW, which has no ``momentum``."""
    if name == "sgd":
        return SGD(groups, lr=learning_rate, momentum=momentum)
    return AdamW(groups, lr=learning_rate)


def polynomial_schedule(optimizer: Optimizer, total_steps: int, power: float = 0.9) -> LambdaLR:
    """Multiply every learning rate by ``(1 - t / total_steps) ** power`` in step t, counted from 0.

    After ``total_steps`` steps the factor stays at its last value.
    """

    def factor(step: int) -> float:
        return (1 - min(step, total_steps - 1) / total_steps) ** power

    return LambdaLR(optimizer, factor)


def stepped_polynomial_schedule(optimizer: Optimizer, total_steps: int, every: int, power: float = 0.9) -> LambdaLR:
    """Follow the polynomial schedule, but change the learning rates only once in ``every`` steps, as DeepLab does.

    After ``total_steps`` steps the factor stays at its last value.
    """

    def factor(step: int) -> float:
        return (1 - min(step, total_steps) // every * every / total_steps) ** power

    return LambdaLR(optimizer, factor)


def warmed_cosine_schedule(
    optimizer: Optimizer,
    total_steps: int,
    epochs: int,
    warm_up: int,
    first: float,
    last: float,
    lag_one_epoch: bool = False,
) -> LambdaLR:
    """Change every learning rate from epoch to epoch: a linear warm-up, then half a period of the cosine.

    The factor of epoch e is ``first + (1 - first) e / warm_up`` before ``warm_up``, and then
    ``last + (1 - last) (1 + cos(pi e / epochs)) / 2``.

    Args:
        optimizer: The optimiser.
        total_steps: Number of steps of all epochs together.
        epochs: Number of epochs.
        warm_up: Number of epochs of the warm-up; 0 for none.
        first: Factor of the first epoch.
        last: Factor that the cosine approaches.
        lag_one_epoch: Whether each epoch has the factor of the epoch before, as in MCTformer's code.
    """
    per_epoch = max(1, total_steps // epochs)

    def factor(step: int) -> float:
        epoch = min(step, total_steps - 1) // per_epoch
        epoch = max(0, epoch - 1) if lag_one_epoch else epoch
        if epoch < warm_up:
            return first + (1 - first) * epoch / warm_up
        return last + (1 - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2

    return LambdaLR(optimizer, factor)
