"""The transformer and its four variants against the authors' networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import recipe
from tests.methods import transformers
from tests.methods.transformers import filled
from wsss_lib.errors import InputError
from wsss_lib.models.deit import DeiT, decays
from wsss_lib.models.mctformer import MCTformer, ranked_pooling, refine_by_patches
from wsss_lib.models.pretrained import load_backbone
from wsss_lib.ops.cam import normalise_range
from wsss_lib.ops.frequency import half_plane, with_magnitude


def small(variant="pcss", classes=3, **options):
    torch.manual_seed(0)
    positions = "separate" if variant == "plus" else "shared"
    options = {"channels": 24, "depth": 3, "heads": 2, "patch": 8, "grid": 4, "positions": positions, **options}
    return MCTformer(DeiT(classes, **options), variant).eval()


@pytest.fixture(scope="module")
def official():
    """PCSS's network with the made-up checkpoint."""
    return filled(MCTformer(DeiT(20)), "forward_64", "pcss/net20")


def near(ours, golden, rtol=2e-4, atol=2e-5):
    np.testing.assert_allclose(ours.detach(), golden, rtol=rtol, atol=atol * max(1, np.abs(golden).max()))


@pytest.mark.parametrize("maps", ["constant", "differentiable"])
def test_official_network(official, maps):
    golden = recipe.golden("pcss/forward_64")
    images = transformers.images(["pcss/forward_64/0", "pcss/forward_64/1"], 64, 64)
    with torch.no_grad():
        out = official(images, maps)
        plain = official(images)
    for outputs, prefix in ((out, ""), (plain, "freq_")):
        near(outputs.class_logits, golden[f"{prefix}cls"])
        near(outputs.patch_logits, golden[f"{prefix}pcls"])
    near(out.cams, golden["cams"])
    near(out.refined, golden["rcams"], rtol=5e-4)
    near(out.class_tokens[0][:, :, ::16], golden["ctk_block0"])
    near(out.class_tokens[11][:, :, ::16], golden["ctk_block11"])
    assert plain.refined is plain.fused is None
    with torch.no_grad():
        three = MCTformer(official.backbone, layers=3)
        three.head = official.head
        near(three(images, maps).refined, golden["rcams_n_layers3"], rtol=5e-4)


def test_what_is_kept_of_the_attention_does_not_keep_all_of_it(official):
    with torch.no_grad():
        state = official.advance(official.start(torch.randn(1, 3, 64, 64)), 2, "constant")
    assert len(state.class_to_patch) == 2
    for kept in state.class_to_patch:
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_official_network_with_other_magnitudes(official):
    golden = recipe.golden("pcss/forward_64")
    images = transformers.images(["pcss/forward_64/0", "pcss/forward_64/1"], 64, 64)
    magnitude = np.abs(recipe.array("pcss/forward_64/mag", (2, 384, 4, 4), 3.0))  # not symmetric
    half = half_plane(torch.fft.fftshift(torch.from_numpy(magnitude), dim=(-2, -1)))
    with torch.no_grad():
        middle = official.advance(official.start(images), 8, "constant")
        near(official.backbone.patches(middle.tokens, middle.grid)[:, ::16], golden["x_patch_block7"])
        mixed = official.with_patches(middle, lambda tokens: with_magnitude(tokens, half))
        out = official.finish(official.advance(mixed, 12, "constant"))
    for name, ours in {"cls": out.class_logits, "pcls": out.patch_logits, "cams": out.cams}.items():
        near(ours, golden[f"mag_{name}"])
    near(out.refined, golden["mag_rcams"], rtol=5e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (80, 48)])
def test_official_positions(official, height, width):
    ours = official.backbone.positions(height, width)
    near(ours[:, 20:, ::24], recipe.golden("pcss/pos_embed_a")[f"pe_{height}x{width}"], atol=1e-6)
    assert torch.equal(ours[:, :20], official.backbone.pos_embed[:, :20])


def test_positions_of_the_tables_own_grid(official):
    """It is interpolated too, by the authors' margin, unless the image is square."""
    table = official.backbone.pos_embed
    assert torch.equal(official.backbone.positions(224, 224), table)
    assert torch.equal(official.backbone.positions(230, 230), table)
    square = table[:, 20:].transpose(1, 2).unflatten(2, (14, 14))
    enlarged = F.interpolate(square, scale_factor=(14.1 / 14, 14.1 / 14), mode="bicubic")
    ours = official.backbone.positions(224, 239)
    near(ours[:, 20:], enlarged.flatten(2).transpose(1, 2).detach(), atol=1e-6)
    assert not torch.allclose(ours, table, atol=1e-3)


