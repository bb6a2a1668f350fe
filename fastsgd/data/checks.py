"""What rows must be to be trained on, and what becomes of those that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.blocks import Block, Known, Rows
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

    @property
    def is_quick(self) -> bool:
        """Whether rows of which all is known need no further look at each value of theirs."""
        return not self._some_are_missing

    @property
    def types(self) -> list[np.dtype[Any]]:
        """Of the parts that there are, as they are stored."""
        return list(self._types.values())

    @property
    def looks_at_targets(self) -> bool:
        """Whether not any finite target will do."""
        return self._check_target is not None

    @cached_property
    def _types(self) -> dict[str, np.dtype[Any]]:
        """Of the parts that there are."""
        dataset = self._dataset
        types = {"x": dataset.dtype, "y": dataset.target_dtype, "weight": dataset.weight_dtype}
        return {name: dtype for name, dtype in types.items() if dtype is not None}

    @cached_property
    def _some_are_missing(self) -> bool:
        """Whether values stand for missing ones."""
        starts = self._dataset._files()[:-1].tolist()
        return any(self._dataset.missing_values(name, row) for row in starts for name in self._types)

    def _is_fit(self, name: str, known: Known) -> bool:
        """Whether values of a part are known to be finite in the dtype of the slabs."""
        from fastsgd.kernels.reading import FINITE, READ, SINGLE

        return known.get(name, READ) >= (SINGLE if self._dtype == np.float32 else FINITE)

    def passes(self, rows: Rows, known: Known) -> bool:
        """Whether rows of any blocks are fit, of whose values so much is known; if not, some may be unfit."""
        if self._some_are_missing:
            return False
        for name, part in rows._asdict().items():
            if part is not None and part.dtype.kind == "f" and not self._is_fit(name, known):
                return False
        return self._wrong_target(rows) is None

    def _exceeds(self, values: NDArray[Any]) -> bool:
        """Whether some finite values would not be finite in the dtype of the slabs."""
        if values.itemsize <= self._dtype.itemsize:
            return False
        limit = float(np.finfo(self._dtype).max)
        return float(values.max()) > limit or float(values.min()) < -limit

    def _wrong_target(self, rows: Rows) -> tuple[int, str] | None:
        """The position of the first bad target, and what is wrong with it."""
        if self._check_target is None or rows.y is None or not len(rows.y):
            return None
        return self._check_target(rows.y)

    def __call__(self, block: Block, rows: Rows, known: Known) -> Rows:
        """The rows of a block that are fit, maybe in the memory of those given, of whose values so much is known.

        Raises
        ------
        DataError
            For the first value that cannot be trained on, named by file, dataset, row and column.
        """
        kept = None
        unfit = {
            name: part
            for name, part in rows._asdict().items()
            if part is not None and self._first_unfit(block, name, part, self._is_fit(name, known)) >= 0
        }
        if unfit and self._dataset.nan == "skip":
            kept = self._fit_rows(block, unfit)
            rows = rows.each(lambda part: self._only(part, kept))
        elif unfit:
            if self._dataset.nan == "zero" and "x" in unfit:
                rows = rows._replace(x=self._zeroed(block, unfit.pop("x")))
            for name, part in unfit.items():
                raise DataError(self._about(block, name, part))
        wrong = self._wrong_target(rows)
        if wrong is not None:
            row = wrong[0] if kept is None else int(np.flatnonzero(kept)[wrong[0]])
            raise DataError(f"{self._dataset.locate('y', block.source_row(row), 0)}: {wrong[1]}")
        return rows

    def _about(self, block: Block, name: str, part: NDArray[np.generic]) -> str:
        """What is wrong with the first unfit value of a part."""
        row, column = divmod(self._first_unfit(block, name, part), part.shape[1])
        value, where = part[row, column], self._dataset.locate(name, block.source_row(row), column)
        if not np.isfinite(value):
            rule = "every value must be a finite number"
        elif part.dtype.kind == "f" and abs(value) > np.finfo(self._dtype).max:
            rule = f"too large for {self._dtype}"
        else:
            where = f"{where} is {value}, which stands for a missing value"
            return f"{where} (_FillValue, missing_value, or netCDF's own); {self._way_out(name)}"
        return f"{where} is {value}; {rule}; {self._way_out(name)}"

    def _way_out(self, name: str) -> str:
        zero = ', nan="zero" would put 0 in its place' if name == "x" else ""
        return f'nan="skip" would leave the row out{zero}'

    def _first_unfit(self, block: Block, name: str, part: NDArray[np.generic], fit: bool = False) -> int:
        """Position of the first value that is not finite, or would not be in the dtype of the slabs, where that is not
        known to be fit, or else of one that stands for a missing value; or -1."""
        if part.dtype.kind == "f" and not fit:
            from fastsgd.kernels.rows import first_nonfinite

            values = part.reshape(-1)
            position = int(first_nonfinite(values))
            if position >= 0:
                return position
            if self._exceeds(values):
                return int(np.argmax(np.abs(values) > float(np.finfo(self._dtype).max)))
        for columns, missing in self._dataset.missing_values(name, block.first_row):
            for start in range(0, len(part), _TOGETHER):
                equal = part[start : start + _TOGETHER, columns] == missing
                if equal.any():
                    row, column = np.argwhere(equal)[0].tolist()
                    return int((start + row) * part.shape[1] + columns.start + column)
        return -1

    def _fitness(self, block: Block, name: str, part: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """Which values of a part are fit, some rows after the other."""
        limit = min(float(np.finfo(dtype.type).max) for dtype in (part.dtype, self._dtype) if dtype.kind == "f")
        for start in range(0, len(part), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            fit = np.abs(part[some]) <= limit if part.dtype.kind == "f" else np.ones(part[some].shape, np.bool_)
            for columns, missing in self._dataset.missing_values(name, block.first_row):
                fit[:, columns] &= part[some, columns] != missing
            yield some, fit

    def _fit_rows(self, block: Block, unfit: dict[str, NDArray[np.generic]]) -> NDArray[np.bool_]:
        """A mask of the rows whose values are fit in all of some parts."""
        kept = np.ones(block.n_rows, np.bool_)
        for name, part in unfit.items():
            for some, fit in self._fitness(block, name, part):
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

    def _zeroed(self, block: Block, part: NDArray[np.generic]) -> NDArray[np.generic]:
        out = part.copy() if self._dataset.lends_views else part
        for some, fit in self._fitness(block, "x", out):
            out[some][~fit] = 0
        return out
