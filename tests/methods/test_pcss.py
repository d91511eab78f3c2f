"""PCSS's step, census and inference against the authors' code."""

import random

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from tests import recipe
from tests.methods import official, transformers
from tests.methods.transformers import filled
from wsss_lib.errors import InputError
from wsss_lib.methods import pcss
from wsss_lib.methods.method import PRESETS
from wsss_lib.methods.pcss import (
    PCSS,
    Config,
    Influence,
    census,
    choose_census_images,
    class_token_contrast,
    classification_loss,
    map_difference,
)
from wsss_lib.ops.cam import background_power
from wsss_lib.ops.dense_crf import dense_crf, unary_from_scores
from wsss_lib.ops.frequency import half_plane
from wsss_lib.stages.infer import multi_scale_cam

FABRIC = Fabric(accelerator="cpu", devices=1)


def paper(**changes):
    """The authors' settings without stochastic depth, for images of 64 pixels."""
    return Config(backbone_options={"drop_path": 0.0}, crop_size=64, pretrained=False).replace(**changes)


def small(network="pcss", **changes):
    options = {"channels": 24, "depth": 3, "heads": 2, "patch": 8, "grid": 4, "drop_path": 0.0}
    if network != "pcss":
        changes = {"phase_weight": 0.0, "shortcut_weight": 0.0, **changes}
    config = Config(
        backbone_options=options, network=network, crop_size=32, pretrained=False, merge_block=1, epochs=4, batch_size=2
    )
    torch.manual_seed(0)
    return PCSS(config.replace(**changes), 3)


def of_the_paper(shapes, name, **changes):
    method = PCSS(paper(**changes), 20)
    filled(method.network, shapes, name)
    return method


def logits_of(method):
    def logits(images):
        outputs = method.network(images)
        return outputs.class_logits, outputs.patch_logits

    return logits


# ----------------------------------------------------------------------------------------------------------- the step


@pytest.mark.slow
@pytest.mark.parametrize("share_blocks", [True, False])
def test_official_step(share_blocks):
    golden, about = recipe.golden("pcss/train_step"), recipe.description("pcss/train_step")
    method = of_the_paper("train_step", "pcss/train_step/net", share_blocks=share_blocks)
    images = transformers.images(about["images"], 64, 64)
    labels = transformers.labels("pcss/train_step/labels", 3, 3)
    mask = np.stack([recipe.smooth(f"pcss/train_step/mask{c}", (1, 64, 64), cells=5)[0] for c in range(20)])
    method.setup(FABRIC, total_steps=60)
    for _ in range(7):
        method.optimizers["network"].step()  # without gradients nothing moves
        method.schedules["network"].step()
    method.influence._half = half_plane(torch.from_numpy(mask))
    method.train()
    method.epoch = 5
    before = {name: p.detach().clone() for name, p in method.network.named_parameters()}

    suppressed = method.influence.suppress(images, labels)
    np.testing.assert_allclose(suppressed[:, :, ::2, ::2], golden["fss_images"], atol=1e-4)
    losses = method.update(images, labels, torch.tensor(about["permutation"]))
    names = {
        "classification": "loss_cls",
        "suppressed": "loss_cls_hif_reduced",
        "suppressed_maps": "loss_cam_hif_reduced",
        "mixed": "loss_cls_merge",
        "mixed_maps": "loss_cam_merge",
    }
    for ours, theirs in names.items():
        np.testing.assert_allclose(losses[ours], golden[theirs], rtol=2e-4)
    np.testing.assert_allclose(losses["loss"], sum(golden[name] for name in names.values()), rtol=2e-4)

    parameters = dict(method.network.named_parameters())
    probed = [parameters[method.network.official_key(key)] for key in about["keys"]]
    np.testing.assert_allclose([p.grad.norm() for p in probed], golden["grad_norms"], rtol=5e-3)
    total = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None]).norm()
    np.testing.assert_allclose(total, golden["grad_norm_total"], rtol=5e-3)
    official.assert_close(parameters["head.bias"].grad, golden["grad_head_bias"], 5e-3)
    official.assert_close(parameters["backbone.cls_token"].grad[0, :, ::32], golden["grad_cls_token"], 5e-3)
    moved = [(parameters[n] - before[n]).norm().item() for n in map(method.network.official_key, about["keys"])]
    np.testing.assert_allclose(moved, golden["delta_norms"], rtol=5e-3)
    unmoved = [name for name, p in parameters.items() if p.grad is None]
    assert unmoved == [method.network.official_key(key) for key in about["without_gradient"]]


