"""Writing maps and masks in the forms that other people's tools read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle_tools
from scipy import ndimage
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import write_atomically
from wsss_lib.ops.cam import upsample
from wsss_lib.show.progress import bar
from wsss_lib.stages.evaluate import ahead
from wsss_lib.stages.store import MaskStore, Store

_IRN_STRIDE = 4
"""Stride of the maps that IRN's random walk reads."""


class PsaStore(Store):
    """Dictionaries ``{class: (H, W)}``, as psa, SEAM and OC-CSE read and write them.

    Args:
        folder: Folder of the files.
        half: Whether maps are float16 instead of float32, which halves the files.
    """

    suffix = ".npy"

    def __init__(self, folder: Path, half: bool = False) -> None:
        super().__init__(folder)
        self.half = half

    def write(self, image_id: str, classes: Tensor, maps: Tensor) -> None:
        """Save maps ``(n, H, W)`` in [0, 1] of the classes ``(n,)``, from 0."""
        values = maps.numpy().astype(np.float16 if self.half else np.float32)
        _save(self.path(image_id), {int(k): map_of_class for k, map_of_class in zip(classes, values, strict=True)})


class IrnStore(PsaStore):
    """Dictionaries with ``keys``, ``cam`` at stride 4 and ``high_res``, as IRN reads and writes them."""

    def write(self, image_id: str, classes: Tensor, maps: Tensor) -> None:
        """Save maps ``(n, H, W)`` in [0, 1] of the classes ``(n,)``, from 0; ``keys`` and ``cam`` as tensors."""
        height, width = maps.shape[1:]
        small = upsample(maps[None], ((height - 1) // _IRN_STRIDE + 1, (width - 1) // _IRN_STRIDE + 1))[0]
        kind = torch.float16 if self.half else torch.float32
        content = {"keys": classes.clone(), "cam": small.to(kind), "high_res": maps.to(kind).numpy()}
        _save(self.path(image_id), content)


class HeatMapStore(Store):
    """Grey pictures ``<id>_<class>.png``, one for each class.

    Args:
        folder: Folder of the files.
        data: The pictures; their labels say which classes have a file.
        bits: 8 or 16; a map value of 1 is stored as 255 or 65,535.
    """

    suffix = ".png"

    def __init__(self, folder: Path, data: Dataset, bits: int = 8) -> None:
        super().__init__(folder)
        self.data = data
        self.bits = bits
        self.index = {image_id: index for index, image_id in enumerate(data.ids)}

    def path(self, image_id: str) -> Path:
        """Return the file of the first class of a picture."""
        return next(iter(self._paths(image_id)), self.folder / f"{image_id}_{self.suffix}")

    def _paths(self, image_id: str) -> list[Path]:
        shown = self.data.labels[self.index[image_id]].nonzero().flatten().tolist()
        return [self._path_of(image_id, k) for k in shown]

    def _path_of(self, image_id: str, k: int) -> Path:
        return self.folder / f"{image_id}_{self.data.classes[k]}{self.suffix}"

    def __contains__(self, image_id: str) -> bool:
        return all(path.is_file() for path in self._paths(image_id))

    def write(self, image_id: str, classes: Tensor, maps: Tensor) -> None:
        """Save maps ``(n, H, W)`` in [0, 1] of the classes ``(n,)``, from 0."""
        highest, kind = (255, np.uint8) if self.bits == 8 else (65_535, np.uint16)
        for k in range(len(self.data.classes)):
            self._path_of(image_id, k).unlink(missing_ok=True)
        values = (maps * highest).round().numpy().astype(kind)
        for k, whole in zip(classes.tolist(), values, strict=True):
            save = partial(Image.fromarray(whole).save, format="PNG")
            write_atomically(self._path_of(image_id, k), save, durable=False)


def _save(path: Path, content: dict[Any, Any]) -> None:
    whole = np.array(content, dtype=object)
    write_atomically(path, lambda file: np.save(file, whole, allow_pickle=True), durable=False)


def write_maps(data: Dataset, read: Callable[[str], tuple[Tensor, Tensor]], store: PsaStore | HeatMapStore) -> None:
    """Write the maps of every picture that a store does not have yet, at the original sizes of the pictures.

    Args:
        data: The pictures.
        read: Returns ``classes`` ``(n,)`` and ``cams`` ``(n, h, w)`` in [0, 1] of a picture's id.
        store: The store that receives the maps.
    """
    todo = [index for index, image_id in enumerate(data.ids) if image_id not in store]

    def carry(index: int) -> None:
        classes, maps = read(data.ids[index])
        size = data.own_size(index)
        own = maps if tuple(maps.shape[1:]) == size else upsample(maps[None], size)[0].clamp_(0, 1)
        store.write(data.ids[index], classes, own)

    with ThreadPoolExecutor(4) as pool:
        for _ in bar(ahead(pool, carry, todo), f"maps of {data.name}", len(todo)):
            pass


# ------------------------------------------------------------------------------------------------------------- masks


def write_coco(path: Path, data: Dataset, masks: MaskStore, regions: bool = True) -> int:
    """Write masks as an instances JSON of COCO, whose segmentations are run-length codes.

    Args:
        path: The JSON file.
        data: The pictures.
        masks: A mask of each picture.
        regions: Whether every connected region of a class is a separate annotation; otherwise there is one annotation
            for each class.

    Returns:
        Number of the annotations.
    """

    def found(index: int) -> list[dict[str, Any]]:
        mask = masks.read(data.ids[index], len(data.classes), data.own_size(index)).numpy()
        return [
            one for value in np.unique(mask) if 0 < value < 255 for one in _annotations(mask == value, regions, value)
        ]

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with ThreadPoolExecutor(4) as pool:
        for index, ones in enumerate(
            bar(ahead(pool, found, range(len(data))), f"annotations of {data.name}", len(data))
        ):
            height, width = data.own_size(index)
            file = data.image_file(index)
            name = data.ids[index] if file is None else file.name
            images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for one in ones:
                annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **one})
    content = {
        "info": {"description": f"masks of {data.name}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(data.classes)],
    }
    text = json.dumps(content, ensure_ascii=False).encode()
    write_atomically(path, lambda file: file.write(text))
    return len(annotations)


def _annotations(pixels: np.ndarray, regions: bool, value: int) -> list[dict[str, Any]]:
    """Return COCO's annotations of the pixels ``(H, W)`` bool of one class."""
    parts = [pixels]
    if regions:
        numbers, count = ndimage.label(pixels, np.ones((3, 3)))
        parts = [numbers == number for number in range(1, count + 1)]
    found = []
    for part in parts:
        code = rle_tools.encode(np.asfortranarray(part.astype(np.uint8)))
        area, box = float(rle_tools.area(code)), [float(x) for x in rle_tools.toBbox(code)]
        segmentation = {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}
        found.append({"category_id": int(value), "segmentation": segmentation, "area": area, "bbox": box, "iscrowd": 0})
    return found


def write_voc_results(path: Path, ids: Sequence[str], masks: MaskStore, competition: str = "comp6") -> None:
    """Write masks as the archive that VOC's evaluation server takes.

    It holds ``results/VOC2012/Segmentation/<competition>_test_cls/<id>.png``.

    Args:
        path: The archive, ``*.tar.gz``.
        ids: Ids of the pictures.
        masks: A mask of each picture.
        competition: ``comp5`` for networks that were trained on VOC's own data alone, otherwise ``comp6``.
    """
    folder = f"results/VOC2012/Segmentation/{competition}_test_cls"

    def fill(file: Any) -> None:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for image_id in bar(ids, "masks for the server", len(ids)):
                content = masks.path(image_id).read_bytes()
                entry = tarfile.TarInfo(f"{folder}/{image_id}.png")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    write_atomically(path, fill)
