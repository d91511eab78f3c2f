"""Maps that other code made, with a folder of their pictures: recognised, described in one line, and read.

:func:`open_maps` returns a data set and a store of class activation maps. So everything that works on the maps of a run
(scores, a dense CRF, comparisons) works on maps of other code, too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.coco_annotations import COCO_CLASSES
from wsss_lib.data.dataset import Dataset, FileDataset
from wsss_lib.data.files import (
    files_by_stem,
    parse_mask_values,
    read_classes,
    refuse_unusable_masks,
)
from wsss_lib.data.large import working_size
from wsss_lib.data.names import composed, key, listed, positions
from wsss_lib.data.pictures import find_pictures
from wsss_lib.data.voc import VOC_CLASSES, labels_from_npy, labels_from_text, read_ids
from wsss_lib.errors import InputError
from wsss_lib.exchange.forms import TITLES, Form, Planes, form_of, read_planes
from wsss_lib.ops.cam import normalise_maximum, upsample
from wsss_lib.ops.values import all_finite, all_within
from wsss_lib.show.progress import bar
from wsss_lib.stages.evaluate import ahead
from wsss_lib.stages.store import CamStore

Numbering = Literal["auto", "0", "1", "background"]
"""Meaning of the numbers of maps: ``0`` or ``1``: number of the first class; ``background``: 0 is the background."""

_NUMBERINGS = {
    "0": "classes from 0",
    "1": "classes from 1",
    "background": "classes from 1, with a map of the background (0), which is left out",
}
_NAMED = {"voc": VOC_CLASSES, "coco": COCO_CLASSES}
_SAMPLE = 16
"""Number of pictures from which the range of the values is taken."""

_Files = dict[int, Path]
"""Files of one picture, by number; see :func:`wsss_lib.exchange.forms.read_planes`."""


@dataclass(frozen=True)
class Reading:
    """How the files of one folder of maps are read.

    Attributes:
        form: The form of the files.
        numbering: Meaning of the numbers, never ``auto``.
        normalise: Whether every map is rectified and divided by its maximum.
        stretch: Whether maps of any size are stretched over the picture.
    """

    form: Form
    numbering: Numbering
    normalise: bool = False
    stretch: bool = False


class ForeignMaps(CamStore):
    """Class activation maps in the files of other code. The files are read and never written.

    Args:
        folder: The folder.
        files: The files of every picture, by its id.
        reading: Form of the files, and what is done to the maps.
        data: The pictures; their labels say which maps are wanted.
        said: One line that describes the maps in the folder.
    """

    def __init__(
        self, folder: Path, files: Mapping[str, _Files], reading: Reading, data: Dataset, said: str = ""
    ) -> None:
        super().__init__(folder)
        self.said = said
        self.files = files
        self.reading = reading
        self.data = data
        self.index = {image_id: index for index, image_id in enumerate(data.ids)}

    def path(self, image_id: str) -> Path:
        """Return the file of a picture, or the first one if it has several."""
        return next(iter(self.files[image_id].values()))

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.files

    def read(self, image_id: str) -> tuple[Tensor, Tensor]:
        """Return ``classes`` ``(n,)`` int64 and ``cams`` ``(n, H, W)`` float32 in [0, 1], at the working size.

        Raises:
            InputError: A file is damaged, has no map of a class that the picture shows, a map has another size, or a
                value is not a number in [0, 1].
        """
        index, path = self.index[image_id], self.path(image_id)
        planes = read_planes(self.reading.form, self.files[image_id], len(self.data.classes))
        rows = _rows(planes, self.reading.numbering)
        classes = self.data.labels[index].nonzero().flatten()
        missing = [k for k in classes.tolist() if k not in rows]
        if missing:
            raise InputError(
                f"{path} has no map of {self.data.classes[missing[0]]!r}, which the labels name; give the labels that "
                "the maps were made with, or leave labels out."
            )
        size, own = self.data.size(index), self.data.own_size(index)
        if not len(classes):
            return classes, torch.zeros(0, *size)
        with np.errstate(over="ignore", invalid="ignore"):
            chosen = planes.maps[[rows[k] for k in classes.tolist()]].astype(np.float32)
        maps = self._checked(torch.from_numpy(chosen), path)
        found = (int(maps.shape[1]), int(maps.shape[2]))
        if found not in (size, own) and not self.reading.stretch and strides_of(found, own) is None:
            raise InputError(
                f"{path} holds maps of {found[0]} x {found[1]} (height x width), which does not fit the {own[0]} x "
                f"{own[1]} pixels of its picture; give maps in the shape of the picture, or "
                "stretch to have any size stretched over it."
            )
        return classes, maps if found == size else upsample(maps[None], size)[0].clamp_(0, 1)

    def _checked(self, maps: Tensor, path: Path) -> Tensor:
        if not all_finite(maps):
            raise InputError(f"{path} holds NaN or infinite values; make the maps again.")
        if self.reading.normalise:
            return normalise_maximum(maps.relu_())
        if not all_within(maps):
            low, high = maps.aminmax()
            raise InputError(
                f"{path} holds values from {float(low):.4g} to {float(high):.4g}, but maps are in [0, 1]; give "
                "normalise to have every map rectified and divided by its maximum."
            )
        return maps.clamp_(0, 1)

    def source(self) -> str:
        """Return a text that identifies the maps; it changes if the files or the way of reading them change."""
        digest = hashlib.sha256(f"{self.reading}{self.data.classes}".encode())
        digest.update(self.data.labels.numpy().tobytes())
        for image_id in self.data.ids:
            for number, path in self.files[image_id].items():
                status = path.stat()
                digest.update(f"{image_id} {number} {status.st_size} {status.st_mtime_ns}\n".encode())
        return f"maps {digest.hexdigest()[:16]}"


def _rows(planes: Planes, numbering: Numbering) -> dict[int, int]:
    """Return the position of the map of each class, by the number of the class from 0 on."""
    first = 0 if planes.certain or numbering == "0" else 1
    return {number - first: row for row, number in enumerate(planes.numbers) if number >= first}


def strides_of(found: tuple[int, int], size: tuple[int, int]) -> tuple[float, float] | None:
    """Return the smallest and largest possible stride of maps; None if they have another shape than their picture.

    Args:
        found: ``(height, width)`` of the maps.
        size: ``(height, width)`` of the picture. The sides of the maps may have been rounded up or down.
    """
    ranges = [(side / (cells + 1), side / max(cells - 1, 0.5)) for cells, side in zip(found, size, strict=True)]
    low, high = max(one for one, _ in ranges), min(one for _, one in ranges)
    larger = any(cells > side for cells, side in zip(found, size, strict=True))
    return None if low > high or larger else (low, high)


@dataclass(frozen=True)
class MapSet:
    """A folder of maps together with their pictures.

    Attributes:
        name: Name of the folder, for tables.
        data: The pictures that have maps, with labels and, where given, masks.
        store: The maps.
    """

    name: str
    data: FileDataset
    store: ForeignMaps

    @property
    def said(self) -> str:
        """One line that describes the maps."""
        return self.store.said


def open_maps(
    maps: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    masks: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | Sequence[str] = "voc",
    ids: str | os.PathLike[str] | None = None,
    numbering: Numbering = "auto",
    normalise: bool = False,
    stretch: bool = False,
    mask_values: str = "",
) -> MapSet:
    """Find out the form of the maps in a folder, and open the maps with their pictures.

    Args:
        maps: Folder of the maps, in one of the forms of :mod:`wsss_lib.exchange.forms`.
        pictures: Pictures, see :func:`wsss_lib.data.pictures.find_pictures`; pictures without a map are left out. A
            map and its picture have the same name without the ending; for COCO, the last 12 digits must agree.
        masks: Folder of masks, for scores only; None for none.
        labels: Source of the image-level labels: a ``.npy`` or ``.txt`` file, see
            :func:`wsss_lib.data.voc.labels_from_npy` and :func:`wsss_lib.data.voc.labels_from_text`. With None, the
            classes that have a map are the labels.
        classes: ``voc``, ``coco``, a file with one name per line, or the names.
        ids: List of the pictures that are wanted, see :func:`wsss_lib.data.voc.read_ids`; None for all with maps.
        numbering: Meaning of the numbers of maps, see :data:`Numbering`; ``auto`` finds it.
        normalise: Whether every map is rectified and divided by its maximum.
        stretch: Whether maps of any size are stretched over their picture.
        mask_values: Meaning of the values in the masks, see :func:`wsss_lib.data.files.parse_mask_values`.

    Raises:
        InputError: A folder or file cannot be used, the folder mixes forms, maps do not belong to the pictures, a
            number does not stand for a class, or values are not numbers in [0, 1].
    """
    folder, names = Path(maps), class_names(classes)
    if numbering not in get_args(Numbering):
        raise InputError(f"numbering {numbering!r} is unknown; choose one of {', '.join(get_args(Numbering))}.")
    found = find_pictures(pictures)
    wanted = None if ids is None else read_ids(Path(ids))
    form, files = _find_files(folder, found, names, wanted)
    scanned = _scan(form, files, names)
    given = None if labels is None else _given_labels(Path(labels), names, list(files))
    meaning = _find_numbering(folder, numbering, scanned, names, given)
    targets = _labels(folder, meaning, scanned, names) if given is None else given
    data = FileDataset(
        name=folder.name or str(folder),
        classes=names,
        ids=list(files),
        labels=targets,
        images=[found[image_id] for image_id in files],
        masks=None if masks is None else _find_masks(Path(masks), list(files)),
        lookup=parse_mask_values(mask_values, len(names)),
    )
    data.has_masks = data.mask_files is not None and any(data.mask_files)
    store = ForeignMaps(folder, files, Reading(form, meaning, normalise, stretch), data)
    store.said = _said(store, scanned, given is not None)
    return MapSet(data.name, data, store)


def maps_for(
    data: Dataset,
    maps: str | os.PathLike[str],
    numbering: Numbering = "auto",
    normalise: bool = False,
    stretch: bool = False,
) -> ForeignMaps:
    """Open the maps of the pictures of a data set, which has the labels; see :func:`open_maps`.

    Raises:
        InputError: A picture has no map, or as in :func:`open_maps`.
    """
    folder = Path(maps)
    form, files = _find_files(folder, _files_of(data), data.classes, data.ids)
    scanned = _scan(form, files, data.classes)
    meaning = _find_numbering(folder, numbering, scanned, data.classes, data.labels)
    store = ForeignMaps(folder, files, Reading(form, meaning, normalise, stretch), data)
    store.said = _said(store, scanned, labels_given=True)
    return store


def have_maps(data: Dataset, maps: str | os.PathLike[str]) -> bool:
    """Whether all pictures of a data set have maps in a folder."""
    try:
        _find_files(Path(maps), _files_of(data), data.classes, data.ids)
    except InputError:
        return False
    return True


def _files_of(data: Dataset) -> dict[str, Path]:
    return {image_id: data.image_file(index) or Path(image_id) for index, image_id in enumerate(data.ids)}


def shared(sets: Sequence[MapSet]) -> list[MapSet]:
    """Reduce sets of maps to the pictures that all of them have, in the same order.

    Raises:
        InputError: Two sets have no picture in common, or have different classes.
    """
    common = [i for i in sets[0].data.ids if all(i in one.store for one in sets[1:])]
    for one in sets[1:]:
        if one.data.classes != sets[0].data.classes:
            raise InputError(f"{one.name} has other classes than {sets[0].name}; give maps of the same classes.")
        if not any(image_id in one.store for image_id in sets[0].data.ids):
            raise InputError(
                f"{sets[0].store.folder} and {one.store.folder} share no picture ({sets[0].data.ids[0]} and "
                f"{one.data.ids[0]} and so on); give maps of the same pictures."
            )
    if not common:
        raise InputError(f"no picture has maps in all of {listed([one.name for one in sets])}; give other sets.")
    return [subset(one, common) for one in sets]


def subset(one: MapSet, ids: Sequence[str]) -> MapSet:
    """Reduce a set of maps to some of its pictures, in a given order.

    Raises:
        InputError: A picture has no maps.
    """
    missing = [image_id for image_id in ids if image_id not in one.store.index]
    if missing:
        raise InputError(f"{one.store.folder} has no maps of {missing[0]}, which is listed; remove it from the list.")
    old, rows = one.data, [one.store.index[image_id] for image_id in ids]
    data = FileDataset(
        old.name,
        old.classes,
        ids,
        old.labels[rows],
        [old.image_files[i] for i in rows],
        None if old.mask_files is None else [old.mask_files[i] for i in rows],
        old.lookup,
    )
    data.has_masks = data.mask_files is not None and any(data.mask_files)
    store = ForeignMaps(one.store.folder, one.store.files, one.store.reading, data, one.said)
    return replace(one, data=data, store=store)


def class_names(classes: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes that a user gives as ``voc``, ``coco``, a file or names.

    Raises:
        InputError: The file does not exist, is empty, or names a class twice.
    """
    if isinstance(classes, str) and classes in _NAMED:
        return _NAMED[classes]
    if isinstance(classes, str | os.PathLike):
        if not Path(classes).is_file():
            raise InputError(
                f"classes {str(classes)!r} is not a file; give voc, coco or a file with the name of a class per line."
            )
        return read_classes(Path(classes))
    return tuple(classes)


