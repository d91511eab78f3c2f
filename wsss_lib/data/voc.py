"""PASCAL VOC 2012 and folders in its layout: lists of ids, image-level labels from four sources, masks.

Layout::

    JPEGImages/<id>.jpg
    ImageSets/Segmentation/<split>.txt
    SegmentationClass/<id>.png, SegmentationClassAug/<id>.png      for evaluation only
    image_labels.txt | cls_labels.npy | Annotations/<id>.xml       one of them
    classes.txt                                                    only where the classes are not VOC's
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import (
    IMAGE_SUFFIXES,
    files_by_stem,
    parse_mask_values,
    read_classes,
    read_lines,
    read_pickled_array_dict,
    refuse_unusable_masks,
)
from wsss_lib.data.names import composed, key, listed, parts, positions
from wsss_lib.errors import InputError

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

_LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug")
_MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
_TRAIN_AUG = ("train_aug", "trainaug")


_NAME = ("name", "Name", "NAME")
_OTHER_NAMES = ("part", "owner")
"""Elements of VOC's annotations whose names do not name objects: parts of a person, the owner of a photograph."""


def load_voc(
    root: str | Path,
    split: str,
    labels: str | Path | None = None,
    sbd_root: str | Path | None = None,
    mask_values: str = "",
) -> FileDataset:
    """Load a split of PASCAL VOC 2012 or of a folder in its layout.

    The image-level labels come from ``labels`` if that is given, else from the first that exists of
    ``image_labels.txt``, ``cls_labels.npy`` and ``Annotations/``. The mask of an image is taken from
    ``SegmentationClass/``, or else from ``SegmentationClassAug/``. An image without a mask counts in no score; if no
    image of the split has a mask, the data set has no masks.

    Args:
        root: The folder with ``JPEGImages``, usually called VOC2012, or the VOCdevkit folder around it.
        split: The name of a list such as ``train``, ``val`` or ``train_aug`` (also ``trainaug``). Where there is no
            list of ``train_aug``, it is made of VOC's train list and both SBD lists without VOC's val list, sorted.
        labels: A ``.npy`` or ``.txt`` file or a folder of XML files.
        sbd_root: The folder with SBD's ``train.txt`` and ``val.txt``, needed only for ``train_aug`` without a list.
        mask_values: Meaning of the values in the masks, see :func:`wsss_lib.data.files.parse_mask_values`.

    Returns:
        The images in the order of the list, with the classes of ``classes.txt`` if the file exists, else VOC's 20.

    Raises:
        InputError: A folder, list, image or source of labels is missing or unusable, an image has no labels, or there
            are mask files, but none has the right name and format.
    """
    root = _find_root(Path(root))
    classes = read_classes(root / "classes.txt") if (root / "classes.txt").is_file() else VOC_CLASSES
    ids = _split_ids(root, split, None if sbd_root is None else Path(sbd_root))
    images = files_by_stem(root / "JPEGImages", IMAGE_SUFFIXES)
    found = _load_labels(_label_source(root, labels), ids, classes, split)
    masks = _find_masks(root, ids)
    if masks is None:
        for folder in _MASK_FOLDERS:
            refuse_unusable_masks(root / folder, images.keys())
    data = FileDataset(
        name=f"{root.name} {split}",
        classes=classes,
        ids=ids,
        labels=found.labels,
        images=[images.get(image_id, root / "JPEGImages" / f"{image_id}.jpg") for image_id in ids],
        masks=masks,
        lookup=parse_mask_values(mask_values, len(classes)),
    )
    data.label_source, data.notes = found.source, found.notes
    return data


def _find_root(root: Path) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "JPEGImages").is_dir():
            return folder.absolute()
    raise InputError(f"{root} has no folder JPEGImages; give the folder of VOC 2012 that contains JPEGImages.")


def _find_masks(root: Path, ids: Sequence[str]) -> list[Path | None] | None:
    first, second = (files_by_stem(root / folder, (".png",)) for folder in _MASK_FOLDERS)
    masks = second | first
    if masks.keys().isdisjoint(ids):
        return None
    return [masks.get(image_id) for image_id in ids]


# ----------------------------------------------------------------------------------------------------------- lists


def read_ids(path: str | Path) -> list[str]:
    """Read the image ids of a list file, in its order.

    A line is either a bare id (``2007_000032``), or the path of an image, with or without the path of its mask after
    it (``/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png``). Empty lines are skipped.

    Raises:
        InputError: The file is missing or empty, lists an id twice, or has a line of another form.
    """
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        image_id = _id_of_line(composed(line))
        if not image_id:
            raise InputError(f"{path}, line {number}: {line!r} is neither one id nor the path of an image; correct it.")
        if image_id in lines:
            raise InputError(
                f"{path}, line {number}: {image_id!r} is there already in line {lines[image_id]}; list it once."
            )
        lines[image_id] = number
    if not lines:
        raise InputError(f"{path} lists no image; write one id per line.")
    return list(lines)


