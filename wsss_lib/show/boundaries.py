"""Pictures of boundaries between classes, of paths across them, and of displacements to the centre of an object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsss_lib.ops.paths import path
from wsss_lib.show import figures
from wsss_lib.show.affinity import enlarge_cells

Cell = tuple[int, int]
"""Row and column of a cell."""


def boundary_picture(boundaries: Tensor, stride: int, size: tuple[int, int]) -> np.ndarray:
    """Enlarge boundary probabilities ``(h, w)`` in [0, 1] to the size of the image, ``(H, W)`` float."""
    return enlarge_cells(boundaries.numpy(), stride, size)


def path_figure(
    image: figures.Picture,
    boundaries: Tensor,
    start: tuple[int, int],
    ends: Sequence[tuple[int, int]],
    stride: int,
) -> figures.Plot:
    """Show the paths from one cell to others on the image and on its boundaries; a cross marks each highest boundary.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        boundaries: ``(h, w)`` float in [0, 1].
        start: The (row, column) of the first cell.
        ends: The (row, column) of the other cells.
        stride: Side of a cell in pixels.
    """
    pixels = np.asarray(image)
    figure = figures.Plot(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    axes[0].imshow(pixels)
    heat = axes[1].imshow(boundary_picture(boundaries, stride, pixels.shape[:2]), vmin=0, vmax=1, cmap=figures.HEAT)
    bar = figure.colorbar(heat, ax=axes[1], shrink=0.9)
    bar.ax.set_title("B", fontsize=9)
    for number, end in enumerate(ends):
        cells = cells_between(start, end)
        values = boundaries[cells[:, 0], cells[:, 1]]
        highest = cells[values.argmax()]
        for axis in axes:
            places = (np.array([start, end]) + 0.5) * stride
            colour = f"C{number}"
            axis.plot(places[:, 1], places[:, 0], color=colour, linewidth=2, label=f"a = {1 - values.max():.2f}")
            axis.plot(*((highest.flip(0) + 0.5) * stride).tolist(), "x", color=colour, markersize=9)
    for axis in axes:
        axis.axis("off")
    axes[0].legend(fontsize=9)
    figure.words = "Paths between cells on the picture and on its boundaries; a cross marks each highest boundary."
    return figure


def contrasting_paths(
    boundaries: Tensor, strength: Tensor, lengths: tuple[float, float] = (4.0, 9.0)
) -> tuple[tuple[Cell, Cell, Cell], float]:
    """Choose two paths of like length from one cell: one that stays where the maps are high, and one that leaves it.

    Both begin at the cell with a high map and the lowest boundary. The first path is the one with the highest affinity,
    the second the one with the lowest.

    Args:
        boundaries: ``(h, w)`` float in [0, 1].
        strength: ``(h, w)`` float of at least 0, the highest map of each cell.
        lengths: Smallest and greatest distance of the two ends, in cells.

    Returns:
        The first cell, the ends of the two paths as (row, column), and by how much their affinities differ; -1 if the
        image has no two such paths.
    """
    strong, weak = strength > 0.6 * strength.max(), strength < 0.15 * strength.max()
    row, column = divmod(int(torch.where(strong, boundaries, 2.0).argmin()), boundaries.shape[1])
    start = (row, column)
    inside: dict[Cell, float] = {}
    outside: dict[Cell, float] = {}
    for y, x in (strong | weak).nonzero().tolist():
        if lengths[0] <= np.hypot(y - row, x - column) <= lengths[1]:
            cells = cells_between(start, (y, x))
            affinity = 1 - float(boundaries[cells[:, 0], cells[:, 1]].max())
            (inside if strong[y, x] else outside)[y, x] = affinity
    if not inside or not outside:
        return (start, start, start), -1.0
    near, away = max(inside, key=lambda cell: inside[cell]), min(outside, key=lambda cell: outside[cell])
    return (start, near, away), inside[near] - outside[away]


def cells_between(start: tuple[int, int], end: tuple[int, int]) -> Tensor:
    """Return the cells of the path between two cells, ``(n, 2)`` int64 (row, column), both ends included."""
    if start == end:
        return torch.tensor([start])
    return torch.tensor([(start[0] + y, start[1] + x) for y, x in path((end[0] - start[0], end[1] - start[1]))])


def arrows(image: figures.Picture, displacements: Tensor, stride: int, every: int = 2) -> figures.Plot:
    """Draw displacements as arrows over the image.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        displacements: ``(2, h, w)`` float, (dy, dx) in cells.
        stride: Side of a cell in pixels.
        every: Distance between the cells that have an arrow, in cells.
    """
    figure = figures.Plot(figsize=(3.4, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.imshow(np.asarray(image))
    height, width = displacements.shape[1:]
    y, x = np.mgrid[every // 2 : height : every, every // 2 : width : every]
    down, right = (stride * part[y, x].numpy() for part in displacements)
    places = (y + 0.5) * stride, (x + 0.5) * stride
    axis.quiver(places[1], places[0], right, down, angles="xy", scale_units="xy", scale=1, color="white", width=0.006)
    axis.set(xlim=(0, np.asarray(image).shape[1]), ylim=(np.asarray(image).shape[0], 0))
    axis.axis("off")
    figure.words = "Arrows over a picture, from each cell to where the network expects the centre of its object."
    return figure
