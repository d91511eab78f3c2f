"""ACR against the authors' network, decoder, training step and inference."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from tests import recipe
from tests.methods import official
from wsss_lib.data.transforms import view
from wsss_lib.errors import InputError
from wsss_lib.methods import acr
from wsss_lib.methods.acr import ACR, Config, draw_grid, masked_error, target_map
from wsss_lib.methods.method import Batch
from wsss_lib.methods.optimisers import polynomial_schedule
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.reconstructor import UNet, decoder_levels
from wsss_lib.ops.cam import normalise_range
from wsss_lib.stages.infer import multi_scale_cam

FABRIC = Fabric(accelerator="cpu", devices=1)
SHAPES = "acr/net_main"
SMALLER = {"fc8": 0.005, "dr1": 0.01, "dr2": 0.004, "fc_recon": 0.003}


def paper(**changes):
    return Config.preset("voc12").replace(backbone_options={"dropout": (0.0, 0.0)}, **changes)


def checkpoint(name):
    """The made-up official checkpoint ``name`` of either network."""
    state = recipe.fill(recipe.shapes(SHAPES), name)
    for layer, factor in SMALLER.items():
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * np.float32(factor)
    return {key: torch.from_numpy(value) for key, value in state.items()}


def fill_reconstructor(method, name):
    network = method.reconstructor
    network.load_state_dict({network.official_key(key): value for key, value in checkpoint(name).items()})


@pytest.mark.slow
def test_official_network():
    golden = recipe.golden("acr/net_main")
    method = ACR(paper(), 20)
    method.load_official(checkpoint("acr/net"), "net_main")
    fill_reconstructor(method, "acr/net")
    method.train(False)
    images = official.smooth_images("acr/net/image", 1, 64, 64)
    with torch.no_grad():
        maps, features = method.reconstructor.encode(images)
        official.assert_close(method.cam(images), golden["cam"])
        official.assert_close(method.logits(images), golden["out"])
    official.assert_close(maps, golden["cam"])
    official.assert_close(features[:, ::4], golden["feat_slice"])
    stds = [part.std().item() for part in features.split([64, 128, 256], dim=1)]
    np.testing.assert_allclose(stds, golden["feat_part_std"], rtol=2e-4)


@pytest.fixture(scope="module")
def decoder():
    network = UNet(448).eval()
    state = recipe.fill(recipe.shapes("acr/unet"), "acr/unet")
    network.load_state_dict({network.official_key(key): torch.from_numpy(value) for key, value in state.items()})
    return network


def decoder_inputs():
    features = torch.from_numpy(recipe.array("acr/unet/feat", (1, 448, 32, 32)))
    return features, torch.from_numpy(recipe.smooth("acr/unet/mask/0", (1, 256, 256), cells=5))[None]


@pytest.mark.slow
def test_official_decoder(decoder):
    golden, about = recipe.golden("acr/unet"), recipe.description("acr/unet")
    features, mask = decoder_inputs()
    image, _ = decoder(features, mask)
    official.assert_close(image[:, :, ::4, ::4], golden["image_slice"], 1e-3)
    np.testing.assert_allclose(image.detach().mean((2, 3)), golden["image_mean"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(image.detach().std((2, 3)), golden["image_std"], rtol=1e-3)
    image.abs().mean().backward()
    parameters = dict(decoder.named_parameters())
    norms = [parameters[decoder.official_key(name)].grad.norm() for name in about["parameter_order"]]
    np.testing.assert_allclose(norms, golden["grad_norms"], rtol=1e-3)


@pytest.mark.slow
def test_official_gradient_of_the_decoders_input(decoder):
    """One unit behind `up6` is nearer to its kink than rounding is exact: the authors' gradient is that of one side."""
    golden = recipe.golden("acr/unet")
    features, mask = decoder_inputs()
    enlarged = F.interpolate(features, size=(256, 256), mode="bilinear") * mask

    def gradient(side):
        def nudge(_module, _inputs, output):
            nudged = output.clone()
            nudged[0, 12, 61, 60] += side * 1e-5 * output.std()
            return nudged

        entering = enlarged.clone().requires_grad_()
        with decoder.up6.register_forward_hook(nudge):
            decoder.decode(F.conv2d(entering, decoder.down1.weight, stride=2, padding=1)).abs().mean().backward()
        return entering.grad

    sides = [gradient(side) for side in (-1, 1)]
    for found in sides:
        np.testing.assert_allclose(found.norm(), golden["grad_input_norm"], rtol=1e-3)
    expected = golden["grad_input_slice"]
    slices = [found[:, ::32, ::16, ::16] for found in sides]
    official.assert_close(min(slices, key=lambda found: np.abs(found.numpy() - expected).max()), expected, 1e-3)


