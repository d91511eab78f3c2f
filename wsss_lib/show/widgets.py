"""Controls to explore a result. Outside an interactive notebook, the same calls show a grid of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping

import ipywidgets
import numpy as np
import torch
from IPython.display import display
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.ops.cam import argmax, background_power, cam_label
from wsss_lib.ops.dense_crf import dense_crf, unary_from_scores
from wsss_lib.ops.metrics import class_mean, confusion_matrix, intersection_over_union
from wsss_lib.show import figures
from wsss_lib.show.plot import TEXT
from wsss_lib.show.progress import is_interactive

Slider = tuple[float, float, float, float]
"""Start value, smallest value, greatest value, and step."""

ReadMaps = Callable[[str], tuple[Tensor, Tensor]]
"""Function from an image id to its ``classes`` ``(n,)`` and ``cams`` ``(n, H, W)`` in [0, 1]."""


def cam_pictures(
    data: Dataset, read: ReadMaps, index: int, which: int, threshold: float, alpha: float, crf: bool = False
) -> dict[str, figures.Picture]:
    """Return an image, and one of its maps, its CAM seed and its mask (if there is one), each laid over the image.

    If the image has a mask, the mean IoU of the CAM seed is written below it.

    Args:
        data: Data set with the image.
        read: Function that returns the maps of an image.
        index: Position of the image.
        which: Class whose map is shown, from 0; the map of a class without a map is 0 everywhere.
        threshold: Background threshold of the CAM seed.
        alpha: Opacity of the heat map and of the colours, 0-1.
        crf: Whether the seed after a dense CRF is shown, too, see :func:`crf_seed`.
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
    if crf:
        pictures["after the CRF"] = figures.overlay_mask(
            image, crf_seed(image, classes, cams, threshold).numpy(), alpha
        )
    write_scores(data, index, pictures)
    if data.has_masks:
        pictures["mask"] = figures.overlay_mask(image, data.mask(index), alpha)
    return pictures


def crf_seed(image: figures.Picture, classes: Tensor, cams: Tensor, threshold: float) -> Tensor:
    """Return the CAM seed after a dense CRF with AffinityNet's settings.

    The score of the background is ``(1 - max_k A_k)^alpha``. The alpha is the one with which the labels before the CRF
    are the seed: ``(1 - threshold)^alpha = threshold``.

    Args:
        image: RGB picture, ``(H, W)`` pixels.
        classes: ``(n,)`` int64, from 0.
        cams: ``(n, H, W)`` float in [0, 1].
        threshold: Background threshold, 0-1; below 0.01 it counts as 0.01, above 0.99 as 0.99.

    Returns:
        ``(H, W)`` uint8: 0 background, k + 1 class k.
    """
    if not len(cams):
        return torch.zeros(cams.shape[1:], dtype=torch.uint8)
    level = min(max(threshold, 0.01), 0.99)
    scores = background_power(cams, math.log(level) / math.log(1 - level))
    pixels = torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous()
    [q] = dense_crf([pixels], [unary_from_scores(scores)])
    return torch.cat([classes.new_zeros(1), classes + 1]).to(torch.uint8)[argmax(q, 0)]


def write_scores(data: Dataset, index: int, pictures: Mapping[str, figures.Picture]) -> None:
    """Write below each picture of a mask its mean IoU, if the image has a true mask.

    The mean is over the classes that the true mask or the shown mask has, background included. A shown mask with pixels
    without a decision, or of another size than the true mask, has no IoU.

    Args:
        data: Data set with the image.
        index: Position of the image.
        pictures: Pictures by title; those of masks get a caption.
    """
    if not data.has_mask(index):
        return
    truth = torch.from_numpy(data.mask(index))
    for picture in pictures.values():
        if not isinstance(picture, figures.Painted) or picture.labels is None:
            continue
        labels = torch.from_numpy(picture.labels.copy())  # which may be read-only
        if labels.shape == truth.shape and int(labels.max()) <= len(data.classes):
            confusion = confusion_matrix(truth, labels, len(data.classes) + 1)
            mean = class_mean(intersection_over_union(confusion)).item()
            picture.caption = "" if math.isnan(mean) else f"IoU {100 * mean:.0f} %"


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


def explore(data: Dataset, read: ReadMaps, threshold: float = 0.2, images: int = 4, crf: bool = False) -> None:
    """Show controls for image, class, threshold and opacity, and the resulting pictures.

    Args:
        data: Data set with the images.
        read: Function that returns the maps of an image.
        threshold: Start value of the background threshold.
        images: Number of images that are shown outside an interactive notebook.
        crf: Whether there is also a switch for a dense CRF; outside an interactive notebook, its seed is shown, too.
    """
    if is_interactive():
        display(_controls(data, read, threshold, crf))
    else:
        display(_static_figure(data, read, threshold, images, crf))


