"""The superpixel loss and some steps of its training against the authors' code."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests import recipe
from tests.models.test_msal_net import association, noisy_images
from tests.ops.test_superpixels import near
from wsss_lib.errors import InputError
from wsss_lib.methods.method import PRESETS, Batch
from wsss_lib.methods.superpixels import Config, Superpixels, superpixel_loss, with_positions
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.weights import load_into
from wsss_lib.ops.colour import rgb_to_lab


def smooth_stack(name, count, channels, side, cells):
    return torch.from_numpy(
        np.stack([recipe.smooth(f"{name}/{i}", (channels, side, side), cells) for i in range(count)])
    )


@pytest.mark.parametrize("kind", ["lab", "seg"])
def test_official_loss(kind):
    golden = recipe.golden("msal/spixel_loss")
    q = association("msal/qloss/q", 2, 64, 64).requires_grad_()
    if kind == "lab":
        values = smooth_stack("msal/qloss/lab", 2, 3, 64, 6)
    else:
        labels = (6 * smooth_stack("msal/qloss/seg", 2, 1, 64, 5)[:, 0]).floor().clamp(0, 5).long()
        values = torch.nn.functional.one_hot(labels, 6).permute(0, 3, 1, 2).float()
    losses = superpixel_loss(q, values)
    ours = [losses[name].item() for name in ("loss", "appearance", "position")]
    np.testing.assert_allclose(ours, golden[f"{kind}_loss"], rtol=1e-4)
    near(torch.autograd.grad(losses["loss"], q)[0], golden[f"{kind}_grad_q"])


@pytest.mark.slow
def test_official_steps():
    golden = recipe.golden("msal/scn_steps")
    method = Superpixels(Config(), 20)
    network = method.network
    state = recipe.fill(recipe.shapes("msal/spixel_net"), "msal/scn/w")
    load_into(network, {k: torch.from_numpy(v) for k, v in state.items()}, source="made up")
    images = noisy_images("msal/scn/image", 2, 64, 64, Normalisation().mean, Normalisation().std)
    lab = smooth_stack("msal/scn/lab", 2, 3, 64, 6)
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=4)
    method.train()
    seen, found = [], []
    network.register_forward_hook(lambda _m, _i, out: found.append(out["association"]))
    for _ in range(4):
        losses = method.update(images, lab)
        seen.append([losses[name].item() for name in ("loss", "appearance", "position")])
    np.testing.assert_allclose(seen, golden["losses"], rtol=2e-3)
    near(found[-1], golden["q_last"], 2e-3, 1e-3)
    assert sum(not p.requires_grad for p in network.parameters()) == golden["unused_params"]


def test_a_step_on_images():
    method = Superpixels(Config.preset("toy"), 6)
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=30)
    method.train()
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(2, 3, 7, 7), size=(64, 64))
    losses = [method.step(Batch(images, torch.zeros(2, 6), torch.arange(2)))["appearance"].item() for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    Config.preset(preset).check()
    with pytest.raises(InputError, match="crop_size 100 is not a multiple of 16"):
        Config.preset(preset).replace(crop_size=100).check()


def test_lab():
    white, black, red = torch.ones(3, 1, 1), torch.zeros(3, 1, 1), torch.tensor([1.0, 0, 0])[:, None, None]
    expected = {  # of OpenCV, 8-bit
        (255, 128, 128): white,
        (0, 128, 128): black,
        (136, 208, 195): red,
    }
    for values, colour in expected.items():
        ours = rgb_to_lab(colour).flatten() * 255
        assert ours.tolist() == pytest.approx(values, abs=1)


def test_positions():
    values = with_positions(torch.zeros(2, 1, 3, 4))
    assert values[1, 1, 2].tolist() == [0, 1, 2, 3]
    assert values[1, 2, :, 0].tolist() == [0, 1, 2]


def test_squares_of_one_colour_are_rebuilt():
    colours = torch.rand(1, 3, 2, 3)
    q = torch.zeros(1, 9, 32, 48)
    q[:, 4] = 1
    losses = superpixel_loss(q, torch.nn.functional.interpolate(colours, scale_factor=16))
    assert losses["appearance"] < 1e-3
    assert losses["position"] > 0
