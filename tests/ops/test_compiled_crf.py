"""The compiled dense CRF: its lattice and its updates equal those of the torch backend."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import recipe
from tests.ops.test_dense_crf import energies, field, matrix_field, picture
from wsss_lib.ops import dense_crf as module
from wsss_lib.ops.dense_crf import PRESETS, dense_crf
from wsss_lib.ops.permutohedral import Lattice

pytest.importorskip("numba", reason="numba is not installed; pip install numba to test the compiled dense CRF")
compiled = importlib.import_module("wsss_lib.ops.compiled_crf")


@pytest.fixture
def threads():
    """Set the number of threads, and restore it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def points(d, count=403, spread=6.0):
    return torch.from_numpy(recipe.uniform(f"points/{d}", (d, count), 0.0, spread))


def in_order_of(lattice, other):
    """For each corner of a torch lattice, the corner of the compiled lattice that the same points have."""
    number = np.full(lattice.size, -1)
    number[lattice.slicing.columns.numpy()] = other.columns
    return number


@pytest.mark.parametrize(("d", "spread"), [(2, 6.0), (2, 400.0), (5, 3.0), (5, 40.0)])
def test_lattice_of_the_torch_backend(d, spread):
    """A wide spread needs more corners than the hash table has at first room for."""
    features = points(d, 404 if spread < 10 else 12_000, spread)
    expected, lattice = Lattice(features), compiled.build(features)
    number = in_order_of(expected, lattice)
    assert lattice.size == expected.size > (10 if spread < 10 else 2**14)
    assert np.array_equal(number[expected.slicing.columns.numpy()], lattice.columns)
    assert np.array_equal(lattice.weights, expected.slicing.weights.numpy())
    for axis, ours in zip(expected.axes, lattice.neighbours, strict=True):
        theirs = np.where(axis.weights[:, 1:] > 0, number[axis.columns[:, 1:].numpy()], lattice.size)
        assert np.array_equal(theirs, ours[number])
    ones = expected.filter(torch.ones(features.shape[1], 1))[:, 0]
    np.testing.assert_allclose(lattice.ones * lattice.scale, ones.numpy(), rtol=1e-5)


def test_the_point_that_fills_up_a_group_of_four():
    features = points(5, 402) + 3  # a point at 0 has corners of its own
    lattice = compiled.build(features)
    assert lattice.size == Lattice(features).size > len(np.unique(lattice.columns))
    assert lattice.columns.shape == (402, 6)


def test_the_point_that_fills_up_a_group_of_four_is_far_away():
    """Its corners must not have the numbers of neighbours that are not there."""
    features = torch.tensor([[10.02, 10.13, 9.37], [17.22, 17.47, 17.91]])
    expected, lattice = Lattice(features), compiled.build(features)
    ones = expected.filter(torch.ones(3, 1))[:, 0]
    np.testing.assert_allclose(lattice.ones * lattice.scale, ones.numpy(), rtol=1e-5)


def test_more_cells_than_the_upper_limit_can_number(monkeypatch):
    features = points(5)
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "coordinate_range", lambda _: 2**20)
        other = compiled.build(features)
    lattice = compiled.build(features)
    for name in ("columns", "neighbours"):
        assert getattr(lattice, name).shape == getattr(other, name).shape
    assert np.array_equal(lattice.weights, other.weights)
    np.testing.assert_allclose(lattice.ones, other.ones, rtol=1e-5)


def test_exponential():
    vectors = importlib.import_module("wsss_lib.ops.vectors")

    @vectors.numba.njit
    def apply(values):
        for i in range(0, len(values), 4):
            vectors.store(values, i, vectors.exponential(vectors.load(values, i)))

    x = np.append(np.linspace(-87, 0, 99_999, dtype=np.float32), np.float32([0, -88, -1e30, -np.inf, -87.1])).repeat(4)
    result = x.copy()
    apply(result)
    expected = np.where(x < -87, 0, np.exp(x.astype(np.float64)))
    np.testing.assert_allclose(result, expected, rtol=2e-7, atol=0)
    assert (result[x == 0] == 1).all()


