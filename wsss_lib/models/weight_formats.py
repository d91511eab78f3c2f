"""Readers for the formats of the first papers' weights, MXNet array lists and Caffe models, and for safetensors.

The readers of MXNet and Caffe need NumPy only. They map the file into memory, check every length against the rest of
the file before they allocate memory, and copy each array once. The reader of safetensors uses the library of the
format. Every fault of a file raises `InputError`.
"""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from wsss_lib.errors import InputError

MXNET_MAGIC = struct.pack("<Q", 0x112)
"""The first eight bytes of every MXNet array list."""

VGG16_LAYERS = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3", "fc6", "fc7"),
)
"""The layers of the 20-million-parameter VGG-16 that carry weights."""

_log = logging.getLogger(__name__)


class _DamagedError(Exception):
    """The bytes at an offset do not fit the format; the readers add the file's name."""

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(f"{problem} (byte {offset})")


def map_file(path: str | Path) -> memoryview:
    """Return the bytes of a file, mapped into memory and read only when they are touched.

    Raises:
        InputError: The file is missing, empty or cannot be opened.
    """
    try:
        return np.memmap(path, dtype=np.uint8, mode="r").data
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; put the weight file there or correct the path.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a weight file that is not empty.") from None


# --------------------------------------------------------------------------------------------------------- safetensors

_LONGEST_HEADER = 100_000_000
"""Greatest length of a header in bytes, according to the format."""


def is_safetensors(data: bytes | memoryview) -> bool:
    """Return whether a file begins like safetensors: with the length of a header in eight bytes and a brace.

    Files of other formats begin differently: an MXNet list has a zero in place of the brace, a Caffe model does not
    have the zeros of a length, and in all others the first eight bytes are not a possible length.
    """
    length = int.from_bytes(data[:8], "little")
    return bytes(data[8:9]) == b"{" and 2 <= length <= _LONGEST_HEADER


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file; its metadata is ignored. The format cannot contain code.

    Args:
        path: The file.

    Returns:
        Copies of the tensors on the CPU by key.

    Raises:
        InputError: The file is missing, cut off, damaged or of another format.
    """
    if not is_safetensors(map_file(path)[:9]):
        raise InputError(f"{path} is not a safetensors file; download it again or give the file that is meant.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library raises errors of several kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is damaged or incomplete ({reason}); download it again.") from None


# --------------------------------------------------------------------------------------------------------------- MXNet

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MOST_DIMENSIONS = 32
_BOOL, _BFLOAT16 = 7, 12
# How the values of each type flag lie in the file; NumPy has no bfloat16, so flag 12 is taken as its bit pattern.
_STORED = dict(enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "u1", "<i2", "<u2", "<u4", "<u8", "<u2")))


class MXNetList(NamedTuple):
    """The content of a file that `mx.nd.save` wrote.

    Attributes:
        names: One name per array, in file order; empty if the list was saved without names.
        arrays: The arrays in file order, None where an empty array was saved.
    """

    names: list[str]
    arrays: list[np.ndarray | None]


class _Cursor:
    """A position in the mapped file; moving it past the end raises an error."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def require(self, size: int, what: str) -> None:
        left = len(self.data) - self.position
        if size > left:
            raise _DamagedError(f"{what} needs {size} more bytes, but only {left} are left", self.position)

    def skip(self, size: int, what: str) -> None:
        self.require(size, what)
        self.position += size

    def integer(self, code: str, what: str) -> int:
        start = self.position
        self.skip(struct.calcsize("<" + code), what)
        value: int = struct.unpack_from("<" + code, self.data, start)[0]
        return value


def read_mxnet(path: str | Path) -> MXNetList:
    """Read an MXNet array list (`.params`) of any version, also with records of several versions.

    The device that an array was saved from and bytes after the last name are ignored. bfloat16 is converted to
    float32; other types are kept.

    Args:
        path: The file.

    Returns:
        Names and arrays; each array is a copy in memory.

    Raises:
        InputError: The file is missing, damaged, of another format, or holds sparse arrays.
    """
    cursor = _Cursor(map_file(path))
    if bytes(cursor.data[:8]) != MXNET_MAGIC or is_safetensors(cursor.data[:9]):
        raise InputError(f"{path} is not an MXNet weight file; download it again or give the file that is meant.")
    what = "the header"
    try:
        cursor.skip(16, what)
        count = cursor.integer("Q", what)
        cursor.require(4 * count, f"the list of {count} records")
        arrays = []
        for index in range(count):
            what = f"record {index}"
            arrays.append(_read_record(cursor, what))
        what = "the list of names"
        names = _read_names(cursor, count)
    except _DamagedError as error:
        raise InputError(f"{path} is damaged or incomplete in {what}: {error}; download it again.") from None
    return MXNetList(names, arrays)


