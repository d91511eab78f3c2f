"""Pictures in colours that stand for something: heat maps, signed maps and masks, alone or over an image.

Each is an array that knows the meaning of its colours. A figure of such pictures so has the colour bars and the legend
that its reader needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm, LinearSegmentedColormap, Normalize
from matplotlib.patches import Patch
from PIL import Image

from wsss_lib.data.files import IGNORE, voc_palette
from wsss_lib.data.large import resize_labels
from wsss_lib.show.plot import LETTERS_PER_INCH, TEXT, Plot, shortened

HEAT = "inferno"
"""Colour map of activations. Its brightness rises evenly, so it is readable without colours."""

DIVERGING = LinearSegmentedColormap.from_list(
    "signed", ["#053061", "#2166ac", "#67a9cf", "#ffffff", "#f08a62", "#b2182b", "#67001f"], N=257
)
"""Colour map of signed values, which colour-blind people can read: blue is negative, white is 0, red is positive."""

Picture = Image.Image | np.ndarray

LONGEST_CLASS = 20
"""Greatest number of letters of a class name in a legend or at an axis."""

_BAR_INCHES = 0.12
"""Width of a colour bar."""


class Painted(np.ndarray):
    """A picture ``(H, W, 3)`` uint8 whose colours have a meaning.

    Attributes:
        heat: Whether colours stand for values from 0 to 1.
        largest: Magnitude that has the full colour, if colours stand for signed values; otherwise None.
        labels: ``(H, W)`` uint8 mask whose colours are shown; otherwise None. The mask is not cut with the picture.
        caption: Line that figures write below the picture; "" for no line.
    """

    heat: bool = False
    largest: float | None = None
    labels: np.ndarray | None = None
    caption: str = ""

    def __array_finalize__(self, other: Any) -> None:
        """Take over the meaning of the array that this one is made of."""
        if isinstance(other, Painted):
            self.heat, self.largest, self.labels = other.heat, other.largest, other.labels
            self.caption = other.caption


def painted(
    pixels: np.ndarray, *, heat: bool = False, largest: float | None = None, labels: np.ndarray | None = None
) -> Painted:
    """Return ``(H, W, 3)`` uint8 pixels with the meaning of their colours, see `Painted`."""
    picture = np.asarray(pixels).view(Painted)
    picture.heat, picture.largest, picture.labels = heat, largest, labels
    return picture


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Turn an ``(H, W)`` uint8 mask into ``(H, W, 3)`` uint8 VOC colours."""
    return voc_palette()[mask]


def overlay(image: Picture, cam: np.ndarray, alpha: float = 0.55) -> Painted:
    """Lay a heat map over an image.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        cam: ``(H, W)`` float in [0, 1].
        alpha: Opacity of the heat map, 0-1.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    heat = mpl.colormaps[HEAT](np.clip(cam, 0, 1))[..., :3] * 255
    return painted(((1 - alpha) * np.asarray(image, np.float32) + alpha * heat).astype(np.uint8), heat=True)


def signed_map(values: np.ndarray) -> Painted:
    """Paint a signed map: 0 is white, positive values are red and negative ones blue.

    The strength of the colour grows with the square root of the magnitude, so that weak values are not white, too.

    Args:
        values: ``(H, W)`` float of any range. The largest magnitude gets the full colour.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    largest = max(float(np.abs(values).max(initial=0.0)), 1e-12)
    colours = DIVERGING(_signed_scale(largest)(np.asarray(values, np.float64)))
    return painted((255 * colours[..., :3]).round().astype(np.uint8), largest=largest)