def rates_of(method, epochs):
    """The learning rate of every epoch of two steps."""
    method.setup(FABRIC, total_steps=2 * epochs)
    rates = []
    for _ in range(epochs):
        rates += method.schedules["network"].get_last_lr()[:1]
        for _ in range(2):
            method.optimizers["network"].step()
            method.schedules["network"].step()
    return rates


@pytest.mark.parametrize("network", ["pcss", "v2"])
def test_official_learning_rates(network):
    """MCTformer's are those of the epoch before."""
    golden = recipe.golden("pcss/lr_schedule")["lr"] / 1e6
    rates = rates_of(small(network, epochs=60, learning_rate=6.25e-5), 60)
    expected = golden[:60] if network == "pcss" else np.concatenate([golden[:1], golden[:59]])
    np.testing.assert_allclose(rates, expected, rtol=2e-7)  # stored as float32


def test_the_warm_up_begins_at_the_same_rate_whatever_the_peak_is():
    rates = rates_of(small("plus", epochs=45, learning_rate=3.125e-5), 45)
    np.testing.assert_allclose(rates[:3], [1e-6, 1e-6, 1e-6 + (3.125e-5 - 1e-6) / 5], rtol=1e-6)


def test_official_groups():
    method = of_the_paper("forward_64", "pcss/net20")
    method.setup(FABRIC, total_steps=60)
    about = recipe.description("pcss/lr_schedule")
    groups = method.optimizers["network"].param_groups
    assert [len(group["params"]) for group in groups] == about["group_sizes"]
    assert [group["weight_decay"] for group in groups] == about["weight_decay"]


def test_official_losses_of_mctformer_plus():
    golden = recipe.golden("pcss/mctformer_plus_losses")
    labels = transformers.labels("pcss/mctformer_plus_losses/labels", 3, 3)
    shapes = {"cls": ((3, 20), 2.0), "tokens": ((12, 3, 20, 24), 1.0), "patch": ((3, 20), 2.0)}
    inputs = {
        name: torch.from_numpy(recipe.array(f"pcss/mctformer_plus_losses/{name}", *shape)).requires_grad_()
        for name, shape in shapes.items()
    }
    parts = {
        "mct_loss": classification_loss(inputs["cls"], labels),
        "attn_loss": class_token_contrast(inputs["tokens"], labels),
        "pat_loss": classification_loss(inputs["patch"], labels),
    }
    for name, part in parts.items():
        np.testing.assert_allclose(part.detach(), golden[name], rtol=1e-5)
    total = sum(parts.values())
    np.testing.assert_allclose(total.detach(), golden["total"], rtol=1e-5)
    total.backward()
    np.testing.assert_allclose(inputs["cls"].grad, golden["grad_cls"], atol=1e-6)
    np.testing.assert_allclose(inputs["patch"].grad, golden["grad_patch"], atol=1e-6)
    np.testing.assert_allclose(inputs["tokens"].grad.norm(), golden["grad_tokens_norm"], rtol=1e-5)


def batch_of(labels):
    torch.manual_seed(1)
    labels = torch.tensor(labels)
    return torch.randn(len(labels), 3, 32, 32), labels, torch.arange(len(labels)).roll(1)


def test_parts_begin_when_they_are_due():
    method = small(phase_start=2, shortcut_start=1, shortcut_interval=3)
    method.setup(FABRIC, total_steps=8)
    held = []
    method.take_census = held.append
    parts = []
    for epoch in range(8):
        method.begin_epoch(epoch, [])
        parts.append(set(method.losses(*batch_of([[1.0, 0, 0], [0, 1, 1]]))))
    always, shortcut = {"classification", "mixed"}, {"suppressed", "suppressed_maps"}
    assert parts == [always, always] + [always | shortcut | {"mixed_maps"}] * 6
    assert held == [2, 5]


def test_plain_epochs_come_first():
    method = small(plain_share=0.5, shortcut_start=0)
    method.setup(FABRIC, total_steps=8)
    held = []
    method.take_census = lambda epoch: held.append(epoch) or method.influence.update(torch.rand(3, 4, 4))
    counts = []
    for epoch in range(4):
        method.begin_epoch(epoch, [])
        counts.append(len(method.losses(*batch_of([[1.0, 0, 0], [0, 1, 1]]))))
    assert counts == [1, 1, 3, 5]
    assert held == [3]


