"""What rows must be to be trained on, and what becomes of those that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.blocks import Block, Rows
    from fastsgd.data.dataset import Dataset

NaN = Literal["error", "skip", "zero"]

# Called with the targets of a block; returns the position of the first bad one and what is wrong with it, or None.
TargetCheck = Callable[[NDArray[np.generic]], "tuple[int, str] | None"]

_TOGETHER = 4096  # rows that are looked at one by one, where some are unfit: little memory beside that of a block


def as_nan(nan: str) -> NaN:
    """One of the policies.

    Raises
    ------
    DataError
        If it is none.
    """
    if nan not in get_args(NaN):
        raise DataError(f"nan is {nan!r}; it is 'error', 'skip' (leave such rows out) or 'zero' (put 0 in their place)")
    return cast(NaN, nan)


class RowCheck:
    """Lets rows pass whose values are finite, in the dtype of the slabs too, and whose targets suit the loss.

    Parameters
    ----------
    dataset : Dataset
        Says what is done about other values, and names them.
    dtype : numpy.dtype
        Of the slabs.
    check_target : callable, optional
        Says what is wrong with a block of targets.
    """

    def __init__(self, dataset: Dataset, dtype: np.dtype[Any], check_target: TargetCheck | None) -> None:
        self._dataset = dataset
        self._dtype = dtype
        self._check_target = check_target

    def __call__(self, block: Block, rows: Rows) -> Rows:
        """The rows of a block that are fit, maybe in the memory of those given.

        Raises
        ------
        DataError
            For the first value that cannot be trained on, named by file, dataset, row and column.
        """
        nan, kept = self._dataset.nan, None
        if nan == "zero" and self._first_unfit(rows.x) >= 0:
            rows = rows._replace(x=self._zeroed(rows.x))
        if nan == "skip":
            kept = self._fit_rows(rows)
        if kept is None:
            self._require_fit(block, rows)
        else:
            rows = rows.each(lambda part: self._only(part, kept))
        if self._check_target is not None and rows.y is not None:
            wrong = self._check_target(rows.y)
            if wrong is not None:
                row = wrong[0] if kept is None else int(np.flatnonzero(kept)[wrong[0]])
                raise DataError(f"{self._dataset.locate('y', block.source_row(row), 0)}: {wrong[1]}")
        return rows

    def _require_fit(self, block: Block, rows: Rows) -> None:
        for name, part in rows._asdict().items():
            position = -1 if part is None else self._first_unfit(part)
            if position >= 0:
                row, column = divmod(position, part.shape[1])
                value, where = part[row, column], self._dataset.locate(name, block.source_row(row), column)
                rule = f"too large for {self._dtype}" if np.isfinite(value) else "every value must be a finite number"
                zero = ', nan="zero" would put 0 in its place' if name == "x" else ""
                raise DataError(f'{where} is {value}; {rule} (nan="skip" would leave the row out{zero})')

    def _first_unfit(self, part: NDArray[np.generic]) -> int:
        """Position of the first value that is not finite, or would not be in the dtype of the slabs, or -1."""
        from fastsgd.kernels.rows import first_nonfinite

        if part.dtype.kind != "f":
            return -1
        values = part.reshape(-1)
        position = int(first_nonfinite(values))
        if position < 0 and values.itemsize > self._dtype.itemsize:
            limit = float(np.finfo(self._dtype).max)
            if float(values.max()) > limit or float(values.min()) < -limit:
                position = int(np.argmax(np.abs(values) > limit))
        return position

    def _fitness(self, part: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """Which values of some rows are fit, for all rows."""
        limit = min(float(np.finfo(dtype.type).max) for dtype in (part.dtype, self._dtype))
        for start in range(0, len(part), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            yield some, np.abs(part[some]) <= limit

    def _fit_rows(self, rows: Rows) -> NDArray[np.bool_] | None:
        """A mask of the rows with fit values only, or None where all are."""
        unfit = [part for part in rows if part is not None and self._first_unfit(part) >= 0]
        if not unfit:
            return None
        kept = np.ones(len(rows.x), np.bool_)
        for part in unfit:
            for some, fit in self._fitness(part):
                kept[some] &= fit.all(axis=1)
        return kept

    def _only(self, part: NDArray[np.generic], kept: NDArray[np.bool_]) -> NDArray[np.generic]:
        """Some of the rows, in the same memory where that is not the user's."""
        out = np.empty_like(part) if self._dataset.lends_views else part
        at = 0
        for start in range(0, len(part), _TOGETHER):
            some = part[start : start + _TOGETHER][kept[start : start + _TOGETHER]]
            out[at : at + len(some)] = some
            at += len(some)
        return out[:at]

    def _zeroed(self, part: NDArray[np.generic]) -> NDArray[np.generic]:
        out = part.copy() if self._dataset.lends_views else part
        for some, fit in self._fitness(out):
            out[some][~fit] = 0
        return out
