"""The segmentation stage against the two official recipes: losses, gradients, schedules, inference, CRF, scores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from tests import recipe
from tests.scenes import deeplab_checkpoint, label_map, picture, picture01, resnet38_checkpoint
from wsss_lib.data.label_transforms import ScaleChoice, UniformScale
from wsss_lib.errors import InputError
from wsss_lib.methods.method import Batch
from wsss_lib.methods.segmentation import Config, Segmentation, nearest_labels, probabilities, segmentation_loss
from wsss_lib.models.backbone import Normalisation
from wsss_lib.ops.dense_crf import dense_crf, unary_from_scores
from wsss_lib.ops.metrics import class_mean, confusion_matrix, intersection_over_union

DEEPLAB, RESNET38, INFER = "segmentation/deeplabv2", "segmentation/resnet38_seg", "segmentation/infer_seg"


def official(backbone, checkpoint):
    """A method as it is trained, without dropout, with the made-up network of a golden vector."""
    method = Segmentation(Config.preset("voc12", backbone), 20)
    method.load_official(checkpoint, source="golden")
    for layer in method.network.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    method.train()
    return method


def gradient_norms(method, keys):
    weights = dict(method.network.named_parameters())
    return [weights[method.network.official_key(key)].grad.norm().item() for key in keys]


@pytest.mark.slow
def test_official_deeplab_losses_and_gradients():
    golden, description = recipe.golden(DEEPLAB), recipe.description(DEEPLAB)
    method = official("resnet101_caffe", deeplab_checkpoint(DEEPLAB))
    pixels = torch.from_numpy(picture01(f"{DEEPLAB}/0", (65, 65))[::-1].copy() * 255)
    images = method.backbone.normalisation(pixels)[None]
    labels = torch.from_numpy(label_map(f"{DEEPLAB}/0/label", (65, 65), 21))[None]
    outputs = method.network(images)
    losses = [segmentation_loss(logits, labels, "logits").item() for logits in outputs]
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-3)
    loss = method.loss(outputs, labels) / 2
    np.testing.assert_allclose(loss.item(), golden["iter_loss"], rtol=1e-3)
    loss.backward()
    np.testing.assert_allclose(gradient_norms(method, description["keys"]), golden["grad_norms"], rtol=1e-3)
    bias = method.network.head.c0.bias.grad.numpy()
    np.testing.assert_allclose(bias, golden["grad_aspp_bias"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_official_resnet38_loss_and_gradients():
    golden, description = recipe.golden(RESNET38), recipe.description(RESNET38)
    method = official("resnet38d", resnet38_checkpoint(RESNET38))
    pixels = torch.from_numpy(picture01(f"{RESNET38}/0", (64, 64)) * 255)
    labels = torch.from_numpy(label_map(f"{RESNET38}/0/label", (64, 64), 21))[None]
    loss = method.loss(method.network(method.backbone.normalisation(pixels)[None]), labels)
    np.testing.assert_allclose(loss.item(), golden["loss"], rtol=5e-4)
    loss.backward()
    np.testing.assert_allclose(gradient_norms(method, description["keys"]), golden["grad_norms"], rtol=2e-3)
    bias = method.network.head.fc8_seg_conv2.bias.grad.numpy()
    np.testing.assert_allclose(bias, golden["grad_fc8_bias"], rtol=2e-3, atol=1e-5)
    frozen = {name.removeprefix("backbone.") for name, p in method.network.named_parameters() if not p.requires_grad}
    owners = {":".join((name.split(".")[0], name.split(".")[-2])) for name in frozen}
    assert owners == set(description["frozen"])
    assert len(frozen) == description["frozen_count"]


def groups_of(method, steps):
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=steps)
    return method.optimizers["network"].param_groups


def rates_of(method, count):
    """The learning rates of every group in ``count`` steps."""
    optimizer, schedule = method.optimizers["network"], method.schedules["network"]
    rates = []
    for _ in range(count):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return np.array(rates)


def narrow(backbone, **options):
    """The training of the paper, of a narrow network."""
    config = Config.preset("voc12", backbone)
    return Segmentation(config.replace(backbone_options={"width": 0.125}, head_options=options), 20)


def test_official_resnet38_optimiser():
    method = narrow("resnet38d", width=0.125)
    groups = groups_of(method, 40)
    described = recipe.description("segmentation/resnet38_seg_optimizer")["param_groups"]
    for group in groups:
        for name in ("momentum", "weight_decay", "dampening", "nesterov"):
            assert group[name] == described[0][name]
    assert [len(group["params"]) for group in groups] == [42, 2, 2]  # trained ones; theirs lists the frozen too
    rates = rates_of(method, 44)
    golden = recipe.golden("segmentation/resnet38_seg_optimizer")["lr"]
    np.testing.assert_allclose(rates[:, 0] * 1e6, golden[:, 0], rtol=1e-6)
    for head in (1, 2):
        np.testing.assert_allclose(rates[:, head] * 1e6, golden[:, 1], rtol=1e-6)


def test_official_deeplab_optimiser():
    method = Segmentation(Config.preset("voc12").replace(pretrained=True), 20)
    groups = groups_of(method, 200)
    counts = recipe.description(DEEPLAB)["param_groups"]
    assert [len(group["params"]) for group in groups] == list(counts.values())
    assert [group["weight_decay"] for group in groups] == [5e-4, 5e-4, 0]
    assert {group["momentum"] for group in groups} == {0.9}
    rates = rates_of(method, 206)
    golden = recipe.golden("segmentation/deeplab_poly")["lr"]
    for group, factor in enumerate((1, 10, 20)):
        np.testing.assert_allclose(rates[:, group] * 1e6, golden * factor, rtol=1e-6)


# --------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(("before", "after"), [((65, 65), (9, 9)), ((10, 7), (4, 12)), ((8, 8), (4, 4))])
def test_labels_are_shrunk_to_the_nearest_pixel(before, after):
    labels = torch.arange(before[0] * before[1]).view(1, *before)
    rows = [int((i + 0.5) * before[0] / after[0]) for i in range(after[0])]
    columns = [int((i + 0.5) * before[1] / after[1]) for i in range(after[1])]
    assert torch.equal(nearest_labels(labels, after)[0], labels[0][rows][:, columns])


def test_labels_are_shrunk_as_pillow_does():
    """Between two pixels, adding up places in double precision decides."""
    for before in range(1, 130):
        for after in {1, (before + 7) // 8, before // 9 + 1, (2 * before + 2) // 3, before}:
            labels = torch.arange(before).view(1, 1, before)
            image = Image.fromarray(labels[0].numpy().astype(np.int32))
            expected = np.asarray(image.resize((after, 1), Image.Resampling.NEAREST))
            np.testing.assert_array_equal(nearest_labels(labels, (1, after))[0], expected)
    assert nearest_labels(torch.arange(64).view(1, 1, 64), (1, 7))[0, 0, 3] == 31  # not 32


@pytest.mark.parametrize("at", ["image", "logits"])
def test_the_loss_is_the_mean_over_labelled_pixels(at):
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)
    labels[0, :2] = 255
    cost = -logits.log_softmax(1)
    places = (labels != 255).nonzero().tolist()
    expected = torch.stack([cost[b, int(labels[b, y, x]), y, x] for b, y, x in places]).mean()
    torch.testing.assert_close(segmentation_loss(logits, labels, at), expected)


def test_a_batch_without_any_label_teaches_nothing():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 8, 8), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_a_batch_in_parts_has_the_mean_of_their_losses():
    torch.manual_seed(0)
    config = Config.preset("toy", "resnet101_caffe").replace(accumulation=2, head="aspp", head_options={})
    method = Segmentation(config, 2)
    method.backbone.freeze()
    groups_of(method, 1)
    images = torch.randn(4, 3, 33, 33)
    labels = torch.randint(0, 3, (4, 33, 33), dtype=torch.uint8)
    labels[0] = 255
    with torch.no_grad():
        parts = [method.loss(method.network(images[i : i + 2]), labels[i : i + 2]).item() for i in (0, 2)]
    before = method.network.head.c0.weight.detach().clone()
    loss = method.step(Batch(images, labels, torch.arange(4)))["loss"].item()
    np.testing.assert_allclose(loss, sum(parts) / 2, rtol=1e-5)
    assert not torch.equal(method.network.head.c0.weight, before)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", Config.backbones)
def test_it_can_learn_a_square(backbone):
    images = torch.randn(4, 3, 64, 64) * 0.1
    labels = torch.zeros(4, 64, 64, dtype=torch.uint8)
    for i, (top, left) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32)]):
        images[i, :, top : top + 32, left : left + 32] += 1
        labels[i, top : top + 32, left : left + 32] = 1
    method = Segmentation(Config.preset("toy", backbone).replace(pretrained=False, epochs=1), 1)
    groups_of(method, 40)
    method.train()
    losses = [method.step(Batch(images, labels, torch.arange(4)))["loss"].item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


# ----------------------------------------------------------------------------------------------- inference and scores


def stand_in():
    network = nn.Sequential(nn.Conv2d(3, 16, 9, 8, 4), nn.ReLU(), nn.Conv2d(16, 21, 3, padding=1))
    state = recipe.fill(recipe.shapes(INFER), "segmentation/tiny")
    names = {"a": "0", "b": "2"}
    network.load_state_dict({f"{names[k[0]]}{k[1:]}": torch.from_numpy(v) for k, v in state.items()})
    return network


def test_official_inference_of_mctformer():
    golden, description = recipe.golden(INFER), recipe.description(INFER)
    [image_id], [size] = description["ids"], description["sizes"]
    pixels = torch.from_numpy(picture(f"{INFER}/{image_id}", size)).permute(2, 0, 1)
    with torch.no_grad():
        merged = probabilities(stand_in(), Normalisation()(pixels)[None], description["scales"], "max")[0]
    np.testing.assert_allclose(merged.numpy()[:, ::4, ::4], golden["prob0"], rtol=0, atol=1e-4)
    prediction = merged.argmax(0)
    np.testing.assert_array_equal(prediction.numpy(), golden["pred0"])
    truth = torch.from_numpy(label_map(f"{INFER}/{image_id}/label", size, 21))
    confusion = confusion_matrix(truth, prediction, 21)
    np.testing.assert_array_equal(confusion.numpy(), golden["confusion"])
    iou = intersection_over_union(confusion)
    np.testing.assert_allclose(iou.nan_to_num(-1).numpy(), golden["iou"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(class_mean(iou).item(), golden["miou"], rtol=0, atol=1e-6)


def test_plain_inference_at_scale_1_is_that_of_deeplab():
    network, images = stand_in(), torch.randn(2, 3, 45, 60)
    with torch.no_grad():
        logits = F.interpolate(network(images), (45, 60), mode="bilinear", align_corners=False)
        torch.testing.assert_close(probabilities(network, images, (1.0,), "plain"), logits.softmax(1))


def test_the_default_is_the_mean_over_scales_and_mirror_images():
    network, images = stand_in(), torch.randn(2, 3, 45, 60)
    with torch.no_grad():
        merged = probabilities(network, images, (1.0, 0.5))
        plain = probabilities(network, images, (1.0, 0.5), "plain")
        mirrored = probabilities(network, images.flip(-1), (1.0, 0.5), "plain").flip(-1)
        each = [probabilities(network, images, (scale,), "plain") for scale in (1.0, 0.5)]
        turned = probabilities(network, images.flip(-1), (1.0, 0.5))
    torch.testing.assert_close(merged, (plain + mirrored) / 2)
    torch.testing.assert_close(plain, (each[0] + each[1]) / 2)
    torch.testing.assert_close(turned.flip(-1), merged)
    torch.testing.assert_close(merged.sum(1), torch.ones(2, 45, 60))


@pytest.mark.parametrize(("preset", "name"), [("deeplab", "deeplab"), ("mctformer_seg", "seg"), ("psa", "psa")])
def test_official_crf(preset, name):
    golden = recipe.golden("segmentation/densecrf")[name]
    image = pixels_of("segmentation/densecrf/img", (28, 36))
    fields = [recipe.smooth(f"segmentation/densecrf/score{c}", (1, 28, 36), cells=5)[0] for c in range(5)]
    scores = 6 * np.stack(fields) + recipe.array("segmentation/densecrf/noise", (5, 28, 36), 0.5)
    unary = unary_from_scores(torch.from_numpy(scores).softmax(0))
    [posterior] = dense_crf([image], [unary], preset)
    np.testing.assert_allclose(posterior.numpy(), golden, rtol=0, atol=1e-4)


def pixels_of(name, size):
    return torch.from_numpy(picture(name, size)).permute(2, 0, 1).contiguous()


# --------------------------------------------------------------------------------------------------------- settings


def test_paper_settings():
    voc, coco, wide = Config.preset("voc12"), Config.preset("coco14"), Config.preset("voc12", "resnet38d")
    assert (voc.backbone, coco.backbone) == ("resnet101_caffe", "resnet101_caffe")
    assert (voc.batch_size, voc.accumulation, voc.crop_size) == (10, 2, 321)
    assert abs(voc.epochs * (10_582 // 10) - 20_000) < 500
    assert abs(coco.epochs * (82_081 // 10) - 100_000) < 2_000
    assert wide.epochs * (10_582 // wide.batch_size) == 79_350
    assert (wide.learning_rate, wide.momentum, wide.weight_decay, wide.head_factor) == (7e-4, 1e-5, 0.0, 10)
    assert wide.augmentation() == UniformScale((0.7, 1.3), 321, 0)
    assert voc.augmentation() == ScaleChoice((0.5, 0.75, 1.0, 1.25, 1.5), 321, 255)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"padding_label": 3}, r"padding_label is 3; choose 0 \(background\) or 255 \(ignored\)\."),
        ({"accumulation": 11}, "accumulation is 11, more than batch_size 10"),
        ({"crf": "dense"}, "CRF preset 'dense' is unknown"),
        ({"scales": ()}, "scales and train_scales need at least one number"),
    ],
)
def test_settings_that_make_no_sense(changes, says):
    with pytest.raises(InputError, match=says):
        Config.preset("voc12").replace(**changes).check()