@pytest.mark.parametrize("network", ["v1", "v2", "plus"])
def test_mctformers_losses(network):
    method = small(network, epochs=2)
    method.setup(FABRIC, total_steps=4)
    method.begin_epoch(0, [])
    extra = {"contrast"} if network == "plus" else set()
    images = torch.randn(2, 3, 64, 64) if network == "plus" else torch.randn(2, 3, 32, 32)
    losses = method.update(images, torch.eye(3)[:2], torch.arange(2))
    assert set(losses) == {"loss", "classification"} | extra
    assert all(torch.isfinite(value) for value in losses.values())


def test_an_image_without_classes_is_not_suppressed():
    influence = Influence(3, 32, 8)
    influence.update(torch.rand(3, 4, 4) + 0.1)
    images, labels, _ = batch_of([[0.0, 0, 0], [0, 1, 1]])
    suppressed = influence.suppress(images, labels)
    torch.testing.assert_close(suppressed[0], images[0], atol=1e-5, rtol=1e-4)
    assert (suppressed[1] - images[1]).abs().max() > 0.1


def test_suppression_is_the_mean_over_the_classes():
    influence = Influence(3, 32, 8)
    influence.update(torch.rand(3, 4, 4) + 0.1)
    images, _, _ = batch_of([[0.0, 1, 1]])
    spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1))
    each = [torch.fft.ifft2(torch.fft.ifftshift(spectrum * (1 - k), dim=(-2, -1))).real for k in influence.maps()[1:]]
    both = influence.suppress(images, torch.tensor([[0.0, 1, 1]]))
    torch.testing.assert_close(both, (each[0] + each[1]) / 2, atol=1e-5, rtol=1e-4)


def test_weights_of_images_do_not_change_the_divisor():
    one, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    both = map_difference(one, other)
    parts = [map_difference(one, other, torch.tensor(w)) for w in ([1.0, 0.0], [0.0, 1.0])]
    torch.testing.assert_close(parts[0] + parts[1], both)


