"""Reading and writing files of images, masks, lists and arrays. Unusable files raise; files are written atomically."""

from __future__ import annotations

import csv
import io
import os
import pickle
import pickletools
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from wsss_lib.data import names as spelling
from wsss_lib.data.large import reduced, working_size
from wsss_lib.data.npy import read_npy_header
from wsss_lib.data.torch_storage import as_tensor, read_storage
from wsss_lib.errors import InputError

IGNORE = 255
"""The mask value of pixels that are left out of scores and losses."""

MOST_PIXELS = 178_956_970
"""Greatest number of pixels of a picture or mask: the limit of Pillow, which warns from half as many."""

if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MOST_PIXELS)  # Pillow's warning above this is an error here

_BAND = 2**20
"""Number of pixels of a mask that are checked at a time."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""The endings of image files in the VOC and COCO layouts; of two files with the same stem, the earlier ending wins."""


# ---------------------------------------------------------------------------------------------------------- images


def read_image(path: str | Path) -> Image.Image:
    """Read an image as 8-bit RGB, reduced to its working size if it is large, see `wsss_lib.data.large`.

    Greyscale, palette and CMYK images are converted, an alpha channel is dropped without blending, and 16-bit values
    lose their lower byte. The EXIF orientation is applied, as by every viewer.

    Args:
        path: A file in any format that Pillow reads; of an animation the first frame counts.

    Returns:
        The image in mode ``RGB``, upright.

    Raises:
        InputError: The file is missing, cut off, damaged or not an image, or its values have an unknown range.
    """
    path = Path(path)
    with _opened(path) as picture:
        turn = _turn(picture)
        if working_size(picture.height, picture.width) != (picture.height, picture.width):
            upright = reduced(picture, lambda part: _to_rgb(part, path))
            return upright if turn is None else upright.transpose(turn)
        picture.load()
        upright = _to_rgb(picture, path)
        return upright if turn is None else upright.transpose(turn)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return ``(height, width)`` of an upright image at its own size, read from the file's header alone.

    Raises:
        InputError: The file is missing or not an image.
    """
    with _opened(Path(path)) as picture:
        return _upright_size(picture)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns pixels upright, by EXIF orientation."""

_SIDEWAYS = (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])


def _turn(picture: ImageFile.ImageFile) -> Image.Transpose | None:
    """Return the operation that turns an opened but not loaded image upright; None for an upright image."""
    if picture.format == "TIFF":  # Pillow turns these itself
        return None
    try:
        # The base class's method, because PNG's would decode the image to find EXIF data behind the pixels.
        return _TURNS.get(Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data do not make an image unreadable
        return None


def _upright_size(picture: ImageFile.ImageFile) -> tuple[int, int]:
    return (picture.width, picture.height) if _turn(picture) in _SIDEWAYS else (picture.height, picture.width)


def is_turned(path: str | Path) -> bool:
    """Return whether the EXIF orientation of an image turns or mirrors it, read from the file's header alone.

    Raises:
        InputError: The file is missing or not an image.
    """
    with _opened(Path(path)) as picture:
        return _turn(picture) is not None


def _fits_unturned(image: Path, size: tuple[int, int]) -> bool:
    """Return whether an image of another size would have this size without its EXIF orientation."""
    with _opened(image) as picture:
        return _turn(picture) in _SIDEWAYS and size == (picture.height, picture.width)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image; every error while it is open becomes an InputError."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield picture
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{path} has more than {MOST_PIXELS:,} pixels, the most that are read; replace it by a smaller one, such "
            "as one of half its height and width."
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; put the file there or correct the path.") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image that Pillow can read; replace it by a JPEG or PNG file.") from None
    # Pillow raises SyntaxError for a broken PNG, and errors of any kind for broken headers of other formats.
    except Exception as error:
        raise InputError(
            f"{path} cannot be read ({_reason(error)}); copy it again, it may be cut off or damaged."
        ) from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _to_rgb(picture: Image.Image, path: Path) -> Image.Image:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        # Pillow's own conversion would clip 16-bit values at 255.
        high_byte = (np.asarray(picture).astype(np.int64) >> 8).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    if picture.mode in ("I", "F"):
        raise InputError(f"{path} holds 32-bit values of unknown range; save it with 8 or 16 bits per channel.")
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # from a palette with transparency straight to RGB Pillow warns
    return picture.convert("RGB")


