"""Parameter groups and the schedule against the official optimiser."""

import numpy as np
import pytest
import torch
from torch import nn

from tests import recipe
from wsss_lib.methods.optimisers import parameter_groups, polynomial_schedule


def test_against_the_official_optimiser():
    golden = recipe.golden("psa/optimizer")
    steps = len(golden["lr"])
    parameters = [nn.Parameter(torch.from_numpy(recipe.array(f"psa/optimizer/p{i}", (3, 2)))) for i in range(4)]
    settings = [(0.1, 5e-4), (0.2, 0.0), (1.0, 5e-4), (2.0, 0.0)]
    groups = [{"params": [p], "lr": lr, "weight_decay": wd} for p, (lr, wd) in zip(parameters, settings, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=5e-4)
    schedule = polynomial_schedule(optimizer, total_steps=6)
    assert [g["momentum"] for g in optimizer.param_groups] == pytest.approx(golden["momentum"].tolist())
    for step in range(steps):
        np.testing.assert_allclose(schedule.get_last_lr(), golden["lr"][step], rtol=1e-6)
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(recipe.array(f"psa/optimizer/g{i}_{step}", (3, 2)))
        optimizer.step()
        schedule.step()
        ours = np.stack([p.detach().numpy() for p in parameters])
        np.testing.assert_allclose(ours, golden["params"][step], atol=1e-6)


def test_after_the_last_step_the_rate_stays():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = polynomial_schedule(optimizer, total_steps=4)
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 1.0
    assert rates[3] == rates[4] == rates[5] == pytest.approx(0.25**0.9)


def test_groups():
    old, new = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 2, 1)
    old[0].requires_grad_(False)
    groups = parameter_groups(old, new, 0.1, 5e-4)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.1, 5e-4), (0.2, 0.0), (1.0, 5e-4), (2.0, 0.0)]
    assert groups[0]["params"] == [old[1].weight]
    assert groups[1]["params"] == [old[1].bias]
    assert len(parameter_groups(old, nn.Conv2d(4, 2, 1, bias=False), 0.1, 5e-4)) == 3
