"""Figures of the notebooks. Each function returns a Matplotlib figure; none uses pyplot or its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from wsss_lib.show.curves import COLOURS
from wsss_lib.show.curves import threshold_curves as threshold_curves
from wsss_lib.show.curves import training_curve as training_curve
from wsss_lib.show.paint import DIVERGING as DIVERGING
from wsss_lib.show.paint import HEAT as HEAT
from wsss_lib.show.paint import LONGEST_CLASS, add_keys, add_patches
from wsss_lib.show.paint import Painted as Painted
from wsss_lib.show.paint import Picture as Picture
from wsss_lib.show.paint import colour_mask as colour_mask
from wsss_lib.show.paint import overlay as overlay
from wsss_lib.show.paint import overlay_mask as overlay_mask
from wsss_lib.show.paint import painted as painted
from wsss_lib.show.paint import signed_map as signed_map
from wsss_lib.show.plot import LETTERS_PER_INCH, TEXT, name_axes, wrapped
from wsss_lib.show.plot import Plot as Plot
from wsss_lib.show.plot import shortened as shortened

_LONGEST_NAME = 16
"""Greatest number of letters in a line of the name of a row."""

_LINE_INCHES = 0.17
"""Height of a line of text."""

_MOST_COLUMNS_OF_BARS = 8
"""Greatest number of classes whose bars stand side by side; the bars of more classes lie one below the other."""


def grid(
    pictures: Sequence[Picture],
    titles: Sequence[str] | None = None,
    columns: int = 6,
    inches: float = 1.7,
    classes: Sequence[str] | None = None,
) -> Plot:
    """Show pictures in rows, with a colour bar beside heat maps and signed maps.

    Args:
        pictures: RGB images, or ``(H, W)`` float maps in [0, 1], which are shown as heat maps.
        titles: Title of each picture.
        columns: Pictures per row.
        inches: Width of a picture.
        classes: Names of the K foreground classes, for a legend of the classes that masks show; None for no legend.
    """
    if not len(pictures):
        return _empty_figure()
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    wide = [wrapped(title, int(inches * LETTERS_PER_INCH)) for title in titles or []]
    space = _LINE_INCHES * max((title.count("\n") + 1 for title in wide), default=0)
    space += _caption_space(pictures)
    figure, axes = _axes(rows, columns, columns * inches, rows * (inches + space))
    for i, axis in enumerate(axes):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if i < len(pictures):
            _show(axis, pictures[i])
            if titles:
                axis.set_title(wide[i], fontsize=TEXT)
        else:
            axis.axis("off")
    keys = add_keys(figure, axes, pictures, classes)
    told = ": " + "; ".join(titles) if titles else ""
    figure.words = " ".join([f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}{told}.", *keys])
    return figure


def table_of_pictures(
    rows: Mapping[str, Sequence[Picture]],
    titles: Sequence[str],
    inches: float = 1.6,
    classes: Sequence[str] | None = None,
) -> Plot:
    """Show rows of pictures, each row with its name on the left and each column with its title on top.

    Args:
        rows: Pictures of each row, see :func:`grid`, by name of the row.
        titles: Title of each column.
        inches: Width of a picture.
        classes: Names of the K foreground classes, for a legend of the classes that masks show; None for no legend.
    """
    if not rows:
        return _empty_figure()
    wide = [wrapped(title, int(inches * LETTERS_PER_INCH)) for title in titles]
    names = [wrapped(name.replace(" (", "\n("), _LONGEST_NAME) for name in rows]
    side = 0.2 + max(len(line) for name in names for line in name.split("\n")) / LETTERS_PER_INCH
    top = 0.1 + _LINE_INCHES * max((title.count("\n") + 1 for title in wide), default=1)
    every = [picture for row in rows.values() for picture in row]
    height = len(rows) * (inches + _caption_space(every)) + top
    figure, axes = _axes(len(rows), len(titles), len(titles) * inches + side, height)
    for i, (name, pictures) in enumerate(zip(names, rows.values(), strict=True)):
        for j, picture in enumerate(pictures):
            axis = axes[i * len(titles) + j]
            _show(axis, picture)
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(wide[j], fontsize=TEXT)
            if j == 0:
                axis.set_ylabel(name, fontsize=TEXT, rotation=0, ha="right", va="center", multialignment="right")
    keys = add_keys(figure, axes, every, classes)
    figure.words = " ".join([f"Pictures. Columns: {'; '.join(titles)}. Rows: {'; '.join(rows)}.", *keys])
    return figure


def class_bars(classes: Sequence[str], values: Mapping[str, Sequence[float]], ylabel: str = "IoU") -> Plot:
    """Show a bar for each class and each series of values; NaN leaves a gap.

    The bars of more than eight classes lie one below the other, so that all names can be read.

    Args:
        classes: Names of the classes.
        values: Value of each class, 0-1, by name of the series.
        ylabel: Name of the values.
    """
    lying = len(classes) > _MOST_COLUMNS_OF_BARS
    thick, places = 0.8 / len(values), np.arange(len(classes))
    if lying:
        figure = Plot(figsize=(6, max(0.22, 0.11 * len(values)) * len(classes) + 1), layout="constrained")
    else:
        figure = Plot(figsize=(max(4.5, 0.95 * len(classes) + 1, 1.6 * len(values)), 2.8), layout="constrained")
    axis = figure.subplots()
    for i, (name, heights) in enumerate(values.items()):
        at = places + (i - (len(values) - 1) / 2) * thick
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "edgecolor": "white", "linewidth": 0.5}
        bars = axis.barh if lying else axis.bar
        bars(at, np.asarray(heights, float), thick, label=name, hatch=("", "///", "...")[i % 3], **style)
    if lying:
        names = [shortened(name, LONGEST_CLASS) for name in classes]
        axis.set_yticks(places, names, parse_math=False)
        axis.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5))
        name_axes(axis, ylabel, "")
    else:
        names = [wrapped(shortened(name, LONGEST_CLASS), 11) for name in classes]
        axis.set_xticks(places, names, parse_math=False)
        axis.set_ylim(0, 1)
        name_axes(axis, "", ylabel)
    figure.legend(frameon=False, fontsize=TEXT, ncols=len(values), loc="outside upper right")
    figure.words = f"Bars of {ylabel} for each class ({', '.join(classes)}): {', '.join(values)}."
    return figure


def interval_figure(values: Mapping[str, tuple[float, float, float]], xlabel: str) -> Plot:
    """Show a dot with a bar for each interval, one below the other, and a line at 0.

    The dot of an interval that contains 0 is hollow.

    Args:
        values: For each name, the middle, the lower and the upper end.
        xlabel: Title of the axis.
    """
    figure = Plot(figsize=(6.2, 0.34 * len(values) + 0.9), layout="constrained")
    axis = figure.subplots()
    for place, (middle, low, high) in enumerate(values.values()):
        open_ = low <= 0 <= high
        colour = COLOURS[0] if open_ else COLOURS[1]
        axis.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot([middle], [place], "o", color=colour, markersize=6, markerfacecolor="white" if open_ else colour)
    axis.axvline(0, color="grey", linewidth=1)
    names = [shortened(name, 2 * LONGEST_CLASS) for name in values]
    axis.set_yticks(range(len(values)), names, parse_math=False)
    axis.set_ylim(len(values) - 0.5, -0.5)
    name_axes(axis, xlabel, "")
    told = [f"{name} {middle:.3g} ({low:.3g} to {high:.3g})" for name, (middle, low, high) in values.items()]
    figure.words = f"Intervals of {xlabel}: {'; '.join(told)}."
    return figure


def class_legend(classes: Sequence[str]) -> Plot:
    """Show the colour of every class, background first."""
    names = {i: shortened(name, LONGEST_CLASS) for i, name in enumerate(("background", *classes))}
    rows = -(-len(names) // 7)
    figure = Plot(figsize=(8.2, 0.25 * rows + 0.15))
    add_patches(figure, names, ncols=-(-len(names) // rows), loc="center")
    figure.words = f"Colours of the classes: {', '.join(names.values())}."
    return figure


def _empty_figure() -> Plot:
    figure = Plot(figsize=(2.4, 0.4))
    figure.text(0.5, 0.5, "no picture to show", fontsize=TEXT, ha="center", va="center")
    figure.words = "No picture to show."
    return figure


def _axes(rows: int, columns: int, width: float, height: float) -> tuple[Plot, list[Axes]]:
    figure = Plot(figsize=(width, height), layout="constrained")
    figure.photographic = True
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _show(axis: Axes, picture: Picture) -> None:
    values = np.asarray(picture)
    if values.ndim == 2:
        axis.imshow(values, cmap=HEAT, vmin=0, vmax=1)
    else:
        axis.imshow(values)
    if isinstance(picture, Painted) and picture.caption:
        axis.set_xlabel(picture.caption, fontsize=TEXT)


def _caption_space(pictures: Sequence[Picture]) -> float:
    return _LINE_INCHES * any(isinstance(picture, Painted) and picture.caption != "" for picture in pictures)
