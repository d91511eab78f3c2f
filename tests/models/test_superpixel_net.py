"""The superpixel network against the authors' checkpoint keys and outputs."""

import numpy as np
import pytest
import torch

from tests import recipe
from tests.ops.test_superpixels import near
from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.superpixel_net import SuperpixelNet
from wsss_lib.models.weights import load_into, read_state


def state():
    return {k: torch.from_numpy(v) for k, v in recipe.fill(recipe.shapes("msal/spixel_net"), "msal/spixel/w").items()}


@pytest.fixture
def image():
    name = "msal/spixel/image/0"
    values = recipe.smooth(name, (3, 64, 96), 6) + 0.15 * recipe.array(f"{name}/n", (3, 64, 96))
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (Normalisation().mean, Normalisation().std))
    return torch.from_numpy(((values.clip(0, 1) - mean) / std).astype(np.float32))[None]


def test_official_network(image):
    golden = recipe.golden("msal/spixel_net")
    network = SuperpixelNet().eval()
    load_into(network, state(), source="SpixelNet_bsd_ckpt.tar")
    seen = {}
    for name in ("conv1b", "conv4b", "deconv3", "conv0_1", "pred_mask0"):
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        near(network(image)["association"], golden["q_eval"], atol=1e-4)
        for name, values in seen.items():
            near(values, golden[name], atol=1e-4)
        network.train()
        near(network(image)["association"], golden["q_train"], atol=1e-4)
    near(network.conv0a[1].running_mean, golden["bn_mean_after"])
    near(network.conv0a[1].running_var, golden["bn_var_after"])
    assert len(network.state_dict()) == 100
    assert sum(p.numel() for p in network.parameters()) == 2_287_956


@pytest.mark.parametrize("form", ["plain", "module", "tar"])
def test_checkpoints_of_the_authors(tmp_path, form):
    content = state()
    if form == "module":
        content = {f"module.{key}": value for key, value in content.items()}
    if form == "tar":
        content = {"state_dict": content, "arch": "SpixelNet1l_bn", "epoch": 3, "best_EPE": 1.0, "dataset": "bsd"}
    torch.save(content, tmp_path / "SpixelNet_bsd_ckpt.tar")
    network = SuperpixelNet()
    load_into(network, read_state(tmp_path / "SpixelNet_bsd_ckpt.tar"), source=tmp_path)
    assert torch.equal(network.conv0a[0].weight, state()["conv0a.0.weight"])


def test_a_checkpoint_of_another_size(tmp_path):
    with pytest.raises(InputError, match="probably for another network"):
        load_into(SuperpixelNet(0.5), state(), source=tmp_path / "x.tar")


def test_an_association_is_a_distribution():
    association = SuperpixelNet(0.25)(torch.randn(2, 3, 32, 48))["association"]
    assert association.shape == (2, 9, 32, 48)
    torch.testing.assert_close(association.sum(1), torch.ones(2, 32, 48))


def test_all_that_is_used_is_trained():
    network = SuperpixelNet(0.25)
    network(torch.randn(1, 3, 32, 32))["association"][:, 4].sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())


def test_sides_without_whole_cells():
    with pytest.raises(InputError, match=r"images of 30 × 32 pixels have no whole cells of 16; resize them"):
        SuperpixelNet(0.25)(torch.zeros(1, 3, 30, 32))
