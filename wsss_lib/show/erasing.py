"""Figures of what is erased from images, and of what a classifier still recognises in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from wsss_lib.show import figures

_SIZE = 10
"""Size of the text in points."""


def push_figure(image: figures.Picture, cam: np.ndarray, push: np.ndarray, name: str) -> figures.Plot:
    """Show an image, its map, and where a loss wants the map to rise and to fall.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        cam: ``(H, W)`` float in [0, 1], the map of the class.
        push: ``(H, W)`` float of any range: positive where the map should rise, negative where it should fall.
        name: Name of the class.
    """
    figure = figures.Plot(figsize=(9, 2.9), dpi=80, layout="constrained")
    figure.photographic = True
    axes = figure.subplots(1, 3)
    panels = {
        "image": image,
        f"map of the {name}": figures.overlay(image, cam),
        "where the map should change": figures.signed_map(push),
    }
    for axis, (title, picture) in zip(axes, panels.items(), strict=True):
        axis.imshow(np.asarray(picture))
        axis.axis("off")
        axis.set_title(title, fontsize=_SIZE)
    scale = ScalarMappable(Normalize(-1, 1), figures.DIVERGING)
    bar = figure.colorbar(scale, ax=axes[2], ticks=(-1, 0, 1), shrink=0.9)
    bar.ax.set_yticklabels(["fall", "stay", "rise"], fontsize=_SIZE)
    figure.words = f"An image, the map of the {name}, and where the map should rise and where it should fall."
    return figure


@dataclass(frozen=True)
class Erased:
    """What one network erases from an image.

    Attributes:
        network: Name of the network, with which its map is titled.
        cam: ``(H, W)`` float in [0, 1], the network's map of the class.
        picture: RGB picture from which the map has erased the class.
        probability: Probability in [0, 1] that the classifier still gives to the class.
    """

    network: str
    cam: np.ndarray
    picture: figures.Picture
    probability: float


def erased_figure(rows: Sequence[tuple[str, figures.Picture, float, Sequence[Erased]]]) -> figures.Plot:
    """Show images before and after erasing, with the probability of the class above each of them.

    Args:
        rows: Name of the class, the image, its probability in [0, 1], and what each network erases from the image;
            empty if no image shows a class.
    """
    columns = 1 + 2 * max((len(erased) for *_, erased in rows), default=0)
    figure = figures.Plot(figsize=(1.75 * columns, 1.95 * len(rows) + 0.2), dpi=80, layout="constrained")
    figure.photographic = True
    if not rows:
        figure.words = "No image shows a class."
        return figure
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, image, probability, erased) in zip(axes, rows, strict=True):
        panels = [(f"{name}: {probability:.0%}", image)]
        for one in erased:
            panels += [(f"map, {one.network}", figures.overlay(image, one.cam))]
            panels += [(f"erased: {one.probability:.0%}", one.picture)]
        for axis, (title, picture) in zip(line, panels, strict=True):
            axis.imshow(np.asarray(picture))
            axis.set_title(title, fontsize=_SIZE)
        for axis in line:
            axis.axis("off")
    told = [f"{name}: {p:.0%}, " + ", ".join(f"{x.network} {x.probability:.0%}" for x in e) for name, _, p, e in rows]
    figure.words = f"Images before and after erasing, with the probability of the class. {'; '.join(told)}."
    return figure


def gauge(probabilities: Mapping[str, float]) -> np.ndarray:
    """Draw probabilities as bars over an axis from 0 to 100 %, as a picture to put beside others.

    Args:
        probabilities: Probability in [0, 1] of each class, by name.

    Returns:
        ``(S, S, 3)`` uint8.
    """
    figure = Figure(figsize=(1.8, 1.8), dpi=200, layout="constrained")
    axis = figure.subplots()
    places = range(len(probabilities))
    axis.barh(places, list(probabilities.values()), height=0.45, color="C3")
    for place, (name, probability) in zip(places, probabilities.items(), strict=True):
        label = axis.text(0, place - 0.3, f"{figures.shortened(name, 16)} {probability:.0%}", fontsize=_SIZE)
        label.set_parse_math(False)
        label.set_in_layout(False)  # a long name must not make the axis shorter
    axis.set(xlim=(0, 1), ylim=(len(probabilities) - 0.5, -0.9), yticks=[])
    axis.set_xticks((0, 0.5, 1), ("0", "50", "100 %"), fontsize=_SIZE - 1)
    axis.spines[["top", "right"]].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
