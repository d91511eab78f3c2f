"""Updates of the official training scripts, which start from a made-up checkpoint."""

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from tests import recipe


def start(method, name):
    """Give a method the checkpoint of a golden vector, ready for three steps without dropout; return the checkpoint."""
    checkpoint = {key: torch.from_numpy(value) for key, value in recipe.fill(recipe.shapes(name), name).items()}
    rename = method.network.official_key
    method.network.load_state_dict({rename(key): value for key, value in checkpoint.items()})
    method.backbone.dropout = nn.Identity()
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=3)
    method.train()
    return checkpoint


def assert_moved_alike(method, golden, checkpoint):
    """Every tensor must have moved as far as in the official run, and the stored ones to the same place."""
    state, rename = method.network.state_dict(), method.network.official_key
    for key, moved in zip(golden["keys"], golden["delta_norm"], strict=True):
        change = (state[rename(str(key))].double() - checkpoint[str(key)].double()).norm().item()
        np.testing.assert_allclose(change, moved, rtol=1e-3, atol=1e-9, err_msg=str(key))
        if f"new/{key}" in golden:
            new = state[rename(str(key))].flatten()[:200].numpy()
            np.testing.assert_allclose(new, golden[f"new/{key}"], rtol=1e-4, atol=1e-6)


def smooth_images(name, count, height, width, cells=6):
    """Smooth network inputs in [-2, 2), ``(count, 3, height, width)``."""
    fields = [recipe.smooth(f"{name}/{i}", (3, height, width), cells) for i in range(count)]
    return torch.from_numpy(4 * (np.stack(fields) - np.float32(0.5)))


def picture(name, height, width):
    """A smooth uint8 RGB picture ``(height, width, 3)``."""
    return np.floor(255 * recipe.smooth(name, (3, height, width)).transpose(1, 2, 0) + 0.5).astype(np.uint8)


def labels(classes, count=20):
    """Image-level labels ``(B, count)`` from the classes of every image."""
    return torch.stack([torch.zeros(count).index_fill_(0, torch.tensor(row), 1.0) for row in classes])


def assert_close(ours, golden, tolerance=2e-4):
    """The difference is small beside the value, or beside the spread of all values."""
    values = ours.detach().numpy()
    np.testing.assert_allclose(values, golden, rtol=tolerance, atol=tolerance * golden.std())


def assert_same(one, other):
    """Two networks have equal weights."""
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