def test_every_grid_has_positions():
    for network in (small(), small("plus")):
        for height, width in [(1, 1), (3, 3), (7, 13), (20, 5), (31, 33)]:
            patch = network.backbone.patch
            assert network.backbone.positions(patch * height, patch * width).shape[1] == 3 + height * width


def test_official_v2():
    network = filled(MCTformer(DeiT(20), "v2"), "mctformer_v2", "pcss/mct2")
    golden = recipe.golden("pcss/mctformer_v2")
    with torch.no_grad():
        state = network.start(transformers.images(["pcss/mctformer_v2/0", "pcss/mctformer_v2/1"], 64, 64))
        state = network.advance(state, 12, "constant")
        out = network.finish(state)
        near(out.class_logits, golden["cls"], rtol=3e-4)
        near(out.patch_logits, golden["pcls"], rtol=3e-4)
        near(out.fused, golden["fused_l3"], rtol=3e-4)
        near(network.fuse(state, None), golden["mct_l3"], rtol=3e-4)
        near(state.patch_to_patch, golden["patch_attn_sum"], rtol=3e-4)


def test_official_plus():
    network = filled(MCTformer(DeiT(20, positions="separate"), "plus"), "mctformer_plus", "pcss/mctp")
    golden = recipe.golden("pcss/mctformer_plus")
    images = transformers.images(["pcss/mctformer_plus/0", "pcss/mctformer_plus/1"], 64, 64)
    with torch.no_grad():
        state = network.advance(network.start(images), 12, "constant")
        out = network.finish(state)
        near(out.class_logits, golden["cls"], rtol=3e-4)
        near(out.patch_logits, golden["pat"], rtol=3e-4)
        near(out.logits, golden["logits"], rtol=3e-4)
        near(out.class_tokens[-1][:, :, ::16], golden["ctk_last"], rtol=3e-4)
        near(out.fused, golden["cams"], rtol=3e-4)
        near(state.patch_to_patch, golden["patch_attn_sum"], rtol=3e-4)
        network.layers = 3
        near(network.fuse(state, out.cams), golden["cams_l3"], rtol=3e-4)


def test_official_stretching():
    golden = recipe.golden("pcss/max_norm")["out"]
    ours = normalise_range(torch.from_numpy(recipe.array("pcss/maxnorm", (2, 3, 5, 4))))
    np.testing.assert_allclose(ours, golden, atol=1e-6)


# ------------------------------------------------------------------------------------------------ ImageNet weights


def deit_file(folder, options=None):
    state = {k: torch.from_numpy(v) for k, v in recipe.fill(recipe.shapes("pcss/deit_small"), "pcss/deit").items()}
    torch.save({"model": {**state, **(options or {})}}, folder / "deit_small_patch16_224-cd65a155.pth")
    return folder / "deit_small_patch16_224-cd65a155.pth", state


def test_weights_of_one_class_token(tmp_path):
    golden = recipe.golden("pcss/checkpoint_adapt_c20")
    backbone = DeiT(20)
    path, state = deit_file(tmp_path)
    report = load_backbone(backbone, path)
    np.testing.assert_allclose(backbone.pos_embed.detach()[:, ::7, ::8], golden["pos_embed"], atol=1e-6)
    np.testing.assert_array_equal(backbone.cls_token.detach()[:, :, ::8], golden["cls_token"])
    unchanged = [k for k, v in backbone.state_dict().items() if v.shape == state[k].shape and torch.equal(v, state[k])]
    assert len(unchanged) == golden["n_copied_unchanged"]
    assert len(backbone.state_dict()) + 2 == golden["n_keys"]  # and the head
    assert report.unexpected == ("head.weight", "head.bias")


def test_weights_with_separate_positions(tmp_path):
    backbone = DeiT(20, positions="separate")
    path, state = deit_file(tmp_path)
    load_backbone(backbone, path)
    table = state["pos_embed"]
    assert torch.equal(backbone.pos_embed_cls, table[:, :1].expand(-1, 20, -1))
    grid = backbone.pos_embed_pat.detach().reshape(28, 28, 384)
    assert torch.equal(grid[::2, ::2].reshape(196, 384), table[0, 1:])
    assert torch.equal(grid[1::2, 1::2], grid[::2, ::2])