def _signed_scale(largest: float) -> FuncNorm:
    def forward(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.sqrt(np.abs(values))

    def backward(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.square(values)

    return FuncNorm((forward, backward), vmin=-largest, vmax=largest)


def overlay_mask(image: Picture, mask: np.ndarray, alpha: float = 0.6) -> Painted:
    """Lay the colours of a uint8 mask over an image; background is transparent, ignored pixels are white.

    A mask of another size is resized to the image. The mask of a large picture has the size of the file, see
    `wsss_lib.data.large`.
    """
    height, width = np.asarray(image).shape[:2]
    mask = resize_labels(mask, (height, width))
    colours = colour_mask(mask).astype(np.float32)
    share = np.where(mask == 0, 0.0, alpha)[..., None]
    return painted(((1 - share) * np.asarray(image, np.float32) + share * colours).astype(np.uint8), labels=mask)


def add_keys(
    figure: Plot, axes: Sequence[Axes], pictures: Iterable[Picture], classes: Sequence[str] | None = None
) -> list[str]:
    """Explain the colours of the pictures in a figure, which becomes larger by the space that this needs.

    Heat maps and signed maps get a slim colour bar on the right. Masks get a legend of the classes that they show,
    below the pictures.

    Args:
        figure: Figure with a constrained layout.
        axes: Axes with the pictures.
        pictures: The pictures; an array ``(H, W)`` is a heat map.
        classes: Names of the K foreground classes of the masks; None for no legend.

    Returns:
        What was added, in words.
    """
    seen = [*pictures]
    arrays = [one for one in seen if isinstance(one, Painted)]
    words = []
    if any(one.heat for one in arrays) or any(np.ndim(one) == 2 for one in seen if isinstance(one, np.ndarray)):
        _add_bar(figure, axes, ScalarMappable(Normalize(0, 1), HEAT), {0.0: "0", 0.5: "0.5", 1.0: "1"})
        words.append("Heat from 0 (black) to 1 (light yellow).")
    if largest := {one.largest for one in arrays if one.largest is not None}:
        most = max(largest)
        low, high = (f"{sign}{most:.3g}" if len(largest) == 1 else f"{sign}largest" for sign in ("-", "+"))
        _add_bar(figure, axes, ScalarMappable(_signed_scale(most), DIVERGING), {-most: low, 0.0: "0", most: high})
        words.append(f"Signed values from {low} (blue) over 0 (white) to {high} (red).")
    if classes is not None:
        values = {int(v) for one in arrays if one.labels is not None for v in np.unique(one.labels)}
        if names := _add_legend(figure, sorted(values), classes):
            words.append(f"Colours: {', '.join(names)}.")
    return words


def _add_bar(figure: Plot, axes: Sequence[Axes], scale: ScalarMappable, ticks: dict[float, str]) -> None:
    height = figure.get_figheight()
    shrink = min(1.0, 2.2 / height)
    figure.set_figwidth(figure.get_figwidth() + 0.25 + 0.08 * max(map(len, ticks.values())))
    bar = figure.colorbar(
        scale, ax=axes, shrink=shrink, aspect=0.85 * shrink * height / _BAR_INCHES, pad=0.02, anchor=(0.0, 0.5)
    )
    bar.set_ticks([*ticks], labels=[*ticks.values()], fontsize=TEXT)
    bar.outline.set_visible(False)


def _add_legend(figure: Plot, values: Sequence[int], classes: Sequence[str]) -> list[str]:
    names = {v: shortened(classes[v - 1], LONGEST_CLASS) for v in values if 0 < v <= len(classes)}
    names |= {IGNORE: "no decision"} if IGNORE in values else {}
    if not names:
        return []
    longest = max(map(len, names.values())) + 5
    columns = max(1, min(len(names), int(figure.get_figwidth() * LETTERS_PER_INCH / longest)))
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.21 * -(-len(names) // columns))
    add_patches(figure, names, ncols=columns, loc="outside lower left")
    return [*names.values()]


def add_patches(figure: Plot, names: dict[int, str], **options: Any) -> None:
    """Add a legend with the colours of mask values.

    Args:
        figure: Figure that gets the legend.
        names: Name of each value.
        **options: Place and columns, see `matplotlib.figure.Figure.legend`.
    """
    palette = voc_palette() / 255
    patches = [
        Patch(facecolor=tuple(palette[v]), edgecolor="0.4", linewidth=0.5, label=f" {n}") for v, n in names.items()
    ]
    legend = figure.legend(handles=patches, fontsize=TEXT, frameon=False, handlelength=1.2, handleheight=1.0, **options)
    for text, name in zip(legend.get_texts(), names.values(), strict=True):
        text.set_text(name)  # Matplotlib leaves out patches whose label begins with _
