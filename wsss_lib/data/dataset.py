"""What every data set of the library looks like: images, image-level labels and, for evaluation only, masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss_lib.data.files import IGNORE, image_size, read_image, read_mask
from wsss_lib.data.large import resize_labels, working_size
from wsss_lib.errors import InputError, printable


class Dataset(ABC):
    """Images addressed by position, with the set of classes that each one shows.

    A picture in a file may be larger than what is computed with, see `wsss_lib.data.large`: :meth:`image`,
    :meth:`mask` and :meth:`size` are about its working size, :meth:`own_mask` and :meth:`own_size` about the file.

    Attributes:
        name: Name of the data set in printed lines, for example ``"VOC 2012 train"``.
        classes: The K foreground class names; class k has the mask value k + 1, background is 0.
        ids: One unique file-name-safe string per image.
        labels: ``(n, K)`` float32, 1 where the image shows the class, else 0.
        has_masks: Whether :meth:`mask` can be called; some images may have no mask even so, see :meth:`has_mask`.
        label_source: Beginning of a sentence that says where the labels come from and which names are there.
        truth: Words that say which masks these are, to be printed beside every score; "" if that is clear.
        notes: Sentences on anything odd that was seen when the data set was opened.
    """

    label_source: str = ""
    truth: str = ""
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, classes: Sequence[str], ids: Sequence[str], labels: Tensor, has_masks: bool) -> None:
        if not ids:
            raise InputError(f"{name}: the list of images is empty; give a list that names at least one image.")
        twice = [image_id for image_id, count in Counter(ids).items() if count > 1]
        if twice:
            raise InputError(f"{name}: the image id {twice[0]!r} is listed more than once; list every image once.")
        if labels.shape != (len(ids), len(classes)):
            raise ValueError(f"labels must be {(len(ids), len(classes))}, not {tuple(labels.shape)}")
        self.name = printable(name)  # which often begins with that of a folder
        self.classes = tuple(classes)
        self.ids = tuple(ids)
        self.labels = labels.to(torch.float32)
        self.has_masks = has_masks

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB."""

    @abstractmethod
    def mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index``: 0 background, k + 1 class k, 255 ignored.

        Where other images have a mask and this one has none, nothing is known about it: 255 everywhere.
        """

    def has_mask(self, index: int) -> bool:  # noqa: ARG002
        """Whether image ``index`` has a mask; by default all have one or none has."""
        return self.has_masks

    @property
    def masked(self) -> list[int]:
        """Positions of the images that have a mask."""
        return [index for index in range(len(self)) if self.has_mask(index)]

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` without decoding it."""

    def image_file(self, index: int) -> Path | None:  # noqa: ARG002
        """Return the file of image ``index``; by default None, for one that lies in no file."""
        return None

    def mask_file(self, index: int) -> Path | None:  # noqa: ARG002
        """Return the file of the mask of image ``index``; by default None, for one that lies in no file."""
        return None

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask of image ``index`` at its own size, as it is scored with."""
        return self.mask(index)

    def own_size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` at its own size, that of masks which are written."""
        return self.size(index)

    def head(self, count: int) -> Dataset:
        """Return the first ``count`` images, or all if there are fewer."""
        count = min(count, len(self))
        return DatasetView(self, f"{self.name} (first {count})", range(count))


class DatasetView(Dataset):
    """Images of another data set, seen in another way: what a subclass does not change is passed on.

    Args:
        whole: The other data set.
        name: Name of the data set in printed lines.
        indices: Positions of the images that are kept.
    """

    def __init__(self, whole: Dataset, name: str, indices: Sequence[int]) -> None:
        ids = [whole.ids[i] for i in indices]
        masks = any(whole.has_mask(i) for i in indices)
        super().__init__(name, whole.classes, ids, whole.labels[list(indices)], masks)
        self.whole = whole
        self.indices = indices
        self.label_source, self.truth, self.notes = whole.label_source, whole.truth, whole.notes

    def image(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB."""
        return self.whole.image(self.indices[index])

    def mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index``."""
        return self.whole.mask(self.indices[index])

    def has_mask(self, index: int) -> bool:
        """Whether image ``index`` has a mask."""
        return self.whole.has_mask(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index``."""
        return self.whole.size(self.indices[index])

    def image_file(self, index: int) -> Path | None:
        """Return the file of image ``index``."""
        return self.whole.image_file(self.indices[index])

    def mask_file(self, index: int) -> Path | None:
        """Return the file of the mask of image ``index``."""
        return self.whole.mask_file(self.indices[index])

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask of image ``index`` at its own size."""
        return self.whole.own_mask(self.indices[index])

    def own_size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` at its own size."""
        return self.whole.own_size(self.indices[index])


class FileDataset(Dataset):
    """Images and masks that lie in files.

    Args:
        name: Name of the data set in printed lines.
        classes: The K foreground class names.
        ids: The n image ids.
        labels: ``(n, K)`` image-level labels.
        images: The n image files.
        masks: The n mask files, each None for an image without one; or None if there are none at all.
        lookup: Meaning of the values in the mask files, see :func:`wsss_lib.data.files.read_mask`.

    Raises:
        InputError: An image file is missing, the list is empty or names an image twice.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        ids: Sequence[str],
        labels: Tensor,
        images: Sequence[Path],
        masks: Sequence[Path | None] | None = None,
        lookup: np.ndarray | None = None,
    ) -> None:
        super().__init__(name, classes, ids, labels, has_masks=masks is not None)
        missing = [path for path in images if not path.is_file()]
        if missing:
            raise InputError(
                f"{name}: image file {missing[0]} is missing ({len(missing)} of {len(images)} listed images are); "
                "put it there or take its id off the list."
            )
        self.image_files = tuple(images)
        self.mask_files = None if masks is None else tuple(masks)
        self.lookup = lookup
        self.truth = next((f"{mask.parent}" for mask in masks or () if mask is not None), "")

    def image(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB, see :func:`wsss_lib.data.files.read_image`."""
        return read_image(self.image_files[index])

    def mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index`` at the working size, see :meth:`own_mask`."""
        return resize_labels(self.own_mask(index), self.size(index))

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask of image ``index`` at its own size.

        Raises:
            InputError: No image has a mask, the mask cannot be read, it is not as large as the image, or it holds a
                value that is not a class.
        """
        if self.mask_files is None:
            raise InputError(f"{self.name} has no masks, so it cannot be evaluated; give a folder of masks.")
        image, mask = self.image_files[index], self.mask_files[index]
        size = self.own_size(index)
        if mask is None:
            return np.full(size, IGNORE, np.uint8)
        return read_mask(mask, len(self.classes), size, self.lookup, image)

    def has_mask(self, index: int) -> bool:
        """Whether image ``index`` has a mask."""
        return self.has_masks and (self.mask_files is None or self.mask_files[index] is not None)

    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index``, from the header of its file."""
        return working_size(*self.own_size(index))

    def own_size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` at its own size, from the header of its file."""
        return image_size(self.image_files[index])

    def image_file(self, index: int) -> Path:
        """Return the file of image ``index``."""
        return self.image_files[index]

    def mask_file(self, index: int) -> Path | None:
        """Return the file of the mask of image ``index``; None if there is none."""
        return None if self.mask_files is None else self.mask_files[index]
