"""Curves: the losses of a training over its epochs, and scores over the background threshold.

Each curve has its own colour, line and marker, so that a reader who cannot see the colours can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from wsss_lib.show.plot import TEXT, Plot, name_axes, wrapped

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
"""Colours of curves that colour-blind people can tell apart (Okabe and Ito)."""

MARKERS = "os^Dv*PXh"
LINES = ("-", "--", "-.", ":")

CURVES = {
    "loss": "loss that is minimised",
    "classification": "classification",
    "erasing": "classification after erasing",
    "target_seen": "erased class, as the ordinary classifier sees it",
    "from_target": "error outside the target, drawn from the target",
    "from_rest": "error on the target, drawn from the rest",
    "reconstructor_loss": "loss of the reconstructor",
    "reconstructor_classification": "reconstructor: classification",
    "reconstructor_whole": "reconstructor: error, all visible",
    "reconstructor_hidden_target": "reconstructor: error, target hidden",
    "reconstructor_hidden_rest": "reconstructor: error, rest hidden",
    "background": "pairs within background",
    "object": "pairs within a class",
    "different": "pairs of different classes",
    "displacement_background": "displacements in background",
    "displacement_object": "displacements in objects",
    "ipc": "contrast with the prototypes (IPC)",
    "suppressed": "classification, waves weakened",
    "suppressed_maps": "change of the maps, waves weakened",
    "mixed": "classification, other magnitudes",
    "mixed_maps": "change of the maps, other magnitudes",
    "contrast": "likeness of the class tokens",
    "appearance": "error of the colours",
    "position": "error of the positions",
    "gradient": "norm of the gradient",
}
"""What each number of a training history is, in words."""

_PROBABILITIES = ("target_seen",)
_NORMS = ("gradient",)
_NO_CURVES = ("epoch", "learning_rate", "seconds")
_WORDS_PER_LINE = 30
"""Greatest number of letters in a line of a legend beside curves."""


def training_curve(history: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot each number of a training history over the epochs in which it was measured.

    Losses share an axis. Probabilities have an axis from 0 to 1 below it, and so has the norm of the gradient.

    Args:
        history: For each epoch, its number ``epoch`` and the means of the epoch by name.
    """
    names = [*dict.fromkeys(k for row in history for k in row if k not in _NO_CURVES)]
    groups = {
        "mean of the epoch": [n for n in names if n not in _PROBABILITIES + _NORMS],
        "probability": [n for n in names if n in _PROBABILITIES],
        "norm": [n for n in names if n in _NORMS],
    }
    shown = {title: group for title, group in groups.items() if group} or {"mean of the epoch": []}
    labels = {name: wrapped(CURVES.get(name, name.replace("_", " ")), _WORDS_PER_LINE) for name in names}
    heights = [max(2.2 if i == 0 else 1.2, 0.3 + _lines(shown[t], labels) * 0.19) for i, t in enumerate(shown)]
    figure = Plot(figsize=(7.4, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, group) in zip(axes, shown.items(), strict=True):
        for name in group:
            i = names.index(name)
            points = [(row["epoch"], row[name]) for row in history if name in row]
            axis.plot(*zip(*points, strict=True), **curve_style(i), markersize=4, label=labels[name])
        values = [row[name] for row in history for name in group if name in row]
        low, high = min([0.0, *values]), max([0.0, *values])
        high = high if high > low else 1.0  # an axis needs a length
        margin = 0.05 * (high - low)
        axis.set_ylim((0, 1) if title == "probability" else (low - margin * (low < 0), high + margin))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        name_axes(axis, "epoch" if axis is axes[-1] else "", title)
        if group:
            axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=TEXT, handlelength=3)
    words = [", ".join(CURVES.get(name, name.replace("_", " ")) for name in group) for group in shown.values()]
    figure.words = f"Curves over the epochs of a training: {'; '.join(words)}."
    return figure


def _lines(names: Sequence[str], labels: Mapping[str, str]) -> int:
    return sum(1 + labels[name].count("\n") for name in names)


def curve_style(number: int) -> dict[str, Any]:
    """Return colour, line and marker of a curve by its number; no two of 0 to 35 have the same line and marker."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
        "linewidth": 1.4,
    }


def threshold_curves(
    thresholds: Sequence[float],
    curves: Mapping[str, np.ndarray],
    ylabel: str = "mIoU",
    marked: Mapping[str, float] | None = None,
) -> Plot:
    """Plot curves over the background threshold; vertical lines mark some thresholds.

    Args:
        thresholds: Background thresholds in ascending order.
        curves: Value at each threshold, by name of the curve.
        ylabel: Name of the values.
        marked: Thresholds to mark, by name.
    """
    figure = Plot(figsize=(7.0, 2.9), layout="constrained")
    axis: Axes = figure.subplots()
    places = max(1, len(thresholds) // 12)
    for i, (name, values) in enumerate(curves.items()):
        axis.plot(thresholds, values, **curve_style(i), markersize=4, markevery=(i * places // 2, places), label=name)
    for i, (name, threshold) in enumerate((marked or {}).items()):
        axis.axvline(threshold, color="0.4", linestyle=(":", "--", "-.")[i % 3], linewidth=1.2, label=name)
    axis.set(ylim=(0, None), xlim=(0, thresholds[-1]))
    name_axes(axis, "background threshold", ylabel)
    axis.legend(frameon=False, fontsize=TEXT, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3)
    lines = "".join(f" A line marks {name}, {threshold:g}." for name, threshold in (marked or {}).items())
    figure.words = f"Curves of {', '.join(curves)} over the background threshold.{lines}"
    return figure
