"""Sparse times dense."""

import pytest
import torch

from wsss_lib.ops.sparse import SparseRows

LENGTHS = {"ragged": [3, 0, 1, 6, 0], "empty first": [0, 2, 4], "nothing": [0, 0]}


def dense_of(sparse, size):
    """Write every entry where it belongs."""
    offsets = sparse.offsets
    if offsets is None:
        offsets = torch.arange(len(sparse.columns) + 1) * sparse.columns.shape[1]
    lengths = offsets.cpu().diff()
    result = torch.zeros(len(lengths), size, dtype=torch.float64)
    which = torch.arange(len(lengths)).repeat_interleave(lengths)
    at = (which, sparse.columns.cpu().flatten().long())
    return result.index_put_(at, sparse.weights.cpu().double().flatten(), accumulate=True)


def close(ours, expected):
    torch.testing.assert_close(ours.cpu().double(), expected, rtol=1e-5, atol=1e-5)


def equal_rows(device, rows=7, length=4, size=9):
    """Columns repeat within a row; some may stay without any entry."""
    columns = torch.randint(0, size - 1, (rows, length)).int()
    columns[0] = columns[0, 0]
    return SparseRows(columns.to(device), torch.randn(rows, length, device=device))


def ragged_rows(device, lengths, size=9):
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    count = int(offsets[-1])
    columns = torch.randint(0, size, (count,)).int()
    return SparseRows(columns.to(device), torch.randn(count, device=device), offsets.to(device))


@pytest.mark.parametrize("columns", [1, 3, 21])
def test_rows_of_equal_length_times_dense(columns, device):
    sparse = equal_rows(device)
    dense = torch.randn(9, columns, device=device)
    close(sparse @ dense, dense_of(sparse, 9) @ dense.cpu().double())


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_rows_of_different_lengths_times_dense(lengths, device):
    sparse = ragged_rows(device, lengths)
    dense = torch.randn(9, 3, device=device)
    result = sparse @ dense
    assert result.shape == (len(lengths), 3)
    close(result, dense_of(sparse, 9) @ dense.cpu().double())
    assert not result[torch.tensor(lengths, device=device) == 0].any()


@pytest.mark.parametrize("threads", [1, 2])
def test_no_columns(threads, device):
    """As of an image that shows no class. With several threads, PyTorch refuses such products on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for sparse, rows in ((equal_rows(device), 7), (ragged_rows(device, LENGTHS["ragged"]), 5)):
            assert (sparse @ torch.randn(9, 0, device=device)).shape == (rows, 0)
    finally:
        torch.set_num_threads(before)


def test_transpose(device):
    sparse = equal_rows(device)
    transposed = sparse.transpose(9)
    assert torch.equal(dense_of(transposed, 7), dense_of(sparse, 9).t())
    dense = torch.randn(7, 2, device=device)
    expected = dense_of(sparse, 9).t() @ dense.cpu().double()
    close(transposed @ dense, expected)
    assert not expected[8].any()  # the last column has no entry, and still gets a row


def test_the_entries_of_a_transposed_row_keep_their_order(device):
    rows = equal_rows(device, rows=50).transpose(9)
    for part in rows.columns.cpu().tensor_split(rows.offsets[1:-1].cpu().long()):
        assert (part.diff() >= 0).all()


def test_counting_transposes_as_sorting_does():
    """The path of a CPU against that of a GPU, to the bit."""
    sparse = equal_rows("cpu", rows=1000, length=6, size=300)
    columns, order = sparse.columns.flatten().sort(stable=True)
    ours = sparse.transpose(300)
    assert torch.equal(ours.columns, order.int() // 6)
    assert torch.equal(ours.weights, sparse.weights.flatten()[order])
    assert torch.equal(ours.offsets[1:].long(), torch.bincount(columns, minlength=300).cumsum(0))
    assert ours.offsets[0] == 0


def test_equal_from_run_to_run(device):
    sparse = equal_rows(device, rows=3000, length=6, size=500)
    dense = torch.randn(500, 5, device=device)
    more = torch.randn(3000, 5, device=device)
    assert torch.equal(sparse @ dense, sparse @ dense)
    assert torch.equal(sparse.transpose(500) @ more, sparse.transpose(500) @ more)
