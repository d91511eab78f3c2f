"""Maps, CAM seeds and masks side by side: of several networks, or of one through its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.ops.cam import cam_label
from wsss_lib.show import figures
from wsss_lib.show.widgets import ReadMaps, shown_classes

ReadMask = Callable[[str, int], Tensor]
"""From an image's id and the number of classes to its ``(H, W)`` uint8 label map."""


def growth(data: Dataset, reads: Mapping[int, ReadMaps]) -> figures.Plot:
    """Show how the map of the first class of each image changed from epoch to epoch.

    Args:
        data: The images; those that show no class have no map and are left out.
        reads: Functions that return the maps of an image, one for every epoch that is shown.
    """
    rows: dict[str, list[figures.Picture]] = {}
    for index, image_id in enumerate(data.ids):
        if not data.labels[index].any():
            continue
        image, name = data.image(index), shown_classes(data, index)[0][0]
        maps = [read(image_id)[1][0].numpy() for read in reads.values()]
        rows[f"{name} ({image_id})"] = [image, *(figures.overlay(image, m) for m in maps)]
    return figures.table_of_pictures(rows, ["image", *(f"epoch {epoch}" for epoch in reads)], inches=1.3)


def side_by_side(
    data: Dataset, indices: Mapping[int, str], networks: Mapping[str, tuple[ReadMaps, float]]
) -> figures.Plot:
    """Show the CAM seeds of several networks for the same images, and the masks where there are any.

    Args:
        data: The images.
        indices: Positions of the images to show, each with the remark to write beside its classes.
        networks: For every network's name, the function that returns its maps, and its background threshold.
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
    return figures.table_of_pictures(rows, ["image", *networks, *(["mask"] if data.has_masks else [])])


def masks_beside(data: Dataset, count: int, masks: Mapping[str, ReadMask]) -> figures.Plot:
    """Show finished masks of the first images that show a class, and the true masks where there are any.

    Args:
        data: The images.
        count: Number of images to show.
        masks: Functions that return the mask of an image, by name.
    """
    rows: dict[str, list[figures.Picture]] = {}
    for index in [i for i in range(len(data)) if shown_classes(data, i)][:count]:
        image, image_id = data.image(index), data.ids[index]
        found = [read(image_id, len(data.classes)).numpy() for read in masks.values()]
        found += [data.mask(index)] if data.has_masks else []
        names = ", ".join(name for name, _ in shown_classes(data, index))
        rows[f"{names} ({image_id})"] = [image, *(figures.overlay_mask(image, mask) for mask in found)]
    return figures.table_of_pictures(rows, ["image", *masks, *(["mask"] if data.has_masks else [])])
