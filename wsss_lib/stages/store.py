"""The files of a run. Each is written under a temporary name and renamed, so it is whole or absent.

In a run's folder::

    config.json                     every setting of the run, what decides its numbers, format and version
    images.json                     the digest of every picture and of every other file that the run has read
    training.json                   which versions trained the run, and from what besides the pictures
    log.jsonl                       one line per epoch, made again from the checkpoint where it is damaged
    checkpoint.pt                   tensors and plain values
    cams/SPLIT/ID.npz               `classes` int64 (n,) from 0, `cams` uint16 (n, H, W), 65,535 times the value
    scores/REFINEMENT/SPLIT/ID.npz  `classes` int64 (n,), `scores` float16 or float32 (1 + n, h, w), background first
    masks/REFINEMENT/SPLIT/ID.png   VOC palette, 255 ignored
    growth/EPOCH/ID.npz             the maps of a few images after every epoch
    made.json                       beside the files of each of these stores: their source, and which versions made them
    cam_run/, classifier/, superpixels/
                                    runs that this one needed and did not find
    segmentation/MASKS/             runs of the final stage, trained on this one's masks
    variants/NAME/                  a run like this one with some settings changed
    seconds.json                    seconds that every stage has taken, over all starts
    metrics.json                    settings, versions, times, scores
    model.safetensors               the final network for new pictures, written by ``wsss fit``
    .lock                           held by the process that works in the folder

What a run cannot do without (settings, checkpoint, log, times, metrics) is also flushed to the disk before it is
renamed, so that it survives a power cut. Maps, scores and masks are not: that would take 5 to 9 ms for each of many
thousands, where writing takes 1 to 3 ms. A file that a power cut has damaged is found by its checksum when it is read.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import read_mask, read_pickled_array_dict, write_atomically, write_mask
from wsss_lib.data.npy import read_npy
from wsss_lib.errors import InputError
from wsss_lib.models.torch_files import check_archive
from wsss_lib.ops.values import all_finite, all_within

_LEVELS = 65_535
"""The stored value of 1. All steps are equal: above 0.25, where a CRF with a high alpha amplifies rounding, they are 16
to 32 times finer than those of float16, which takes as many bytes."""

_GREATEST = torch.finfo(torch.float32).max


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write plain values as JSON, indented unless ``indent`` is None; NaN becomes null."""
    text = json.dumps(_without_nan(value), indent=indent, ensure_ascii=False, allow_nan=False)
    content = (text + "\n").encode("utf-8", "backslashreplace")  # a name that is not UTF-8 becomes JSON's own escape
    write_atomically(path, lambda file: file.write(content))


def read_json(path: Path, advice: str = "put back a copy of it, or have it made again") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        advice: Advice for the error message if the file is damaged.

    Raises:
        InputError: The file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the stage that makes it first.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); {advice}.") from None


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one line of JSON per row."""
    text = _json_lines(rows)
    write_atomically(path, lambda file: file.write(text))


def restore_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a file of :func:`write_json_lines` again if it is missing or damaged, and say so if it is damaged.

    An extra line is not damage: a process that was killed within an epoch may have left it.
    """
    try:
        if path.read_bytes().startswith(_json_lines(rows)):
            return
        print(f"{path} is damaged; it is written again from the checkpoint.")
    except OSError:  # the file is missing; if it cannot be read, the next line says why
        pass
    write_json_lines(path, rows)


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(_without_nan(row)) + "\n" for row in rows).encode()


def read_seconds(path: Path) -> dict[str, float]:
    """Read the seconds that the stages of a run have taken; if the file is damaged, say so and count from 0 again."""
    if not path.is_file():
        return {}
    try:
        seconds = read_json(path)
    except InputError:
        seconds = None
    if isinstance(seconds, dict) and all(type(x) in (int, float) and 0 <= x < math.inf for x in seconds.values()):
        return seconds
    print(f"{path} is damaged; the times of the stages are counted from 0 again.")
    write_json(path, {})
    return {}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Save tensors and plain values."""
    write_atomically(path, lambda file: torch.save(dict(state), file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load what :func:`write_checkpoint` saved, after its checksums have been compared, executing no code.

    Raises:
        InputError: The file is damaged or holds something else.
    """
    try:
        check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damage in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"checkpoint {path} cannot be read ({reason}); remove it to train again.") from None


def copy_file(source: Path, target: Path, durable: bool = True) -> None:
    """Copy a file, see :func:`wsss_lib.data.files.write_atomically`."""
    content = source.read_bytes()
    write_atomically(target, lambda file: file.write(content), durable)


