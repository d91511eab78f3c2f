"""The files of a run. Each is written under a temporary name and renamed, so it is whole or absent.

In a run's folder::

    config.json                    every setting of the run
    log.jsonl                      one line per epoch
    checkpoint.pt                  tensors and plain values
    cams/<split>/<id>.npz          `classes` int64 (n,) from 0, `cams` float16 (n, H, W) in [0, 1]
    scores/<what>/<split>/<id>.npz `classes` int64 (n,), `scores` (1 + n, h, w), background first
    masks/<what>/<split>/<id>.png  VOC palette, 255 ignored
    growth/<epoch>/<id>.npz        the maps of a few images after every epoch
    seeds/, classifier/, superpixels/   runs that this one needed and did not find
    segmentation/<what>/           runs of the final stage, trained on this one's masks
    variants/<name>/               a run like this one with some settings changed
    seconds.json                   what every stage has taken, over all starts
    metrics.json                   settings, versions, times, scores
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import read_mask, read_pickled_array_dict, write_atomically, write_mask
from wsss_lib.errors import InputError


def write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON; NaN becomes null."""
    text = json.dumps(_without_nan(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda file: file.write((text + "\n").encode()))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: It is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the stage that makes it first.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); remove it and start the run again.") from None


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one line of JSON per row."""
    text = "".join(json.dumps(_without_nan(row)) + "\n" for row in rows)
    write_atomically(path, lambda file: file.write(text.encode()))


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
    """Load what :func:`write_checkpoint` saved, executing no code.

    Raises:
        InputError: The file is damaged or holds something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damage in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"checkpoint {path} cannot be read ({reason}); remove it to train again.") from None


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, see :func:`wsss_lib.data.files.write_atomically`."""
    content = source.read_bytes()
    write_atomically(target, lambda file: file.write(content))


class Store:
    """Files of a folder, one per image.

    Args:
        folder: Where the files lie; need not exist yet.
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
            copy_file(other.path(image_id), self.path(image_id))


class CamStore(Store):
    """The class activation maps of a data set."""

    def write(self, image_id: str, classes: Tensor, cams: Tensor) -> None:
        """Save the maps of one image.

        Args:
            image_id: Its id.
            classes: ``(n,)`` int64, the classes it shows, from 0.
            cams: ``(n, H, W)`` float in [0, 1]; stored as float16.
        """
        which, maps = classes.cpu().numpy().astype(np.int64), cams.cpu().numpy().astype(np.float16)
        write_atomically(self.path(image_id), lambda file: np.savez(file, classes=which, cams=maps))

    def read(self, image_id: str) -> tuple[Tensor, Tensor]:
        """Return ``classes`` ``(n,)`` int64 and ``cams`` ``(n, H, W)`` float32 of one image.

        Raises:
            InputError: The file is missing or damaged.
        """
        return _read_maps(self.path(image_id), "cams", background=0)


def read_cams(store: CamStore, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
    """Return ``classes`` ``(n,)`` and ``cams`` ``(n, H, W)`` of an image.

    Raises:
        InputError: They are missing, damaged, or do not fit the image: another size, or classes it has no label for.
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
        folder: Where the files lie; need not exist yet.
        half: Whether scores are stored as float16, which suits probabilities.
    """

    def __init__(self, folder: Path, half: bool = True) -> None:
        super().__init__(folder)
        self.half = half

    def write(self, image_id: str, classes: Tensor, scores: Tensor) -> None:
        """Save the scores of one image.

        Args:
            image_id: Its id.
            classes: ``(n,)`` int64, the classes it shows, from 0.
            scores: ``(1 + n, h, w)`` float, background first.
        """
        which = classes.cpu().numpy().astype(np.int64)
        values = scores.cpu().numpy().astype(np.float16 if self.half else np.float32)
        # after a CRF most probabilities are 0 or 1, and a tenth of the bytes is left
        write_atomically(self.path(image_id), lambda file: np.savez_compressed(file, classes=which, scores=values))

    def read(self, image_id: str) -> tuple[Tensor, Tensor]:
        """Return ``classes`` ``(n,)`` int64 and ``scores`` ``(1 + n, h, w)`` float32 of one image.

        Raises:
            InputError: The file is missing or damaged.
        """
        return _read_maps(self.path(image_id), "scores", background=1)


def _read_maps(path: Path, name: str, background: int) -> tuple[Tensor, Tensor]:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            classes, maps = file["classes"], file[name].astype(np.float32)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the inference first.") from None
    except Exception as error:  # NumPy and zipfile report damage in many ways
        raise InputError(f"{path} is damaged; remove it and run the stage that makes it again.") from error
    if classes.dtype != np.int64 or maps.ndim != 3 or classes.shape != (maps.shape[0] - background,):
        raise InputError(f"{path} does not hold one map per class; remove it and run the stage that makes it again.")
    return torch.from_numpy(classes), torch.from_numpy(maps)


class MaskStore(Store):
    """Label maps, one palette PNG per image."""

    suffix = ".png"

    def write(self, image_id: str, mask: Tensor) -> None:
        """Save an ``(H, W)`` uint8 label map: 0 background, k + 1 class k, 255 ignored."""
        write_mask(self.path(image_id), mask.cpu().numpy())

    def read(self, image_id: str, num_classes: int, size: tuple[int, int] | None = None) -> Tensor:
        """Return the ``(H, W)`` uint8 label map of an image.

        Args:
            image_id: Its id.
            num_classes: K, without background.
            size: The ``(H, W)`` that it must have.

        Raises:
            InputError: The file is missing, damaged, of another size, or holds a value that is no class.
        """
        return torch.from_numpy(read_mask(self.path(image_id), num_classes, size))


def read_authors_cams(path: Path) -> tuple[Tensor, Tensor]:
    """Read a dictionary ``{class: (H, W) float32}`` as the official repositories save it with ``np.save``.

    Returns:
        ``classes`` ``(n,)`` int64 ascending and ``cams`` ``(n, H, W)`` float32.

    Raises:
        InputError: The file is damaged, or holds anything but arrays.
    """
    maps = read_pickled_array_dict(path)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            by_class = sorted((int(name), np.asarray(values, np.float32)) for name, values in maps.items())
        cams = np.stack([values for _, values in by_class]) if by_class else np.empty((0, 0, 0), np.float32)
        classes = np.array([name for name, _ in by_class], dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{path} does not hold one map per class; give a dictionary of equally large maps.") from None
    return torch.from_numpy(classes), torch.from_numpy(cams)


def write_authors_cams(path: Path, classes: Tensor, cams: Tensor) -> None:
    """Write the dictionary that :func:`read_authors_cams` reads, for the official repositories' tools."""
    maps = {int(k): v.numpy().astype(np.float32) for k, v in zip(classes, cams.cpu(), strict=True)}
    write_atomically(path, lambda file: np.save(file, np.array(maps, dtype=object), allow_pickle=True))