# ------------------------------------------------------------------------------------------------------------- files


def _find_files(
    folder: Path, pictures: Mapping[str, Path], classes: Sequence[str], wanted: Sequence[str] | None
) -> tuple[Form, dict[str, _Files]]:
    """Return the form of the maps in a folder, and the files of every picture in the order of the pictures."""
    arrays, grey = (files_by_stem(_checked_folder(folder), endings) for endings in ((".npy", ".npz"), (".png",)))
    if arrays and grey:
        raise InputError(
            f"{folder} holds {next(iter(arrays.values())).name} and {next(iter(grey.values())).name}; give a folder "
            "with maps in one form."
        )
    matched = {image_id: {-1: path} for image_id, path in match(arrays or grey, pictures).items()}
    by_class = _heat_maps(grey, pictures, classes) if grey else {}
    if matched and by_class:
        one, other = next(iter(matched.values()))[-1], next(iter(next(iter(by_class.values())).values()))
        raise InputError(f"{folder} holds {one.name} and {other.name}; give a folder with maps in one form.")
    matched = matched or by_class
    if not matched:
        example, first = next(iter((arrays or grey).values())), next(iter(pictures.values()))
        raise InputError(
            f"no map in {folder} ({example.name} and so on) has the name of a picture ({first.name} and so on); give "
            "the pictures that the maps were made from."
        )
    used = {path for files in matched.values() for path in files.values()}
    strange = sorted(path.name for path in (arrays or grey).values() if path not in used)
    if strange and wanted is None:
        raise InputError(
            f"{folder / strange[0]} has no picture ({len(strange)} of {len(arrays or grey)} files have none); give the "
            "pictures of all maps, or a list of the pictures that are wanted as ids."
        )
    ids = [i for i in pictures if i in matched] if wanted is None else [composed(i) for i in wanted]
    missing = [image_id for image_id in ids if image_id not in matched]
    if missing:
        raise InputError(
            f"{missing[0]} has no map in {folder}, or no picture ({len(missing)} of {len(ids)} ids in the list); "
            "remove it from the list."
        )
    files = {image_id: matched[image_id] for image_id in ids}
    return _one_form(files, "pictures" if by_class else "labels"), files


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of the maps.")
    if not any(path.suffix.lower() in (".npy", ".npz", ".png") for path in folder.iterdir()):
        inside = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and any(sub.glob("*.np[yz]"))]
        inside += [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and any(sub.glob("*.png"))]
        hint = f", only its subfolder {inside[0].name} does; give {inside[0]}" if inside else "; give another folder"
        raise InputError(f"{folder} holds no .npy, .npz or .png file{hint}.")
    return folder