class Store:
    """Files of a folder, one per image.

    Args:
        folder: Folder of the files; it need not exist yet.
    """

    suffix = ".npz"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, image_id: str) -> Path:
        """Return where the file of an image lies."""
        return self.folder / f"{image_id}{self.suffix}"

    def __contains__(self, image_id: str) -> bool:
        return self.path(image_id).is_file()

    def take_over(self, image_id: str, other: Store) -> None:
        """Have the same file as another store, if that has one and this one has none yet."""
        if image_id in other and image_id not in self:
            copy_file(other.path(image_id), self.path(image_id), durable=False)


class CamStore(Store):
    """The class activation maps of a data set."""

    def write(self, image_id: str, classes: Tensor, cams: Tensor) -> None:
        """Save the maps of one image.

        Args:
            image_id: Its id.
            classes: ``(n,)`` int64, the classes it shows, from 0.
            cams: ``(n, H, W)`` float in [0, 1], up to 1e-6; stored as 16-bit integers.

        Raises:
            InputError: A value is not a number in [0, 1], or the file cannot be written.
        """
        path, values = self.path(image_id), _checked(cams, 1.0, image_id)
        which = classes.cpu().numpy().astype(np.int64)
        maps = (values.clamp(0, 1) * _LEVELS).round().numpy().astype(np.uint16)
        write_atomically(path, lambda file: np.savez(file, classes=which, cams=maps), durable=False)

    def read(self, image_id: str) -> tuple[Tensor, Tensor]:
        """Return ``classes`` ``(n,)`` int64 and ``cams`` ``(n, H, W)`` float32 in [0, 1] of one image.

        Maps that earlier versions stored as float16 are read, too.

        Raises:
            InputError: The file is missing or damaged, or a value is not a number in [0, 1].
        """
        return _read_maps(self.path(image_id), "cams", background=0)


