"""Small runs and data sets for the tests of stages, runs and results."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests import recipe
from wsss_lib.data import toy
from wsss_lib.data.dataset import Dataset
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import Config
from wsss_lib.methods.method import CamMethod
from wsss_lib.models.backbone import Normalisation
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.store import CamStore
from wsss_lib.stages.train import train

TOY_COUNTS = {"train": 16, "val": 8}


def tiny_config(**changes) -> Config:
    """A new network with batch normalisation and dropout on images of 32 pixels: an epoch takes a tenth of a second."""
    small = {
        "pretrained": False,
        "epochs": 3,
        "batch_size": 8,
        "crop_size": 32,
        "min_long_side": 32,
        "max_long_side": 48,
        "dropout": 0.5,
        "alphas": (4.0, 32.0),
        "scales": (1.0, 0.5),
    }
    return Config.preset("toy").replace(**{**small, **changes})


def settings(folder: Path, config: Config | None = None, **changes) -> Settings:
    fields = {"accelerator": "cpu", "workers": 0, **changes}
    return Settings("00_cam", "cam", fields.pop("preset", "toy"), config or tiny_config(), folder, **fields)


def open_run(folder: Path, config: Config | None = None, **changes) -> CamRun:
    """Open a run on a toy world of 16 training and 8 validation images."""
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        return CamRun(settings(folder, config, **changes))


def silent(_row) -> None:
    """Report nothing."""


def train_run(run: CamRun, report=silent):
    """Train without printing."""
    return train(run.method, run.training_batches(), run.fabric, run.settings.seed, run.folder, report, run.after_epoch)


def sentence_of(call) -> str:
    """Return what an InputError says: one line that ends like a sentence."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def assert_same_state(one, other):
    """Bit by bit, through dictionaries and lists."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_state(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


class Pictures(Dataset):
    """Random pictures of given sizes in memory."""

    def __init__(self, sizes, labels, pixels=None) -> None:
        ids = [f"picture{i}" for i in range(len(sizes))]
        labels = torch.tensor(labels, dtype=torch.float32)
        super().__init__("pictures", [f"class{k}" for k in range(labels.shape[1])], ids, labels, has_masks=True)
        smooth = [recipe.smooth(f"pictures/{i}", (3, *size)).transpose(1, 2, 0) for i, size in enumerate(sizes)]
        self.pixels = [(x * 255).astype(np.uint8) for x in smooth] if pixels is None else pixels

    def image(self, index):
        return Image.fromarray(self.pixels[index])

    def mask(self, index):
        """Class 0 in the left half, the rest background, one line ignored."""
        mask = np.zeros(self.size(index), np.uint8)
        mask[:, : mask.shape[1] // 2] = 1
        mask[0] = 255
        return mask

    def size(self, index):
        return self.pixels[index].shape[:2]


def smooth_cams(folder: Path, pictures: Pictures) -> CamStore:
    """Write smooth maps of the classes that pictures show."""
    store = CamStore(folder)
    for index, image_id in enumerate(pictures.ids):
        classes = pictures.labels[index].nonzero().flatten()
        maps = recipe.smooth(f"cams/{index}", (len(classes), *pictures.size(index)))
        store.write(image_id, classes, torch.from_numpy(maps))
    return store


class ColourProjection(CamMethod):
    """Maps that are a projection of the colours: ``relu(proj · avg_pool(x, 8) + bias)``."""

    normalise = Normalisation()

    def __init__(self, projection, bias, scales=(1.0, 0.5, 1.5, 2.0)) -> None:
        super().__init__(Config(scales=scales))
        self.projection, self.bias = torch.as_tensor(projection), torch.as_tensor(bias)

    @property
    def backbone(self):
        raise NotImplementedError

    def make_optimizer(self, name):
        raise NotImplementedError

    def step(self, batch):
        raise NotImplementedError

    def logits(self, images):
        return self.cam(images).mean(dim=(2, 3))

    def cam(self, images):
        pooled = F.avg_pool2d(images, 8, 8, ceil_mode=True)
        return (torch.einsum("kc,bchw->bkhw", self.projection, pooled) + self.bias.view(1, -1, 1, 1)).relu()


def colour_projection(num_classes, scales=(1.0, 0.5, 1.5)) -> ColourProjection:
    return ColourProjection(
        recipe.array("colour/projection", (num_classes, 3)), recipe.uniform("colour/bias", (num_classes,)), scales
    )
