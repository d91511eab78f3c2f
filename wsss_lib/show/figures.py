"""Figures of the notebooks. Each function returns a Matplotlib figure; none uses pyplot or its global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from wsss_lib.data.files import voc_palette
from wsss_lib.data.large import resize_labels
from wsss_lib.errors import printable

HEAT = "inferno"
"""Colour map of activations. Its brightness rises evenly, so it is readable without colours."""

DIVERGING = "RdBu_r"
"""Colour map of signed values, which colour-blind people can read: blue is negative, white is 0, red is positive."""

Picture = Image.Image | np.ndarray


_LONGEST_LINE = 60
"""Greatest number of letters in a line of a figure; a longer line loses its middle."""

_LONGEST_CLASS = 20
"""Greatest number of letters of a class name in a legend or at an axis."""


def shortened(text: str, longest: int = _LONGEST_LINE) -> str:
    """Return a text whose lines have at most ``longest`` letters; the middle of a longer line is replaced by "…"."""
    end = longest // 3
    lines = printable(text).split("\n")
    return "\n".join(x if len(x) <= longest else f"{x[: longest - end - 1]}…{x[-end:]}" for x in lines)


class Plot(Figure):
    """A figure that notebooks display: drawings as PNG, photographic figures as JPEG, which keeps notebooks small.

    Text in the figure is never read as a formula, because a class may be called ``a$b$``.
    """

    photographic: bool = False

    def png(self) -> bytes:
        """Return the figure as the bytes of a PNG file."""
        return self._bytes("png")

    def _bytes(self, kind: str, **options: Any) -> bytes:
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(False)
            text.set_text(shortened(text.get_text()))
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind, facecolor="white", bbox_inches="tight", **options)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes | None:
        return None if self.photographic else self.png()

    def _repr_jpeg_(self) -> bytes | None:
        return self._bytes("jpeg", pil_kwargs={"quality": 85}) if self.photographic else None


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Turn an ``(H, W)`` uint8 mask into ``(H, W, 3)`` uint8 VOC colours."""
    return voc_palette()[mask]


