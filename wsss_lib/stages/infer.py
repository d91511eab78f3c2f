"""Multi-scale class activation maps of a whole data set, written to a store; logits and features of whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.transforms import Normalise, view
from wsss_lib.errors import InputError
from wsss_lib.methods.method import CamMethod
from wsss_lib.models.backbone import Backbone
from wsss_lib.ops.cam import merge_mirrored, upsample
from wsss_lib.show.progress import bar
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import loaded
from wsss_lib.stages.store import CamStore, Store

PIXELS_PER_BATCH = {"cpu": 2**19, "cuda": 2**24}
"""Number of pixels that the largest views of a batch may have together. Larger CPU batches fall out of the cache."""

_PIXELS_AT_ONCE = {"cpu": 2**21, "cuda": 2**24}
"""Number of pixels that pass a network at once where a picture and its mirror image can pass one by one."""


class Views(TorchDataset[tuple[int, list[Tensor]]]):
    """Every image of a data set, rescaled in several ways.

    Args:
        data: The images.
        scales: Factors of their size.
        normalise: Function that turns pixels into the network's input.
        multiple: See :func:`wsss_lib.data.transforms.view_size`.
        enlarged: Greatest factor by which the method that gets the views enlarges them itself.
    """

    def __init__(
        self,
        data: Dataset,
        scales: Sequence[float],
        normalise: Normalise,
        multiple: int | None,
        enlarged: float = 1.0,
    ) -> None:
        self.data = data
        self.scales = scales
        self.normalise = normalise
        self.multiple = multiple
        self.enlarged = enlarged

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, list[Tensor]]:
        image = self.data.image(index)
        return index, [view(image, scale, self.normalise, self.multiple) for scale in self.scales]

    def batches(self, pixels: int) -> list[list[int]]:
        """Divide the images into batches of one size, whose views have at most ``pixels`` pixels each.

        The division depends on the images alone, so that an interrupted inference continues with the same batches,
        and with the same rounding.
        """
        by_size: dict[tuple[int, int], list[int]] = {}
        for index in range(len(self)):
            by_size.setdefault(self.data.size(index), []).append(index)
        batches = []
        for (height, width), indices in by_size.items():
            area = 2 * height * width * (max(self.scales) * self.enlarged) ** 2  # plain and mirrored
            count = max(1, int(pixels / area))
            batches += [indices[i : i + count] for i in range(0, len(indices), count)]
        return batches

    def missing_batches(self, done: Store | set[str], fabric: Fabric) -> list[list[int]]:
        """Return this process's share of the batches, without those whose images are all done already."""
        mine = self.batches(_pixels_per_batch(fabric))[fabric.global_rank :: fabric.world_size]
        return [batch for batch in mine if not all(self.data.ids[i] in done for i in batch)]