def test_only_the_maps_with_mixed_magnitudes_learn_from_the_comparison():
    """The third pass learns from maps of the first that are held fixed: no gradient would be left by equal maps."""
    method = small(own_magnitude=1.0, shortcut_weight=0.0)
    method.setup(FABRIC, total_steps=8)
    losses = method.losses(*batch_of([[1.0, 0, 0], [0, 1, 1]]))
    assert losses["mixed_maps"] < 1e-4
    torch.testing.assert_close(losses["mixed"], losses["classification"], rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- the census


def golden_batches(epoch, about, done):
    for batch, count in enumerate(about["batches"]):
        name = f"pcss/fim/e{epoch}/{batch}"
        if batch == 0:
            labels = torch.from_numpy((recipe.uniform(f"{name}/labels", (count, 20)) < 0.15).astype(np.float32))
            for c in range(20):
                labels[c % count, c] = 1
        else:
            labels = transformers.labels(f"{name}/labels", count, 3)
        done.append(labels)
        yield transformers.images([f"{name}/{i}" for i in range(count)], 64, 64), labels


@pytest.mark.slow
def test_official_census():
    golden, about = recipe.golden("pcss/fim"), recipe.description("pcss/fim")
    method = of_the_paper("forward_64", "pcss/net20")
    left = []
    for epoch in about["epochs"]:
        seen = []
        images = torch.cat([batch for batch, _ in golden_batches(epoch, about, seen)])
        used = choose_census_images(torch.cat(seen), about["fim_ipc"])
        left += [(about["fim_ipc"] - used[:end].sum(0)).tolist() for end in np.cumsum(about["batches"])]
        batches = zip(images.split(4), used.split(4), strict=True)  # divided in another way
        table = census(logits_of(method), batches, 64, 16, at_once=24)
        np.testing.assert_allclose(table, golden[f"loss_e{epoch}"], rtol=5e-4)
        method.influence.update(table)
        np.testing.assert_allclose(method.influence.maps()[::6, ::4, ::4], golden[f"mask_e{epoch}"], atol=2e-3)
        np.testing.assert_allclose(method.influence.highest, golden[f"max_loss_e{epoch}"], rtol=5e-4)
    assert left == golden["quota_left"].tolist()


def census_the_plain_way(method, images, labels, quota):
    """The authors' loop: every probe on the whole, complex spectrum, and class by class the first images."""
    table, left = torch.zeros(3, 4, 4), torch.full((3,), quota)
    for batch, shown in zip(images.split(3), labels.split(3), strict=True):
        kept = (shown * (left > 0)).any(1)
        batch, shown = batch[kept], shown[kept]
        if not len(batch):
            continue
        spectra = torch.fft.fftshift(torch.fft.fft2(batch), dim=(-2, -1))
        for row in range(4):
            for column in range(3):
                mask = torch.ones(32, 32)
                mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
                if column > 0:
                    top = (32 - 8 * row) % 32
                    mask[top : top + 8, 32 - 8 * column : 40 - 8 * column] = 0
                filtered = torch.fft.ifft2(torch.fft.ifftshift(spectra * mask, dim=(-2, -1))).real
                with torch.no_grad():
                    z = method.network(filtered)
                loss = -(z.class_logits.sigmoid().log() + z.patch_logits.sigmoid().log())
                for k in range(3):
                    some = shown[:, k].nonzero().flatten()[: left[k]]
                    value = loss[some, k].sum()
                    table[k, row, column] += value
                    if column > 0 and (-row % 4, 4 - column) != (row, column) and column != 2:
                        table[k, -row % 4, 4 - column] += value
        left = left - shown.sum(0).long().minimum(left)
    return table


def test_the_census_is_that_of_the_plain_loop():
    method = small()
    method.train(False)
    torch.manual_seed(3)
    images, labels = torch.randn(8, 3, 32, 32), (torch.rand(8, 3) < 0.5).float()
    used = choose_census_images(labels, 2)
    assert not used.any(1).all()
    some = used.any(1)
    ours = census(logits_of(method), [(images[some], used[some])], 32, 8, at_once=20)
    torch.testing.assert_close(ours, census_the_plain_way(method, images, labels, 2), rtol=1e-4, atol=1e-4)


def test_a_census_without_classes():
    with pytest.raises(InputError, match="no image with a class"):
        census(logits_of(small()), [], 32, 8)


def test_a_census_that_is_not_finite():
    with pytest.raises(InputError, match="not finite; lower learning_rate"):
        Influence(3, 32, 8).update(torch.full((3, 4, 4), float("nan")))


def test_a_class_that_is_not_seen_keeps_its_influence():
    influence = Influence(2, 32, 8)
    first = torch.rand(2, 4, 4) + 0.1
    influence.update(first)
    maps = influence.maps()
    influence.update(torch.stack([torch.zeros(4, 4), first[1] / 2]))
    assert torch.equal(influence.maps()[0], maps[0])
    assert not torch.equal(influence.maps()[1], maps[1])


def test_a_census_needs_images():
    method = small(shortcut_start=0)
    method.setup(FABRIC, total_steps=8)
    with pytest.raises(InputError, match="set the attribute census_images"):
        method.begin_epoch(1, [])


def test_influence_is_saved_and_loaded():
    one, other = small(), small()
    one.influence.update(torch.rand(3, 4, 4) + 0.1)
    images, labels, _ = batch_of([[1.0, 0, 0], [0, 1, 1]])
    other.influence.suppress(images, labels)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.influence.suppress(images, labels), one.influence.suppress(images, labels))