# ----------------------------------------------------------------------------------------------------------- masks


def read_mask(
    path: str | Path,
    num_classes: int,
    size: tuple[int, int] | None = None,
    lookup: np.ndarray | None = None,
    image: Path | None = None,
) -> np.ndarray:
    """Read a mask from a palette or greyscale PNG, by the stored numbers and not the colours.

    Args:
        path: A PNG file.
        num_classes: K; the mask may hold 0..K and 255.
        size: The ``(height, width)`` that the mask must have.
        lookup: ``(256,)`` int16, the class number of each stored value: 0..K, 255 for ignored, or -1 for a value that
            must not occur; see :func:`parse_mask_values`. None if the stored values are the class numbers.
        image: The file of the mask's image, whose EXIF orientation may explain a wrong size.

    Returns:
        ``(H, W)`` uint8: 0 background, k + 1 class k, 255 ignored.

    Raises:
        InputError: The file is missing, cut off or not a PNG, its pixels have several channels, a value is not a class,
            or the size is wrong.
    """
    path = Path(path)
    with _opened(path) as picture:
        if picture.format != "PNG" or picture.mode not in ("P", "L", "1", "I", "I;16"):
            raise InputError(
                f"{path} is a {picture.format} file with {picture.mode} pixels; save the mask as a PNG with a palette "
                "or in greyscale, whose pixel values are the class numbers."
            )
        found = _upright_size(picture)
        if size is not None and found != tuple(size):  # before memory is allocated for the pixels
            raise InputError(
                f"{path} is {found[0]} x {found[1]} pixels (height x width) but its image is {size[0]} x {size[1]}"
                + (
                    f", because the EXIF orientation of {image.name} turns it; turn the mask as viewers show the image."
                    if image is not None and _fits_unturned(image, found)
                    else "; give a mask of the image's size."
                )
            )
        turn = _turn(picture)
        # Pillow stretches greyscale PNGs of 2 and 4 bits to 0..255.
        stretched_by = {"L;2": 85, "L;4": 17}.get(str(picture.tile[0][3]), 1)
        mask = np.empty((picture.height, picture.width), np.uint8)
        rows = max(1, _BAND // picture.width)
        for top in range(0, picture.height, rows):
            band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
            stored = np.asarray(band).astype(np.int64) // stretched_by
            mask[top : top + rows] = _as_classes(stored, path, num_classes, lookup)
    return mask if turn is None else np.asarray(Image.fromarray(mask).transpose(turn))


def _as_classes(stored: np.ndarray, path: Path, num_classes: int, lookup: np.ndarray | None) -> np.ndarray:
    """Map stored mask values to uint8 class numbers, refusing values without a class."""
    table = np.full(257, -1, dtype=np.int16)  # the last entry is for all values above 255
    if lookup is None:
        table[: num_classes + 1] = np.arange(num_classes + 1)
        table[IGNORE] = IGNORE
    else:
        table[:256] = np.where((lookup <= num_classes) | (lookup == IGNORE), lookup, -1)
    mask = table[np.clip(stored, -1, 256)]
    if (mask < 0).any():
        value = stored[mask < 0][0]
        raise InputError(
            f"{path} holds the value {value}, which is not a class; give a mask that holds 0 (background), the "
            f"numbers of the {num_classes} classes and 255 (ignored)."
            if lookup is None
            else f"{path} holds the value {value}, which is not a class by mask_values; add it there or correct the "
            "mask."
        )
    return mask.astype(np.uint8)


def parse_mask_values(text: str, num_classes: int) -> np.ndarray | None:
    """Read the parameter ``mask_values``, the meaning of the stored values of masks.

    Args:
        text: Pairs of a stored value and a class number, such as ``"0:0,255:1"``; "" if masks hold class numbers.
            0 and 255 are background and ignored unless a pair says otherwise; other values without a pair must not
            occur.
        num_classes: Number of classes K.

    Returns:
        ``(256,)`` int16, see :func:`read_mask`; None for "".

    Raises:
        InputError: The text has another form, or a number is not a class number.
    """
    if not text.strip():
        return None
    table = np.full(256, -1, dtype=np.int16)
    table[[0, IGNORE]] = 0, IGNORE
    seen: set[int] = set()
    for pair in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,3})\s*:\s*(\d{1,3})\s*", pair, re.ASCII)
        value, number = (int(found[1]), int(found[2])) if found else (-1, -1)
        if not 0 <= value <= 255 or value in seen or not (0 <= number <= num_classes or number == IGNORE):
            raise InputError(
                f"mask_values {text!r} cannot be used because of {pair.strip()!r}; give each stored value from 0 to "
                f"255 once, with 0 (background), a class number up to {num_classes} or 255 (ignored), such as "
                '"0:0,255:1".'
            )
        table[value] = number
        seen.add(value)
    return table


