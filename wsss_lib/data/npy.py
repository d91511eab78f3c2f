"""NumPy's ``.npy`` format, read by several threads at once."""

from __future__ import annotations

import math
from threading import Lock
from typing import IO

import numpy as np

_PARSER = Lock()
"""NumPy reads a header as Python source. In Python 3.11, before 3.11.8, two threads that parse source at the same time
can both fail with "AST constructor recursion depth mismatch"."""


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether the order is Fortran's, and the dtype of an array, and leave the stream at its values.

    Raises:
        ValueError: The stream does not hold such a header.
    """
    with _PARSER:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
    return shape, fortran_order, dtype


def read_npy(stream: IO[bytes]) -> np.ndarray:
    """Return an array that :func:`numpy.save` wrote; the rest of the stream is not read.

    Raises:
        ValueError: The stream does not hold an array, is cut off, or the array holds objects.
    """
    shape, fortran_order, dtype = read_npy_header(stream)
    if dtype.hasobject:
        raise ValueError("it holds objects instead of numbers")
    if any(length < 0 for length in shape):
        raise ValueError("a length is negative")
    count = math.prod(shape)
    content = stream.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise ValueError("it is cut off")
    return np.frombuffer(content, dtype, count).reshape(shape, order="F" if fortran_order else "C").copy()
