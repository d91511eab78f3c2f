"""AffinityNet against the official loss, three official updates, and the official inference."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests import recipe
from tests.methods import official
from wsss_lib.errors import InputError
from wsss_lib.methods.affinitynet import AffinityNet, Config, affinity_loss, enlarge, semi_labels
from wsss_lib.methods.method import Batch
from wsss_lib.stages.refine import label_map

SMALL = {"pretrained": False, "network_options": {"group_norm": True}}


def small(**changes):
    return AffinityNet(Config.preset("toy").replace(**SMALL, **changes), 3)


def kinds(name, shape, high):
    z = torch.from_numpy(recipe.integers(name, shape, 0, high))
    return z == 0, z == 1, z == 2


def test_loss_and_gradient():
    golden = recipe.golden("psa/losses")
    affinities = torch.from_numpy(recipe.uniform("psa/losses/aff", (2, 34, 40), 0, 1)).requires_grad_()
    losses = affinity_loss(affinities, *kinds("psa/losses/z", (2, 34, 40), 6))
    losses["loss"].backward()
    parts = [losses[name].item() for name in ("loss", "background", "object", "different")]
    np.testing.assert_allclose(parts, golden["aff"], rtol=1e-5)
    gradient = affinities.grad.numpy()
    np.testing.assert_allclose(np.linalg.norm(gradient), golden["aff_grad_norm"].item(), rtol=1e-5)
    np.testing.assert_allclose(gradient[:, ::5], golden["aff_grad"], rtol=1e-4, atol=1e-8)


def test_kinds_without_a_pair_cost_nothing():
    nothing = torch.zeros(1, 34, 5, dtype=torch.bool)
    losses = affinity_loss(torch.rand(1, 34, 5), nothing, nothing, nothing)
    assert [loss.item() for loss in losses.values()] == [0, 0, 0, 0]


def test_labels_have_the_order_of_the_official_assignments():
    #       sure object, object against background, background, doubtful, nothing known
    low = torch.tensor([[0.1, 0.2, 0.9, 0.8, 0.0], [0.9, 0.8, 0.1, 0.2, 0.0]])[:, None]
    high = torch.tensor([[0.1, 0.7, 0.9, 0.1, 0.0], [0.9, 0.3, 0.1, 0.9, 0.0]])[:, None]
    assert semi_labels(low, high).tolist() == [[1, 0, 0, 255, 255]]


@pytest.mark.slow
def test_three_updates_of_the_official_script():
    name = "psa/train_vgg16_aff"
    golden = recipe.golden(name)
    config = Config.preset("voc12", "vgg16").replace(learning_rate=1e-3)
    method = AffinityNet(config, 20)
    checkpoint = official.start(method, name)
    ours = {"loss": "loss", "bg_loss": "background", "fg_loss": "object", "neg_loss": "different"}
    for step in range(3):
        images = torch.from_numpy(recipe.array(f"{name}/x{step}", (2, 3, 80, 80)))
        losses = method.update(images, *kinds(f"{name}/z{step}", (2, 34, 12), 5))
        for theirs, key in ours.items():
            np.testing.assert_allclose(losses[key].item(), golden[theirs][step], rtol=1e-4)
    official.assert_moved_alike(method, golden, checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "name"), [("vgg16", "psa/infer_aff"), ("resnet38d", "psa/infer_aff_r38")])
def test_official_inference(backbone, name):
    """From the image: padding, affinities, walk, enlargement, labels."""
    golden = recipe.golden(name)
    method = AffinityNet(Config.preset("voc12", backbone).replace(pretrained=False), 20)
    checkpoint = recipe.fill(recipe.shapes(name), name)
    if backbone == "resnet38d":
        checkpoint["f9.weight"] = checkpoint["f9.weight"] * np.float32(0.001)
    state = {method.network.official_key(k): torch.from_numpy(v) for k, v in checkpoint.items()}
    method.network.load_state_dict(state)
    method.train(False)
    image = method.backbone.normalisation(torch.from_numpy(golden["img"]).permute(2, 0, 1))[None]
    classes, cams = torch.from_numpy(golden["cls"]).long(), torch.from_numpy(golden["cam"])
    with torch.inference_mode():
        [walked] = method.walk(image, [cams])
    rows = [0, *(classes + 1).tolist()]
    np.testing.assert_allclose(walked.numpy(), golden["rw"][0, rows], rtol=0, atol=1e-4)
    enlarged = enlarge(walked, 8, golden["img"].shape[:2])
    assert (label_map(classes, enlarged).numpy() == golden["pred"]).mean() > 0.995


def test_images_without_classes_walk_too():
    method = small()
    method.train(False)
    images = torch.randn(2, 3, 60, 76)
    with torch.inference_mode():
        one, none = method.walk(images, [torch.rand(1, 60, 76), torch.zeros(0, 60, 76)])
    assert (one.shape, none.shape) == ((2, 8, 10), (1, 8, 10))
    assert enlarge(none, 8, (60, 76)).shape == (1, 60, 76)


def test_walking_together_is_walking_alone():
    method = small(border="official")
    method.train(False)
    method.network.double()  # in float32 the walk enlarges what the convolutions round otherwise
    images = torch.randn(3, 3, 64, 80, dtype=torch.float64)
    cams = [torch.rand(n, 64, 80, dtype=torch.float64) for n in (1, 3, 2)]
    with torch.inference_mode():
        together = method.walk(images, cams)
        for i in range(3):
            torch.testing.assert_close(method.walk(images[i : i + 1], cams[i : i + 1])[0], together[i])


@pytest.mark.slow
def test_it_can_learn_where_a_square_ends():
    """Affinities within the two halves of an image rise above those across the edge between them."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 96, 96) * 0.1
    images[..., 48:] += 1.0
    labels = torch.zeros(2, 12, 12, dtype=torch.uint8)
    labels[..., 6:] = 1
    method = small()
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=25)
    method.train()
    losses = [method.step(Batch(images, labels, torch.arange(2)))["loss"].item() for _ in range(25)]
    assert losses[-1] < 0.5 * losses[0]


def test_paper_settings():
    config = Config.preset("voc12")
    assert (config.epochs, config.batch_size, config.crop_size, config.momentum) == (8, 8, 448, 5e-4)
    assert (config.low_alpha, config.walk_alpha, config.high_alpha, config.beta) == (4, 16, 32, 8)
    assert (config.radius, config.walk_steps, config.border) == (5, 256, "official")
    assert (config.learning_rate, Config.preset("voc12", "vgg16").learning_rate) == (0.01, 0.1)


def test_alphas_in_the_wrong_order():
    with pytest.raises(InputError, match="low_alpha is 33, more than high_alpha 32"):
        Config.preset("voc12").replace(low_alpha=33.0).check()
