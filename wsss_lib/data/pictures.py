"""A picture as a user hands it over: a file, a Pillow image or an array. And the pictures that a user names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_lib.data.files import image_size, read_image, read_lines
from wsss_lib.data.large import reduced, working_size
from wsss_lib.data.names import composed
from wsss_lib.data.voc import read_ids
from wsss_lib.errors import InputError

Given = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, a Pillow image, or an array ``(H, W, 3)`` or ``(H, W)`` uint8."""


def open_picture(picture: Given) -> tuple[Image.Image, tuple[int, int]]:
    """Return a picture as 8-bit RGB at its working size, see `wsss_lib.data.large`, and its own ``(H, W)``.

    The EXIF orientation of a file is obeyed. The pixels of a Pillow image are not turned; its EXIF data are ignored.

    Raises:
        InputError: The file cannot be read, or the image or array does not hold 8-bit colours.
    """
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if isinstance(picture, Image.Image):
        size = (picture.height, picture.width)
        if working_size(*size) == size:
            return _rgb(picture), size
        return reduced(picture, _rgb), size
    path = Path(picture)
    return read_image(path), image_size(path)


def _from_array(values: np.ndarray) -> Image.Image:
    fits = values.dtype == np.uint8 and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3))
    if not fits or not values.size:
        raise InputError(
            f"the picture is an array {values.shape} {values.dtype}; give (H, W, 3) uint8, red, green and blue, or "
            "(H, W) uint8."
        )
    return Image.fromarray(np.ascontiguousarray(values))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        raise InputError(f"the picture has {picture.mode} pixels of unknown range; give one with 8 bits per channel.")
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # straight to RGB, Pillow warns of a palette with transparency
    return picture.convert("RGB")


def find_pictures(pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the files of pictures by name, which is the file's name without its ending.

    Args:
        pictures: A picture, a folder, a ``.txt`` file that names a picture in every line (as seen from the file's
            folder), or a list of these. Of a folder every file with the ending of an image format counts; what lies in
            its subfolders, or begins with a dot, does not. A file in a folder of ``ImageSets`` is a list of VOC: it
            names pictures in ``JPEGImages``, without their ending.

    Raises:
        InputError: A file or folder does not exist, a folder or a list has no picture, or two pictures have one name.
    """
    given = [pictures] if isinstance(pictures, str | os.PathLike) else pictures
    found: dict[str, Path] = {}
    for path in dict.fromkeys(file for entry in given for file in _files(Path(entry))):
        name = composed(path.stem)
        other = found.setdefault(name, path)
        if other != path:
            raise InputError(
                f"{other} and {path} have one name without their endings, and so would their results; rename one of "
                "them, or give them one after the other with two folders for the results."
            )
    if not found:
        raise InputError("no picture is given; name a picture, a folder or a list.")
    return found


def _files(path: Path) -> list[Path]:
    try:
        is_folder, exists = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"pictures {str(path)[:80]!r} cannot be used ({reason}); give another path.") from None
    if is_folder:
        return _in_folder(path)
    if not exists:
        raise InputError(f"{path} does not exist; give a picture, a folder of pictures, or a .txt file with a list.")
    if path.suffix.lower() != ".txt":
        return [path]
    if path.absolute().parent.parent.name == "ImageSets":
        listed = [path.absolute().parents[2] / "JPEGImages" / f"{image_id}.jpg" for image_id in read_ids(path)]
    else:
        listed = [path.parent / line for line in read_lines(path) if line]
    if not listed:
        raise InputError(f"{path} names no picture; write the path of a picture into every line.")
    missing = [file for file in listed if not file.is_file()]
    if missing:
        raise InputError(
            f"{path} names {missing[0]}, which is not a file ({len(missing)} of {len(listed)} are not); correct the "
            "list."
        )
    return listed


def _in_folder(folder: Path) -> list[Path]:
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}

    def pictures(place: Path) -> list[Path]:
        files = sorted(place.iterdir())
        return [f for f in files if f.suffix.lower() in endings and not f.name.startswith(".") and f.is_file()]

    try:
        found = pictures(folder)
        inside = [] if found else [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and pictures(sub)]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); give a folder that you may read.") from None
    if not found:
        hint = f", only its subfolder {inside[0].name} does; give {inside[0]}" if inside else "; give another folder"
        raise InputError(f"{folder} holds no picture{hint}.")
    return found
