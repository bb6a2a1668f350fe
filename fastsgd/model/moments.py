"""Mean and spread of columns, in one pass over the rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import DataError


class Moments:
    """Moments of each column, merged in float64 from stretches of rows (Chan, Golub and LeVeque 1983).

    All is reckoned from the first row on: a small spread around a large mean keeps its digits, and a column that does
    not vary has a spread of exactly 0.
    """

    def __init__(self) -> None:
        self._count = 0
        self._first: NDArray[np.float64] = np.zeros(0)
        self._mean: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)

    def add(self, x: NDArray[np.float64]) -> None:
        """Take in some rows (rows, columns)."""
        if self._count == 0:
            self._first = x[0].copy()
            self._mean, self._squares = np.zeros((2, x.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            x = x - self._first
            here = x.mean(axis=0)
            x -= here
            difference = here - self._mean
            share = len(x) / (self._count + len(x))
            self._squares += np.square(x).sum(axis=0) + np.square(difference) * self._count * share
            self._mean += difference * share
        self._count += len(x)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each column."""
        return self._first + self._mean

    def scale(self, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
        """What brings each column to standard deviation 1, in `dtype`; 1 for a column that does not vary.

        Raises
        ------
        DataError
            If the variance of a column is beyond the largest number there is.
        """
        deviation = np.sqrt(self._squares / self._count)
        wide = np.flatnonzero(~np.isfinite(deviation))
        if wide.size:
            raise DataError(
                f"column {wide[0]} of the features spreads too far to be standardized: its variance is no finite "
                "number; divide it before, or leave it out"
            )
        with np.errstate(over="ignore", divide="ignore"):
            scale = (1 / deviation).astype(dtype)
        return np.where(np.isfinite(scale), scale, dtype.type(1))
