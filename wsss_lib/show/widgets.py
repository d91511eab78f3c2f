"""Sliders to explore a result. Outside an interactive notebook, the same calls show a grid of pictures."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import ipywidgets
import numpy as np
from IPython.display import display
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.ops.cam import cam_label
from wsss_lib.show import figures
from wsss_lib.show.progress import is_interactive

Slider = tuple[float, float, float, float]
"""Start value, smallest value, greatest value, and step."""

ReadMaps = Callable[[str], tuple[Tensor, Tensor]]
"""Function from an image id to its ``classes`` ``(n,)`` and ``cams`` ``(n, H, W)`` in [0, 1]."""


def cam_pictures(
    data: Dataset, read: ReadMaps, index: int, which: int, threshold: float, alpha: float
) -> dict[str, figures.Picture]:
    """Return an image, and one of its maps, its CAM seed and its mask (if there is one), each laid over the image.

    Args:
        data: Data set with the image.
        read: Function that returns the maps of an image.
        index: Position of the image.
        which: Class whose map is shown, from 0; the map of a class without a map is 0 everywhere.
        threshold: Background threshold of the CAM seed.
        alpha: Opacity of the heat map and of the colours, 0-1.
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
    """Return the name and the position of each class that an image shows."""
    return [(data.classes[k], k) for k in data.labels[index].nonzero().flatten().tolist()]


def pick_image(data: Dataset, counts: Container[int] = (1,)) -> int:
    """Return the position of an image that is suitable as an example.

    Args:
        data: Data set to choose from.
        counts: Suitable numbers of classes.

    Returns:
        The first image with a suitable number of classes, if possible with a mask. If there is none, the first image
        with the fewest classes, but at least one. If no image shows a class, 0.
    """

    def rank(index: int) -> tuple[bool, int, bool]:
        count = int(data.labels[index].sum())
        return count == 0, 0 if count in counts else count, data.has_masks and not data.has_mask(index)

    return min(range(len(data)), key=rank)


def single_class_objects(data: Dataset, count: int) -> dict[int, np.ndarray]:
    """Return the object pixels of the first images that show exactly one class and whose masks contain that class.

    Args:
        data: Data set with the images.
        count: Greatest number of images.

    Returns:
        Pixels of the class, ``(H, W)`` bool, by position of the image.
    """
    found: dict[int, np.ndarray] = {}
    for index in data.masked:
        if len(found) < count and data.labels[index].sum() == 1:
            pixels = data.mask(index) == int(data.labels[index].argmax()) + 1
            if pixels.any():
                found[index] = pixels
    return found


def explore(data: Dataset, read: ReadMaps, threshold: float = 0.2, images: int = 4) -> None:
    """Show sliders for image, class, threshold and opacity, and the resulting pictures.

    Args:
        data: Data set with the images.
        read: Function that returns the maps of an image.
        threshold: Start value of the background threshold.
        images: Number of images that are shown outside an interactive notebook.
    """
    if is_interactive():
        display(_sliders(data, read, threshold))
    else:
        display(_static_figure(data, read, threshold, images))


def explore_settings(
    data: Dataset, draw: Callable[..., dict[str, figures.Picture]], sliders: Mapping[str, Slider], images: int = 3
) -> None:
    """Show sliders for the image and for some numbers, and the resulting pictures.

    Args:
        data: Data set with the images.
        draw: Function from the position of an image, and the numbers as keyword arguments, to pictures by title.
        sliders: Start value, smallest value, greatest value and step of each number, by name.
        images: Number of images that are shown outside an interactive notebook.
    """
    start = {name: slider[0] for name, slider in sliders.items()}
    if not is_interactive():
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


def _static_figure(data: Dataset, read: ReadMaps, threshold: float, images: int) -> figures.Plot:
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
        which.value = options[0][1]  # ipywidgets does not choose a value

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
