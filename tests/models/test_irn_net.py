"""IRN's network against the official one, and its checkpoints."""

import numpy as np
import pytest
import torch

from tests import recipe
from wsss_lib.errors import InputError
from wsss_lib.models import create_backbone
from wsss_lib.models.irn_net import IRNNet, check_radius
from wsss_lib.models.weights import load_into


def network(displacements=True):
    return IRNNet(create_backbone("resnet50", output_stride=16, dilated=False), displacements).eval()


def checkpoint(name):
    """The made-up official checkpoint of a golden vector, canonical keys only."""
    filled = recipe.fill(recipe.shapes(f"irn/{name}"), f"irn/{name}")
    return {key: torch.from_numpy(value) for key, value in filled.items()}


def relative_error(values, golden):
    return np.abs(values.numpy() - golden).max() / np.abs(golden).max()


def test_official_network():
    golden, net = recipe.golden("irn/irn_net"), network()
    load_into(net, checkpoint("irn_net"), source="made up", rename=net.official_key)
    seen = {}
    for name in [key for key in golden if key.startswith("fc_") and not key.endswith("_stat")]:
        net.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output}))
    images = torch.from_numpy(recipe.array("irn/irn_net/x", (1, 3, 64, 88)))
    with torch.no_grad():
        edge, displacement = net(images)
        net.mean_shift.train()
        unshifted = net(images)[1]
    assert len(seen) == 11
    for name, values in seen.items():
        assert relative_error(values[:, :: values.shape[1] // 4][:, :4], golden[name]) < 1e-4, name
        flat = values.numpy()
        stat = [flat.mean(), flat.std(), np.abs(flat).max(), np.abs(flat).sum()]
        np.testing.assert_allclose(stat, golden[f"{name}_stat"], rtol=1e-3)
    assert relative_error(edge, golden["edge"]) < 1e-4
    assert relative_error(displacement, golden["dp"]) < 1e-4
    assert relative_error(unshifted, golden["dp_train"]) < 1e-4


@pytest.mark.parametrize("displacements", [True, False])
def test_every_official_key_is_known(displacements):
    """A real checkpoint has every tensor under several names, and indices that nobody needs."""
    golden, net = recipe.golden("irn/checkpoint_keys"), network(displacements)
    canonical = checkpoint("irn_net")
    state = {}
    for key, first in zip(map(str, golden["irn_keys"]), map(str, golden["irn_canonical"]), strict=True):
        state[key] = canonical.get(first, torch.zeros(1, dtype=torch.int64))
    check_radius(state, 10, "made up")
    report = load_into(net, state, source="made up", rename=net.official_key)
    assert len(report.loaded) == len(net.state_dict())
    assert not report.missing
    for key, value in canonical.items():
        ours = net.official_key(key)
        assert ours is None or torch.equal(net.state_dict()[ours], value), key
    assert (net.official_key("fc_dp1.0.weight") is None) != displacements


def test_a_checkpoint_of_another_radius():
    state = {f"path_indices{i}": torch.zeros(1) for i in range(9)}
    check_radius(state, 5, "res50_irn.pth")
    with pytest.raises(InputError, match=r"res50_irn.pth was trained with pairs of radius 5, not 10; set the radius"):
        check_radius(state, 10, "res50_irn.pth")
    with pytest.raises(InputError, match="pairs of another radius, not 10"):
        check_radius({f"path_indices{i}": torch.zeros(1) for i in range(500)}, 10, "x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.update({"fc_edge6.weight": torch.zeros(1, 64, 1, 1)}), "1 mismatched .fc_edge6.weight is"),
        (lambda s: s.pop("fc_edge3.0.weight"), "1 missing .fc_edge3.0.weight"),
        (lambda s: s.update({"fc_dp8.weight": torch.zeros(2)}), "1 unexpected .fc_dp8.weight"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("fc_")], "missing .fc_edge1.0.weight, fc_edge1.1"),
    ],
)
def test_a_checkpoint_with_another_head(spoil, message):
    net, state = network(), checkpoint("irn_net")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    spoil(state)
    with pytest.raises(InputError, match=rf"^irn.pth is probably for another network: .*{message}.*\.$"):
        load_into(net, state, source="irn.pth", rename=net.official_key)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("options", [{"output_stride": 16}, {"output_stride": 8}])
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_any_size_and_both_strides(name, options):
    net = IRNNet(create_backbone(name, width=0.25, **options)).eval()
    for height, width in ((64, 96), (33, 50), (17, 1)):
        edge, displacement = net(torch.randn(2, 3, height, width))
        size = (-(-height // 4), -(-width // 4))
        assert (edge.shape, displacement.shape) == ((2, 1, *size), (2, 2, *size))
    assert net.stride == 4


def test_boundaries_alone_cost_no_displacements():
    net = network(displacements=False)
    assert sum(p.numel() for p in net.edge_layers.parameters()) == 125_409
    assert not len(net.displacement_layers)
    assert net(torch.randn(1, 3, 32, 32))[1] is None
    assert sum(p.numel() for p in network().displacement_layers.parameters()) == 1_269_120