def _read_record(cursor: _Cursor, what: str) -> np.ndarray | None:
    start = cursor.position
    version = cursor.integer("I", what)
    if version in (_V2, _V3):
        storage = cursor.integer("i", what)
        if storage != 0:
            raise _DamagedError(f"storage type {storage} is not dense, and sparse arrays are not supported", start)
        dimensions, code = cursor.integer("i", what), "q"
    elif version == _V1:
        dimensions, code = cursor.integer("I", what), "q"
    else:  # the oldest records have no version and begin with the number of dimensions
        dimensions, code = version, "I"
    if not -1 <= dimensions <= _MOST_DIMENSIONS:
        raise _DamagedError(f"an array cannot have {dimensions} dimensions", start)
    if dimensions < 0 or (dimensions == 0 and version != _V3):
        return None
    shape = tuple(cursor.integer(code, what) for _ in range(dimensions))
    if min(shape, default=0) < 0:
        raise _DamagedError(f"the shape {shape} has a negative side", start)
    cursor.skip(8, what)  # the device of the array
    flag = cursor.integer("i", what)
    if flag not in _STORED:
        raise _DamagedError(f"there is no type with the number {flag}", cursor.position - 4)
    return _read_values(cursor, shape, flag, what)


def _read_values(cursor: _Cursor, shape: tuple[int, ...], flag: int, what: str) -> np.ndarray:
    stored = np.dtype(_STORED[flag])
    start = cursor.position
    cursor.skip(math.prod(shape) * stored.itemsize, f"{what} of shape {shape}")
    try:
        values = np.ndarray(shape, stored, buffer=cursor.data[start : cursor.position])
    except ValueError:  # no values, but a side that is too long for NumPy
        raise _DamagedError(f"the shape {shape} is impossible", start) from None
    if flag == _BOOL:
        return np.asarray(values != 0)
    if flag == _BFLOAT16:
        return np.asarray(values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.copy()


def _read_names(cursor: _Cursor, count: int) -> list[str]:
    start = cursor.position
    names: list[str] = []
    named = cursor.integer("Q", "the number of names")
    if named not in (0, count):
        raise _DamagedError(f"there are {named} names for {count} arrays", start)
    for index in range(named):
        length = cursor.integer("Q", f"name {index}")
        start = cursor.position
        cursor.skip(length, f"name {index}")
        names.append(_text(cursor.data, start, cursor.position))
    if len(set(names)) != named:
        twice = next(name for name in names if names.count(name) > 1)
        raise _DamagedError(f"the name {twice!r} occurs more than once", start)
    return names


def _text(data: memoryview, start: int, stop: int) -> str:
    try:
        return str(data[start:stop], "utf-8")
    except UnicodeDecodeError:
        raise _DamagedError("a name is not valid UTF-8", start) from None


_BLOCK = r"(?P<block>[235]b[12]|4b[1-5]|[2-7]a)"
# The look-behinds tie a branch to the blocks that have it: a third convolution in 6a and 7a, a shortcut in every Na.
_CONVOLUTION = re.compile(rf"arg:res{_BLOCK}_(?P<branch>branch2a|branch2b1|(?<=[67]a_)branch2b2|(?<=a_)branch1)_weight")
_NORMALISATION = re.compile(
    rf"(?P<kind>arg|aux):bn(?:{_BLOCK}_(?P<branch>branch2a|branch2b1|(?<=[67]a_)branch2b2)|7)"
    r"_(?P<quantity>gamma|beta|moving_mean|moving_var)"
)
_QUANTITIES = {
    "arg:gamma": "weight",
    "arg:beta": "bias",
    "aux:moving_mean": "running_mean",
    "aux:moving_var": "running_var",
}
_CLASSIFIER = ("arg:linear1000_weight", "arg:linear1000_bias")


def resnet38d_from_mxnet(arrays: MXNetList, source: str | Path = "the MXNet list") -> dict[str, Tensor]:
    """Convert the arrays of an MXNet ResNet-38 to tensors with the keys of the PyTorch network.

    The ImageNet classifier (`linear1000`) is left out, and the log says so.

    Args:
        arrays: Result of `read_mxnet`.
        source: The file's name for error messages.

    Returns:
        Tensors by key, such as `b2_1.conv_branch2a.weight`, that share memory with the arrays; 191 in all for the
        whole network.

    Raises:
        InputError: The list has no names, an empty array, or a name that ResNet-38 does not have.
    """
    if not arrays.names:
        raise InputError(f"{source} has no names of arrays; give a ResNet-38 file that was saved with names.")
    state = {}
    for name, array in zip(arrays.names, arrays.arrays, strict=True):
        if name in _CLASSIFIER:
            _log.info("%s: dropped %s, which belongs to the ImageNet classifier", source, name)
            continue
        key = _resnet38d_key(name)
        if key is None:
            raise InputError(f"{source} has an array named {name!r}, which is not of ResNet-38; give a ResNet-38 file.")
        if array is None:
            raise InputError(f"{source} has no values for {name!r}; download the file again.")
        state[key] = torch.from_numpy(array)
    return state


def _resnet38d_key(name: str) -> str | None:
    """Return the PyTorch key for an MXNet name, or None if the network has no such array."""
    if name == "arg:conv1a_weight":
        return "conv1a.weight"
    if match := _CONVOLUTION.fullmatch(name):
        return f"{_block_key(match['block'])}.conv_{match['branch']}.weight"
    if match := _NORMALISATION.fullmatch(name):
        quantity = _QUANTITIES.get(f"{match['kind']}:{match['quantity']}")
        if quantity is None:
            return None
        owner = f"{_block_key(match['block'])}.bn_{match['branch']}" if match["block"] else "bn7"
        return f"{owner}.{quantity}"
    return None


def _block_key(block: str) -> str:
    """Turn `4a` into `b4` and `4b3` into `b4_3`."""
    return f"b{block[0]}" + (f"_{block[2:]}" if block[1] == "b" else "")


# --------------------------------------------------------------------------------------------------------------- Caffe

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_LAYERS = {2: (4, 6), 100: (1, 7)}  # field of the old and of the new layer: fields of its name and of its blobs
_OLD_SHAPE = (1, 2, 3, 4)
_VALUES = {5: (_FOUR_BYTES, 4), 8: (_EIGHT_BYTES, 8)}  # field of the values: wire type of a single one, bytes of one


def read_caffe(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Read the arrays of a binary Caffe model (`.caffemodel`), with old or new layer messages.

    Args:
        path: The file.

    Returns:
        For each layer that has arrays, in file order: its arrays as float32 (or float64 if the file stores float64)
        with the shape that the file states; in old files every shape has four sides.

    Raises:
        InputError: The file is missing, damaged, of another format, or from before 2014.
    """
    data = map_file(path)
    model: dict[str, list[np.ndarray]] = {}
    layers = 0
    try:
        for number, wire, start, stop in _fields(data, 0, len(data)):
            if number not in _LAYERS:
                continue
            _expect(wire == _LENGTH, "a layer", start)
            layers += 1
            name, blobs = _read_layer(data, start, stop, old=number == 2)
            if blobs and name in model:
                raise _DamagedError(f"the layer {name!r} occurs more than once", start)
            if blobs:
                model[name] = blobs
    except _DamagedError as error:
        raise InputError(f"{path} is not a Caffe model or is damaged: {error}; download it again.") from None
    if layers == 0:
        raise InputError(f"{path} is not a Caffe model, it has no layers; give a .caffemodel file.")
    return model


def _expect(condition: bool, what: str, offset: int) -> None:
    if not condition:
        raise _DamagedError(f"{what} is not stored as it should be", offset)


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """Return the number at a position and the position after it."""
    value = 0
    for index in range(10):
        if position + index >= end:
            raise _DamagedError("a number is cut off", position)
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & (1 << 64) - 1, position + index + 1
    raise _DamagedError("a number does not end", position)


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the field number, wire type, start and stop of every field of the message in `data[start:end]`."""
    position = start
    while position < end:
        tag_start = position
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise _DamagedError(f"there is no field with the number {number}", tag_start)
        begin = position
        if wire == _VARINT:
            _, position = _varint(data, position, end)
        elif wire == _EIGHT_BYTES:
            position += 8
        elif wire == _FOUR_BYTES:
            position += 4
        elif wire == _LENGTH:
            length, begin = _varint(data, position, end)
            position = begin + length
        else:
            raise _DamagedError(f"field {number} has the unsupported wire type {wire}", tag_start)
        if position > end:
            raise _DamagedError(f"field {number} needs {position - end} bytes more than there are", tag_start)
        yield number, wire, begin, position


def _read_layer(data: memoryview, start: int, end: int, old: bool) -> tuple[str, list[np.ndarray]]:
    name_field, blobs_field = _LAYERS[2 if old else 100]
    name, blobs = "", []
    for number, wire, begin, stop in _fields(data, start, end):
        if number == name_field:
            _expect(wire == _LENGTH, "a layer's name", begin)
            name = _text(data, begin, stop)
        elif number == blobs_field:
            _expect(wire == _LENGTH, "a blob", begin)
            blobs.append(_read_blob(data, begin, stop))
        elif old and number == 1:
            raise _DamagedError(
                "layers of the kind used until 2013 are not supported, upgrade the file in Caffe", begin
            )
    return name, blobs


def _read_blob(data: memoryview, start: int, end: int) -> np.ndarray:
    shape: list[int] | None = None
    old_shape = dict.fromkeys(_OLD_SHAPE, 0)
    # Values may come in any number of pieces; a bytearray collects them and then serves as the array's memory.
    pieces = {number: bytearray() for number in _VALUES}
    for number, wire, begin, stop in _fields(data, start, end):
        if number in _OLD_SHAPE:
            _expect(wire == _VARINT, "a side of a blob", begin)
            old_shape[number], _ = _varint(data, begin, stop)
        elif number == 7:
            _expect(wire == _LENGTH, "the shape of a blob", begin)
            shape = (shape or []) + _read_shape(data, begin, stop)
        elif number in _VALUES:
            single, size = _VALUES[number]
            _expect(wire in (single, _LENGTH) and (stop - begin) % size == 0, "the values of a blob", begin)
            pieces[number] += data[begin:stop]
    sides = tuple(old_shape.values() if shape is None else shape)
    if len(sides) > _MOST_DIMENSIONS:
        raise _DamagedError(f"a blob has an impossible shape of {len(sides)} sides", start)
    double = pieces[8] and not pieces[5]
    values = np.frombuffer(pieces[8], "<f8") if double else np.frombuffer(pieces[5], "<f4")
    if math.prod(sides) != values.size:
        raise _DamagedError(f"a blob of shape {sides} has {values.size} values", start)
    try:
        return values.reshape(sides)
    except (ValueError, OverflowError):  # more sides than NumPy allows, or no values but an impossible side
        raise _DamagedError("a blob has an impossible shape", start) from None


def _read_shape(data: memoryview, start: int, end: int) -> list[int]:
    sides = []
    for number, wire, begin, stop in _fields(data, start, end):
        if number != 1:
            continue
        _expect(wire in (_VARINT, _LENGTH), "the shape of a blob", begin)
        position = begin
        while position < stop:
            side, position = _varint(data, position, stop)
            sides.append(side)
    return sides


def vgg16_from_caffe(
    blobs: Mapping[str, list[np.ndarray]], source: str | Path = "the Caffe model"
) -> dict[str, Tensor]:
    """Convert the layers of VGG-16 in a Caffe model to tensors with the keys of the PyTorch network.

    Other layers, such as a classifier, are left out, and the log says so.

    Args:
        blobs: Result of `read_caffe`.
        source: The file's name for error messages.

    Returns:
        Thirty tensors that share memory with the arrays: `<layer>.weight` of shape `(out, in, kh, kw)` and
        `<layer>.bias` of shape `(out,)`.

    Raises:
        InputError: A layer is missing, or is not the weight and the bias of a convolution.
    """
    absent = [layer for layer in VGG16_LAYERS if layer not in blobs]
    if absent:
        names = ", ".join(absent[:3])
        raise InputError(f"{source} lacks {len(absent)} layers of VGG-16 ({names}); give a complete VGG-16 file.")
    for layer in blobs.keys() - set(VGG16_LAYERS):
        _log.info("%s: dropped the layer %s, which is not part of the backbone", source, layer)
    state = {}
    for layer in VGG16_LAYERS:
        shapes = [array.shape for array in blobs[layer]]
        weight, bias = blobs[layer] if len(shapes) == 2 else (np.empty(0), np.empty(0))
        # Old files write a bias as (1, 1, 1, out), and a fully connected weight as (1, 1, out, in).
        if layer.startswith("fc") and weight.shape[:-2] in ((), (1, 1)) and weight.ndim > 1:
            weight = weight.reshape(*weight.shape[-2:], 1, 1)
        if weight.ndim != 4 or bias.shape != (1,) * (bias.ndim - 1) + weight.shape[:1]:
            raise InputError(f"{source}: the layer {layer} has blobs of shape {shapes}, not a weight and its bias.")
        state[f"{layer}.weight"] = torch.from_numpy(weight)
        state[f"{layer}.bias"] = torch.from_numpy(bias.reshape(-1))
    return state