def overlay(image: Picture, cam: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Lay a heat map over an image.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        cam: ``(H, W)`` float in [0, 1].
        alpha: Opacity of the heat map, 0-1.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    heat = mpl.colormaps[HEAT](np.clip(cam, 0, 1))[..., :3] * 255
    return ((1 - alpha) * np.asarray(image, np.float32) + alpha * heat).astype(np.uint8)


def signed_map(values: np.ndarray) -> np.ndarray:
    """Paint a signed map: 0 is white, positive values are red and negative ones blue.

    Args:
        values: ``(H, W)`` float of any range. The largest magnitude gets the full colour.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    largest = max(float(np.abs(values).max(initial=0.0)), 1e-12)
    colours = mpl.colormaps[DIVERGING](0.5 + 0.5 * np.asarray(values, np.float64) / largest)
    return (255 * colours[..., :3]).round().astype(np.uint8)


def overlay_mask(image: Picture, mask: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """Lay the colours of a uint8 mask over an image; background is transparent, ignored pixels are white.

    A mask of another size is resized to the image. The mask of a large picture has the size of the file, see
    `wsss_lib.data.large`.
    """
    height, width = np.asarray(image).shape[:2]
    mask = resize_labels(mask, (height, width))
    colours = colour_mask(mask).astype(np.float32)
    share = np.where(mask == 0, 0.0, alpha)[..., None]
    return ((1 - share) * np.asarray(image, np.float32) + share * colours).astype(np.uint8)


def grid(
    pictures: Sequence[Picture], titles: Sequence[str] | None = None, columns: int = 6, inches: float = 1.7
) -> Plot:
    """Show pictures in rows.

    Args:
        pictures: RGB images, or ``(H, W)`` float maps in [0, 1], which are shown as heat maps.
        titles: Title of each picture.
        columns: Pictures per row.
        inches: Width of a picture.
    """
    if not len(pictures):
        return _empty_figure()
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = _axes(rows, columns, columns * inches, rows * inches * (1.16 if titles else 1.0))
    for i, axis in enumerate(axes):
        axis.axis("off")
        if i < len(pictures):
            _show(axis, pictures[i])
            if titles:
                axis.set_title(titles[i], fontsize=8)
    return figure


def table_of_pictures(rows: Mapping[str, Sequence[Picture]], titles: Sequence[str], inches: float = 1.6) -> Plot:
    """Show rows of pictures, each row with its name on the left and each column with its title on top."""
    if not rows:
        return _empty_figure()
    figure, axes = _axes(len(rows), len(titles), len(titles) * inches + 0.6, len(rows) * inches + 0.3)
    for i, (name, pictures) in enumerate(rows.items()):
        for j, picture in enumerate(pictures):
            axis = axes[i * len(titles) + j]
            _show(axis, picture)
            axis.set_xticks([])
            axis.set_yticks([])
            if i == 0:
                axis.set_title(titles[j], fontsize=8)
            if j == 0:
                axis.set_ylabel(name, fontsize=8)
    return figure


def training_curve(history: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot each loss of a training history over the epochs in which it was measured."""
    figure = Plot(figsize=(6, 2.6), layout="constrained")
    axis = figure.subplots()
    names = dict.fromkeys(k for row in history for k in row if k not in ("epoch", "learning_rate", "seconds"))
    for name in names:
        points = [(row["epoch"], row[name]) for row in history if name in row]
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    least = min((row[name] for row in history for name in names if name in row), default=0.0)
    axis.set(xlabel="epoch", ylabel="mean of the epoch", ylim=(None if least < 0 else 0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _hide_frame(axis)
    return figure


def threshold_curves(
    thresholds: Sequence[float],
    curves: Mapping[str, np.ndarray],
    ylabel: str = "mIoU",
    marked: Mapping[str, float] | None = None,
) -> Plot:
    """Plot curves over the background threshold; vertical lines mark some thresholds."""
    figure = Plot(figsize=(5.5, 3), layout="constrained")
    axis = figure.subplots()
    for name, values in curves.items():
        axis.plot(thresholds, values, label=name)
    for i, (name, threshold) in enumerate((marked or {}).items()):
        axis.axvline(threshold, color="0.4", linestyle=(":", "--", "-.")[i % 3], linewidth=1, label=name)
    axis.set(xlabel="background threshold", ylabel=ylabel, ylim=(0, None), xlim=(0, thresholds[-1]))
    axis.legend(frameon=False, fontsize=8)
    _hide_frame(axis)
    return figure


def class_bars(classes: Sequence[str], values: Mapping[str, Sequence[float]], ylabel: str = "IoU") -> Plot:
    """Show a bar for each class and each series of values; NaN leaves a gap."""
    figure = Plot(figsize=(max(4.5, 0.42 * len(classes) + 1, 1.6 * len(values)), 2.8), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(values)
    places = np.arange(len(classes))
    for i, (name, heights) in enumerate(values.items()):
        axis.bar(places + (i - (len(values) - 1) / 2) * width, np.asarray(heights, float), width, label=name)
    names = [shortened(name, _LONGEST_CLASS) for name in classes]
    axis.set_xticks(places, names, rotation=60 if len(classes) > 8 else 20, ha="right", fontsize=8, parse_math=False)
    axis.set(ylabel=ylabel, ylim=(0, 1))
    figure.legend(frameon=False, fontsize=8, ncols=len(values), loc="outside upper right")
    _hide_frame(axis)
    return figure


def interval_figure(values: Mapping[str, tuple[float, float, float]], xlabel: str) -> Plot:
    """Show a dot with a bar for each interval, one below the other, and a line at 0.

    Args:
        values: For each name, the middle, the lower and the upper end.
        xlabel: Title of the axis.
    """
    figure = Plot(figsize=(5.6, 0.32 * len(values) + 0.9), layout="constrained")
    axis = figure.subplots()
    for place, (middle, low, high) in enumerate(values.values()):
        colour = "C0" if low <= 0 <= high else "C3"
        axis.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot([middle], [place], "o", color=colour, markersize=5)
    axis.axvline(0, color="grey", linewidth=1)
    names = [shortened(name, 2 * _LONGEST_CLASS) for name in values]
    axis.set_yticks(range(len(values)), names, fontsize=8, parse_math=False)
    axis.set(xlabel=xlabel, ylim=(len(values) - 0.5, -0.5))
    _hide_frame(axis)
    return figure


def class_legend(classes: Sequence[str]) -> Plot:
    """Show the colour of every class, background first."""
    colours = voc_palette()[: len(classes) + 1] / 255
    figure = Plot(figsize=(7, 0.25 * (1 + len(classes) // 7) + 0.15))
    names = [shortened(name, _LONGEST_CLASS) for name in ("background", *classes)]
    patches = [Patch(color=tuple(c), label=f" {n}") for c, n in zip(colours, names, strict=True)]
    legend = figure.legend(handles=patches, ncols=7, fontsize=8, frameon=False, loc="center")
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # Matplotlib leaves out patches whose label begins with _
    return figure


def _empty_figure() -> Plot:
    figure = Plot(figsize=(2.4, 0.4))
    figure.text(0.5, 0.5, "no picture to show", fontsize=8, ha="center", va="center")
    return figure


def _axes(rows: int, columns: int, width: float, height: float) -> tuple[Plot, list[Axes]]:
    figure = Plot(figsize=(width, height), dpi=80, layout="constrained")
    figure.photographic = True
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _show(axis: Axes, picture: Picture) -> None:
    values = np.asarray(picture)
    if values.ndim == 2:
        axis.imshow(values, cmap=HEAT, vmin=0, vmax=1)
    else:
        axis.imshow(values)


def _hide_frame(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