def refuse_unusable_masks(folder: Path, ids: Collection[str]) -> None:
    """Raise if a folder has image files, but by name or format none of them is a mask.

    Args:
        folder: The folder; a missing folder counts as empty.
        ids: The ids of all images.

    Raises:
        InputError: There are image files, and none is a mask.
    """
    others = files_by_stem(folder, [suffix for suffix in Image.registered_extensions() if suffix != ".png"])
    found = [*files_by_stem(folder, (".png",)).items(), *sorted(others.items())]
    if not found or any(stem in ids and path.suffix.lower() == ".png" for stem, path in found):
        return
    stem, path = next(((stem, path) for stem, path in found if stem in ids), found[0])
    example = next((name for name in sorted(ids, key=len, reverse=True) if name in stem), min(ids, default="image"))
    raise InputError(
        f"{folder} holds no mask of any image, but {path.name} ({len(found)} such files); give each mask the name of "
        f"its image and save it as a PNG, such as {example}.png, or take the folder away."
    )


def voc_palette() -> np.ndarray:
    """Return the colours that PASCAL VOC gives to mask values.

    The bits of a value go in turn to red, green and blue, and within a channel the lowest bit of the value becomes the
    highest bit of the colour. The same rule gives value 255 the cream of the official void.

    Returns:
        ``(256, 3)`` uint8 RGB.
    """
    values = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((values >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette


def write_mask(path: str | Path, mask: np.ndarray, durable: bool = True) -> None:
    """Write a mask as a PNG in the colours of :func:`voc_palette`, see :func:`write_atomically`.

    Args:
        path: The PNG file.
        mask: ``(H, W)`` uint8.
        durable: Whether the file survives a power cut.

    Raises:
        InputError: The file cannot be written.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"mask must be (H, W) uint8, not {mask.shape} {mask.dtype}")
    picture = Image.fromarray(np.ascontiguousarray(mask))
    picture.putpalette(voc_palette().tobytes())
    write_atomically(path, lambda stream: picture.save(stream, format="PNG"), durable)


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object], durable: bool = True) -> None:
    """Write a file atomically: afterwards it is complete or, after a failure, as it was before.

    The bytes go to a new file ``.tmp-*`` in the same folder, which is then renamed. A reader never sees half a file,
    and of several writers the last wins. Missing folders are made.

    Args:
        path: The file.
        write: Function that writes the content to a binary stream.
        durable: Whether the file survives a power cut. This takes milliseconds, and much longer on a busy disk.

    Raises:
        InputError: The disk is full, or the folder cannot be made or written to.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        # A new name survives if its folder is flushed; the folders above may be new, too.
        changed = [path.parent, *(folder.parent for folder in path.parents if not folder.exists())]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                write(stream)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            temporary.replace(path)
            for folder in changed if durable else ():
                _flush_names(folder)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); make room on the disk or choose a folder that you "
            "may write to."
        ) from error