@pytest.mark.slow
def test_complement_of_a_mask(decoder):
    features, mask = decoder_inputs()
    with torch.no_grad():
        _, rest = decoder(features, mask)
        wanted, _ = decoder(features, 1 - mask)
    torch.testing.assert_close(rest, wanted, rtol=1e-3, atol=1e-4)


def test_official_normalisation():
    golden = recipe.golden("acr/max_norm")
    maps = torch.from_numpy(recipe.array("acr/norm/cam", (2, 20, 7, 9), 3.0))
    maps[0, 0], maps[0, 1] = -maps[0, 0].abs(), maps[0, 1].abs() + 2
    maps[0, 2], maps[0, 3] = 1.5, maps[0, 3] * 1e-5
    maps.requires_grad_()
    normalised = normalise_range(maps)
    (normalised * torch.from_numpy(recipe.array("acr/norm/weight", (2, 20, 7, 9)))).sum().backward()
    np.testing.assert_allclose(normalised.detach(), golden["norm"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps.grad, golden["grad"], rtol=1e-4, atol=1e-5)
    images, drawn = (torch.from_numpy(recipe.array(f"acr/norm/{name}", (2, 3, 8, 8))) for name in ("img", "rec"))
    mask = torch.from_numpy(recipe.array("acr/norm/mask", (2, 1, 8, 8)))
    np.testing.assert_allclose(masked_error(drawn, images, mask), golden["l1"], rtol=1e-5)


class Leaves(nn.Module):
    """A network whose outputs are its parameters."""

    def __init__(self, maps, features=None):
        super().__init__()
        self.maps = nn.Parameter(maps)
        if features is not None:
            self.features = nn.Parameter(features)
            self.decoder = OneLayer()

    def forward(self, images, masks=None):
        if masks is None:
            return self.maps
        whole = self.decoder.draw(self.features.detach(), torch.ones_like(images[:, :1]))
        return self.maps, whole, [self.decoder.draw(self.features, mask) for mask in masks]

    def encode(self, _images):
        return self.maps, self.features * 1  # no leaf, so that gradients can be switched off


class OneLayer(nn.Module):
    """A decoder of a single convolution."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(recipe.array("acr/tiny/dec", (3, 6, 3, 3), 0.2)))

    def draw(self, features, mask):
        enlarged = F.interpolate(features, size=mask.shape[2:], mode="bilinear", align_corners=False)
        return F.conv2d(enlarged * mask, self.weight, padding=1)

    def forward(self, features, mask):
        return self.draw(features, mask), self.draw(features, 1 - mask)


def test_official_step_of_stand_ins():
    golden = recipe.golden("acr/step_tiny")
    targets, labels = torch.tensor([4, 7, 19]), official.labels([[0, 4, 14], [7], [2, 19]])
    maps = {}
    for name in ("main", "recon"):
        fields = [recipe.smooth(f"acr/tiny/{name}_cam/{i}", (20, 8, 8), cells=5) for i in range(3)]
        maps[name] = torch.from_numpy(6 * (np.stack(fields) - np.float32(0.4)))
        maps[name][torch.arange(3), targets] += 1.5
        maps[name][1, 7] = -maps[name][1, 7].abs() - 0.1
    images = official.smooth_images("acr/tiny/image", 3, 64, 64)
    grid = torch.from_numpy(recipe.integers("acr/tiny/grid", (3, 1, 16, 16), 0, 100) < 23).float()
    grid = F.interpolate(grid, size=(64, 64), mode="nearest")

    method = ACR(Config.preset("toy"), 20)
    method.config, method.engine, method.epoch = Config(), FABRIC, 3
    classifier = Leaves(maps["main"])
    reconstructor = Leaves(maps["recon"], torch.from_numpy(recipe.array("acr/tiny/feat", (3, 6, 8, 8))))
    method.classifier, method.reconstructor = classifier, reconstructor
    method.calls = {"classifier": classifier, "reconstructor": reconstructor}
    groups = {
        "classifier": [{"params": [classifier.maps], "lr": 0.5, "weight_decay": 5e-4}],
        "reconstructor": [
            {"params": [reconstructor.maps], "lr": 0.5, "weight_decay": 5e-4},
            {"params": [reconstructor.features], "lr": 1.0, "weight_decay": 0},
            {"params": [reconstructor.decoder.weight], "lr": 5.0, "weight_decay": 5e-4},
        ],
    }
    for name, group in groups.items():
        method.optimizers[name] = torch.optim.SGD(group, lr=0.5, momentum=5e-4)
        method.schedules[name] = polynomial_schedule(method.optimizers[name], 10)

    losses = method.update(images, labels, targets, grid)
    theirs = {
        "reconstructor_loss": golden["loss_recon"],
        "reconstructor_classification": golden["loss_recon_cls"],
        "reconstructor_whole": golden["loss_recon_full"],
        "reconstructor_hidden_target": golden["loss_recon_mask"],
        "reconstructor_hidden_rest": golden["loss_recon_nt"],
        "loss": golden["loss_main"],
        "classification": golden["loss_main_cls"],
        "from_target": -golden["loss_main_t"],
        "from_rest": -golden["loss_main_nt"],
    }
    assert losses.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(losses[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    for name, tensor in {
        "grad_recon_cam": reconstructor.maps.grad,
        "grad_recon_feat": reconstructor.features.grad,
        "grad_recon_dec": reconstructor.decoder.weight.grad,
        "grad_main_cam": classifier.maps.grad,
        "recon_feat_after": reconstructor.features.detach(),
        "recon_dec_after": reconstructor.decoder.weight.detach(),
        "main_cam_after": classifier.maps.detach(),
    }.items():
        wanted = golden[name]
        np.testing.assert_allclose(tensor, wanted, rtol=2e-4, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.slow
def test_official_step_of_whole_networks():
    golden, about = recipe.golden("acr/step_full"), recipe.description("acr/step_full")
    method = ACR(paper(learning_rate=1e-9), 20)
    method.load_official(checkpoint("acr/full/main"), "net_main")
    fill_reconstructor(method, "acr/full/recon")
    method.setup(FABRIC, total_steps=10)
    switch_dropout_off(method.reconstructor)
    images = official.smooth_images("acr/full/image", 1, 256, 256, cells=9)
    grid = torch.from_numpy(recipe.integers("acr/full/grid", (1, 1, 16, 16), 0, 100) < 20).float()
    grid = F.interpolate(grid, size=(256, 256), mode="nearest")
    losses = method.update(images, official.labels([[7, 10]]), torch.tensor([10]), grid)
    theirs = {
        "reconstructor_loss": golden["loss_recon"],
        "reconstructor_hidden_target": golden["loss_recon_mask"],
        "reconstructor_hidden_rest": golden["loss_recon_nt"],
        "reconstructor_whole": golden["loss_recon_full"],
        "loss": golden["loss_main"],
        "from_target": -golden["loss_main_t"],
        "from_rest": -golden["loss_main_nt"],
    }
    for name, value in theirs.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    names = {
        "net_main": (method.classifier, method.classifier.official_key),
        "net_recon": (method.reconstructor, method.reconstructor.official_key),
    }
    for part, (network, rename) in names.items():
        parameters = dict(network.named_parameters())
        norms = [parameters[rename(key)].grad.norm() for key in about["probed_parameters"][part]]
        np.testing.assert_allclose(norms, golden[f"grad_norms_{part}"], rtol=1e-2, err_msg=part)
    gradient = method.classifier.head.weight.grad[:, ::4]
    official.assert_close(gradient, golden["grad_fc9_main"], 1e-2)


def switch_dropout_off(reconstructor):
    """The decoder's dropout has no module; without it, training and evaluation are the same."""
    reconstructor.decoder.train = lambda mode=True: reconstructor.decoder  # noqa: ARG005
    reconstructor.decoder.training = False


@pytest.mark.slow
def test_official_inference():
    golden = recipe.golden("acr/infer")
    method = ACR(paper(), 20)
    method.load_official(checkpoint("acr/infer/main"), "net_main")
    method.train(False)
    image = Image.fromarray(official.picture("acr/infer/image", 48, 61))
    views = [view(image, scale, Normalisation()) for scale in method.config.scales]
    assert [list(v.shape[1:]) for v in views for _ in range(2)] == golden["sizes"].tolist()
    with torch.inference_mode():
        [(classes, cams)] = multi_scale_cam(method, [v[None] for v in views], official.labels([[0, 14]]), (48, 61))
    assert classes.tolist() == golden["keys"].tolist()
    np.testing.assert_allclose(cams, golden["cam"], rtol=5e-4, atol=5e-4)


def test_target_map_leaves_out_what_is_not_there():
    maps = torch.randn(2, 3, 4, 4)
    labels = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    share = target_map(maps, labels, torch.tensor([1, 2]), (16, 16))
    wanted = F.interpolate(normalise_range(maps)[:1, 1:2], size=(16, 16), mode="bilinear")
    torch.testing.assert_close(share[:1], wanted)
    assert share[1].abs().max() == 0


def test_grid():
    torch.manual_seed(0)
    grid = draw_grid(50, (40, 64), 16, 0.3, torch.device("cpu"))
    assert grid.shape == (50, 1, 40, 64)
    assert set(grid.unique().tolist()) == {0.0, 1.0}
    assert abs(grid.mean() - 0.3) < 0.05
    cell = grid[:, :, 16:32, 32:48]
    assert torch.equal(cell.amax((2, 3)), cell.amin((2, 3)))
    assert not draw_grid(2, (32, 32), 16, 0.0, torch.device("cpu")).any()
    assert draw_grid(2, (32, 32), 16, 1.0, torch.device("cpu")).all()


@pytest.mark.parametrize(("crop", "levels"), [(256, 8), (512, 8), (96, 5), (64, 6), (320, 6), (72, 3)])
def test_levels_follow_from_the_crop(crop, levels):
    assert decoder_levels(crop) == levels
    network = UNet(8, levels, width=0.125)
    one, other = network(torch.randn(1, 8, crop // 8, crop // 8), torch.rand(1, 1, crop, crop))
    assert one.shape == other.shape == (1, 3, crop, crop)


@pytest.mark.parametrize("crop", [257, 100, 90])
def test_crops_that_cannot_be_halved(crop):
    with pytest.raises(InputError, match=f"crop_size {crop} can be halved"):
        Config.preset("voc12").replace(crop_size=crop).check()


def small(**changes):
    config = Config.preset("toy").replace(
        pretrained=False, crop_size=64, backbone_options={"width": 0.125, "output_stride": 8}, **changes
    )
    method = ACR(config, 3)
    method.setup(FABRIC, total_steps=20)
    return method


def batch_of(count=4):
    labels = torch.zeros(count, 3)
    labels[torch.arange(1, count), torch.arange(1, count) % 3] = 1  # the first image shows nothing
    return Batch(torch.randn(count, 3, 64, 64), labels, torch.arange(count))


def test_the_two_steps_leave_the_other_network_alone():
    torch.manual_seed(0)
    method = small(warm_up=0)
    batch, targets = batch_of(), torch.tensor([0, 1, 2, 0])
    grid = torch.ones(4, 1, 64, 64)
    before = [p.detach().clone() for p in method.classifier.parameters()]
    method.update_reconstructor(batch.images, batch.labels, targets, grid)
    assert all(torch.equal(a, b) for a, b in zip(before, method.classifier.parameters(), strict=True))
    assert all(p.grad is None for p in method.classifier.parameters())
    method.optimizers["reconstructor"].zero_grad()
    before = [p.detach().clone() for p in method.reconstructor.parameters()]
    method.update_classifier(batch.images, batch.labels, targets)
    assert all(torch.equal(a, b) for a, b in zip(before, method.reconstructor.parameters(), strict=True))
    assert all(p.grad is None for p in method.reconstructor.parameters())
    assert all(p.requires_grad for p in method.reconstructor.parameters())
    assert all(p.grad is not None for p in method.classifier.parameters())


def test_images_without_classes_are_no_obstacle():
    method = small(warm_up=0)
    losses = method.step(batch_of())
    assert all(torch.isfinite(value) for value in losses.values())


def test_warming_up_is_classification_alone():
    method = small(warm_up=2)
    method.begin_epoch(1, [])
    losses = method.step(batch_of())
    assert losses["loss"] == losses["classification"]
    assert "from_target" not in losses
    method.begin_epoch(2, [])
    assert "from_target" in method.step(batch_of())


def test_divergence_is_noticed():
    method = small()
    assert method.diverged({"loss": -1.0, "from_target": 1.2, "from_rest": 0.3}) == ""
    assert "from_rest is 11" in method.diverged({"loss": -3.0, "from_target": 1.2, "from_rest": 11.0})


@pytest.mark.slow
def test_the_reconstructor_learns_to_draw():
    torch.manual_seed(0)
    method = small(hidden_target_weight=1.0, learning_rate=5e-3)
    images = official.smooth_images("acr/draw", 4, 64, 64)
    batch = Batch(images, batch_of().labels, torch.arange(4))
    errors = [method.step(batch)["reconstructor_whole"].item() for _ in range(20)]
    assert errors[-1] < 0.8 * errors[0]


def test_official_checkpoints_load_without_decoder(tmp_path):
    source = ACR(Config.preset("toy", "resnet38d"), 3)
    plain = {"backbone.": "", "hidden.": "fc8.", "head.": "fc9."}
    state = {}
    for key, value in source.classifier.state_dict().items():
        old = next(p for p in plain if key.startswith(p))
        state[f"net_main.{plain[old]}{key.removeprefix(old)}"] = value
    extra = {f"net_main.{k}": torch.zeros(1) for k in ("genUnet.down1.model.0.weight", "dr1.weight", "fc_recon.weight")}
    extra["net_recon.fc8.weight"] = torch.zeros(1)
    method = ACR(Config.preset("toy", "resnet38d"), 3)
    method.load_official({**state, **extra}, tmp_path / "last.ckpt")
    official.assert_same(method.classifier, source.classifier)
    assert not any("decoder" in key or "dr1" in key for key in method.classifier.state_dict())
    with pytest.raises(InputError, match="for another network"):
        method.load_official({k: v for k, v in state.items() if "fc9" not in k}, tmp_path / "oc_cse.ckpt")


def test_both_encoders_start_from_the_same_place():
    method = small()
    assert len({id(backbone) for backbone in method.backbones}) == 2
    assert method.backbones[0] is method.backbone


def test_paper_settings():
    config = Config.preset("voc12")
    assert (config.epochs, config.batch_size, config.crop_size, config.momentum) == (40, 8, 256, 5e-4)
    assert (config.min_long_side, config.max_long_side, config.colour_jitter) == (384, 512, 0)
    assert (config.whole_weight, config.hidden_target_weight, config.hidden_rest_weight) == (0.2, 0.3, 0.5)
    assert (config.adversarial_target_weight, config.adversarial_rest_weight) == (0.8, 0.3)
    assert (config.grid_cell, config.grid_share, config.grid_slope) == (16, 0.2, 0.01)
    assert (config.alphas, config.hidden, decoder_levels(config.crop_size)) == ((6.0, 24.0), 256, 8)
    assert acr.METHOD is ACR
