"""A small run of the final stage, its model file, and pictures of odd sizes."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from tests import recipe
from wsss_lib.data.splits import open_splits
from wsss_lib.methods.segmentation import Config
from wsss_lib.runs.segmentation import SegmentationRun
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.store import MaskStore
from wsss_lib.use.model import Model
from wsss_lib.use.model_file import load_model, save_model

LIMIT = 4
"""Images of each split of the toy world."""

SIZES = {"wide": (33, 57), "tall": (71, 40), "square": (48, 48), "same": (48, 48)}
"""Height and width of some pictures, by name."""


def final_run(folder: Path, **changes: object) -> SegmentationRun:
    """Open a run of the final stage on the true masks of four images of the toy world."""
    masks, data = MaskStore(folder.with_name(f"{folder.name}-masks")), open_splits("toy", limit=LIMIT).fit
    for index, image_id in enumerate(data.ids):
        masks.write(image_id, torch.from_numpy(data.mask(index)))
    small = {"backbone_options": {"width": 0.125}, "epochs": 1, "batch_size": 2, "crop_size": 48, "scales": (1.0, 0.75)}
    config = Config.preset("toy", "resnet101_caffe").replace(**{**small, **changes})
    return SegmentationRun(
        Settings(
            "06",
            "segmentation",
            "toy",
            config,
            folder,
            pseudo_masks=masks.folder,
            accelerator="cpu",
            workers=0,
            limit=LIMIT,
        )
    )


def colourful(run: SegmentationRun) -> SegmentationRun:
    """Replace the weights of a run's head by random ones, so that its masks show several classes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weight = run.method.network.head.classified.weight
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return run


def model_file(folder: Path, name: str = "model.safetensors") -> Path:
    """Train a small run for an epoch and write its model."""
    run = final_run(folder / f"run-{name}")
    run.train(lambda _row: None)
    with mock.patch.object(SegmentationRun, "is_trained", True):  # which would read the checkpoint again
        return save_model(colourful(run), folder / name)


def small_model(path: Path) -> Model:
    """Load a model on the CPU."""
    return load_model(path, "cpu")


def pixels(name: str, size: tuple[int, int]) -> np.ndarray:
    """Return a smooth picture ``(H, W, 3)`` uint8."""
    return (recipe.smooth(f"use/{name}", (3, *size)).transpose(1, 2, 0) * 255).astype(np.uint8)


def write_pictures(folder: Path, suffix: str = ".png") -> Path:
    """Write pictures of the odd sizes into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        Image.fromarray(pixels(name, size)).save(folder / f"{name}{suffix}")
    return folder