def test_weights_of_another_depth(tmp_path):
    path, _ = deit_file(tmp_path)
    with pytest.raises(InputError, match=r"probably for another network: .* unexpected \(blocks\.8\."):
        load_backbone(DeiT(20, depth=8), path)


# ------------------------------------------------------------------------------------------------------ what it is


def test_attention_that_is_asked_for_changes_nothing():
    network, images = small(), torch.randn(2, 3, 32, 40)
    plain, constant, learned = network(images), network(images, "constant"), network(images, "differentiable")
    for name in ("class_logits", "patch_logits", "cams"):
        for other in (constant, learned):
            torch.testing.assert_close(getattr(other, name), getattr(plain, name), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(constant.refined, learned.refined, atol=1e-6, rtol=1e-4)
    gradient = torch.autograd.grad(learned.refined.sum(), network.backbone.blocks[0].attn.qkv.weight)[0]
    assert gradient.abs().sum() > 0
    state = network.advance(network.start(images), 3, "constant")
    assert not any(x.requires_grad for x in (*state.class_to_patch, state.patch_to_patch))


def test_attention_is_a_distribution():
    network = small()
    state = network.advance(network.start(torch.randn(1, 3, 32, 32)), 3, "constant")
    _, weights = network.backbone.blocks[0](network.start(torch.randn(1, 3, 32, 32)).tokens, "constant")
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 3 + 16))
    assert [x.shape for x in state.class_to_patch] == [(1, 3, 16)] * 3
    assert (state.patch_to_patch.sum(-1) < 3).all()


def test_refining_is_a_matrix_product():
    among, maps = torch.rand(2, 12, 12), torch.rand(2, 5, 3, 4)
    expected = torch.einsum("bij,bcj->bci", among, maps.flatten(2)).reshape(maps.shape)
    torch.testing.assert_close(refine_by_patches(among, maps), expected)


@pytest.mark.parametrize("radius", [1, 2, 9])
def test_refining_nearby(radius):
    among, maps, expected = torch.rand(2, 12, 12), torch.rand(2, 5, 3, 4), torch.zeros(2, 5, 3, 4)
    places = [(y, x) for y in range(3) for x in range(4)]
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            if max(abs(y - v), abs(x - u)) <= radius:
                expected[:, :, y, x] += among[:, i, j, None] * maps[:, :, v, u]
    torch.testing.assert_close(refine_by_patches(among, maps, radius), expected)


def test_ranked_pooling():
    maps = torch.tensor([[[[1.0, 3.0]]]])
    assert ranked_pooling(maps, 0.5).item() == pytest.approx((3 + 0.5) / 1.5)
    assert ranked_pooling(maps, 1.0).item() == 2


def test_v1_has_no_maps_of_patches():
    out = small("v1")(torch.randn(2, 3, 32, 32), "constant")
    assert out.patch_logits is out.cams is None
    assert torch.equal(out.logits, out.class_logits)
    assert out.refined.shape == (2, 3, 4, 4)


def test_pixels_beyond_the_last_patch_are_not_seen():
    network, images = small(), torch.randn(1, 3, 45, 33)
    assert torch.equal(network(images).cams, network(images[:, :, :40, :32]).cams)


def test_a_patch_must_fit():
    with pytest.raises(InputError, match=r"images of 7 × 40 pixels are smaller than a patch of 8"):
        small()(torch.randn(1, 3, 7, 40))


def test_heads_must_divide_the_channels():
    with pytest.raises(InputError, match="channels 24 is not a multiple of heads 5"):
        small(heads=5)


def test_what_decays():
    network = small()
    kept = [name for name, p in network.named_parameters() if not decays(p, name)]
    assert "backbone.cls_token" in kept
    assert "backbone.pos_embed" in kept
    assert all("norm" in name or name.endswith("bias") or "_" in name.split(".")[1] for name in kept)


def test_stochastic_depth_is_for_training():
    torch.manual_seed(0)
    network, images = small(drop_path=0.9), torch.randn(8, 3, 32, 32)
    assert torch.equal(network(images).cams, network(images).cams)
    network.train()
    assert not torch.equal(network(images).cams, network(images).cams)
