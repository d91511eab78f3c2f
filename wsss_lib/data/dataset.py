"""The base classes of data sets: images, image-level labels and, for evaluation only, masks."""

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
    """Images by position, with the set of classes that each image shows.

    A picture may be larger in its file than the working size, see `wsss_lib.data.large`. :meth:`image`, :meth:`mask`
    and :meth:`size` have the working size, :meth:`own_mask` and :meth:`own_size` the size of the file.

    Attributes:
        name: Name of the data set in printed lines, for example ``"VOC 2012 train"``.
        classes: The K foreground class names; class k has the mask value k + 1, background is 0.
        ids: One unique file-name-safe string per image.
        labels: ``(n, K)`` float32, 1 where the image shows the class, else 0.
        has_masks: Whether there are masks at all; single images may be without a mask, see :meth:`has_mask`.
        label_source: Beginning of a sentence on the source of the labels and the names in that source.
        truth: Description of the masks, printed beside every score; "" if no description is needed.
        notes: Sentences on oddities that were found when the data set was opened.
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
        self.name = printable(name)  # a name often begins with the name of a folder
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

        The mask is 255 everywhere if other images have a mask and this image has none.
        """

    def has_mask(self, index: int) -> bool:  # noqa: ARG002
        """Return whether image ``index`` has a mask; by default all images have one, or none."""
        return self.has_masks

    @property
    def masked(self) -> list[int]:
        """Positions of the images that have a mask."""
        return [index for index in range(len(self)) if self.has_mask(index)]

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` without decoding it."""

    def image_file(self, index: int) -> Path | None:  # noqa: ARG002
        """Return the file of image ``index``; None, as by default, if the image is not in a file."""
        return None

    def mask_file(self, index: int) -> Path | None:  # noqa: ARG002
        """Return the file of the mask of image ``index``; None, as by default, if the mask is not in a file."""
        return None

    def own_mask(self, index: int) -> np.ndarray:
        """Return the mask of image ``index`` at the image's own size, at which scores are computed."""
        return self.mask(index)

    def own_size(self, index: int) -> tuple[int, int]:
        """Return ``(height, width)`` of image ``index`` at its own size, at which masks are written."""
        return self.size(index)

    def head(self, count: int) -> Dataset:
        """Return the first ``count`` images, or all if there are fewer."""
        count = min(count, len(self))
        return DatasetView(self, f"{self.name} (first {count})", range(count))


class DatasetView(Dataset):
    """A view of some images of another data set. A subclass may change what the view shows.

    Args:
        whole: The data set behind the view.
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
        """Return whether image ``index`` has a mask."""
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
    """Images and masks in files.

    Args:
        name: Name of the data set in printed lines.
        classes: The K foreground class names.
        ids: The n image ids.
        labels: ``(n, K)`` image-level labels.
        images: The n image files.
        masks: The n mask files, with None for an image without a mask; or None if there are no masks.
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
            InputError: No image has a mask, or the mask cannot be read, has another size than the image, or holds a
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
        """Return whether image ``index`` has a mask."""
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