FIELDS = {
    **{name: replace(preset, steps=2) for name, preset in PRESETS.items()},
    "before": field(normalisation="before"),
    "after": field(normalisation="after"),
    "none": field((0.1, 0.3), "none"),
    "matrix": matrix_field(),
    "three kernels": replace(field(), kernels=(*field().kernels, field(far=(20.0, 9.0)).kernels[1])),
    "no kernels": replace(field(), kernels=()),
    "no steps": field(steps=0),
    "position": replace(field(), kernels=field().kernels[:1]),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("groups", [1, 2])
def test_results_of_the_torch_backend(name, groups):
    size = (37, 45)
    unary = energies("oracle", (groups, 3, *size))
    unary[:, 1, :5] = torch.inf
    ours, oracle = (dense_crf([picture("oracle", size)], [unary], FIELDS[name], x)[0] for x in ("numba", "torch"))
    torch.testing.assert_close(ours, oracle, rtol=0, atol=2e-5)
    assert not ours[:, 1, :5].any()


@pytest.mark.parametrize("labels", [1, 2, 4, 5, 8, 21])
def test_any_number_of_labels(labels):
    unary = energies(f"labels{labels}", (labels, 31, 26))
    ours, oracle = (dense_crf([picture("labels", (31, 26))], [unary], field(), x)[0] for x in ("numba", "torch"))
    torch.testing.assert_close(ours, oracle, rtol=0, atol=2e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_ten_updates(groups):
    """Rounding grows with the updates where two labels are nearly equal."""
    size = (120, 150)
    unary = energies("ten", (groups, 3, *size))
    ours, oracle = (dense_crf([picture("ten", size)], [unary], "psa", x)[0] for x in ("numba", "torch"))
    assert (ours - oracle).abs().max() < 1e-3
    assert (ours - oracle).abs().mean() < 1e-6
    assert (ours.argmax(-3) == oracle.argmax(-3)).float().mean() >= 0.9999
    assert (ours.argmax(-3) != unary.argmin(-3)).float().mean() > 0.01


@pytest.mark.parametrize("count", [2, 3])
def test_threads_share_the_pixels(count, threads):
    image, unary = picture("threads", (41, 30)), energies("threads", (3, 41, 30))
    threads(1)
    (alone,) = dense_crf([image], [unary], "psa", "numba")
    threads(count)
    first, second = (dense_crf([image], [unary], "psa", "numba")[0] for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-5)


def test_no_more_threads_than_pixels(threads):
    threads(4)
    (result,) = dense_crf([picture("few", (1, 3))], [energies("few", (2, 1, 3))], "psa", "numba")
    torch.testing.assert_close(result.sum(0), torch.ones(1, 3))


def test_the_lattice_of_positions_is_cached(monkeypatch):
    built = []
    build = compiled.build
    monkeypatch.setattr(compiled, "build", lambda features: built.append(len(features)) or build(features))
    module._compiled_positions.cache_clear()
    for name in ("first", "second"):
        dense_crf([picture(name, (9, 12))], [energies(name, (2, 9, 12))], field(), "numba")
    dense_crf([picture("first", (12, 9))], [energies("first", (2, 12, 9))], field(), "numba")
    assert built == [2, 5, 5, 2, 5]


def test_numba_is_not_imported_before_it_is_needed():
    """Importing it takes half a second, and several processes use the library without a CRF."""
    code = "import sys, wsss_lib.ops.dense_crf; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written():
    """The code is then compiled again by every process."""
    code = "from wsss_lib.ops import compiled_crf; print(type(compiled_crf._update._cache).__name__)"
    options = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}
    done = subprocess.run([sys.executable, "-c", code], env=options, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "NullCache\n"
