"""The CAM baseline against three real updates of the official training script."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests import recipe
from tests.methods import official
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import CAM, Config, classification_loss
from wsss_lib.methods.method import Batch


def test_loss_and_gradient():
    golden = recipe.golden("psa/losses")
    logits = torch.from_numpy(recipe.array("psa/losses/logits", (2, 20), 2.0)).requires_grad_()
    labels = torch.from_numpy(recipe.integers("psa/losses/y", (2, 20), 0, 2)).float()
    loss = classification_loss(logits, labels)
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden["cls"].item(), rtol=1e-5)
    np.testing.assert_allclose(logits.grad.numpy(), golden["cls_grad"], rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_three_updates_of_the_official_script():
    name = "psa/train_vgg16_cls"
    golden = recipe.golden(name)
    config = Config(backbone="vgg16", learning_rate=1e-3, dropout=0.0)
    method = CAM(config, 20)
    checkpoint = official.start(method, name)
    for step in range(3):
        images = torch.from_numpy(recipe.array(f"{name}/x{step}", (2, 3, 64, 64)))
        labels = torch.from_numpy(recipe.integers(f"{name}/y{step}", (2, 20), 0, 2)).float()
        loss = method.step(Batch(images, labels, torch.arange(2)))["loss"]
        np.testing.assert_allclose(loss.item(), golden["loss"][step], rtol=1e-4)
    official.assert_moved_alike(method, golden, checkpoint)


def test_paper_settings():
    config = Config.preset("voc12")
    assert (config.epochs, config.batch_size, config.crop_size, config.momentum) == (15, 16, 448, 5e-4)
    assert (config.learning_rate, Config.preset("voc12", "vgg16").learning_rate) == (0.01, 0.1)
    assert config.scales == (1.0, 0.5, 1.5, 2.0)


def test_unknown_names():
    with pytest.raises(InputError, match="preset 'voc'"):
        Config.preset("voc")
    with pytest.raises(InputError, match="backbone 'vgg19'"):
        Config.preset("toy", "vgg19")
    with pytest.raises(InputError, match="unknown field epoch"):
        Config.from_dict({**Config().to_dict(), "epoch": 3})


def test_a_field_that_is_missing_takes_its_default():
    values = Config(epochs=3).to_dict()
    del values["epochs"]
    assert Config.from_dict(values) == Config()


@pytest.mark.slow
def test_it_can_learn_four_images():
    """Four images, four classes of colour: the loss falls to a fifth, and the map peaks where the colour is."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64) * 0.1
    colours = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 2, 0]])
    for i, colour in enumerate(colours):
        images[i, :, 16 * i : 16 * i + 16, 8:40] += colour[:, None, None]
    config = Config.preset("toy").replace(pretrained=False, epochs=1)
    method = CAM(config, 4)
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=30)
    method.train()
    losses = [method.step(Batch(images, torch.eye(4), torch.arange(4)))["loss"].item() for _ in range(30)]
    assert losses[-1] < losses[0] / 5
