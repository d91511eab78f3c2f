"""Figures of the traps in the toy world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsss_lib.data.toy import ToyWorld
from wsss_lib.show import figures


def traps(world: ToyWorld, indices: Sequence[int]) -> figures.Plot:
    """Show, for some images, the mask and the three things that mislead a classifier.

    The columns *part* and *own background* show the part and the background of the image's classes bright and all other
    pixels dim. *Pattern* is the frequency shortcut, eight times as strong as in the image.

    Args:
        world: Split of the toy world.
        indices: Positions of the images to show.
    """
    rows: dict[str, list[figures.Picture]] = {}
    for index in indices:
        image = world.image(index)
        kinds = world.labels[index].nonzero().flatten().numpy() + 1
        pattern = np.asarray(image, np.float32) - np.asarray(world.shortcut_free(index), np.float32)
        rows[", ".join(world.classes[k - 1] for k in kinds)] = [
            image,
            figures.overlay_mask(image, world.mask(index)),
            _dim_outside(image, np.isin(world.part(index), kinds)),
            _dim_outside(image, np.isin(world.context(index), kinds)),
            np.clip(128 + 8 * pattern, 0, 255).astype(np.uint8),
        ]
    return figures.table_of_pictures(
        rows, ["image", "mask", "part", "own background", "pattern"], classes=world.classes
    )


def _dim_outside(image: figures.Picture, region: np.ndarray) -> np.ndarray:
    return (np.asarray(image) * np.where(region, 1.0, 0.25)[..., None]).astype(np.uint8)