def explore_settings(
    data: Dataset,
    draw: Callable[..., Mapping[str, figures.Picture]],
    sliders: Mapping[str, Slider],
    images: int = 3,
    read: ReadMaps | None = None,
    threshold: float = 0.2,
) -> None:
    """Show controls for the image and for some numbers, and the resulting pictures beside the true mask.

    A mask has its mean IoU below it, if the image has a true mask. A number whose four values are whole has a slider of
    whole numbers, and ``draw`` gets an int.

    Args:
        data: Data set with the images.
        draw: Function from the position of an image, and the numbers as keyword arguments, to pictures by title.
        sliders: Start value, smallest value, greatest value and step of each number, by name.
        images: Number of images that are shown outside an interactive notebook.
        read: Function that returns the maps of an image, whose CAM seed is shown, too; None for no seed.
        threshold: Background threshold of the seed.
    """
    start = {name: _number(slider, slider[0]) for name, slider in sliders.items()}

    def pictures_of(index: int, numbers: Mapping[str, float]) -> dict[str, figures.Picture]:
        pictures, image = dict(draw(index, **numbers)), data.image(index)
        if read is not None:
            classes, cams = read(data.ids[index])
            pictures["CAM seed"] = figures.overlay_mask(image, cam_label(cams, classes, threshold).numpy())
        write_scores(data, index, pictures)
        if data.has_masks:
            pictures["true mask"] = figures.overlay_mask(image, data.mask(index))
        return pictures

    if not is_interactive():
        rows = {data.ids[i]: pictures_of(i, start) for i in range(min(images, len(data)))}
        titles = list(next(iter(rows.values())))
        table = {name: list(row.values()) for name, row in rows.items()}
        display(_with_numbers(figures.table_of_pictures(table, titles, classes=data.classes), start))
        return
    image = _choose_image(data)
    controls = {name: _slider(name, slider) for name, slider in sliders.items()}
    screen = ipywidgets.Image(format="png")

    def show(_: object) -> None:
        numbers = {name: control.value for name, control in controls.items()}
        screen.value = _with_numbers(_screen(pictures_of(image.value, numbers), data), numbers).png()

    for control in (image, *controls.values()):
        control.observe(show, "value")
    show(None)
    display(ipywidgets.VBox([image, *controls.values(), screen]))


def _number(slider: Slider, value: float) -> float:
    return int(value) if all(float(one).is_integer() for one in slider) else value


def _slider(name: str, slider: Slider) -> ipywidgets.Widget:
    value, least, most, step = (_number(slider, one) for one in slider)
    kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
    return kind(value, min=least, max=most, step=step, description=name, continuous_update=False)


def _choose_image(data: Dataset) -> ipywidgets.Dropdown:
    """Return a list from which an image is chosen by its classes and its name."""
    options = [
        (f"{', '.join(name for name, _ in shown_classes(data, i)) or 'no class'} ({image_id})", i)
        for i, image_id in enumerate(data.ids)
    ]
    return ipywidgets.Dropdown(description="image", options=options, value=0)


def _screen(pictures: Mapping[str, figures.Picture], data: Dataset) -> figures.Plot:
    return figures.grid(list(pictures.values()), list(pictures), inches=2.2, classes=data.classes)


def _with_numbers(plot: figures.Plot, numbers: Mapping[str, float]) -> figures.Plot:
    """Write above a figure the numbers with which it was made."""
    text = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    plot.set_figheight(plot.get_figheight() + 0.25)
    plot.suptitle(text, x=0.01, ha="left", fontsize=TEXT)
    plot.words = f"{plot.words} Made with {text}."
    return plot


def _static_figure(data: Dataset, read: ReadMaps, threshold: float, images: int, crf: bool) -> figures.Plot:
    rows, titles = {}, []
    for index in range(min(images, len(data))):
        name, which = (shown_classes(data, index) or [("no class", -1)])[0]
        pictures = cam_pictures(data, read, index, which, threshold, 0.6, crf)
        rows[f"{name} ({data.ids[index]})"] = list(pictures.values())
        titles = list(pictures)
    return figures.table_of_pictures(rows, titles, classes=data.classes)


def _controls(data: Dataset, read: ReadMaps, threshold: float, crf: bool) -> ipywidgets.VBox:
    image = _choose_image(data)
    which = ipywidgets.Dropdown(description="class")
    level = ipywidgets.FloatSlider(threshold, min=0, max=1, step=0.01, description="threshold")
    alpha = ipywidgets.FloatSlider(0.6, min=0, max=1, step=0.05, description="opacity")
    switch = ipywidgets.Checkbox(False, description="dense CRF")
    screen = ipywidgets.Image(format="png")

    def offer_classes(_: object) -> None:
        options = shown_classes(data, image.value) or [("no class", -1)]
        which.options = options
        which.value = options[0][1]  # ipywidgets does not choose a value

    def draw(_: object) -> None:
        if which.value is not None:
            pictures = cam_pictures(data, read, image.value, which.value, level.value, alpha.value, switch.value)
            screen.value = _screen(pictures, data).png()

    image.observe(offer_classes, "value")
    controls = [image, which, level, alpha, *([switch] if crf else [])]
    for control in controls:
        control.observe(draw, "value")
    offer_classes(None)
    draw(None)
    return ipywidgets.VBox([*controls, screen])
