"""Tensors inside a pickle that ``numpy.save`` wrote, read without PyTorch's unpickler and without running any code.

IRN saves its class activation maps as a dictionary of PyTorch tensors. The content of each tensor is a file within the
file, in the format that ``torch.save`` had before version 1.6: five pickles, and then the numbers.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_MOST_OBJECTS = 1000
"""More objects than a pickle of plain values in such a file has."""

_KINDS = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""NumPy's type of the numbers in each storage; other storages are refused."""


class _Plain(pickle.Unpickler):
    """An unpickler that allows plain values and names of storages, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "torch" or name not in _KINDS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not needed for a tensor")
        return _KINDS[name]

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _load(stream: io.BytesIO) -> Any:
    """Return the value of the pickle at the position of a stream, and move the position to its end."""
    start = stream.tell()
    for operation, argument, _ in pickletools.genops(stream):
        if "PUT" in operation.name and int(argument or 0) >= _MOST_OBJECTS:  # the unpickler would allocate room for all
            raise ValueError(f"it asks for room for {argument} objects")
    stream.seek(start)
    return _Plain(stream).load()


def read_storage(content: bytes) -> np.ndarray:
    """Return the numbers ``(n,)`` of the storage of a tensor on a CPU.

    Args:
        content: The bytes that ``torch.storage._load_from_bytes`` would get.

    Raises:
        ValueError: The bytes are not such a storage, or are cut off.
        pickle.UnpicklingError: The bytes ask for another object than a storage that NumPy has a type for.
    """
    stream = io.BytesIO(content)
    magic, protocol, system = (_load(stream) for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise ValueError("a tensor in it is not written as NumPy writes tensors")
    if system.get("little_endian", True) is not (sys.byteorder == "little"):
        raise ValueError("a tensor in it was written on a computer with another byte order")
    entry, keys = _load(stream), _load(stream)
    if not isinstance(entry, tuple) or len(entry) < 5 or entry[0] != "storage" or keys != [entry[2]]:
        raise ValueError("a tensor in it does not have exactly one storage")
    kind = np.dtype(entry[1])
    count = int.from_bytes(stream.read(8), "little")
    rest = stream.read()
    if count != entry[4] or len(rest) != count * kind.itemsize:
        raise ValueError("a tensor in it is cut off")
    return np.frombuffer(rest, kind)


def as_tensor(storage: Any, offset: Any, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """Return the tensor that a storage holds as a new array.

    Args:
        storage: ``(n,)`` numbers.
        offset: Position of the first number.
        shape: Size of every dimension.
        strides: Distance of neighbours along every dimension, counted in numbers.

    Raises:
        ValueError: The tensor would reach beyond its storage, or be larger than the storage.
    """
    values = [offset, *shape, *strides]
    if not isinstance(storage, np.ndarray) or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("a tensor in it is described in an unusual way")
    count = int(np.prod([*map(int, shape)], dtype=object))
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if count and (last >= len(storage) or count > len(storage)):
        raise ValueError("a tensor in it is larger than its numbers")
    if not count:
        return np.zeros(tuple(shape), storage.dtype)
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(shape), steps).copy()