def _id_of_line(line: str) -> str:
    """Return the id in a line, or "" if the line has none."""
    first, *others = line.split()
    path = PurePosixPath(first)
    if "/" in first or path.suffix.lower() in IMAGE_SUFFIXES:
        return path.stem
    return "" if others else first


def _split_ids(root: Path, split: str, sbd_root: Path | None) -> list[str]:
    found = _find_list(root, _TRAIN_AUG if split in _TRAIN_AUG else (split,))
    if found is not None:
        return read_ids(found)
    if split not in _TRAIN_AUG:
        there = sorted(path.stem for folder in _LIST_FOLDERS for path in (root / folder).glob("*.txt"))
        raise InputError(
            f"{root / _LIST_FOLDERS[0] / split}.txt does not exist; "
            f"choose a split that has a list ({', '.join(there) or 'there is none'}) or write the list."
        )
    if sbd_root is None:
        raise InputError(
            f"{root / _LIST_FOLDERS[0]} has no train_aug.txt or trainaug.txt; put the list there or give sbd_root, the "
            "folder with the train.txt and val.txt of SBD."
        )
    train, val = (read_ids(root / _LIST_FOLDERS[0] / f"{name}.txt") for name in ("train", "val"))
    sbd = [image_id for name in ("train", "val") for image_id in read_ids(sbd_root / f"{name}.txt")]
    return sorted({*train, *sbd} - set(val))


def has_list(root: str | Path, split: str) -> bool:
    """Return whether a folder in VOC's layout has a list of a split."""
    return _find_list(_find_root(Path(root)), (split,)) is not None


def _find_list(root: Path, names: Sequence[str]) -> Path | None:
    paths = [root / folder / f"{name}.txt" for folder in _LIST_FOLDERS for name in names]
    return next((path for path in paths if path.is_file()), None)


# ---------------------------------------------------------------------------------------------------------- labels


def _label_source(root: Path, labels: str | Path | None) -> Path:
    if labels is not None:
        source = Path(labels)
        if not source.is_dir() and source.suffix not in (".npy", ".txt"):
            raise InputError(f"{source} is not a source of labels; give a .npy file, a .txt file or a folder of XML.")
        return source
    candidates = [root / name for name in ("image_labels.txt", "cls_labels.npy", "Annotations")]
    source_found = next((path for path in candidates if path.exists()), None)
    if source_found is None:
        raise InputError(
            f"{root} has no image-level labels: there is no image_labels.txt, no cls_labels.npy and no folder "
            "Annotations; put one of them there or give labels."
        )
    return source_found


@dataclass(frozen=True)
class _Labels:
    """Labels of a split, with the texts that `Dataset` has about them."""

    labels: Tensor
    source: str
    notes: tuple[str, ...] = ()


def _load_labels(source: Path, ids: Sequence[str], classes: Sequence[str], split: str) -> _Labels:
    if source.is_dir():
        return _load_annotations(source, ids, classes, split)
    if source.suffix == ".npy":
        return _Labels(_labels_of(labels_from_npy(source, classes), ids, source), f"{source} holds only zeros for them")
    return _Labels(
        _labels_of(labels_from_text(source, classes), ids, source), f"{source} names no class behind their ids"
    )


def _load_annotations(folder: Path, ids: Sequence[str], classes: Sequence[str], split: str) -> _Labels:
    """Read the labels of a folder of XML files."""
    files, known = files_by_stem(folder, (".xml",)), positions(classes)
    labels, strange, lost = torch.zeros(len(ids), len(classes)), Counter[str](), 0
    for image_id, row in zip(ids, labels, strict=True):
        names, of_objects = _names_in_xml(files.get(image_id, folder / f"{image_id}.xml"))
        row[[known[name] for name in map(key, names) if name in known]] = 1.0
        strange.update({" ".join(name.split()) for name in of_objects if key(name) not in known})
        lost += bool(of_objects) and not row.any()
    if not strange:
        return _Labels(labels, f"{folder} holds no names of objects")
    names_there = listed(sorted(strange, key=lambda name: (-strange[name], name)))
    note = (
        f"{folder.name} holds names that are not classes and do not count, {names_there}: {lost} of the {len(ids)} "
        f"images of {split} have no label because of that."
    )
    return _Labels(labels, f"{folder} holds the names {names_there}", (note,))