def read_cams(store: CamStore, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
    """Return ``classes`` ``(n,)`` and ``cams`` ``(n, H, W)`` of an image.

    Raises:
        InputError: The maps are missing, damaged, or do not fit the image: another size, or classes that it has no
            label for.
    """
    path = store.path(data.ids[index])
    classes, cams = store.read(data.ids[index])
    size = data.size(index)
    if tuple(cams.shape[1:]) != size:
        own = data.own_size(index)
        image = f"the image is {own}" + (f", of which maps are made at {size}" if size != own else "")
        raise InputError(
            f"{path} is {tuple(cams.shape[1:])} pixels but {image}; remove it and run the inference again."
        )
    labels = data.labels[index].nonzero().flatten()
    if not classes.equal(labels):
        raise InputError(
            f"{path} has maps of the classes {classes.tolist()} but the labels are {labels.tolist()}; "
            "remove it and run the inference again."
        )
    return classes, cams


class ScoreStore(Store):
    """Scores of the background and of the classes that an image shows, at any resolution.

    Args:
        folder: Folder of the files; it need not exist yet.
        half: Whether the scores are probabilities, in [0, 1]. They are stored as float16, which is finer than 16-bit
            integers below 1/64: a CRF takes their logarithm. Other scores are at least 0 and stored as float32.
        background: Whether the background has a row of its own, before those of the classes.
    """

    def __init__(self, folder: Path, half: bool = True, background: bool = True) -> None:
        super().__init__(folder)
        self.half = half
        self.background = background

    def write(self, image_id: str, classes: Tensor, scores: Tensor) -> None:
        """Save the scores of one image.

        Args:
            image_id: Its id.
            classes: ``(n,)`` int64, the classes it shows, from 0.
            scores: ``(1 + n, h, w)`` float, background first; ``(n, h, w)`` without a row of the background.

        Raises:
            InputError: A value is not finite or out of range, or the file cannot be written.
        """
        which = classes.cpu().numpy().astype(np.int64)
        values = _checked(scores, self._highest, image_id).clamp(0, self._highest).numpy()
        values = values.astype(np.float16 if self.half else np.float32)
        path = self.path(image_id)
        # after a CRF most probabilities are 0 or 1, and a tenth of the bytes is left
        write_atomically(path, lambda file: np.savez_compressed(file, classes=which, scores=values), durable=False)

    def read(self, image_id: str) -> tuple[Tensor, Tensor]:
        """Return ``classes`` ``(n,)`` int64 and the float32 scores that :meth:`write` has saved, of one image.

        Raises:
            InputError: The file is missing or damaged, or a value is not finite or out of range.
        """
        return _read_maps(self.path(image_id), "scores", int(self.background), self._highest)

    @property
    def _highest(self) -> float:
        return 1.0 if self.half else _GREATEST


def _range(highest: float) -> str:
    return "in [0, 1]" if highest == 1 else "of at least 0"


def _checked(values: Tensor, highest: float, image_id: str) -> Tensor:
    """Return values on the CPU as float32; raise InputError if they must not be written."""
    values = values.detach().float().cpu()
    if not all_within(values, highest):
        raise InputError(
            f"what the network makes of image {image_id} is not finite numbers {_range(highest)} and is not kept; "
            "choose precision 32-true, or train again with a lower learning_rate."
        )
    return values


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        array = read_npy(member)
        if member.read(1):  # the checksum is compared at the end of the member, which must have been read
            raise ValueError("it is longer than its array")
        return array


def _read_maps(path: Path, name: str, background: int, highest: float = 1.0) -> tuple[Tensor, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            classes, maps = _read_array(archive, "classes"), _read_array(archive, name)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the inference first.") from None
    except Exception as error:  # NumPy and zipfile report damage in many ways
        raise InputError(f"{path} is damaged; remove it and run the stage that makes it again.") from error
    kind = maps.dtype.kind == "f" or maps.dtype == np.uint16
    if classes.dtype != np.int64 or not kind or maps.ndim != 3 or classes.shape != (maps.shape[0] - background,):
        raise InputError(f"{path} does not hold one map per class; remove it and run the stage that makes it again.")
    if maps.dtype == np.uint16:
        return torch.from_numpy(classes), torch.from_numpy(maps.astype(np.float32) / np.float32(_LEVELS))
    with np.errstate(over="ignore", invalid="ignore"):
        values = torch.from_numpy(maps.astype(np.float32))
    if not all_within(values, highest):
        raise InputError(
            f"{path} holds values that are not finite numbers {_range(highest)}; remove it and run the stage that "
            "makes it again."
        )
    return torch.from_numpy(classes), values.clamp_(0, highest)


class MaskStore(Store):
    """Label maps, one palette PNG per image."""

    suffix = ".png"

    def write(self, image_id: str, mask: Tensor) -> None:
        """Save an ``(H, W)`` uint8 label map: 0 background, k + 1 class k, 255 ignored."""
        write_mask(self.path(image_id), mask.cpu().numpy(), durable=False)

    def read(self, image_id: str, num_classes: int, size: tuple[int, int] | None = None) -> Tensor:
        """Return the ``(H, W)`` uint8 label map of an image.

        Args:
            image_id: Its id.
            num_classes: K, without background.
            size: The ``(H, W)`` that it must have.

        Raises:
            InputError: The file is missing, damaged, of another size, or holds a value that is not a class.
        """
        path = self.path(image_id)
        mask = read_mask(path, num_classes, size)
        try:
            with Image.open(path) as picture:
                picture.verify()  # reading alone does not compare the file's checksums
        except Exception as error:  # Pillow reports damage in as many ways as in read_mask
            raise InputError(f"{path} is damaged; remove it and run the stage that makes it again.") from error
        return torch.from_numpy(mask)


def read_authors_cams(path: Path) -> tuple[Tensor, Tensor]:
    """Read a dictionary ``{class: (H, W) float32}`` as the official repositories save it with ``np.save``.

    Returns:
        ``classes`` ``(n,)`` int64 ascending and ``cams`` ``(n, H, W)`` float32.

    Raises:
        InputError: The file is damaged, or holds anything but arrays of finite numbers.
    """
    maps = read_pickled_array_dict(path)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            by_class = sorted((int(name), np.asarray(values, np.float32)) for name, values in maps.items())
        cams = np.stack([values for _, values in by_class]) if by_class else np.empty((0, 0, 0), np.float32)
        classes = np.array([name for name, _ in by_class], dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{path} does not hold one map per class; give a dictionary of equally large maps.") from None
    if not all_finite(torch.from_numpy(cams)):
        raise InputError(f"{path} holds NaN or infinite values; give maps of finite numbers.")
    return torch.from_numpy(classes), torch.from_numpy(cams)


def write_authors_cams(path: Path, classes: Tensor, cams: Tensor) -> None:
    """Write the dictionary that :func:`read_authors_cams` reads, for the official repositories' tools."""
    maps = {int(k): v.numpy().astype(np.float32) for k, v in zip(classes, cams.cpu(), strict=True)}
    write_atomically(path, lambda file: np.save(file, np.array(maps, dtype=object), allow_pickle=True), durable=False)