def match(files: Mapping[str, Path], names: Collection[str]) -> dict[str, Path]:
    """Return the file of every name: the file of the same name, or else the one with the same 12 digits of COCO."""
    same = {name: files[name] for name in names if name in files}
    if same:
        return same
    digits = {found: path for stem, path in files.items() if (found := _coco_digits(stem))}
    return {name: digits[found] for name in names if (found := _coco_digits(name)) in digits}


def _coco_digits(stem: str) -> str:
    found = re.search(r"(?:^|_)(\d{12})$", stem)
    return found[1] if found else ""


def _heat_maps(grey: Mapping[str, Path], pictures: Collection[str], classes: Sequence[str]) -> dict[str, _Files]:
    """Return the heat maps ``<id>_<class>`` by picture and by number, see `wsss_lib.exchange.forms.read_planes`."""
    known = positions(classes)
    found: dict[str, _Files] = {}
    for stem, path in sorted(grey.items()):
        for place in [mark.start() for mark in re.finditer("_", stem)][::-1]:
            image_id, word = stem[:place], stem[place + 1 :]
            number = known.get(key(word))
            if image_id in pictures and (number is not None or word.isdecimal()):
                found.setdefault(image_id, {})[int(word) if number is None else -2 - number] = path
                break
    return found


def _one_form(files: Mapping[str, _Files], grey: Form) -> Form:
    """Return the form that all files have."""
    paths = [next(iter(one.values())) for one in files.values()]
    if paths[0].suffix == ".png":
        return grey
    form = form_of(paths[0])
    for path in paths:
        if (path.suffix == ".npz") != (form == "npz"):
            raise InputError(f"{path.parent} holds {paths[0].name} and {path.name}; give a folder with one form.")
    return form