def test_probed_images_are_the_first_of_every_class():
    labels = torch.tensor([[1.0, 0], [1, 1], [1, 0], [0, 0], [0, 1], [0, 1]])
    assert choose_census_images(labels, 2).tolist() == [
        [True, False], [True, True], [False, False], [False, False], [False, True], [False, False],
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- inference


@pytest.mark.slow
def test_official_inference():
    golden = recipe.golden("pcss/infer")
    method = of_the_paper("forward_64", "pcss/net20")
    method.train(False)
    labels = transformers.labels("pcss/infer/labels", 1, 2)
    with torch.inference_mode():
        [(classes, maps)] = multi_scale_cam(method, [transformers.images(["pcss/infer/0"], 80, 64)], labels, (80, 64))
    assert classes.tolist() == golden["keys"].tolist()
    np.testing.assert_allclose(maps, golden["maps"], atol=5e-4)


@pytest.mark.slow
def test_official_inference_of_v2():
    golden = recipe.golden("pcss/mctformer_v2")
    method = of_the_paper("mctformer_v2", "pcss/mct2", network="v2", phase_weight=0.0, shortcut_weight=0.0)
    method.train(False)
    labels = transformers.labels("pcss/mctformer_v2/labels", 2, 2)[:1]
    images = transformers.images(["pcss/mctformer_v2/0"], 64, 64)
    with torch.inference_mode():
        [(classes, maps)] = multi_scale_cam(method, [images], labels, (64, 64))
    assert classes.tolist() == golden["keys0"].tolist()
    np.testing.assert_allclose(maps, golden["maps0"], atol=5e-4)


@pytest.mark.parametrize("alpha", [1, 6, 12, 24])
def test_official_crf(alpha):
    classes = np.unique(recipe.integers("pcss/crf_alpha/classes", (2,), 0, 20))
    cams = np.stack([recipe.smooth(f"pcss/crf_alpha/cam{c}", (1, 30, 38), cells=5)[0] for c in classes])
    noise = recipe.array("pcss/crf_alpha/img/noise", (3, 30, 38), 0.05)
    image = np.round((recipe.smooth("pcss/crf_alpha/img", (3, 30, 38), cells=6) + noise) * 255).clip(0, 255)
    unary = unary_from_scores(background_power(torch.from_numpy(cams), alpha)[None])
    [[ours]] = dense_crf([torch.from_numpy(image.astype(np.uint8))], [unary], "psa")
    np.testing.assert_allclose(ours, recipe.golden("pcss/crf_alpha")[f"alpha{alpha}"], atol=2e-3)


@pytest.mark.parametrize("network", ["pcss", "v1", "v2", "plus"])
def test_maps_of_any_size(network):
    method = small(network)
    method.train(False)
    with torch.inference_mode():
        [(classes, maps)] = multi_scale_cam(method, [torch.randn(1, 3, 37, 50)], torch.tensor([[0.0, 1, 1]]), (37, 50))
    assert classes.tolist() == [1, 2]
    assert maps.shape == (2, 37, 50)
    assert 0 <= maps.min() <= maps.max() <= 1


@pytest.mark.parametrize("network", ["pcss", "v2", "plus"])
def test_checkpoints_of_the_authors(network, tmp_path):
    one, other = small(network), small(network)
    torch.nn.init.normal_(one.network.head.weight)
    state = {key.removeprefix("backbone."): value for key, value in one.network.state_dict().items()}
    if network == "plus":
        state["pos_embed"] = torch.zeros(1, 17, 24)
    other.load_official(state, tmp_path / "net.pth")
    official.assert_same(one.network, other.network)
    state.pop("head.bias")
    with pytest.raises(InputError, match=r"net\.pth is probably for another network"):
        other.load_official(state, tmp_path / "net.pth")


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    config = Config.preset(preset)
    config.check()
    crop = config.augmentation()(Image.new("RGB", (130, 90)), lambda x: x.float(), random.Random(0))
    assert crop.shape == (3, config.crop_size, config.crop_size)
    with pytest.raises(InputError, match="backbone 'vgg16' cannot be used; choose one of deit_small"):
        Config.preset(preset, "vgg16")


def test_paper_settings():
    voc, coco = Config.preset("voc12"), Config.preset("coco14")
    assert (voc.epochs, voc.batch_size, voc.crop_size, voc.learning_rate) == (60, 64, 224, 6.25e-5)
    assert (voc.shortcut_weight, voc.phase_weight, voc.shortcut_start, voc.phase_start) == (2.0, 2.0, 2, 0)
    assert (coco.shortcut_weight, coco.phase_weight, coco.shortcut_start, coco.phase_start) == (0.4, 0.4, 3, 3)


def test_the_mctformers_bring_their_settings_along():
    v2 = Config.preset("voc12").replace(network="v2")
    assert (v2.phase_weight, v2.shortcut_weight, v2.random_erasing, v2.crop_scale) == (0.0, 0.0, 0.25, (0.08, 1.0))
    plus = Config.preset("voc12").replace(network="plus", epochs=3)
    assert (plus.crop_size, plus.batch_size, plus.epochs, plus.scales) == (448, 32, 3, (1.0, 0.75, 1.25))
    toy = Config.preset("toy").replace(network="v1")
    assert (toy.phase_weight, toy.crop_scale) == (0.0, (0.6, 1.2))
    for config in (v2, plus, toy, v2.replace(epochs=2)):
        config.check()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"crop_size": 100}, "crop_size 100 is not a multiple of a patch, 16"),
        ({"merge_block": 11}, "merge_block 11 must leave a block of 12 behind it"),
        ({"crop_scale": (1.2, 0.6)}, "must be two numbers, the smaller one first"),
        ({"network": "v2", "phase_weight": 2.0}, "set phase_weight and shortcut_weight to 0, or choose network pcss"),
    ],
)
def test_settings_that_contradict_each_other(changes, says):
    with pytest.raises(InputError, match=says):
        Config().replace(**changes).check()
    assert pcss.METHOD is PCSS
