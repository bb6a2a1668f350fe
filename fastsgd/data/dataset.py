"""What every dataset has in common: rows in a fixed order, read in blocks, split along blocks."""

from __future__ import annotations

import copy
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsgd.data.blocks import Blocks, Reader, Rows, Spans, count, cut, digest, joined, offsets, read_rows
from fastsgd.data.checks import NaN
from fastsgd.data.order import split_order
from fastsgd.data.plan import as_bytes
from fastsgd.data.spent import Spent
from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.arrays import ArrayDataset
    from fastsgd.data.loader import Loader

# A split has this many blocks or more in its smaller part: one block too many is a hundredth of the share, and no few
# days or sites stand for all the held-out rows.
_SPLIT_BLOCKS = 100
# Rows that lie together are read at least this many bytes at a time; below it, a read costs more than its bytes.
_READ_BYTES = 256 * 1024
# Of a fingerprint: places all over the rows, and rows at each.
_SAMPLES, _SAMPLE_ROWS = 8, 8


class Dataset(ABC):
    """Rows of features, with targets and weights where there are any.

    Attributes
    ----------
    n_rows, n_features, n_targets : int
        `n_targets` is 0 where there is no target.
    dtype : numpy.dtype
        In which the features are stored.
    chunk_rows : int
        Rows that are stored together.
    nbytes : int
        Bytes of all rows as stored, uncompressed.
    nan : {"error", "skip", "zero"}
        What is done about values that are not finite.
    lends_views : bool
        Whether rows that are read are views of memory that is not to be written to.
    """

    n_features: int
    n_targets: int
    dtype: np.dtype[np.generic]
    target_dtype: np.dtype[np.generic] | None
    weight_dtype: np.dtype[np.generic] | None
    chunk_rows: int
    nan: NaN
    lends_views = False
    _spans: Spans  # which source rows belong to this dataset

    @property
    def n_rows(self) -> int:
        return count(self._spans)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as stored: features, target and weight."""
        total = self.n_features * self.dtype.itemsize
        if self.target_dtype is not None:
            total += self.n_targets * self.target_dtype.itemsize
        if self.weight_dtype is not None:
            total += self.weight_dtype.itemsize
        return total

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.row_bytes

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._name()}: {self.n_rows} rows, {self.n_features} features ({self.dtype}), "
            f"{self.n_targets} targets>"
        )

    @abstractmethod
    def _name(self) -> str:
        """What the dataset is called in a message."""

    @abstractmethod
    def open(
        self, threads: int = 1, spent: Spent | None = None, *, beside: bool = False
    ) -> AbstractContextManager[Reader]:
        """The source, open while the context lasts; so many threads decode what is read, `beside` others that compute.
        `spent` is told how long they take."""

    @abstractmethod
    def _files(self) -> NDArray[np.int64]:
        """Where each file starts among the source rows, and at last where the last one ends."""

    @abstractmethod
    def locate(self, part: str, row: int, column: int) -> str:
        """How to name an element of "x", "y" or "weight" in an error: file, dataset, row, column."""

    def missing_values(self, part: str, row: int) -> Sequence[tuple[slice, np.generic]]:
        """Columns of "x", "y" or "weight", and a value that says there is none in them, for rows of the file that
        holds a source row."""
        return ()

    def held(self) -> Rows | None:
        """The rows as they lie in memory already, if they do."""
        return None

    def block_bytes(self, rows: int) -> int:
        """Bytes of `rows` rows as they are read."""
        return rows * self.row_bytes

    def reading_bytes(self, rows: int) -> int:
        """Bytes that reading `rows` rows at once takes, besides the rows."""
        return 0

    def decoder_bytes(self) -> int:
        """Bytes that each of the threads takes which decode what is read."""
        return 0

    def decodes(self) -> bool:
        """Whether a reader's own threads take part in reading."""
        return False

    def unit_rows(self) -> int:
        """Rows read at once: a chunk, or as many small ones as make a read worth its call."""
        per_chunk = max(1, self.chunk_rows * self.row_bytes)
        longest_file = int(np.diff(self._files()).max())
        return min(longest_file, self.chunk_rows * max(1, _READ_BYTES // per_chunk))

    def blocks(self) -> Blocks:
        """The blocks that the rows are read in, in order: the dataset's rows cut along chunks and files."""
        unit = self.unit_rows()
        return Blocks(*cut(self._spans, self._files(), unit, unit))

    def split(self, validation: float = 0.1, *, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two datasets of disjoint rows: (train, validation).

        The rows are split in blocks along the chunks, or in parts of chunks where there are too few chunks for the
        share to hold. The same for the same `validation` and `seed`.

        Parameters
        ----------
        validation : float
            The share of rows of the second dataset, above 0 and below 1.
        seed : int
            Draws the blocks.

        Raises
        ------
        DataError
            If `validation` is no share, or one part would be empty.
        """
        if not isinstance(validation, numbers.Real) or not 0 < validation < 1:
            raise DataError(f"validation is {validation!r}; it is a share of the rows, above 0 and below 1")
        share, n = float(validation), self.n_rows
        wanted = round(n * share)
        if not 0 < wanted < n:
            raise DataError(f"a validation share of {share} of {n} rows leaves a part empty ({self._name()})")
        unit = self.unit_rows()
        size = min(unit, max(1, int(n * min(share, 1 - share)) // _SPLIT_BLOCKS))
        pieces, _ = cut(self._spans, self._files(), unit, size)
        order = split_order(len(pieces), seed)
        ends = np.cumsum((pieces[:, 1] - pieces[:, 0])[order])
        drawn = int(np.searchsorted(ends, wanted)) + 1
        chosen, rest = pieces[order[:drawn]], pieces[order[drawn:]]
        surplus = int(ends[drawn - 1]) - wanted
        if surplus:
            # The last block drawn gives its tail back, so that the share holds to the row.
            stop = chosen[-1, 1]
            chosen[-1, 1] = stop - surplus
            rest = np.concatenate([rest, [[stop - surplus, stop]]])
        return self._with_spans(rest), self._with_spans(chosen)

    def _with_spans(self, spans: Spans) -> Dataset:
        part = copy.copy(self)
        part._spans = joined(spans[np.argsort(spans[:, 0])])
        return part

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        memory: int | str = "256MB",
        drop_last: bool = False,
        dtype: DTypeLike = np.float32,
        start: int = 0,
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        """Iterate over (x, y), or (x, y, weight), or (x,) where there is no target, batch by batch.

        Every row comes exactly once, in an order that `seed`, `epoch` and `memory` fix; with ``nan="skip"`` every row
        of finite values.

        Parameters
        ----------
        batch_size : int
            Rows of a batch; the last may have fewer.
        seed, epoch : int
            Each pair has an order of its own.
        shuffle : bool
            Where false, rows come as they are stored.
        memory : int or str
            Budget in bytes, or like "256MB". Data larger than it pass through a shuffling window.
        drop_last : bool
            Leave out a last batch that is not full.
        dtype : dtype
            Of the arrays: float32 or float64.
        start : int
            Rows that have come before, where an iteration is gone on with: the batches begin with the next.

        Yields
        ------
        tuple of arrays
            x (rows, n_features), y (rows, n_targets), weight (rows,), C-contiguous, yours to keep.

        Raises
        ------
        DataError
            If an argument is none of these; while iterating, if the data cannot be read, or a value is not finite.
        MemoryBudgetError
            If `memory` is too small, and names the least that works; or if the process cannot have what is planned.
        """
        from fastsgd.data.loader import Loader

        loader = Loader(self, batch_size=batch_size, dtype=dtype, memory=memory, seed=seed, shuffle=shuffle)
        return self._batches(loader, batch_size, epoch, start, drop_last)

    def _batches(
        self, loader: Loader, batch_size: int, epoch: int, start: int, drop_last: bool
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        with closing(loader.epoch(epoch, start)) as slabs:  # type: ignore[type-var]
            for slab in slabs:
                for first in range(0, len(slab.x), batch_size):
                    rows = slice(first, first + batch_size)
                    if drop_last and len(slab.x[rows]) < batch_size:
                        return
                    parts = [slab.x[rows].copy()]
                    if self.target_dtype is not None:
                        parts.append(slab.y[rows].copy())
                    if self.weight_dtype is not None:
                        parts.append(slab.weight[rows].copy())
                    yield tuple(parts)

    def take(self, rows: int | slice | ArrayLike) -> ArrayDataset:
        """Copy some rows into memory, for looking at them.

        Parameters
        ----------
        rows : int, slice, or array
            The first `rows` rows, or a slice, or row numbers in any order, or a mask (n_rows,) of booleans.

        Raises
        ------
        DataError
            If that is no row, or one that there is not; or if so many do not fit in memory.
        """
        from fastsgd.data.arrays import ArrayDataset

        wanted = self._row_numbers(rows)
        starts = offsets(self._spans)
        span = np.searchsorted(starts, wanted, side="right") - 1
        try:
            with self.open() as reader:
                found = read_rows(reader, self._spans[span, 0] + wanted - starts[span], self._files())
        except MemoryError as error:
            size = as_bytes(len(wanted) * self.row_bytes)
            raise DataError(f"take: {len(wanted)} rows of {self._name()} take {size}, more than there is") from error
        return ArrayDataset(found.x, found.y, weight=found.weight, nan=self.nan)

    def fingerprint(self) -> dict[str, Any]:
        """What tells these rows from others, in values that JSON has: counts and dtypes, and digests of which rows of
        the source they are and of some of their values. A copy of a file has that of the file.

        Raises
        ------
        DataError
            If rows cannot be read.
        """
        n = self.n_rows
        places = np.linspace(0, n - min(n, _SAMPLE_ROWS), _SAMPLES).astype(np.int64)
        sample = self.take(np.unique((places[:, None] + np.arange(min(n, _SAMPLE_ROWS))).ravel()))
        parts = [part for part in (sample.x, sample.y, sample.weight) if part is not None]
        return {
            "rows": n,
            "features": self.n_features,
            "targets": self.n_targets,
            "dtypes": [None if dtype is None else dtype.name for dtype in self._dtypes],
            "nan": self.nan,
            "selection": digest(self._spans),
            "values": digest(*parts),
        }

    @property
    def _dtypes(self) -> tuple[np.dtype[np.generic] | None, ...]:
        return self.dtype, self.target_dtype, self.weight_dtype

    def _row_numbers(self, rows: int | slice | ArrayLike) -> NDArray[np.int64]:
        """What `take` is given, as numbers in [0, n_rows)."""
        n = self.n_rows
        if isinstance(rows, numbers.Integral) and not isinstance(rows, bool):
            rows = slice(0, max(0, int(rows)))
        try:
            given = np.arange(*rows.indices(n)) if isinstance(rows, slice) else np.asarray(rows)
        except MemoryError as error:
            raise DataError(
                f"take: {rows!r} of {n} rows of {self._name()} are more than there is memory for; iterate over batches"
            ) from error
        if given.dtype == bool and given.shape == (n,):
            given = np.flatnonzero(given)
        if given.size == 0:
            raise DataError(f"take: no rows were asked for; {self._name()}: rows 0 to {n - 1}")
        if given.dtype.kind not in "iu" or given.ndim != 1:
            raise DataError(f"take: rows is {rows!r}; it is a count, a slice, row numbers, or a mask of {n} booleans")
        outside = given[(given < -n) | (given >= n)]
        if outside.size:
            raise DataError(f"take: there is no row {outside[0]}; {self._name()}: rows 0 to {n - 1}")
        return given.astype(np.int64) % n
