"""Figures of the permutohedral lattice in two dimensions."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from wsss_lib.ops.permutohedral import Lattice
from wsss_lib.show import figures


def splat_blur_slice(points: Tensor, values: Tensor) -> figures.Plot:
    """Show how values move from points to the corners of their triangles, between corners, and back to the points.

    Args:
        points: ``(2, N)`` float32 features, in units of the kernel's standard deviation.
        values: ``(N,)`` float32, at least 0.
    """
    lattice = Lattice(points)
    columns = values[:, None]
    splatted = lattice.splatting @ columns
    blurred = lattice.blur(splatted)
    filtered = lattice.filter(columns)
    total = lattice.filter(torch.ones_like(columns))
    figure = figures.Plot(figsize=(11, 3.1), layout="constrained")
    axes = figure.subplots(1, 4)
    titles = ("values of the points", "splat: to the corners", "blur: along three axes", "slice: back, divided by F(1)")
    for axis, title in zip(axes, titles, strict=True):
        _triangles(axis, lattice)
        axis.set_title(title, fontsize=9)
        axis.set_aspect("equal")
        axis.axis("off")
    _dots(axes[0], points, values)
    _dots(axes[1], lattice.positions, splatted[:, 0], size=90)
    _dots(axes[2], lattice.positions, blurred[:, 0], size=90)
    _dots(axes[3], points, (filtered / total)[:, 0])
    return figure


def _triangles(axis: Axes, lattice: Lattice) -> None:
    x, y = lattice.positions.numpy()
    corners = {tuple(sorted(row)) for row in lattice.slicing.columns.tolist()}
    edges = {edge for triangle in corners for edge in itertools.combinations(triangle, 2)}
    axis.add_collection(
        LineCollection([[(x[a], y[a]), (x[b], y[b])] for a, b in sorted(edges)], colors="0.8", linewidths=0.7, zorder=0)
    )


def _dots(axis: Axes, places: Tensor, values: Tensor, size: float = 26) -> None:
    shown = values.numpy().clip(1e-9)
    axis.scatter(
        places[0].numpy(),
        places[1].numpy(),
        c=shown,
        s=size,
        cmap=figures.HEAT,
        vmin=0,
        vmax=shown.max(),
        edgecolors="0.5",
        linewidths=0.4,
    )


def impulse_response(size: int, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the response of a Gaussian filter to one bright pixel: the exact response, and that of the lattice.

    Args:
        size: Side of the square picture in pixels.
        deviation: Standard deviation in pixels.

    Returns:
        Two ``(size, size)`` float32 pictures, each with the maximum 1.
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()]).float() / deviation
    bright = torch.zeros(size * size, 1)
    bright[size * (size // 2) + size // 2] = 1.0
    distance = (places - places[:, bright[:, 0] == 1]).square().sum(0)
    exact = torch.exp(-distance / 2).view(size, size)
    lattice = Lattice(places).filter(bright).view(size, size)
    return exact.numpy(), (lattice / lattice.max()).numpy()
