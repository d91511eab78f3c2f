"""MSAL's losses, steps and inference against the authors' code."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests import recipe
from tests.models.test_msal_net import MEAN, STD, association, noisy_images, state
from tests.ops.test_superpixels import near
from wsss_lib.data.transforms import Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods import msal
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.method import LIGHT, PRESETS, Batch
from wsss_lib.methods.msal import (
    MSAL,
    Config,
    image_target,
    ipc_loss,
    normalise_cams,
    saliency_target,
    valid_cells,
)
from wsss_lib.methods.optimisers import polynomial_schedule
from wsss_lib.methods.superpixels import Config as SuperpixelConfig
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.superpixel_net import SuperpixelNet
from wsss_lib.models.weights import load_into
from wsss_lib.ops.cam import cam_label, upsample
from wsss_lib.stages.infer import multi_scale_cam


def ipc_inputs():
    labels = torch.zeros(2, 20)
    for i in range(2):
        labels[i, torch.from_numpy(recipe.integers(f"msal/ipc/label/{i}", (2,), 0, 20))] = 1
    saliency = [np.floor(255 * recipe.smooth(f"msal/ipc/sal/{i}", (1, 144, 144), 4)[0]) for i in range(2)]
    logits = [4 * recipe.smooth(f"msal/ipc/logits/{i}", (21, 9, 9), 4) - np.float32(1.5) for i in range(2)]
    return {
        "images": noisy_images("msal/ipc/image", 2, 144, 144),
        "q": association("msal/ipc/q", 2, 144, 144),
        "labels": labels,
        "saliency": torch.from_numpy(np.stack(saliency))[:, None] / 255,
        "logits": torch.from_numpy(np.stack(logits).astype(np.float32)),
        "pooled": torch.from_numpy(recipe.array("msal/ipc/pooled", (2, 21))),
    }


def test_images_are_resized_as_the_authors_do():
    assert Config().augmentation() == Augmentation(320, 640, 480, 0.0, 0.0, by_factor=True)
    assert SuperpixelConfig().augmentation() == Augmentation(320, 640, 512, 0.0, 0.0, by_factor=True)


def test_a_checkpoint_that_mixes_otherwise(tmp_path):
    networks = {mode: small(dcr=mode).network.state_dict() for mode in ("concat", "noq", "off")}
    method = small()
    method.load_official(networks["concat"], tmp_path / "mine.pth")
    for mode in ("noq", "off"):
        with pytest.raises(InputError, match=rf"mine.pth holds a network with dcr={mode}, not concat; add dcr={mode}"):
            method.load_official(networks[mode], tmp_path / "mine.pth")
    with pytest.raises(InputError, match="probably for another network"):
        method.load_official({"x": torch.zeros(1)}, tmp_path / "mine.pth")
    for some in (torch.zeros(1), torch.zeros(4, 4, 3, 3)):  # of a file that holds little else
        with pytest.raises(InputError, match=r"mine\.pth"):
            method.load_official(
                {"classifier.0.weight": torch.zeros(1), "get_tran_conv4.0.0.weight": some}, tmp_path / "mine.pth"
            )


@pytest.mark.parametrize(
    ("name", "patches", "gate"),
    [
        ("image_p9", 9, 0.1),
        ("image_p1", 1, 0.1),
        ("image_pad_p9", 9, 0.1),
        ("image_th30_p9", 9, 0.3),
        ("image_dead_p9", 9, 0.1),
        ("sal_p1", 1, 0.01),
        ("sal_pad_p1", 1, 0.01),
        ("sal_pad_p4", 4, 0.01),
    ],
)
def test_official_losses(name, patches, gate):
    golden, given = recipe.golden("msal/ipc_loss"), ipc_inputs()
    images, q, labels = given["images"], given["q"], given["labels"]
    if "pad" in name:
        images[:, :, :37] = 0
        images[:, :, :, -24:] = 0
    logits, pooled = given["logits"], given["pooled"].requires_grad_()
    if "dead" in name:
        logits = logits - logits.abs()
    logits.requires_grad_()
    cams = normalise_cams(logits)[:, 1:] * labels[:, :, None, None]
    target = image_target(images, q) if name.startswith("image") else saliency_target(given["saliency"], images, q)
    parts = [classification_loss(pooled[:, 1:], labels), 0.3 * ipc_loss(cams, target, patches, gate)]
    np.testing.assert_allclose([part.item() for part in parts], golden[name], rtol=1e-3, atol=1e-5)
    of_logits, of_pooled = torch.autograd.grad(sum(parts), [logits, pooled])
    near(of_logits, golden[f"{name}_grad_logits"], atol=1e-4 * np.abs(golden[f"{name}_grad_logits"]).max() + 1e-8)
    if name == "image_p9":
        near(of_pooled, golden["grad_pooled"])


def test_official_cams():
    near(normalise_cams(ipc_inputs()["logits"]), recipe.golden("msal/ipc_loss")["make_cam"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["image", "saliency"])
def test_official_steps(target):
    short = {"image": "image", "saliency": "sal"}[target]
    golden = recipe.golden(f"msal/cls_steps_{short}")
    changes = {"training_iterations": 2, "threshold": 0.9, "patches": 4, "gate": 0.1, "power": 0.5}
    if target == "saliency":
        changes = {"training_iterations": 0, "patches": 1, "gate": 0.01, "power": 0.9}
    config = Config.preset("voc12").replace(learning_rate=1e-3, target=target, **changes)
    method = MSAL(config, 20)
    weights = state("cls_model_concat", "msal/clsstep/w")
    load_into(method.network, weights, source="x.pth", rename=method.network.official_key)
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=10)
    method.train()
    groups = [group["params"] for group in method.optimizers["network"].param_groups]
    sizes = [len(group) for group in groups] + [sum(p.numel() for p in group) for group in groups]
    assert sizes == golden["groups"].tolist()
    labels = torch.zeros(2, 20)
    labels[:, [10, 12]] = 1
    images, q = noisy_images("msal/clsstep/image", 2, 96, 96), association("msal/clsstep/q", 2, 96, 96)
    saliency = np.stack([np.floor(255 * recipe.smooth(f"msal/clsstep/sal/{i}", (1, 96, 96), 4)) for i in range(2)])
    saliency = torch.from_numpy(saliency.astype(np.float32)) / 255
    seen = []
    for _ in range(3):
        losses = method.update(images, labels, q, saliency if target == "saliency" else None)
        seen.append([losses[name].item() for name in ("classification", "ipc", "gradient")])
    np.testing.assert_allclose(seen, golden["losses"], rtol=0.02, atol=1e-3)


def test_official_optimizer():
    golden = recipe.golden("msal/poly_optimizer")
    parameters = [torch.from_numpy(recipe.array(f"msal/optim/p{i}", (4, 3))).requires_grad_() for i in range(4)]
    groups = [
        {"params": [p], "lr": 0.1 * factor, "weight_decay": decay}
        for p, factor, decay in zip(parameters, (1, 2, 10, 20), (4e-5, 0, 4e-5, 0), strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=Config().momentum, nesterov=True)
    schedule = polynomial_schedule(optimizer, 9, Config().power)
    for step in range(5):
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(recipe.array(f"msal/optim/g{i}/{step}", (4, 3)))
        norm = torch.nn.utils.clip_grad_norm_(parameters, Config().clip)
        np.testing.assert_allclose(norm, golden["grad_norm"][step], rtol=1e-5)
        np.testing.assert_allclose(schedule.get_last_lr(), golden["lr"][step], rtol=1e-5)
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(torch.stack(parameters).detach(), golden["params"], rtol=1e-5, atol=1e-6)


def small(**changes):
    torch.manual_seed(0)
    method = MSAL(Config.preset("toy").replace(pretrained=False, **changes), 3)
    method.superpixels = SuperpixelNet(0.25)
    return method


@pytest.mark.parametrize("changes", [{}, {"ipc_weight": 0.0}, {"dcr": "noq", "training_iterations": 0}])
def test_one_step(changes):
    method = small(**changes)
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=4)
    before = [p.clone() for p in method.superpixels.parameters()]
    losses = method.step(Batch(torch.randn(2, 3, 96, 96), torch.eye(3)[:2], torch.arange(2)))
    assert set(losses) == {"loss", "classification", "gradient"} | ({"ipc"} if "ipc_weight" not in changes else set())
    assert all(torch.equal(a, b) for a, b in zip(before, method.superpixels.parameters(), strict=True))
    assert all(p.grad is None for p in method.superpixels.parameters())


def test_maps_of_any_size():
    method = small()
    method.train(False)
    with torch.no_grad():
        assert method.cam(torch.randn(1, 3, 50, 70)).shape == (1, 3, 64, 80)
        assert method.logits(torch.randn(1, 3, 50, 70)).shape == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("image_single_r0", {}),
        ("image_multi_r0", {"sum_at": "last"}),
        ("sal_multi_r0", {}),
        ("sal_multi_r3", {"walk_steps": 3}),
    ],
)
def test_official_inference(name, changes):
    golden = recipe.golden("msal/inference")
    method = MSAL(Config.preset("voc12").replace(iterations=1, threshold=0.9, **changes), 20)
    weights = state("cls_model_concat", "msal/infer/cls")
    load_into(method.network, weights, source="x.pth", rename=method.network.official_key)
    method.superpixels = SuperpixelNet()
    values = recipe.fill(recipe.shapes("msal/spixel_net"), "msal/infer/sp")
    load_into(method.superpixels, {k: torch.from_numpy(v) for k, v in values.items()}, source="y.tar")
    method.train(False)
    labels = torch.zeros(1, 20)
    labels[0, [14, 18]] = 1
    image, classes = noisy_images("msal/infer/image", 1, 70, 90), torch.tensor([14, 18])
    with torch.inference_mode():
        if "single" in name:  # the authors' evaluation between epochs, not mirrored
            maps = upsample(normalise_cams(method.cam(image)[:, classes]), (70, 90))[0]
        else:
            [(found, maps)] = multi_scale_cam(method, [image], labels, (70, 90))
            assert torch.equal(found, classes)
    official = golden[f"{name}_cam"]  # a channel of background first, sampled
    places = np.linspace(0, 3 * 70 * 90 - 1, official.size).astype(np.int64)
    whole = torch.cat([torch.zeros(1, 70, 90), maps]).flatten().numpy()[places]
    of_classes = places >= 70 * 90
    np.testing.assert_allclose(whole[of_classes], official[of_classes], rtol=5e-3, atol=1e-3)
    for percent in (20, 30):
        labels_of = cam_label(maps, classes, percent / 100)
        assert (labels_of.numpy() != golden[f"{name}_label{percent}"]).mean() < 2e-3


def test_images_without_classes_have_no_maps():
    method = small()
    method.train(False)
    with torch.no_grad():
        first, second = method.multi_scale(torch.randn(2, 3, 50, 70), torch.tensor([[0.0, 0, 0], [1, 0, 1]]))
    assert (first.shape, second.shape) == ((0, 50, 70), (2, 50, 70))
    assert 0 <= second.min() <= second.max() < 1


def test_a_large_picture_and_its_mirror_image_pass_one_after_the_other(monkeypatch):
    method, passed = small(), []
    method.train(False)
    associate = method.associate
    monkeypatch.setattr(method, "associate", lambda images: passed.append(len(images)) or associate(images))
    images, labels = torch.randn(1, 3, 48, 64), torch.ones(1, 3)
    found = []
    for most, expected in ((2 * 96 * 128, {2}), (1, {1})):
        monkeypatch.setattr(msal, "_PIXELS_AT_ONCE", most)
        passed.clear()
        with torch.no_grad():
            found.append(method.multi_scale(images, labels)[0])
        assert set(passed) == expected
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_without_superpixels():
    method = small()
    method.superpixels = None
    with pytest.raises(InputError, match="set the attribute superpixels"):
        method.cam(torch.randn(1, 3, 32, 32))


def test_without_saliency():
    method = small(target="saliency")
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=4)
    with pytest.raises(InputError, match="no saliency maps; give them, or choose target image"):
        method.step(Batch(torch.randn(2, 3, 96, 96), torch.eye(3)[:2], torch.arange(2)))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    Config.preset(preset).check()
    with pytest.raises(InputError, match="crop_size 100 is not a multiple of 16"):
        Config.preset(preset).replace(crop_size=100).check()
    with pytest.raises(InputError, match="patches 5 is not a square number"):
        Config.preset(preset).replace(patches=5).check()


def test_the_saliency_variant_brings_its_settings():
    config = Config.preset("voc12").replace(target="saliency", gate=0.2)
    assert (config.power, config.training_iterations, config.patches, config.gate) == (0.9, 0, 1, 0.2)
    assert config.replace(patches=4).power == 0.9


def test_what_is_switched_off_needs_no_superpixels():
    off = {"dcr": "off", "ipc_weight": 0.0, "along_superpixels": False}
    method = MSAL(Config.preset("toy").replace(**off), 3)
    method.train(False)
    with torch.no_grad():
        assert method.cam(torch.randn(1, 3, 50, 70)).shape == (1, 3, 64, 80)
    for name in off:
        assert Config.preset("toy").replace(**{k: v for k, v in off.items() if k != name}).needs_superpixels


def test_the_normalisation_of_the_authors():
    assert MSAL(Config.preset("voc12").replace(pretrained=False), 20).backbone.normalisation == Normalisation(MEAN, STD)
    for name in LIGHT:
        backbone = MSAL(Config.preset("photos", name).replace(pretrained=False), 20).backbone
        assert backbone.normalisation == create_backbone(name).normalisation


def test_padding_is_told_by_the_first_pixel_of_a_cell():
    images = torch.ones(1, 3, 32, 48)
    images[:, :, :8] = 0  # covers the first pixels of the upper cells
    images[:, :, :, 40:] = 0  # and the last of the cells on the right
    assert valid_cells(images)[0, 0].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_two_colours_that_the_maps_tell_apart_are_rebuilt():
    cams = torch.zeros(1, 2, 6, 6)
    cams[:, 0, :, :3] = 1
    target = torch.zeros(1, 3, 6, 6)
    target[:, 0, :, :3] = 2
    target[:, 1, :, 3:] = 1
    assert ipc_loss(cams, target, 1) < 1e-4
    assert ipc_loss(cams.flip(-1).roll(1, -1), target, 1) > 0.1
