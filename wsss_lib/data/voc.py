"""PASCAL VOC 2012, and any folder laid out like it: lists of ids, image-level labels from four sources, masks.

Layout::

    JPEGImages/<id>.jpg
    ImageSets/Segmentation/<split>.txt
    SegmentationClass/<id>.png, SegmentationClassAug/<id>.png      for evaluation only
    image_labels.txt | cls_labels.npy | Annotations/<id>.xml       one of them
    classes.txt                                                    only where the classes are not VOC's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.dataset import FileDataset
from wsss_lib.data.files import IMAGE_SUFFIXES, files_by_stem, read_classes, read_lines, read_pickled_array_dict
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


def load_voc(
    root: str | Path, split: str, labels: str | Path | None = None, sbd_root: str | Path | None = None
) -> FileDataset:
    """Load a split of PASCAL VOC 2012 or of a folder in its layout.

    The image-level labels come from ``labels`` if that is given, else from the first that exists of
    ``image_labels.txt``, ``cls_labels.npy`` and ``Annotations/``. The mask of an image is looked for in
    ``SegmentationClass/``, then in ``SegmentationClassAug/``; an image that has one in neither counts in no score, and
    if no image of the split has one, the data set has no masks.

    Args:
        root: The folder with ``JPEGImages``, usually called VOC2012, or the VOCdevkit folder around it.
        split: The name of a list such as ``train``, ``val`` or ``train_aug`` (also ``trainaug``). Where there is no
            list of ``train_aug``, it is made of VOC's train list and both SBD lists without VOC's val list, sorted.
        labels: A ``.npy`` or ``.txt`` file or a folder of XML files.
        sbd_root: The folder with SBD's ``train.txt`` and ``val.txt``, needed only for ``train_aug`` without a list.

    Returns:
        The images in the order of the list, with the classes of ``classes.txt`` if there is one, else VOC's 20.

    Raises:
        InputError: A folder, list, image or source of labels is missing or unusable, or an image has no labels.
    """
    root = _find_root(Path(root))
    classes = read_classes(root / "classes.txt") if (root / "classes.txt").is_file() else VOC_CLASSES
    ids = _split_ids(root, split, None if sbd_root is None else Path(sbd_root))
    images = files_by_stem(root / "JPEGImages", IMAGE_SUFFIXES)
    return FileDataset(
        name=f"{root.name} {split}",
        classes=classes,
        ids=ids,
        labels=_load_labels(_label_source(root, labels), ids, classes),
        images=[images.get(image_id, root / "JPEGImages" / f"{image_id}.jpg") for image_id in ids],
        masks=_find_masks(root, ids),
    )


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

    A line is either a bare id (``2007_000032``), or the path of an image, with or without the path of its mask behind
    it (``/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png``). Empty lines do not count.

    Raises:
        InputError: The file is missing, lists nothing, lists an id twice, or has a line of another form.
    """
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        image_id = _id_of_line(line)
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
    """Return the id that a line stands for, or an empty text if it stands for none."""
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
    """Whether a folder in VOC's layout has a list of a split."""
    return _find_list(_find_root(Path(root)), (split,)) is not None


def _find_list(root: Path, names: Sequence[str]) -> Path | None:
    paths = [root / folder / f"{name}.txt" for folder in _LIST_FOLDERS for name in names]
    return next((path for path in paths if path.is_file()), None)


# ---------------------------------------------------------------------------------------------------------- labels


def _label_source(root: Path, labels: str | Path | None) -> Path:
    if labels is not None:
        source = Path(labels)
        if not source.is_dir() and source.suffix not in (".npy", ".txt"):
            raise InputError(f"{source} is no source of labels; give a .npy file, a .txt file or a folder of XML.")
        return source
    candidates = [root / name for name in ("image_labels.txt", "cls_labels.npy", "Annotations")]
    source_found = next((path for path in candidates if path.exists()), None)
    if source_found is None:
        raise InputError(
            f"{root} has no image-level labels: there is no image_labels.txt, no cls_labels.npy and no folder "
            "Annotations; put one of them there or give labels."
        )
    return source_found


def _load_labels(source: Path, ids: Sequence[str], classes: Sequence[str]) -> Tensor:
    if source.is_dir():
        return torch.stack([labels_from_xml(source / f"{image_id}.xml", classes) for image_id in ids])
    read = labels_from_npy if source.suffix == ".npy" else labels_from_text
    return _labels_of(read(source, classes), ids, source)


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

    Every ``<name>`` that is the name of a class counts, wherever it stands, so difficult and truncated objects do, and
    the parts of a person and misspelt names do not.

    Args:
        path: The XML file.
        classes: The K foreground class names.

    Returns:
        ``(K,)`` float32 of 0 and 1.

    Raises:
        InputError: The file is missing, cannot be read or is no XML.
    """
    try:
        names = {element.text for element in ElementTree.parse(path).iter("name")}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; put the annotation there or take its id off the list.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise InputError(f"{path} is no valid XML ({error}); copy it again, it may be cut off.") from error
    return torch.tensor([float(name in names) for name in classes])


def labels_from_text(path: str | Path, classes: Sequence[str] = VOC_CLASSES) -> dict[str, Tensor]:
    """Read image-level labels from lines of the form ``<id> class class ...``.

    A line with the id alone stands for an image without any of the classes. Class names cannot hold blanks.

    Args:
        path: The text file.
        classes: The K foreground class names.

    Returns:
        ``(K,)`` float32 of 0 and 1 for each id.

    Raises:
        InputError: The file is missing or empty, names an unknown class, or an image twice.
    """
    position = {name: index for index, name in enumerate(classes)}
    labels: dict[str, Tensor] = {}
    for number, line in enumerate(read_lines(path), start=1):
        image_id, *names = line.split() or [""]
        if not image_id:
            continue
        unknown = [name for name in names if name not in position]
        if unknown:
            raise InputError(f"{path}, line {number}: {unknown[0]!r} is no class; use the names {', '.join(classes)}.")
        if image_id in labels:
            raise InputError(f"{path}, line {number}: the image {image_id!r} is there already; give it one line.")
        labels[image_id] = torch.zeros(len(classes))
        labels[image_id][[position[name] for name in names]] = 1.0
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
        InputError: The file cannot be read, is empty, or an array is not K values of 0 and 1.
    """
    labels: dict[str, Tensor] = {}
    for key, values in read_pickled_array_dict(path).items():
        if values.shape != (len(classes),) or not ((values == 0) | (values == 1)).all():
            raise InputError(
                f"{path}: the entry {key!r} is not {len(classes)} values of 0 and 1 but {values.shape}; "
                f"give the labels of {len(classes)} classes."
            )
        labels[_id_of_key(key)] = torch.from_numpy(values.astype(np.float32))
    if not labels:
        raise InputError(f"{path} is an empty dictionary; give one with an entry per image.")
    return labels


def _id_of_key(key: int | str) -> str:
    text = str(key)
    return f"{text[:4]}_{text[4:]}" if isinstance(key, int) and len(text) == 10 else text
