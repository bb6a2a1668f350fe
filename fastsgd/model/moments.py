"""Mean and spread of columns, in one pass over the rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import DataError


class Moments:
    """Moments of each column, merged in float64 from stretches of rows (Chan, Golub and LeVeque 1983).

    Parameters
    ----------
    columns : int
    """

    def __init__(self, columns: int) -> None:
        self._count = 0
        self._mean = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._low = np.full(columns, np.inf)
        self._high = np.full(columns, -np.inf)

    def add(self, x: NDArray[np.float64]) -> None:
        """Take in some rows (rows, columns)."""
        self._low = np.minimum(self._low, x.min(axis=0))
        self._high = np.maximum(self._high, x.max(axis=0))
        with np.errstate(over="ignore", invalid="ignore"):
            here = x.mean(axis=0)
            centred = x - here
            # What rounding left over in the mean: with it, a small spread around a large mean keeps all its digits.
            rest = centred.mean(axis=0)
            squares = np.square(centred).sum(axis=0) - len(x) * np.square(rest)
            difference = here + rest - self._mean
            share = len(x) / (self._count + len(x))
            self._squares += squares + np.square(difference) * self._count * share
            self._mean += difference * share
        self._count += len(x)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each column."""
        return np.where(self._low == self._high, self._low, self._mean)

    def scale(self, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
        """What brings each column to standard deviation 1, in `dtype`; 1 for a column that does not vary.

        Raises
        ------
        DataError
            If the standard deviation of a column is beyond the largest number there is.
        """
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            deviation = np.sqrt(self._squares / self._count)
            wide = np.flatnonzero(~np.isfinite(deviation))
            if wide.size:
                j = int(wide[0])
                raise DataError(
                    f"column {j} of the features goes from {self._low[j]:g} to {self._high[j]:g}, too far to be "
                    "standardized; divide it before, or leave it out"
                )
            scale = (1 / deviation).astype(dtype)
        # Rounding gives a constant column a spread above 0, and the scale of the least spreads is infinite.
        varies = (self._low < self._high) & np.isfinite(scale)
        return np.where(varies, scale, dtype.type(1))
