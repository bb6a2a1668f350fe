"""What a loader hands over: some batches of rows, ready to be trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Rows


@dataclass
class Slab:
    """Whole batches of rows: x (rows, n_features), y (rows, n_targets), weight (rows,) or (0,).

    Where `order` (int64) is not empty, the arrays are those of a whole dataset, and the slab is its rows in that order.
    The arrays are used again for a later slab: copy what must outlive the next step of the iteration.
    """

    x: NDArray[np.floating]
    y: NDArray[np.floating]
    weight: NDArray[np.floating]
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.order) or len(self.x)

    def first(self, rows: int) -> Slab:
        """The first `rows` rows."""
        return self.rows(0, rows)

    def rows(self, first: int, last: int) -> Slab:
        """Rows `first` to `last`."""
        if len(self.order):
            return replace(self, order=self.order[first:last])
        return replace(self, x=self.x[first:last], y=self.y[first:last], weight=self.weight[first:last])

    def parts(self, first: int, last: int) -> Rows:
        """Rows `first` to `last`, of columns that there are."""
        x, y, weight = self.x[first:last], self.y[first:last], self.weight[first:last].reshape(-1, 1)
        return Rows(x, y if y.shape[1] else None, weight if len(self.weight) else None)