def _labels_of(known: Mapping[str, Tensor], ids: Sequence[str], source: Path) -> Tensor:
    missing = [image_id for image_id in ids if image_id not in known]
    if missing:
        raise InputError(
            f"{source} has no labels for the image {missing[0]!r} ({len(missing)} of {len(ids)} listed images have "
            "none); add them or take the image off the list."
        )
    return torch.stack([known[image_id] for image_id in ids])


def labels_from_xml(path: str | Path, classes: Sequence[str] = VOC_CLASSES) -> Tensor:
    """Read image-level labels from a VOC annotation.

    Every ``<name>`` with the name of a class counts, at any place in the file. So difficult and truncated objects
    count; parts of a person and misspelt names do not. Case, blanks, Unicode form and XML namespaces do not matter.

    Args:
        path: The XML file.
        classes: The K foreground class names.

    Returns:
        ``(K,)`` float32 of 0 and 1.

    Raises:
        InputError: The file is missing, cannot be read or is not XML.
    """
    names = {key(name) for name in _names_in_xml(Path(path))[0]}
    return torch.tensor([float(key(name) in names) for name in classes])


def _names_in_xml(path: Path) -> tuple[set[str], set[str]]:
    """Return all names of an annotation, and those of objects."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; put the annotation there or take its id off the list.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise InputError(f"{path} is not valid XML ({error}); copy it again, it may be cut off.") from error
    names, of_objects = ({root.text or ""} if _tag(root) == "name" else set()), set()
    for element in root.iter():
        found = [child.text or "" for child in element if child.tag.endswith(_NAME) and _tag(child) == "name"]
        names.update(found)
        if found and _tag(element) not in _OTHER_NAMES:
            of_objects.update(found)
    return names, of_objects


def _tag(element: ElementTree.Element) -> str:
    """Return the name of an element in lower case, without its namespace."""
    return element.tag.rpartition("}")[2].lower()


def labels_from_text(path: str | Path, classes: Sequence[str] = VOC_CLASSES) -> dict[str, Tensor]:
    """Read image-level labels from lines of the form ``<id> class class ...``.

    A line with an id alone is an image without a class. Class names cannot contain blanks. Case and Unicode form of a
    name do not matter.

    Args:
        path: The text file.
        classes: The K foreground class names.

    Returns:
        ``(K,)`` float32 of 0 and 1 for each id.

    Raises:
        InputError: The file is missing or empty, names an unknown class, or names an image twice.
    """
    position = positions(classes)
    labels: dict[str, Tensor] = {}
    for number, line in enumerate(read_lines(path), start=1):
        image_id, *names = composed(line).split() or [""]
        if not image_id:
            continue
        unknown = [name for name in names if key(name) not in position]
        if unknown:
            several = parts(unknown[0], position)
            hint = f"separate classes by blanks, {' '.join(several)}" if several else f"use the names {listed(classes)}"
            raise InputError(f"{path}, line {number}: {unknown[0]!r} is not a class; {hint}.")
        if image_id in labels:
            raise InputError(f"{path}, line {number}: the image {image_id!r} is there already; give it one line.")
        labels[image_id] = torch.zeros(len(classes))
        labels[image_id][[position[key(name)] for name in names]] = 1.0
    if not labels:
        raise InputError(f"{path} is empty; write one line with an id and its classes per image.")
    return labels


def labels_from_npy(path: str | Path, classes: Sequence[str] = VOC_CLASSES) -> dict[str, Tensor]:
    """Read image-level labels from the ``cls_labels.npy`` that the authors of many methods share.

    Args:
        path: A dictionary of arrays, see :func:`wsss_lib.data.files.read_pickled_array_dict`. A key is an id or, as in
            IRN, the id as a number without its underscore.
        classes: The K foreground class names.

    Returns:
        ``(K,)`` float32 of 0 and 1 for each id.

    Raises:
        InputError: The file cannot be read or is empty, or an array does not consist of K values 0 and 1.
    """
    labels: dict[str, Tensor] = {}
    for entry, values in read_pickled_array_dict(path).items():
        if values.shape != (len(classes),) or not ((values == 0) | (values == 1)).all():
            raise InputError(
                f"{path}: the entry {entry!r} is not {len(classes)} values of 0 and 1 but {values.shape}; "
                f"give the labels of {len(classes)} classes."
            )
        labels[_id_of_key(entry)] = torch.from_numpy(values.astype(np.float32))
    if not labels:
        raise InputError(f"{path} is an empty dictionary; give one with an entry per image.")
    return labels


def _id_of_key(number: int | str) -> str:
    text = composed(str(number))
    return f"{text[:4]}_{text[4:]}" if isinstance(number, int) and len(text) == 10 else text
