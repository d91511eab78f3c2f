"""Figures of pairs, of the labels of pairs, and of the affinities of one pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import IGNORE
from wsss_lib.ops.affinity import Border, affinity_of_pixel, pair_count, pair_labels, pair_offsets, pair_windows
from wsss_lib.show import figures
from wsss_lib.show.plot import name_axes
from wsss_lib.show.widgets import explore_settings


def enlarge_cells(cells: np.ndarray, stride: int, size: tuple[int, int]) -> np.ndarray:
    """Enlarge each cell of an ``(h, w)`` map to a square of ``stride`` pixels, and crop the result to ``size``."""
    return cells.repeat(stride, 0).repeat(stride, 1)[: size[0], : size[1]]


def known_cells(image: figures.Picture, labels: Tensor, classes: Tensor, stride: int) -> np.ndarray:
    """Lay a label map of cells over an image: classes in their colours, background dark, unknown cells white.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        labels: ``(h, w)`` uint8: 0 is background, i is the i-th class in ``classes``, 255 is unknown.
        classes: ``(n,)`` int64, from 0.
        stride: Side of a cell in pixels.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    pixels = np.asarray(image)
    values = np.full(256, IGNORE, np.uint8)
    values[: 1 + len(classes)] = [0, *(classes + 1).tolist()]
    mask = enlarge_cells(values[labels.numpy()], stride, pixels.shape[:2])
    shaded = figures.overlay_mask(pixels, mask)
    return figures.painted(np.where((mask == 0)[..., None], pixels // 3, shaded), labels=mask)


def offsets_of_pixel(radius: int) -> figures.Plot:
    """Show the "to" pixels of one "from" pixel, and the pixels for which it is itself the "to" pixel."""
    figure = figures.Plot(figsize=(3, 3), layout="constrained")
    axis = figure.subplots()
    offsets = np.array(pair_offsets(radius))
    axis.scatter(offsets[:, 1], offsets[:, 0], s=120, marker="s", edgecolors="white", label="to")
    axis.scatter(-offsets[:, 1], -offsets[:, 0], s=120, marker="s", facecolors="none", edgecolors="0.6", label="from")
    axis.scatter([0], [0], s=120, marker="s", color="black")
    ends = (-radius + 0.4, radius - 0.4)
    ticks = [*range(0, -radius, -2), *range(2, radius, 2)]
    axis.set(xlabel="dx", ylabel="dy", aspect="equal", xlim=ends, ylim=ends[::-1], xticks=ticks, yticks=ticks)
    axis.yaxis.label.set(rotation=0, va="center", ha="right")
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    figure.words = f"The cells that form a pair with one cell: a disc with a radius of less than {radius} cells."
    return figure


def pairs_of_pixel(
    image: figures.Picture, labels: Tensor, pixel: tuple[int, int], stride: int, radius: int
) -> figures.Plot:
    """Draw the pairs of one cell as lines: solid to cells of the same label, dashed to others, dotted to unknown cells.

    Args:
        image: RGB picture.
        labels: ``(h, w)`` uint8, see `wsss_lib.methods.affinitynet.semi_labels`.
        pixel: Row and column of the cell.
        stride: Side of a cell in pixels.
        radius: Radius of the pairs, in cells.
    """
    size = (labels.shape[0], labels.shape[1])
    same, other = (_pairs_with(labels, pixel, size, radius, kind) for kind in ("same", "different"))
    unknown = _pairs_with(labels, pixel, size, radius, "all") & ~same & ~other
    figure = figures.Plot(figsize=(4, 3.4), layout="constrained")
    figure.photographic = True
    axis = figure.subplots()
    axis.imshow(np.asarray(image))
    axis.axis("off")
    for cells, colour, dashes, name in (
        (unknown, "0.75", ":", "unknown"),
        (same, "#56b4e9", "-", "same label"),
        (other, "#ffb000", "--", "different"),
    ):
        _lines(axis, pixel, cells, stride, {"color": colour, "linestyle": dashes}, name)
    axis.legend(fontsize=9, handlelength=3, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    kinds = {"of the same label": same, "of another label": other, "without a label": unknown}
    told = ", ".join(f"{int(cells.sum())} {kind}" for kind, cells in kinds.items())
    figure.words = f"Lines over a picture from one cell to the cells that form a pair with it: {told}."
    return figure


def _pairs_with(labels: Tensor, pixel: tuple[int, int], size: tuple[int, int], radius: int, kind: str) -> np.ndarray:
    """Return ``(h, w)`` bool, True for cells that form a pair of the given kind with one cell."""
    background, foreground, different = pair_labels(labels[None], radius, "full")
    kinds = {"same": background | foreground, "different": different, "all": torch.ones_like(different)}
    chosen = kinds[kind][0].float()
    picture = affinity_of_pixel(chosen, pixel, size, radius, "full")
    picture[pixel] = 0
    return (picture == 1).numpy()


def _lines(
    axis: Axes, pixel: tuple[int, int], cells: np.ndarray, stride: int, style: dict[str, str], name: str
) -> None:
    centre = (np.array(pixel) + 0.5) * stride
    for i, cell in enumerate(np.argwhere(cells)):
        end = (cell + 0.5) * stride
        ends = [centre[1], end[1]], [centre[0], end[0]]
        axis.plot(*ends, **style, linewidth=1.4, label=name if i == 0 else None)  # type: ignore[arg-type]


def affinity_picture(
    image: figures.Picture, affinities: Tensor, pixel: tuple[int, int], stride: int, radius: int, border: Border
) -> np.ndarray:
    """Lay the affinities of one cell over the image as a heat map; the rest of the image is dimmed.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        affinities: ``(P, n)`` affinities of the image.
        pixel: Row and column of the cell.
        stride: Side of a cell in pixels.
        radius: Radius of the pairs, in cells.
        border: Rule for pairs near the border.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    pixels = np.asarray(image)
    size = (-(-pixels.shape[0] // stride), -(-pixels.shape[1] // stride))
    cells = affinity_of_pixel(affinities, pixel, size, radius, border).numpy()
    heat = enlarge_cells(cells, stride, pixels.shape[:2])
    shaded = figures.overlay(pixels, np.nan_to_num(heat), 0.75)
    return figures.painted(np.where(np.isnan(heat)[..., None], pixels // 3, shaded), heat=True)


def explore_affinities(
    data: Dataset, read: Callable[[Dataset, int], Tensor], stride: int, radius: int, border: Border, images: int = 3
) -> None:
    """Show two sliders that choose a cell by its row and column, and the affinities of that cell.

    Args:
        data: Data set with the images.
        read: Function from a data set and the position of an image to its affinities ``(P, n)``.
        stride: Side of a cell in pixels.
        radius: Radius of the pairs, in cells.
        border: Rule for pairs near the border.
        images: Number of images that are shown outside an interactive notebook, each with its middle cell.
    """
    sizes = [data.size(i) for i in range(len(data))]
    rows, columns = (-(-max(side) // stride) for side in zip(*sizes, strict=True))

    def draw(index: int, row: int, column: int) -> dict[str, figures.Picture]:
        image = data.image(index)
        height, width = (-(-side // stride) for side in data.size(index))
        cell = min(row, height - 1), min(column, width - 1)
        heat = affinity_picture(image, read(data, index), cell, stride, radius, border)
        return {"image and cell": outlined_cell(image, cell, stride), "affinities of the cell": heat}

    sliders = {"row": (rows // 2, 0, rows - 1, 1), "column": (columns // 2, 0, columns - 1, 1)}
    explore_settings(data, draw, sliders, images)


def outlined_cell(image: figures.Picture, cell: tuple[int, int], stride: int) -> np.ndarray:
    """Draw a white frame with a black rim around a cell, given by its row and column; ``(H, W, 3)`` uint8."""
    pixels = np.array(image, dtype=np.uint8)
    for value, inner in ((0, 0), (255, 1)):
        top, left = (stride * place + inner for place in cell)
        bottom, right = (stride * (place + 1) - 1 - inner for place in cell)
        frame = pixels[top : bottom + 1, left : right + 1]
        if frame.size:  # a cell at the border may be cut
            frame[[0, -1]] = frame[:, [0, -1]] = value
    return pixels


def neighbour_counts(height: int, width: int, radius: int, border: Border) -> np.ndarray:
    """Return the number of pairs of each cell of a grid as ``(h, w)`` int64."""
    counts = torch.zeros(height, width, dtype=torch.int64)
    for offset in pair_offsets(radius):
        start, end, _ = pair_windows(offset, height, width, radius, border)
        counts[*start] += 1
        counts[*end] += 1
    return counts.numpy()


def border_figure(height: int, width: int, radius: int) -> figures.Plot:
    """Show the number of pairs of each cell, for the border rule of the authors' code and for all pairs."""
    figure = figures.Plot(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots(1, 2)
    most = 2 * len(pair_offsets(radius))
    pair_count(height, width, radius)
    kinds: tuple[Border, Border] = ("official", "full")
    for axis, border in zip(axes, kinds, strict=True):
        counts = neighbour_counts(height, width, radius, border)
        picture = axis.imshow(counts, vmin=0, vmax=most, cmap="viridis")
        alone = int((counts == 0).sum())
        axis.set_title(f"border {border!r}: {alone} cells without any pair", fontsize=9)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8)
    bar.ax.set_title("pairs", fontsize=9)
    return figure


def affinity_histogram(affinities: Tensor, same: Tensor, different: Tensor) -> figures.Plot:
    """Show a histogram of the affinities, for pairs of one true class and for pairs of two true classes.

    Args:
        affinities: ``(P, n)``.
        same: ``(P, n)`` bool, pairs of one true class.
        different: ``(P, n)`` bool, pairs of two true classes.
    """
    figure = figures.Plot(figsize=(5, 2.6), layout="constrained")
    axis = figure.subplots()
    levels = [i / 40 for i in range(41)]
    for name, where, line in (("same class", same, "-"), ("different classes", different, "--")):
        if where.any():  # the density of an empty set is NaN
            axis.hist(
                affinities[where].numpy(),
                levels,
                density=True,
                histtype="step",
                linestyle=line,
                linewidth=1.4,
                label=name,
            )
    axis.set_xlim(0, 1)
    name_axes(axis, "affinity", "density")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=9)
    return figure


def true_cells(mask: np.ndarray, stride: int) -> Tensor:
    """Return the label of each cell of a mask as ``(h, w)`` uint8; 255 for cells with several labels."""
    height, width = mask.shape
    padded = F.pad(torch.from_numpy(mask)[None].float(), (0, -width % stride, 0, -height % stride), value=float(IGNORE))
    low, high = -F.max_pool2d(-padded, stride), F.max_pool2d(padded, stride)
    return torch.where(low == high, high, torch.tensor(float(IGNORE)))[0].to(torch.uint8)