def _find_masks(folder: Path, ids: Sequence[str]) -> list[Path | None]:
    if not folder.is_dir():
        raise InputError(f"masks {folder} is not a folder; give the folder of the masks.")
    found = match(files_by_stem(folder, (".png",)), ids)
    if not found:
        refuse_unusable_masks(folder, ids)
        raise InputError(f"masks {folder} holds no mask of a picture with a map; give another folder.")
    return [found.get(image_id) for image_id in ids]


# ------------------------------------------------------------------------------------------- what is in the files


@dataclass(frozen=True)
class _Scanned:
    """Facts about the maps of one picture: their numbers, whether these are certain, and ``(h, w)``."""

    numbers: tuple[int, ...]
    certain: bool
    size: tuple[int, int]
    doubtful: bool  # whether the values of map 0 look like those of a background


def _scan(form: Form, files: Mapping[str, _Files], classes: Sequence[str]) -> dict[str, _Scanned]:
    """Read all files once."""

    def look(paths: _Files) -> _Scanned:
        planes = read_planes(form, paths, len(classes))
        size = (int(planes.maps.shape[1]), int(planes.maps.shape[2]))
        return _Scanned(planes.numbers, planes.certain, size, not planes.certain and _has_background(planes))

    with ThreadPoolExecutor(4) as pool:
        looks: Iterator[_Scanned] = bar(ahead(pool, look, files.values()), "maps", len(files))
        return dict(zip(files, looks, strict=True))


