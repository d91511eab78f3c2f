"""Sparse matrices in row form, times a few dense columns: the one operation behind dense CRF and random walk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix, row by row. Every row is summed in the order of its entries, so products are deterministic.

    Attributes:
        columns: ``(n, k)`` int32, the columns of the k entries of each row; or, for rows of different lengths,
            ``(entries,)`` int32, row after row.
        weights: The entries, float32, of the same shape.
        offsets: For rows of different lengths ``(n + 1,)`` int32: where each row begins, and where the last one ends.
    """

    columns: Tensor
    weights: Tensor
    offsets: Tensor | None = None

    def __matmul__(self, dense: Tensor) -> Tensor:
        """Multiply by ``(m, L)`` float32; the cost hardly depends on L while L is small."""
        return F.embedding_bag(
            self.columns,
            dense,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=self.offsets is not None,
        )

    def transpose(self, size: int) -> SparseRows:
        """Return the transpose of a matrix of rows of equal length with ``size`` columns."""
        if self.columns.is_cpu:
            return self._count_transpose(size)
        length = self.columns.shape[1]
        columns, order = self.columns.flatten().sort(stable=True)
        starts = torch.searchsorted(columns, torch.arange(size + 1, dtype=torch.int32, device=columns.device))
        return SparseRows(order.int() // length, self.weights.flatten()[order], starts.int())

    def _count_transpose(self, size: int) -> SparseRows:
        """Transpose in linear time: SciPy counts where a device sorts, and leaves entries in the same order."""
        rows, length = self.columns.shape
        starts = np.arange(0, rows * length + 1, length, dtype=np.int32)
        entries = self.weights.numpy().ravel(), self.columns.numpy().ravel(), starts
        matrix = csr_array(entries, shape=(rows, size)).tocsc()
        return SparseRows(*(torch.from_numpy(part) for part in (matrix.indices, matrix.data, matrix.indptr)))
