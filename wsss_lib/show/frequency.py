"""Figures of frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsss_lib.show import figures


def spectrum(image: figures.Picture) -> np.ndarray:
    """Return the magnitude of each wave in a picture, on a logarithmic scale from 0 to 1.

    Args:
        image: ``(H, W, 3)`` picture, whose channels are averaged, or ``(H, W)`` picture.

    Returns:
        ``(H, W)`` float32 with frequency 0 in the centre, without the mean brightness.
    """
    values = torch.from_numpy(np.asarray(image, np.float32))
    grey = values.mean(-1) if values.ndim == 3 else values
    strength = torch.fft.fftshift(torch.fft.fft2(grey - grey.mean())).abs()
    logarithm = torch.log1p(strength)
    return (logarithm / logarithm.max().clamp(min=1e-6)).numpy()


def influence(maps: Tensor, classes: Sequence[str], cycles: np.ndarray | None = None) -> figures.Plot:
    """Show for each class how strongly a classifier depends on each frequency.

    Args:
        maps: ``(C, S, S)`` in [0, 1], frequency 0 in the centre.
        classes: Names of the C classes.
        cycles: Wave to mark for each class, ``(C, 2)`` cycles per image, downwards and across; None to mark nothing.
            The opposite frequency, which is the same wave in a real image, is marked, too.
    """
    columns = min(6, len(classes))
    rows = -(-len(classes) // columns)
    figure = figures.Plot(figsize=(1.8 * columns, 2.0 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    centre = maps.shape[-1] // 2
    for axis in axes:
        axis.axis("off")
    for k, (axis, name) in enumerate(zip(axes, classes, strict=False)):
        axis.imshow(maps[k].cpu().numpy(), cmap=figures.HEAT, vmin=0, vmax=1)
        axis.set_title(name, fontsize=9)
        if cycles is not None:
            down, across = cycles[k]
            places = np.array([[across, down], [-across, -down]]) + centre
            axis.scatter(*places.T, s=60, facecolors="none", edgecolors="cyan", linewidths=1)
    return figure
