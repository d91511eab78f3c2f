"""NumPy's format: equal to NumPy's own reader, and from several threads at once."""

import gc
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wsss_lib.data.npy import read_npy


def saved(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint16).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.zeros((0, 5, 5), np.float16),
        np.array(7, dtype=">i4"),
        np.array(["a", "bc"]),
    ],
)
def test_equal_to_numpy(array):
    read = read_npy(io.BytesIO(saved(array) + b"the next array"))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype
    assert read.flags.writeable


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (saved(np.ones(9))[:-1], "cut off"),
        (saved(np.array([{}], dtype=object)), "objects"),
        (saved(np.ones(9)).replace(b"(9,), }", b"(-9,),}"), "negative"),
        (b"no array at all", "magic"),
    ],
)
def test_what_is_not_an_array(content, word):
    with pytest.raises(ValueError, match=word):
        read_npy(io.BytesIO(content))


def test_threads_at_once():
    """Fails in Python 3.11.7 with NumPy's own reader: Python code in a garbage collection lets another thread go on."""

    def read(_):
        return [read_npy(io.BytesIO(content)).sum() for _ in range(300)]

    def callback(*_):
        return sum(range(300))

    content, interval, threshold = saved(np.ones((2, 3, 4))), sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        sys.setswitchinterval(1e-6)
        gc.set_threshold(20)
        with ThreadPoolExecutor(4) as pool:
            assert {value for values in pool.map(read, range(4)) for value in values} == {24}
    finally:
        gc.callbacks.remove(callback)
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
