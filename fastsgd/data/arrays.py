"""Rows that are already in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsgd.data.blocks import Asked, Check, Errand, Reader, Rows, Spans
from fastsgd.data.checks import NaN, as_nan
from fastsgd.data.dataset import Dataset
from fastsgd.data.spent import Spent
from fastsgd.errors import DataError


def storage_dtype(dtype: np.dtype[np.generic], name: str) -> np.dtype[np.generic]:
    """The dtype in which rows of `dtype` are held: native byte order; float16 as float32, bool as uint8.

    Raises
    ------
    DataError
        If it is no number of 8 to 64 bits.
    """
    if dtype.kind == "f" and dtype.itemsize == 2:
        return np.dtype(np.float32)  # compiled code has no float16
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize in (4, 8)):
        return dtype.newbyteorder("=")
    # Tables may lie in tables, deeper than NumPy can print.
    what = "text or objects" if dtype.kind in "OSUT" else f"{dtype}" if dtype.names is None else "tables"
    raise DataError(f"{name} holds {what}; fastsgd reads integers, booleans and float16, float32 or float64")


def _numbers(values: ArrayLike, name: str) -> NDArray[np.generic]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name} is no array: {error}") from error
    if array.ndim not in (1, 2):
        raise DataError(f"{name} has shape {array.shape}; it has one axis, or two: (rows, columns)")
    if array.size == 0:
        raise DataError(f"{name} has shape {array.shape}; it needs at least one row and one column")
    return np.ascontiguousarray(array.reshape(len(array), -1), storage_dtype(array.dtype, name))


class ArrayDataset(Dataset):
    """Features, targets and weights in arrays.

    Parameters
    ----------
    x : array (rows,) or (rows, n_features)
    y : array (rows,) or (rows, n_targets), optional
    weight : array (rows,), optional
        How much each row counts.
    nan : {"error", "skip", "zero"}
        As of `HDF5Dataset`. The arrays stay as they are.

    Raises
    ------
    DataError
        If the lengths differ, an array is empty, or its values are no numbers.
    """

    lends_views = True

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
        nan: NaN = "error",
    ) -> None:
        self.nan = as_nan(nan)
        self._x = _numbers(x, "x")
        self._y = None if y is None else _numbers(y, "y")
        self._weight = None if weight is None else _numbers(weight, "weight")
        for name, part in (("y", self._y), ("weight", self._weight)):
            if part is not None and len(part) != len(self._x):
                raise DataError(f"x has {len(self._x)} rows, {name} has {len(part)}; they need the same number")
        if self._weight is not None and self._weight.shape[1] != 1:
            raise DataError(f"weight has shape {np.asarray(weight).shape}; it has one value a row")
        self.n_features = self._x.shape[1]
        self.n_targets = 0 if self._y is None else self._y.shape[1]
        self.dtype = self._x.dtype
        self.target_dtype = None if self._y is None else self._y.dtype
        self.weight_dtype = None if self._weight is None else self._weight.dtype
        self.chunk_rows = max(1, (1 << 20) // max(1, self.row_bytes))
        self._spans = np.array([[0, len(self._x)]], np.int64)

    @property
    def x(self) -> NDArray[np.generic]:
        """The features (rows, n_features)."""
        return self._part(self._x)

    @property
    def y(self) -> NDArray[np.generic] | None:
        """The targets (rows, n_targets), or None."""
        return None if self._y is None else self._part(self._y)

    @property
    def weight(self) -> NDArray[np.generic] | None:
        """The weights (rows, 1), or None."""
        return None if self._weight is None else self._part(self._weight)

    def _part(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        if len(self._spans) == 1:
            return array[self._spans[0, 0] : self._spans[0, 1]]
        return np.concatenate([array[start:stop] for start, stop in self._spans.tolist()])

    def held(self) -> Rows | None:
        # Rows in several stretches would have to be copied, which a loader does where its budget allows.
        return Rows(self.x, self.y, self.weight) if len(self._spans) == 1 else None

    def block_bytes(self, rows: int) -> int:
        return 0  # views

    def _name(self) -> str:
        return "the arrays"

    @contextmanager
    def open(self, threads: int = 1, spent: Spent | None = None, *, beside: bool = False) -> Iterator[Reader]:
        yield self

    def request(self, start: int, stop: int, check: Check | None = None) -> Asked:
        """Rows start to stop, as views."""
        rows = Rows(self._x, self._y, self._weight).each(lambda part: part[start:stop])
        checked = rows if check is None else check(rows, {})
        return Asked(lambda: checked, stop - start)

    def bring(self, start: int, stop: int, places: Rows, check: Check) -> Errand:
        raise NotImplementedError("arrays lend views")

    def in_one(self, asked: Sequence[Asked]) -> Rows | None:
        """None: they are views."""

    def straight(self, spans: Spans, places: Rows) -> None:
        """None: they are in memory."""

    def settle(self, asked: Sequence[Asked]) -> None:
        """Nothing to do: there is no file."""

    def give_back(self, rows: Rows) -> None:
        """Nothing to do: they are views."""

    def _files(self) -> NDArray[np.int64]:
        return np.array([0, len(self._x)], np.int64)

    def locate(self, part: str, row: int, column: int) -> str:
        return f"{part}[{row}, {column}]"