def _has_background(planes: Planes) -> bool:
    """Whether map 0 looks like a background: all maps add up to 1, or map 0 has the same value everywhere."""
    if 0 not in planes.numbers or len(planes.numbers) < 2:
        return False
    rows = planes.maps[:, :: max(1, planes.maps.shape[1] // 16)].astype(np.float64)
    background = rows[planes.numbers.index(0)]
    return bool(np.abs(rows.sum(0) - 1).max() < 0.02) or bool(background.max() == background.min() > 0)


def _find_numbering(
    folder: Path,
    numbering: Numbering,
    scanned: Mapping[str, _Scanned],
    classes: Sequence[str],
    labels: Tensor | None,
) -> Numbering:
    """Return the meaning of the numbers of the maps."""
    open_ones = {image_id: one for image_id, one in scanned.items() if not one.certain and one.numbers}
    _refuse_numbers(folder, scanned, classes)
    if not open_ones:
        return "0"
    every = {number for one in open_ones.values() for number in one.numbers}
    possible = {
        "0": len(classes) not in every,
        "1": 0 not in every,
        "background": all(0 in one.numbers for one in open_ones.values()),
    }
    if numbering != "auto":
        if not possible[numbering]:
            raise InputError(
                f"{folder} has maps with the numbers {min(every)} to {max(every)}, which do not fit numbering "
                f"{numbering} of {len(classes)} classes; choose another numbering, or auto."
            )
        return numbering
    if labels is not None:
        shown = dict(zip(scanned, (set(row.nonzero().flatten().tolist()) for row in labels), strict=True))
        agreeing = [
            name
            for name in ("0", "1", "background")
            if all(shown[i] <= {n - (name != "0") for n in one.numbers} for i, one in open_ones.items())
        ]
        possible = {name: possible[name] and (name in agreeing or not agreeing) for name in possible}
    if possible["background"] and (not possible["0"] or all(one.doubtful for one in open_ones.values())):
        return "background"
    for name in get_args(Numbering)[1:]:
        if possible[name]:
            return name
    raise InputError(
        f"{folder} has maps with the numbers 0 and {len(classes)}, but there are {len(classes)} classes; give the "
        "classes of the maps: voc, coco or a file."
    )


def _refuse_numbers(folder: Path, scanned: Mapping[str, _Scanned], classes: Sequence[str]) -> None:
    for image_id, one in scanned.items():
        highest = max(one.numbers, default=0)
        if highest > len(classes) - one.certain or len({*one.numbers}) != len(one.numbers):
            raise InputError(
                f"the maps of {image_id} in {folder} have the numbers {', '.join(map(str, one.numbers))}, but there "
                f"are {len(classes)} classes ({listed(classes, 3)}); give the classes of the maps: voc, coco or a file."
            )


def _labels(folder: Path, numbering: Numbering, scanned: Mapping[str, _Scanned], classes: Sequence[str]) -> Tensor:
    labels = torch.zeros(len(scanned), len(classes))
    for row, one in zip(labels, scanned.values(), strict=True):
        first = 0 if one.certain or numbering == "0" else 1
        row[[number - first for number in one.numbers if number >= first]] = 1
    if not labels.any():
        raise InputError(f"{folder} holds no map of a class; give a folder with maps.")
    return labels


def _given_labels(path: Path, classes: Sequence[str], ids: Sequence[str]) -> Tensor:
    if path.suffix not in (".npy", ".txt"):
        raise InputError(f"labels {path} is not a source of labels; give a .npy or .txt file.")
    known = labels_from_npy(path, classes) if path.suffix == ".npy" else labels_from_text(path, classes)
    digits = {found: row for image_id, row in known.items() if (found := _coco_digits(image_id.zfill(12)))}
    rows = [known.get(image_id, digits.get(_coco_digits(image_id))) for image_id in ids]
    missing = [image_id for image_id, row in zip(ids, rows, strict=True) if row is None]
    if missing:
        raise InputError(f"labels {path} lacks {missing[0]} ({len(missing)} of {len(ids)} pictures); add the labels.")
    return torch.stack([row for row in rows if row is not None])


def _said(store: ForeignMaps, scanned: Mapping[str, _Scanned], labels_given: bool) -> str:
    """Return the line that describes the maps."""
    reading, data = store.reading, store.data
    sizes = [data.own_size(index) for index in range(len(data))]
    full = all(one.size in (own, working_size(*own)) for one, own in zip(scanned.values(), sizes, strict=True))
    strides = [strides_of(one.size, own) for one, own in zip(scanned.values(), sizes, strict=True)]
    low = max((one[0] for one in strides if one), default=1)
    high = min((one[1] for one in strides if one), default=1)
    if full:
        resolution = "full resolution"
    elif None in strides:
        resolution = "stretched over the pictures" if reading.stretch else "sizes that do not fit all pictures"
    else:
        common = next((stride for stride in range(1, 65) if low <= stride <= high), None)
        resolution = "various strides" if common is None else f"stride {common}"
    numbering = "" if all(one.certain for one in scanned.values()) else f", {_NUMBERINGS[reading.numbering]}"
    least, most = _value_range(store)
    return (
        f"{store.folder}: {len(data)} pictures, {TITLES[reading.form]}{numbering}, {resolution}, values "
        f"{least:.3g} to {most:.3g}{', normalised' if reading.normalise else ''}, labels "
        f"{'as given' if labels_given else 'from the maps'}"
    )


def _value_range(store: ForeignMaps) -> tuple[float, float]:
    """Return the lowest and the highest value in the files of some pictures."""
    ids = store.data.ids[:: max(1, len(store.data) // _SAMPLE)]
    maps = [read_planes(store.reading.form, store.files[i], len(store.data.classes)).maps for i in ids]
    values = [values for values in maps if values.size]
    if not values:
        return 0.0, 0.0
    return min(float(v.min()) for v in values), max(float(v.max()) for v in values)
