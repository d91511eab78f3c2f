"""Sliders over the maps of two methods: the CAM seeds of one picture at two thresholds, each with its score."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
import numpy as np
import torch
from IPython.display import display
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.toy import ToyWorld
from wsss_lib.ops.cam import cam_label, normalise_maximum, upsample
from wsss_lib.ops.metrics import class_mean, confusion_matrix, intersection_over_union
from wsss_lib.show import figures
from wsss_lib.show.progress import is_interactive
from wsss_lib.show.widgets import ReadMaps, shown_classes

Methods = Mapping[str, tuple[ReadMaps, float]]
"""Function that returns the maps of an image, and background threshold at the start, by name of the method."""


def picture_iou(seed: Tensor, mask: np.ndarray, num_classes: int) -> float:
    """Return the mean IoU in [0, 1] of one picture over the classes that occur in its mask or in its seed.

    Args:
        seed: ``(H, W)`` uint8, 0 for background, k + 1 for class k.
        mask: ``(H, W)`` uint8, 255 for pixels that do not count.
        num_classes: Number of classes with background, C.
    """
    confusion = confusion_matrix(torch.from_numpy(mask), seed, num_classes)
    return float(class_mean(intersection_over_union(confusion)))


def seeds_of_two(
    data: Dataset, methods: Methods, index: int, names: tuple[str, str], thresholds: tuple[float, float]
) -> dict[str, figures.Picture]:
    """Return an image, the CAM seeds of two methods and the mask (if there is one), by title with the IoU.

    Args:
        data: Data set with the image.
        methods: The methods.
        index: Position of the image.
        names: Names of the two methods.
        thresholds: Background threshold of each of them.
    """
    image = data.image(index)
    shown = ", ".join(name for name, _ in shown_classes(data, index)) or "no class"
    pictures: dict[str, figures.Picture] = {f"{data.ids[index]}: {shown}": image}
    for place, (name, threshold) in enumerate(zip(names, thresholds, strict=True)):
        classes, cams = methods[name][0](data.ids[index])
        seed = cam_label(cams, classes, threshold)
        title = f"{name} at {threshold:.2f}"
        if data.has_mask(index):
            title += f"\nIoU {100 * picture_iou(seed, data.mask(index), len(data.classes) + 1):.0f} %"
        # the same method twice has the same title, so the second one gets a blank more
        pictures[title + " " * place] = figures.overlay_mask(image, seed.numpy())
    if data.has_mask(index):
        pictures["mask"] = figures.overlay_mask(image, data.mask(index))
    return pictures


def explore_two(data: Dataset, methods: Methods, images: int = 3) -> None:
    """Show sliders for the picture and for the thresholds of two methods, and their CAM seeds with the IoU.

    Outside an interactive notebook, the first pictures are shown with the first two methods.

    Args:
        data: Data set with the images.
        methods: At least one method; a second choice begins with the last method.
        images: Number of images that are shown outside an interactive notebook.
    """
    names = list(methods)
    labelled = [i for i in range(len(data)) if shown_classes(data, i)] or [0]
    if is_interactive():
        display(_sliders(data, methods, labelled))
        return
    pair = names[0], names[min(1, len(names) - 1)]
    start = methods[pair[0]][1], methods[pair[1]][1]
    shown = [seeds_of_two(data, methods, i, pair, start) for i in labelled[:images]]
    columns = max(map(len, shown))
    pictures = [picture for row in shown for picture in row.values()]
    display(figures.grid(pictures, [title.rstrip() for row in shown for title in row], columns, inches=2.2))


def _sliders(data: Dataset, methods: Methods, labelled: list[int]) -> ipywidgets.VBox:
    names = list(methods)
    picture = ipywidgets.SelectionSlider(
        options=[(data.ids[i], i) for i in labelled], description="picture", continuous_update=False
    )
    choices = [
        ipywidgets.Dropdown(options=names, value=names[min(place, len(names) - 1)], description=f"method {letter}")
        for place, letter in enumerate("AB")
    ]
    levels = [
        ipywidgets.FloatSlider(
            methods[choice.value][1],
            min=0,
            max=1,
            step=0.01,
            description=f"threshold {letter}",
            continuous_update=False,
        )
        for choice, letter in zip(choices, "AB", strict=True)
    ]
    screen = ipywidgets.Image(format="png")

    def draw(_: object) -> None:
        pair = choices[0].value, choices[1].value
        shown = seeds_of_two(data, methods, picture.value, pair, (levels[0].value, levels[1].value))
        screen.value = figures.grid(list(shown.values()), [title.rstrip() for title in shown], inches=2.4).png()

    for choice, level in zip(choices, levels, strict=True):
        choice.observe(lambda change, level=level: setattr(level, "value", methods[change["new"]][1]), "value")
    for control in (picture, *choices, *levels):
        control.observe(draw, "value")
    draw(None)
    return ipywidgets.VBox([picture, *(ipywidgets.HBox(both) for both in zip(choices, levels, strict=True)), screen])


def made_up_maps(world: ToyWorld) -> Methods:
    """Return two made-up methods for the toy world, for when there are no runs to explore.

    One marks only the part that tells the class, the other the whole object; both are as coarse as a real map.

    Args:
        world: A split of the toy world.
    """
    position = {image_id: index for index, image_id in enumerate(world.ids)}

    def read(image_id: str, whole: bool) -> tuple[Tensor, Tensor]:
        index = position[image_id]
        truth = torch.from_numpy(world.mask(index) if whole else world.part(index))
        classes = world.labels[index].nonzero().flatten()
        exact = (truth == classes[:, None, None] + 1).float()[None]
        coarse = torch.nn.functional.avg_pool2d(exact, 8) if len(classes) else exact
        return classes, normalise_maximum(upsample(coarse, (truth.shape[0], truth.shape[1]))[0])

    return {
        "made up: the part alone": (lambda image_id: read(image_id, False), 0.2),
        "made up: the whole object": (lambda image_id: read(image_id, True), 0.4),
    }
