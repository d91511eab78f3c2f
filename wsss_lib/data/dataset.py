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

from wsss_lib.data.files import image_size, read_image, read_mask
from wsss_lib.data.large import resize_labels, working_size
from wsss_lib.errors import InputError


class Dataset(ABC):
    """Images addressed by position, with the set of classes that each one shows.

    A picture in a file may be larger than what is computed with, see `wsss_lib.data.large`: :meth:`image`,
    :meth:`mask` and :meth:`size` are about its working size, :meth:`own_mask` and :meth:`own_size` about the file.

    Attributes:
        name: What to print, for example ``"VOC 2012 train"``.
        classes: The K foreground class names; class k has the mask value k + 1, background is 0.
        ids: One unique file-name-safe string per image.
        labels: ``(n, K)`` float32, 1 where the image shows the class, else 0.
        has_masks: Whether :meth:`mask` can be called.
    """

    def __init__(self, name: str, classes: Sequence[str], ids: Sequence[str], labels: Tensor, has_masks: bool) -> None:
        if not ids:
            raise InputError(f"{name}: the list of images is empty; give a list that names at least one image.")
        twice = [image_id for image_id, count in Counter(ids).items() if count > 1]
        if twice:
            raise InputError(f"{name}: the image id {twice[0]!r} is listed more than once; list every image once.")
        if labels.shape != (len(ids), len(classes)):
            raise ValueError(f"labels must be {(len(ids), len(classes))}, not {tuple(labels.shape)}")
        self.name = name
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
        """Return the ``(H, W)`` uint8 mask of image ``index``: 0 background, k + 1 class k, 255 ignored."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` without decoding it."""

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask of image ``index`` at its own size, as it is scored with."""
        return self.mask(index)

    def own_size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` at its own size, that of masks which are written."""
        return self.size(index)

    def head(self, count: int) -> Dataset:
        """Return the first ``count`` images, or all if there are fewer."""
        count = min(count, len(self))
        return Derived(self, f"{self.name} (first {count})", range(count))


class Derived(Dataset):
    """Images of another data set, seen in another way: what a subclass does not change is passed on.

    Args:
        whole: The other data set.
        name: What to print.
        indices: Which of its images.
    """

    def __init__(self, whole: Dataset, name: str, indices: Sequence[int]) -> None:
        ids = [whole.ids[i] for i in indices]
        super().__init__(name, whole.classes, ids, whole.labels[list(indices)], whole.has_masks)
        self.whole = whole
        self.indices = indices

    def image(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB."""
        return self.whole.image(self.indices[index])

    def mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index``."""
        return self.whole.mask(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index``."""
        return self.whole.size(self.indices[index])

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask of image ``index`` at its own size."""
        return self.whole.own_mask(self.indices[index])

    def own_size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` at its own size."""
        return self.whole.own_size(self.indices[index])


class FileDataset(Dataset):
    """Images and masks that lie in files.

    Args:
        name: What to print.
        classes: The K foreground class names.
        ids: The n image ids.
        labels: ``(n, K)`` image-level labels.
        images: The n image files.
        masks: The n mask files, or None if there are none.

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
        masks: Sequence[Path] | None = None,
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

    def image(self, index: int) -> Image.Image:
        """Return image ``index`` as 8-bit RGB, see :func:`wsss_lib.data.files.read_image`."""
        return read_image(self.image_files[index])

    def mask(self, index: int) -> np.ndarray:
        """Return the ``(H, W)`` uint8 mask of image ``index`` at the working size, see :meth:`own_mask`."""
        return resize_labels(self.own_mask(index), self.size(index))

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask of image ``index`` at its own size.

        Raises:
            InputError: There is no mask, it cannot be read, it is not as large as the image, or it holds a value
                that is no class.
        """
        if self.mask_files is None:
            raise InputError(f"{self.name} has no masks, so it cannot be evaluated; give a folder of masks.")
        return read_mask(self.mask_files[index], len(self.classes), self.own_size(index))

    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index``, from the header of its file."""
        return working_size(*self.own_size(index))

    def own_size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` at its own size, from the header of its file."""
        return image_size(self.image_files[index])
