"""What every dataset has in common: rows in a fixed order, read in blocks, split along blocks."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.arrays import ArrayDataset

# A split needs this many blocks in its smaller part: one block more or less is then at most a fortieth of the share.
_SPLIT_BLOCKS = 20
# Rows that lie together are read at least this many bytes at a time; below it, a read costs more than its bytes.
_READ_BYTES = 256 * 1024


class Rows(NamedTuple):
    """Rows in their storage dtype: x (rows, n_features), y (rows, n_targets), weight (rows, 1); y, weight or None."""

    x: NDArray[np.generic]
    y: NDArray[np.generic] | None
    weight: NDArray[np.generic] | None


class Block(NamedTuple):
    """Rows that are read at once: those of `spans` (k, 2), half-open ranges of source rows in ascending order."""

    spans: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())


class Reader(Protocol):
    """An open source of rows."""

    def read(self, start: int, stop: int) -> Rows:
        """Source rows start to stop, which lie in one file."""


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
    """

    n_features: int
    n_targets: int
    dtype: np.dtype[np.generic]
    target_dtype: np.dtype[np.generic] | None
    weight_dtype: np.dtype[np.generic] | None
    chunk_rows: int
    _spans: NDArray[np.int64]  # (k, 2): which source rows belong to this dataset, ascending

    @property
    def n_rows(self) -> int:
        return int((self._spans[:, 1] - self._spans[:, 0]).sum())

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
    def open(self) -> AbstractContextManager[Reader]:
        """The source, open while the context lasts."""

    @abstractmethod
    def _files(self) -> NDArray[np.int64]:
        """Where each file starts among the source rows, and at last where the last one ends."""

    @abstractmethod
    def locate(self, part: str, row: int, column: int) -> str:
        """How to name an element of "x", "y" or "weight" in an error: file, dataset, row, column."""

    def unit_rows(self) -> int:
        """Rows read at once: a chunk, or as many small ones as make a read worth its call."""
        per_chunk = max(1, self.chunk_rows * self.row_bytes)
        return self.chunk_rows * max(1, _READ_BYTES // per_chunk)

    def blocks(self) -> list[Block]:
        """The blocks that the rows are read in, in order: the dataset's rows cut along chunks and files."""
        unit = self.unit_rows()
        blocks: list[Block] = []
        files = self._files()
        for first, last in itertools.pairwise(files.tolist()):
            inside = np.clip(self._spans, first, last)
            inside = inside[inside[:, 0] < inside[:, 1]]
            spans: list[tuple[int, int]] = []
            current = -1
            for start, stop in inside.tolist():
                position = start
                while position < stop:
                    index = (position - first) // unit
                    end = min(stop, first + (index + 1) * unit)
                    if index != current and spans:
                        blocks.append(Block(np.array(spans, np.int64)))
                        spans = []
                    current = index
                    spans.append((position, end))
                    position = end
            if spans:
                blocks.append(Block(np.array(spans, np.int64)))
        return blocks

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
            If one part would be empty.
        """
        if not 0 < validation < 1:
            raise DataError(f"validation is {validation!r}; it is a share of the rows, above 0 and below 1")
        from fastsgd.data.order import block_order

        wanted = round(self.n_rows * validation)
        if not 0 < wanted < self.n_rows:
            raise DataError(
                f"{self._name()} has {self.n_rows} rows: a validation share of {validation} leaves a part empty"
            )
        size = min(self.unit_rows(), max(1, int(self.n_rows * min(validation, 1 - validation)) // _SPLIT_BLOCKS))
        pieces = _cut(self._spans, self._files(), self.unit_rows(), size)
        order = block_order(len(pieces), seed, 0)
        lengths = (pieces[:, 1] - pieces[:, 0])[order]
        ends = np.cumsum(lengths)
        count = int(np.searchsorted(ends, wanted)) + 1
        chosen, rest = pieces[np.sort(order[:count])], pieces[np.sort(order[count:])]
        surplus = int(ends[count - 1]) - wanted
        if surplus:
            # The last block drawn gives its tail back, so that the share holds to the row.
            last = pieces[order[count - 1]]
            chosen = _without(chosen, last[1] - surplus, last[1])
            rest = np.sort(np.concatenate([rest, [[last[1] - surplus, last[1]]]]), axis=0)
        return self._with_spans(_joined(rest)), self._with_spans(_joined(chosen))

    def _with_spans(self, spans: NDArray[np.int64]) -> Dataset:
        part = copy.copy(self)
        part._spans = spans
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
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        """Iterate over (x, y), or (x, y, weight), or (x,) where there is no target, batch by batch.

        Every row comes exactly once, in an order that `seed`, `epoch` and `memory` fix.

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

        Yields
        ------
        tuple of arrays
            x (rows, n_features), y (rows, n_targets), weight (rows,), C-contiguous, yours to keep.
        """
        from fastsgd.data.loader import Loader

        loader = Loader(self, batch_size=batch_size, dtype=dtype, memory=memory, seed=seed, shuffle=shuffle)
        for slab in loader.epoch(epoch):
            for start in range(0, len(slab.x), batch_size):
                rows = slice(start, start + batch_size)
                if drop_last and len(slab.x[rows]) < batch_size:
                    return
                parts = [slab.x[rows].copy()]
                if self.target_dtype is not None:
                    parts.append(slab.y[rows].copy())
                if self.weight_dtype is not None:
                    parts.append(slab.weight[rows].copy())
                yield tuple(parts)

    def take(self, rows: int | slice | NDArray[np.integer] | list[int]) -> ArrayDataset:
        """Copy some rows into memory, for looking at them.

        Parameters
        ----------
        rows : int, slice, or sequence of int
            The first `rows` rows, or a slice, or row numbers in any order.
        """
        from fastsgd.data.arrays import ArrayDataset
        from fastsgd.data.loader import read_rows

        if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
            rows = slice(0, max(0, int(rows)))
        numbers = np.arange(self.n_rows)[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64).reshape(-1)
        if numbers.size == 0:
            raise DataError(f"take: no rows of {self._name()} were asked for; it has rows 0 to {self.n_rows - 1}")
        outside = numbers[(numbers < -self.n_rows) | (numbers >= self.n_rows)]
        if outside.size:
            raise DataError(f"take: {self._name()} has no row {outside[0]}; it has rows 0 to {self.n_rows - 1}")
        numbers = numbers % self.n_rows
        starts = np.concatenate([[0], np.cumsum(self._spans[:, 1] - self._spans[:, 0])])
        span = np.searchsorted(starts, numbers, side="right") - 1
        found = read_rows(self, self._spans[span, 0] + numbers - starts[span])
        weight = None if found.weight is None else found.weight[:, 0]
        return ArrayDataset(found.x, found.y, weight=weight)


def _cut(spans: NDArray[np.int64], files: NDArray[np.int64], unit: int, size: int) -> NDArray[np.int64]:
    """Cut row ranges at the files, at every `unit` rows of a file, and every `size` rows inside a unit."""
    pieces: list[tuple[int, int]] = []
    for start, stop in spans.tolist():
        position = start
        while position < stop:
            index = int(np.searchsorted(files, position, side="right")) - 1
            first, last = int(files[index]), int(files[index + 1])
            base = first + (position - first) // unit * unit
            end = min(stop, last, base + unit, base + ((position - base) // size + 1) * size)
            pieces.append((position, end))
            position = end
    return np.array(pieces, np.int64)


def _without(spans: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Shorten the range that ends at `stop` to end at `start`; one left with no row goes."""
    spans = spans.copy()
    spans[spans[:, 1] == stop, 1] = start
    return spans[spans[:, 0] < spans[:, 1]]


def _joined(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending ranges, with those that touch made one."""
    apart = np.concatenate([[True], spans[1:, 0] != spans[:-1, 1]])
    starts = np.flatnonzero(apart)
    ends = np.concatenate([starts[1:], [len(spans)]]) - 1
    return np.stack([spans[starts, 0], spans[ends, 1]], axis=1)