@contextmanager
def named(data: Dataset, index: int) -> Iterator[None]:
    """Put the name of an image before what an InputError says about it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"image {data.ids[index]} of {data.name}: {error}") from None


def views_for(method: CamMethod, data: Dataset, normalise: Normalise) -> Views:
    """Return the views that a method makes its maps from; one that resizes images itself gets them as they are."""
    scales = (1.0,) if method.scales_itself else method.config.scales
    return Views(data, scales, normalise, method.config.view_multiple or None)


def _pixels_per_batch(fabric: Fabric) -> int:
    return PIXELS_PER_BATCH.get(fabric.device.type, PIXELS_PER_BATCH["cuda"])


def multi_scale_cam(
    method: CamMethod, views: Iterable[Tensor], labels: Tensor, size: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """Return the normalised maps of the classes that images show, summed over views and their mirror images.

    ``S_k = sum_views relu(upsample(M_k))``, normalised as the method does; AffinityNet's ``infer_cls.py`` and OC-CSE
    divide by the maximum. Maps of classes that an image does not show are dropped before anything is enlarged.

    Args:
        method: The method that makes the maps.
        views: For every scale ``(B, 3, h, w)`` normalised images.
        labels: ``(B, K)``, 1 where an image shows a class.
        size: ``(H, W)`` of the images, a working size, see `wsss_lib.data.large`.

    Returns:
        For every image, ``classes`` ``(n,)`` int64 and their maps ``(n, H, W)`` float32 in [0, 1).
    """
    present = [label.nonzero().flatten() for label in labels]
    if method.scales_itself:
        [images] = views
        return list(zip(present, method.multi_scale(images, labels), strict=True))
    sums = [torch.zeros(len(classes), *size, device=labels.device) for classes in present]
    for images in views:
        maps = _maps_of_both(method, images)  # (2B, K, h, w)
        plain, mirrored = maps.chunk(2)
        # rectified maps may be added while they are small
        parts = [plain, mirrored.flip(-1)] if method.signed else [merge_mirrored(maps)]
        for part in parts:
            for total, image_maps, classes in zip(sums, part, present, strict=True):
                if len(classes):
                    total += upsample(image_maps[classes][None], size)[0].relu_()
    return [(classes, method.normalise_maps(total)) for classes, total in zip(present, sums, strict=True)]


def _maps_of_both(method: CamMethod, images: Tensor) -> Tensor:
    """Return the maps ``(2B, K, h, w)`` of ``(B, 3, H, W)`` images and of their mirror images."""
    most = _PIXELS_AT_ONCE.get(images.device.type, _PIXELS_AT_ONCE["cuda"])
    if 2 * images[:, 0].numel() <= most:
        return method.cam(torch.cat([images, images.flip(-1)])).float()
    return torch.cat([method.cam(x).float() for x in (images, images.flip(-1).contiguous())])


@torch.inference_mode()
def infer(method: CamMethod, data: Dataset, store: CamStore, context: Context) -> None:
    """Write the maps of every image of a data set that the store does not have yet.

    A batch of images none of which has a label needs no network: nothing of their maps would be kept.

    Args:
        method: The method that makes the maps; it is put into evaluation mode.
        data: The images and their image-level labels.
        store: The store that receives the maps.
        context: Engine, normalisation and number of loading processes.
    """
    method.train(False)
    fabric = context.fabric
    views = views_for(method, data, context.normalise)
    todo = []
    for batch in views.missing_batches(store, fabric):
        if data.labels[batch].any():
            todo.append(batch)
            continue
        for index in batch:
            store.write(data.ids[index], torch.zeros(0, dtype=torch.int64), torch.zeros(0, *data.size(index)))
    loader = DataLoader(views, batch_sampler=todo, num_workers=context.workers)
    for indices, images in bar(loaded(loader), f"CAMs of {data.name}", len(todo)):
        images = [fabric.to_device(x.contiguous()) for x in images]
        labels = fabric.to_device(data.labels[indices])
        with named(data, int(indices[0])), fabric.autocast():
            results = multi_scale_cam(method, images, labels, data.size(int(indices[0])))
        for index, (classes, cams) in zip(indices.tolist(), results, strict=True):
            store.write(data.ids[index], classes, cams)
    fabric.barrier()


@torch.inference_mode()
def infer_some(method: CamMethod, data: Dataset, store: CamStore, context: Context) -> None:
    """Write the maps of a few images, in this process alone."""
    method.train(False)
    fabric, views = context.fabric, views_for(method, data, context.normalise)
    for index in range(len(data)):
        images = [fabric.to_device(image)[None] for image in views[index][1]]
        with named(data, index), fabric.autocast():
            [result] = multi_scale_cam(method, images, fabric.to_device(data.labels[[index]]), data.size(index))
        store.write(data.ids[index], *result)


@torch.inference_mode()
def predicted_labels(method: CamMethod, image: Image.Image, context: Context) -> Tensor:
    """Return labels ``(K,)`` for an RGB picture: 1 for the classes with a logit above 0, else for the highest."""
    method.train(False)
    pixels = view(image, 1.0, context.normalise, method.config.view_multiple or None)
    with context.fabric.autocast():
        logits = method.logits(context.fabric.to_device(pixels)[None])[0].float()
    return ((logits > 0) | ((logits == logits.max()) & (logits.max() <= 0))).float()


@torch.inference_mode()
def cam_of_picture(method: CamMethod, image: Image.Image, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Return the maps of one RGB picture, made as :func:`infer` makes those of a data set.

    Args:
        method: The method that makes the maps; it is put into evaluation mode.
        image: The picture, of its working size, see `wsss_lib.data.large`.
        labels: ``(K,)``, 1 for the classes whose maps are wanted.
        context: Engine, normalisation and number of loading processes.

    Returns:
        ``classes`` ``(n,)`` int64 and their maps ``(n, H, W)`` float32 in [0, 1), on the CPU.
    """
    method.train(False)
    scales = (1.0,) if method.scales_itself else method.config.scales
    fabric = context.fabric
    views = [view(image, scale, context.normalise, method.config.view_multiple or None) for scale in scales]
    with fabric.autocast():
        [(classes, maps)] = multi_scale_cam(
            method,
            [fabric.to_device(pixels)[None] for pixels in views],
            fabric.to_device(labels)[None],
            (image.height, image.width),
        )
    return classes.cpu(), maps.float().cpu()


@torch.inference_mode()
def classify(method: CamMethod, data: Dataset, context: Context) -> Tensor:
    """Return the logits ``(n, K)`` of the whole images of a data set at their own size, on the CPU."""
    method.train(False)
    return _of_whole_images(method.logits, data, context, method.config.view_multiple, "logits")


@torch.inference_mode()
def pooled_features(backbone: Backbone, data: Dataset, context: Context, multiple: int = 0) -> Tensor:
    """Return the means and the maxima of the last features of a backbone over each whole image of a data set.

    Args:
        backbone: The backbone; it is put into evaluation mode.
        data: The images.
        context: Engine, normalisation and number of loading processes.
        multiple: See :func:`wsss_lib.data.transforms.view_size`; 0 for any size.

    Returns:
        ``(n, 2 channels)`` float32 on the CPU, the means first.
    """
    backbone.eval()

    def pooled(images: Tensor) -> Tensor:
        features = list(backbone(images).values())[-1].flatten(2)
        return torch.cat([features.mean(-1), features.amax(-1)], 1)

    return _of_whole_images(pooled, data, context, multiple, "features")


def _of_whole_images(
    function: Callable[[Tensor], Tensor], data: Dataset, context: Context, multiple: int, title: str
) -> Tensor:
    """Return the vectors that a function of ``(B, 3, H, W)`` normalised images returns, one row for each image."""
    fabric = context.fabric
    views = Views(data, (1.0,), context.normalise, multiple or None)
    batches = views.batches(_pixels_per_batch(fabric))
    rows = torch.zeros(0)
    loader = DataLoader(views, batch_sampler=batches, num_workers=context.workers)
    for indices, (images,) in bar(loaded(loader), f"{title} of {data.name}", len(batches)):
        with named(data, int(indices[0])), fabric.autocast():
            found = function(fabric.to_device(images.contiguous())).float().cpu()
        if not len(rows):
            rows = torch.zeros(len(data), found.shape[1])
        rows[indices] = found
    return rows
