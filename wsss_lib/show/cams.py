"""Maps, CAM seeds and masks side by side, from several networks or from several epochs of one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.ops.cam import cam_label
from wsss_lib.show import figures
from wsss_lib.show.widgets import ReadMaps, shown_classes

ReadMask = Callable[[str, int], Tensor]
"""Function from an image id and the number of classes to the ``(H, W)`` uint8 label map of the image."""


def growth(data: Dataset, readers: Mapping[int, ReadMaps]) -> figures.Plot:
    """Show how the map of the first class of each image changes from epoch to epoch.

    Args:
        data: Images to show; images without a class have no map and are left out.
        readers: Function that returns the maps of an image, for each epoch.
    """
    rows: dict[str, list[figures.Picture]] = {}
    for index, image_id in enumerate(data.ids):
        if not data.labels[index].any():
            continue
        image, name = data.image(index), shown_classes(data, index)[0][0]
        maps = [read(image_id)[1][0].numpy() for read in readers.values()]
        rows[f"{name} ({image_id})"] = [image, *(figures.overlay(image, m) for m in maps)]
    return figures.table_of_pictures(rows, ["image", *(f"epoch {epoch}" for epoch in readers)], inches=1.3)


def side_by_side(
    data: Dataset, indices: Mapping[int, str], networks: Mapping[str, tuple[ReadMaps, float]]
) -> figures.Plot:
    """Show the CAM seeds of several networks for the same images, and the masks if the images have any.

    Args:
        data: Data set with the images.
        indices: Positions of the images to show, each with a remark that is written beside its classes.
        networks: Function that returns the maps of an image, and background threshold, by name of the network.
    """
    rows: dict[str, list[figures.Picture]] = {}
    for index, remark in indices.items():
        image, row = data.image(index), []
        for read, threshold in networks.values():
            classes, cams = read(data.ids[index])
            row.append(figures.overlay_mask(image, cam_label(cams, classes, threshold).numpy()))
        names = ", ".join(name for name, _ in shown_classes(data, index)) or "no class"
        row += [figures.overlay_mask(image, data.mask(index))] if data.has_masks else []
        rows[f"{names} ({remark})"] = [image, *row]
    titles = ["image", *networks, *(["mask"] if data.has_masks else [])]
    return figures.table_of_pictures(rows, titles, classes=data.classes)


def masks_beside(data: Dataset, count: int, masks: Mapping[str, ReadMask]) -> figures.Plot:
    """Show finished masks of the first images with a class, and the true masks if the images have any.

    Args:
        data: Data set with the images.
        count: Number of images to show.
        masks: Function that returns the mask of an image, by name of the column.
    """
    rows: dict[str, list[figures.Picture]] = {}
    for index in [i for i in range(len(data)) if shown_classes(data, i)][:count]:
        image, image_id = data.image(index), data.ids[index]
        found = [read(image_id, len(data.classes)).numpy() for read in masks.values()]
        found += [data.mask(index)] if data.has_masks else []
        names = ", ".join(name for name, _ in shown_classes(data, index))
        rows[f"{names} ({image_id})"] = [image, *(figures.overlay_mask(image, mask) for mask in found)]
    titles = ["image", *masks, *(["mask"] if data.has_masks else [])]
    return figures.table_of_pictures(rows, titles, classes=data.classes)
