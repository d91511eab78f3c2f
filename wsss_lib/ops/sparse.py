"""Products of sparse matrices with a few dense columns: the operation that dense CRF and random walk are built on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix, stored by rows. Each row is summed in the order of its entries, so products are deterministic.

    Attributes:
        columns: Column of each entry, int32: ``(n, k)`` for n rows of k entries, or ``(entries,)``, row after row, if
            the rows have different lengths.
        weights: Value of each entry, float32, of the same shape as ``columns``.
        offsets: Start of each row and end of the last one, ``(n + 1,)`` int32; None if all rows have k entries.
    """

    columns: Tensor
    weights: Tensor
    offsets: Tensor | None = None

    def __matmul__(self, dense: Tensor) -> Tensor:
        """Multiply by ``(m, L)`` float32; the cost hardly depends on L while L is small."""
        if not dense.shape[1]:  # with several threads, PyTorch refuses this
            return dense.new_zeros(len(self.columns) if self.offsets is None else len(self.offsets) - 1, 0)
        return F.embedding_bag(
            self.columns,
            dense,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=self.offsets is not None,
        )

    def transpose(self, size: int) -> SparseRows:
        """Return the transpose. The matrix must have rows of equal length; ``size`` is its number of columns."""
        if self.columns.is_cpu:
            return self._count_transpose(size)
        length = self.columns.shape[1]
        columns, order = self.columns.flatten().sort(stable=True)
        starts = torch.searchsorted(columns, torch.arange(size + 1, dtype=torch.int32, device=columns.device))
        return SparseRows(order.int() // length, self.weights.flatten()[order], starts.int())

    def _count_transpose(self, size: int) -> SparseRows:
        """Transpose in linear time with SciPy, which counts instead of sorting and gives the same order of entries."""
        rows, length = self.columns.shape
        starts = np.arange(0, rows * length + 1, length, dtype=np.int32)
        entries = self.weights.numpy().ravel(), self.columns.numpy().ravel(), starts
        matrix = csr_array(entries, shape=(rows, size)).tocsc()
        return SparseRows(*(torch.from_numpy(part) for part in (matrix.indices, matrix.data, matrix.indptr)))
