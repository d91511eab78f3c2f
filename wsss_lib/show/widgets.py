"""Sliders to play with a result. Where nobody can move them, the same call shows a grid of pictures."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import ipywidgets
import numpy as np
from IPython.display import display
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.ops.cam import cam_label
from wsss_lib.show import figures
from wsss_lib.show.progress import somebody_watches

Slider = tuple[float, float, float, float]
"""Start, least and greatest value, and step."""

ReadMaps = Callable[[str], tuple[Tensor, Tensor]]
"""Returns ``classes`` ``(n,)`` and ``cams`` ``(n, H, W)`` in [0, 1] of an image id."""


def cam_pictures(
    data: Dataset, read: ReadMaps, index: int, which: int, threshold: float, alpha: float
) -> dict[str, figures.Picture]:
    """Return an image, one of its maps, its CAM seed and, where there is one, its mask, each laid over the image.

    Args:
        data: The images.
        read: Function that returns the maps of an image.
        index: Position of the image.
        which: The class whose map is shown, from 0; a class without a map leaves the image dark.
        threshold: The background threshold of the CAM seed.
        alpha: Opacity of heat and colours, 0-1.
    """
    image = data.image(index)
    classes, cams = read(data.ids[index])
    at = (classes == which).nonzero()
    cam = cams[int(at[0])].numpy() if len(at) else np.zeros(cams.shape[1:], np.float32)
    pictures: dict[str, figures.Picture] = {
        "image": image,
        "CAM": figures.overlay(image, cam, alpha),
        "CAM seed": figures.overlay_mask(image, cam_label(cams, classes, threshold).numpy(), alpha),
    }
    if data.has_masks:
        pictures["mask"] = figures.overlay_mask(image, data.mask(index), alpha)
    return pictures


def shown_classes(data: Dataset, index: int) -> list[tuple[str, int]]:
    """Return name and position of every class that an image shows."""
    return [(data.classes[k], k) for k in data.labels[index].nonzero().flatten().tolist()]


def pick_image(data: Dataset, shows: Container[int] = (1,)) -> int:
    """Return the position of an image that is fit to be looked at.

    Args:
        data: The images.
        shows: Number of classes that the image should show.

    Returns:
        The first such image, if possible with a mask; if there is none, the first that shows the fewest classes, but at
        least one; if no image shows any class, 0.
    """

    def rank(index: int) -> tuple[bool, int, bool]:
        count = int(data.labels[index].sum())
        return count == 0, 0 if count in shows else count, data.has_masks and not data.has_mask(index)

    return min(range(len(data)), key=rank)


def things_of_one_class(data: Dataset, count: int) -> dict[int, np.ndarray]:
    """Return the objects in the first images that show one class and whose masks show it, too.

    Args:
        data: The images.
        count: Greatest number of objects to return.

    Returns:
        By position of the image its pixels of that class, ``(H, W)`` bool.
    """
    found: dict[int, np.ndarray] = {}
    for index in data.masked:
        if len(found) < count and data.labels[index].sum() == 1:
            thing = data.mask(index) == int(data.labels[index].argmax()) + 1
            if thing.any():
                found[index] = thing
    return found


def explore(data: Dataset, read: ReadMaps, threshold: float = 0.2, images: int = 4) -> None:
    """Let image, class, threshold and opacity be chosen, and show what follows.

    Args:
        data: The images.
        read: Function that returns the maps of an image.
        threshold: Background threshold at which the slider starts.
        images: Number of images that are shown where no slider can be moved.
    """
    if somebody_watches():
        display(_sliders(data, read, threshold))
    else:
        display(_still(data, read, threshold, images))


def explore_settings(
    data: Dataset, draw: Callable[..., dict[str, figures.Picture]], sliders: Mapping[str, Slider], images: int = 3
) -> None:
    """Let an image and some numbers be chosen, and show what follows.

    Args:
        data: The images.
        draw: Called with the position of an image and the numbers by name; returns pictures by title.
        sliders: For each number, the value at which its slider starts, its least and greatest value, and its step.
        images: Number of images that are shown where no slider can be moved.
    """
    start = {name: slider[0] for name, slider in sliders.items()}
    if not somebody_watches():
        rows = {data.ids[i]: draw(i, **start) for i in range(min(images, len(data)))}
        titles = list(next(iter(rows.values())))
        display(figures.table_of_pictures({name: list(row.values()) for name, row in rows.items()}, titles))
        return
    image = ipywidgets.IntSlider(0, 0, len(data) - 1, description="image", continuous_update=False)
    controls = {
        name: ipywidgets.FloatSlider(value, min=least, max=most, step=step, description=name, continuous_update=False)
        for name, (value, least, most, step) in sliders.items()
    }
    screen = ipywidgets.Image(format="png")

    def show(_: object) -> None:
        pictures = draw(image.value, **{name: control.value for name, control in controls.items()})
        screen.value = figures.grid(list(pictures.values()), list(pictures), inches=2.4).png()

    for control in (image, *controls.values()):
        control.observe(show, "value")
    show(None)
    display(ipywidgets.VBox([image, *controls.values(), screen]))


def _still(data: Dataset, read: ReadMaps, threshold: float, images: int) -> figures.Plot:
    rows, titles = {}, []
    for index in range(min(images, len(data))):
        name, which = (shown_classes(data, index) or [("no class", -1)])[0]
        pictures = cam_pictures(data, read, index, which, threshold, 0.6)
        rows[f"{name} ({data.ids[index]})"] = list(pictures.values())
        titles = list(pictures)
    return figures.table_of_pictures(rows, titles)


def _sliders(data: Dataset, read: ReadMaps, threshold: float) -> ipywidgets.VBox:
    image = ipywidgets.IntSlider(0, 0, len(data) - 1, description="image")
    which = ipywidgets.Dropdown(description="class")
    level = ipywidgets.FloatSlider(threshold, min=0, max=1, step=0.01, description="threshold")
    alpha = ipywidgets.FloatSlider(0.6, min=0, max=1, step=0.05, description="opacity")
    screen = ipywidgets.Image(format="png")

    def offer_classes(_: object) -> None:
        options = shown_classes(data, image.value) or [("no class", -1)]
        which.options = options
        which.value = options[0][1]  # ipywidgets leaves it open

    def draw(_: object) -> None:
        if which.value is not None:
            pictures = cam_pictures(data, read, image.value, which.value, level.value, alpha.value)
            screen.value = figures.grid(list(pictures.values()), list(pictures), inches=2.4).png()

    image.observe(offer_classes, "value")
    for control in (image, which, level, alpha):
        control.observe(draw, "value")
    offer_classes(None)
    draw(None)
    return ipywidgets.VBox([image, which, level, alpha, screen])
