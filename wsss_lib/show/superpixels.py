"""Figures of superpixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsss_lib.ops.boundaries import boundaries
from wsss_lib.show import figures

_LINE = (255, 230, 0)


def outlined(image: figures.Picture, segments: Tensor) -> np.ndarray:
    """Draw the boundaries between ``(H, W)`` int64 segments over an image of that size; ``(H, W, 3)`` uint8."""
    picture = np.array(image, dtype=np.uint8)
    picture[boundaries(segments).numpy()] = _LINE
    return picture


def neighbours_of_pixel(association: Tensor, row: int, column: int, cell: int = 16) -> np.ndarray:
    """Return the probabilities with which one pixel belongs to the nine superpixels around it, as a map of their cells.

    Args:
        association: ``(9, H, W)``, see `wsss_lib.ops.superpixels`.
        row: Row of the pixel.
        column: Column of the pixel.
        cell: Side of a cell.

    Returns:
        ``(H, W)`` float32 in [0, 1].
    """
    height, width = association.shape[1] // cell, association.shape[2] // cell
    grid = torch.zeros(height + 2, width + 2)
    r, c = row // cell, column // cell
    grid[r : r + 3, c : c + 3] = association[:, row, column].reshape(3, 3).cpu()
    return grid[1:-1, 1:-1].repeat_interleave(cell, 0).repeat_interleave(cell, 1).numpy()


def marked(picture: figures.Picture, row: int, column: int, arm: int, width: int = 1) -> np.ndarray:
    """Return a picture with a red cross in a white border around a pixel, ``(H, W, 3)`` uint8.

    Args:
        picture: RGB picture, ``(H, W)`` pixels.
        row: Row of the pixel.
        column: Column of the pixel.
        arm: Length of an arm of the cross, in pixels.
        width: Width of an arm, in pixels; the border adds as much on each side.
    """
    pixels = np.array(picture, dtype=np.uint8)
    for colour, more in ((255, 255, 255), width), ((255, 0, 0), 0):
        half = width // 2 + more
        for down, across in ((arm + more, half), (half, arm + more)):
            pixels[max(0, row - down) : row + down + 1, max(0, column - across) : column + across + 1] = colour
    return pixels
