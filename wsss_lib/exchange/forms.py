"""The forms in which repositories store class activation maps, and reading the maps of one picture in each form.

===========  ===================================================================  ==================================
form         files                                                                written by
===========  ===================================================================  ==================================
dictionary   ``<id>.npy``: ``{class: (h, w)}``                                    psa, SEAM, OC-CSE, ACR, MCTformer
keys         ``<id>.npy``: ``{"keys": (n,), "cam": (n, h, w), "high_res": ...}``  IRN, RIB, AdvCAM
array        ``<id>.npy``: ``(C, h, w)`` or ``(1, C, h, w)``, all classes         MSAL
npz          ``<id>.npz``: ``classes``, ``cams``                                  this library
pictures     ``<id>_<class>.png``, grey, 8 or 16 bit                              annotation tools, viewers
labels       ``<id>.png``, a label map: 0 background, k + 1 class k               all, as pseudo masks
===========  ===================================================================  ==================================

Nothing in a file is executed: a pickle that holds anything but arrays of numbers is refused, see
:func:`wsss_lib.data.files.read_pickled_array_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from wsss_lib.data.files import IGNORE, read_mask, read_pickled_array_dict
from wsss_lib.data.npy import read_npy, read_npy_header
from wsss_lib.errors import InputError
from wsss_lib.stages.store import CamStore

Form = Literal["dictionary", "keys", "array", "npz", "pictures", "labels"]

TITLES: dict[str, str] = {
    "dictionary": ".npy dictionaries {class: map}, as psa writes them",
    "keys": ".npy dictionaries with keys and maps, as IRN writes them",
    "array": ".npy arrays with a plane for every class",
    "npz": ".npz files of wsss_lib",
    "pictures": "heat maps as pictures",
    "labels": "label maps as PNG (ignored pixels, 255, count as background)",
}
"""Name of each form in the line that describes the maps."""

_HIGH, _LOW = ("high_res", "hr_cam"), ("cam", "cams", "strided_cam")
"""Names under which IRN and the methods built on it store maps at full and at reduced resolution."""


@dataclass(frozen=True)
class Planes:
    """The maps of one picture, unchanged from its files.

    Attributes:
        numbers: The n numbers under which the maps are stored.
        maps: ``(n, h, w)``, any dtype of numbers.
        certain: Whether the numbers are known to count the classes from 0, without background.
    """

    numbers: tuple[int, ...]
    maps: np.ndarray
    certain: bool = False


def form_of(path: Path) -> Form:
    """Return the form of a ``.npy`` or ``.npz`` file from its beginning.

    Raises:
        InputError: The file cannot be read, or has another format.
    """
    if path.suffix == ".npz":
        return "npz"
    try:
        with path.open("rb") as stream:
            dtype = read_npy_header(stream)[2]
    except Exception as error:  # NumPy reports damage in many ways
        raise InputError(f"{path} is not a file that numpy.save wrote ({error}); copy it again.") from None
    if not dtype.hasobject:
        return "array"
    return "keys" if "keys" in read_pickled_array_dict(path) else "dictionary"


def read_planes(form: Form, paths: Mapping[int, Path], num_classes: int) -> Planes:
    """Read the maps of one picture.

    Args:
        form: The form of the files.
        paths: The file, under the number -1; of ``pictures`` a file for each class, under the number in its name, or
            under ``-2 - k`` if the name of class k is in it.
        num_classes: K, without background.

    Raises:
        InputError: A file is missing, damaged, or does not have the form.
    """
    if form == "pictures":
        return _from_pictures(paths)
    [path] = paths.values()
    if form == "labels":
        mask = read_mask(path, num_classes)
        values = [int(v) for v in np.unique(mask) if v not in (0, IGNORE)]
        shown = np.stack([mask == value for value in values]) if values else mask[None][:0]
        return Planes((*(value - 1 for value in values),), shown, certain=True)
    if form == "npz":
        classes, maps = CamStore(path.parent).read(path.stem)
        return Planes((*classes.tolist(),), maps.numpy(), certain=True)
    return _from_array(path, num_classes) if form == "array" else _from_dictionary(path, form)


def _from_pictures(paths: Mapping[int, Path]) -> Planes:
    maps: list[np.ndarray] = []
    for path in paths.values():
        try:
            with Image.open(path) as picture:
                mode, values = picture.mode, np.asarray(picture)
        except Exception as error:  # Pillow reports damage in many ways
            raise InputError(f"{path} cannot be read ({error}); copy it again, it may be cut off.") from None
        if mode not in ("L", "I;16", "I") or values.ndim != 2:
            raise InputError(f"{path} has {mode} pixels; save the heat map in grey, with 8 or 16 bits.")
        maps.append(values.astype(np.float32) / np.float32(255 if mode == "L" else 65_535))
        if maps[-1].shape != maps[0].shape:
            raise InputError(f"{path} has another size than {next(iter(paths.values()))}; give maps of one size.")
    if all(number < -1 for number in paths):
        return Planes((*(-2 - number for number in paths),), np.stack(maps), certain=True)
    if any(number < -1 for number in paths):
        names = " and ".join(path.name for path in paths.values())
        raise InputError(f"{names} mix numbers and names of classes; use numbers alone or names alone.")
    return Planes((*paths,), np.stack(maps))


def _from_array(path: Path, num_classes: int) -> Planes:
    try:
        with path.open("rb") as stream:
            values = read_npy(stream)
    except Exception as error:  # NumPy reports damage in many ways
        raise InputError(f"{path} is damaged ({error}); copy it again.") from None
    maps = values[0] if values.ndim == 4 and len(values) == 1 else values
    if maps.ndim != 3 or maps.dtype.kind not in "biuf" or len(maps) not in (num_classes, num_classes + 1):
        raise InputError(
            f"{path} is an array {values.shape} {values.dtype}; give (C, h, w) with a map for each of the "
            f"{num_classes} classes, with or without a map of the background before them."
        )
    background = len(maps) - num_classes
    there = [i for i, plane in enumerate(maps[background:]) if plane.any()]  # classes without a label have maps of 0
    return Planes((*there,), maps[background:][there], certain=True)


def _from_dictionary(path: Path, form: Form) -> Planes:
    content = read_pickled_array_dict(path)
    if form == "keys":
        return _from_keys(path, content)
    numbers, maps = [], []
    for name, values in content.items():
        text = str(name)
        if not text.isdecimal() or values.ndim != 2:
            raise InputError(
                f"{path} holds {values.shape} under {name!r}; give a dictionary with a map (h, w) for each class."
            )
        numbers.append(int(text))
        maps.append(values)
    return Planes((*numbers,), _stacked(path, maps))


def _from_keys(path: Path, content: Mapping[int | str, np.ndarray]) -> Planes:
    name = next((name for name in (*_HIGH, *_LOW) if name in content), None)
    keys, maps = content.get("keys"), None if name is None else content[name]
    if keys is None or maps is None or keys.ndim != 1 or keys.dtype.kind not in "iu" or maps.ndim != 3:
        found = ", ".join(f"{name} {values.shape}" for name, values in content.items())
        raise InputError(f"{path} holds {found}; give keys (n,) and cam or high_res (n, h, w), as IRN does.")
    numbers = (*map(int, keys),)
    if len(maps) == len(numbers) + 1:  # only the maps include the background
        return Planes(numbers, maps[1:])
    if len(maps) == len(numbers) - 1 and numbers[0] == 0:  # only the keys include the background
        return Planes((*(number - 1 for number in numbers[1:]),), maps, certain=True)
    if len(maps) != len(numbers):
        raise InputError(f"{path} has {len(numbers)} keys but {len(maps)} maps; give a map for each key.")
    return Planes(numbers, maps)


def _stacked(path: Path, maps: Sequence[np.ndarray]) -> np.ndarray:
    if not maps:
        return np.empty((0, 1, 1), np.float32)
    if any(values.shape != maps[0].shape for values in maps):
        sizes = " and ".join(sorted({str(values.shape) for values in maps}))
        raise InputError(f"{path} holds maps of the sizes {sizes}; give maps of one size.")
    return np.stack(maps)