def write_csv(path: str | Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table as UTF-8 text with commas, see :func:`write_atomically`; names that are not UTF-8 are escaped.

    Args:
        path: The file.
        rows: Cells of each row; the first row has the names of the columns.

    Raises:
        InputError: The file cannot be written.
    """

    def write(stream: BinaryIO) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        text.detach()

    write_atomically(path, write)


def _flush_names(folder: Path) -> None:
    """Flush the names of a folder's files to the disk, where the system can do that."""
    with suppress(OSError):  # Windows opens no folders, and some network drives do not flush them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_unfinished(path: Path) -> bool:
    """Return whether a file was left by a :func:`write_atomically` that was stopped before renaming it."""
    return re.fullmatch(r"\.tmp-[0-9a-f]{32}", path.name) is not None and path.is_file()


# ------------------------------------------------------------------------------------------------------ text lists


def read_lines(path: str | Path) -> list[str]:
    """Read the lines of a UTF-8 text file, with or without a byte order mark, without surrounding blanks.

    Raises:
        InputError: The file is missing, cannot be read or is not text.
    """
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; put the file there or correct the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it a readable file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as plain text in UTF-8.") from error


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Read a ``classes.txt``: one foreground class per line; the first class has the mask value 1.

    Raises:
        InputError: The file is missing, or names no class, a class twice or in two spellings, the background, or more
            than 254 classes.
    """
    return checked_classes([line for line in read_lines(path) if line], Path(path))


def checked_classes(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the class names from file ``path``, in Unicode form NFC, if they are valid as classes of a data set.

    Raises:
        InputError: The file names no class, a class twice or in two spellings, a class called background, or more
            classes than fit between 0 and 255.
    """
    if not names:
        raise InputError(f"{path} names no class; name at least one.")
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(spelling.key(name), name)
        if other != name:
            raise InputError(
                f"{path} names the classes {spelling.shown(other, name)} and {spelling.shown(name, other)}, which "
                "differ only in case, blanks or Unicode form; write the name in one way."
            )
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise InputError(f"{path} names the class {twice[0]!r} more than once; name every class once.")
    for name in names:
        if spelling.key(name).strip("_") == "background":
            raise InputError(f"{path} names {name!r}; leave it out, mask value 0 is always the background.")
        if spelling.key(name).strip("_") in ("ignore", "ignored"):
            raise InputError(f"{path} names {name!r}; leave it out, mask value 255 is always ignored.")
        if name.startswith("#") or not name.isprintable():
            raise InputError(f"{path} holds {name!r}, which is not the name of a class; take it out.")
    if len(names) >= IGNORE:
        raise InputError(f"{path} names {len(names)} classes; masks have room for {IGNORE - 1}, take some away.")
    return tuple(spelling.composed(name) for name in names)


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """List a folder once, which is much faster than looking for thousands of files one by one.

    Args:
        folder: The folder; a missing folder counts as empty.
        suffixes: The endings wanted, in lower case; of two files with the same stem the earlier ending wins.

    Returns:
        The path of every file with such an ending, in any case, by its name without the ending, in Unicode form NFC.
    """
    if not folder.is_dir():
        return {}
    rank = {suffix: position for position, suffix in enumerate(suffixes)}
    found = [path for path in folder.iterdir() if path.suffix.lower() in rank]
    found.sort(key=lambda path: (rank[path.suffix.lower()], path.name), reverse=True)
    return {spelling.composed(path.stem): path for path in found}


# --------------------------------------------------------------------------------------------- pickled dictionaries


def read_pickled_array_dict(path: str | Path) -> dict[int | str, np.ndarray]:
    """Read a dictionary of arrays that was saved by ``np.save(path, {key: array})``, without running any code.

    The authors of the papers keep image-level labels and per-image CAMs in this form. A pickle is a program that may
    call any function. Here the few NumPy functions that rebuild an array are replaced by functions of this module,
    every other name is refused, and NumPy's unpickling is never called.

    Args:
        path: A ``.npy`` file with a zero-dimensional object array, pickle protocol 2 to 5, any NumPy version.

    Returns:
        The arrays, of booleans, integers or floats in native byte order and writable. PyTorch tensors, as IRN saves
        them, become arrays. Integer keys of NumPy's types become int.

    Raises:
        InputError: The file is missing, cut off, not such a dictionary, or holds anything other than arrays of numbers.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            content = _unpickle(stream)
        return {_plain_key(key): _plain_array(value) for key, value in content.items()}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; put the file there or correct the path.") from None
    # Broken pickles raise errors of many kinds, as the documentation of pickle says.
    except Exception as error:
        raise InputError(
            f"{path} is not a dictionary of number arrays written by numpy.save ({_reason(error)}); give the file as "
            "the authors wrote it, or write it again."
        ) from error


def _unpickle(stream: BinaryIO) -> dict[Any, Any]:
    shape, _, dtype = read_npy_header(stream)
    if not dtype.hasobject:
        raise ValueError(f"it holds a plain array {shape} {dtype}")
    content = stream.read()
    _refuse_promises(content)
    array = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(array, _Array) or not isinstance(array.data, list) or len(array.data) != 1:
        raise ValueError("it does not hold one object")
    dictionary = array.data[0]
    if not isinstance(dictionary, dict):
        raise ValueError(f"it holds a {type(dictionary).__name__}")
    return dictionary


def _refuse_promises(content: bytes) -> None:
    """Raise for a pickle that states a greater length than it has: the unpickler would allocate all of it at once."""
    for operation, argument, _ in pickletools.genops(content):  # raises for a length beyond the end
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) >= len(content):
            raise ValueError(f"it wants to remember {argument} objects")


def _plain_key(key: object) -> int | str:
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise ValueError(f"a key is {key!r}, neither text nor a whole number")
    if isinstance(key, int) and key.bit_length() > 63:
        raise ValueError("a key is a number of more than 63 bits")
    return key


def _plain_array(value: object) -> np.ndarray:
    if not isinstance(value, _Array) or not isinstance(value.data, np.ndarray):
        raise ValueError("a value is not an array of numbers")
    return value.data


class _DType:
    """Replacement for ``numpy.dtype`` while a pickle is read."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name
        self.byte_order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = state[1] if state[1] in ("<", ">") else "="

    def resolve(self) -> np.dtype:
        dtype = np.dtype(self.name).newbyteorder(self.byte_order)
        if dtype.kind not in "biuf":
            raise ValueError(f"it holds an array of {dtype}")
        return dtype


class _Array:
    """Replacement for ``numpy.ndarray`` while a pickle is read; ``data`` is a list for an array of objects."""

    def __init__(self) -> None:
        self.data: np.ndarray | list | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, data = state
        self.data = data if isinstance(data, list) else _from_bytes(data, dtype, shape, "F" if fortran_order else "C")


def _from_bytes(data: bytes | bytearray | str, dtype: _DType, shape: Sequence[int], order: str) -> np.ndarray:
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as text
    stored = np.frombuffer(raw, dtype=dtype.resolve()).reshape(tuple(shape), order=order)  # type: ignore[call-overload]
    return stored.astype(stored.dtype.newbyteorder("="), copy=True)


def _ndarray(*_: object) -> None:
    raise pickle.UnpicklingError("it makes an array in an unusual way")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(
    data: bytes, dtype: _DType, shape: Sequence[int], order: str, axes: Sequence[int] | None = None
) -> _Array:
    array = _Array()
    values = _from_bytes(data, dtype, shape, "C" if axes is not None else order)
    array.data = values if axes is None else values.transpose(tuple(axes))
    return array


def _tensor(storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *_: object) -> _Array:
    array = _Array()
    array.data = as_tensor(storage, offset, shape, strides)
    return array


def _scalar(dtype: _DType, data: bytes | str) -> int | float:
    return _from_bytes(data, dtype, (), "C").item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_ADMITTED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): read_storage,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,  # protocol 2 calls bytes() for the content of an empty array
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        admitted = _ADMITTED.get((module.replace("numpy._core", "numpy.core"), name))
        if admitted is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not needed for arrays")
        # A new function for every mention, because a pickle may set attributes of the object that it names.
        return lambda *arguments: admitted(*arguments)
