"""Rows in random order, each as likely at each place, in two sequential passes and bounded memory.

The places of the new dataset are cut into regions that fit in memory. The first pass reads the rows in order and
appends each to the region that its place is in; the second takes the regions one by one and puts their rows in their
places. A region has its rows in the order they were read, so which is which follows from the permutation and is stored
nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.order import as_seed, rewrite_key
from fastsgd.data.places import Home
from fastsgd.data.plan import parse_memory
from fastsgd.data.rewriting.output import bytes_beside, create_dataset
from fastsgd.data.rewriting.rewrite import Progress, Rewritten, Rows, require_budget, rewrite
from fastsgd.data.rewriting.table import RawRows, RowDataset, Table, require_no_rows_elsewhere

_PIECE_BYTES = 8 << 20  # that are put in order and written at a time
_WRITE_BYTES = 4096  # that a region gets at a time on average, at least; seldom so few
_MOST_REGIONS = 1 << 16  # as many as their numbers, of 16 bits, can tell apart
_INDEX_BYTES = np.dtype(np.int64).itemsize
_REGION_INDEX_BYTES = np.dtype(np.uint16).itemsize


class Plan(NamedTuple):
    """Rows that are read at a time, places of a region, and places that are written at a time."""

    block: int
    region: int
    piece: int


def shuffle_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    memory: int | str | None = None,
    rows_of: str | None = None,
    allow_external: bool = False,
    progress: Progress | None = None,
) -> Rewritten:
    """Write a file with the rows of another in random order.

    The datasets whose first axis is the longest by bytes are the rows; all get the same order, uncompressed and
    contiguous. All else in the file is copied as it is. Row i of the new file is row p(i) of the old one, where p is a
    random permutation that depends on `seed` and the number of rows alone: not on the budget, nor on the machine.

    Parameters
    ----------
    path, out : path
        HDF5 files; `out` is replaced whole, or not at all, and may be the same file.
    seed : int
    memory : int or str, optional
        Budget in bytes, or as "512MB"; 1 GB. Rows that fit are shuffled in one pass, others in two.
    rows_of : str, optional
        A dataset; those of as many rows are shuffled, instead of the largest.
    allow_external : bool
        Whether values may lie in files that are not in the folder of `path` or below, as of `HDF5Dataset`.
    progress : callable, optional
        Called with the bytes that were moved so far and those of the whole work.

    Returns
    -------
    Rewritten

    Raises
    ------
    DataError
        If the file cannot be read, has no rows, or has rows whose values are of no fixed size.
    MemoryBudgetError
        If the budget is too small; names the least that works.
    OSError
        If `out` cannot be written, or there is no room for it.

    Examples
    --------
    >>> fs.data.shuffle_file("sorted.h5", "shuffled.h5", seed=0, memory="2GB")
    """
    path = os.fspath(path)
    home = Home(path, allow_external)
    return rewrite(path, out, _Shuffle(as_seed(seed), parse_memory(memory), path, home), home, rows_of, progress)


class _Shuffle:
    passes = 2  # to read and to write; or to read and write twice

    def __init__(self, seed: int, budget: int, path: str, home: Home) -> None:
        self._key = rewrite_key(seed)
        self.budget = budget
        self._path = path
        self._home = home

    def prepare(self, table: Table, source: Any) -> None:
        require_no_rows_elsewhere(source, self._path, table, self._home)
        for dataset in table.datasets:
            require_budget(self.budget, dataset.name, partial(plan_shuffle, dataset))

    def bytes_needed(self, table: Table, source: Any) -> int:
        return table.nbytes + bytes_beside(source, table)

    def create(self, target: Any, like: Any, path: bytes) -> None:
        create_dataset(target, like, path)

    def file_options(self, table: Table) -> dict[str, Any]:
        return {}

    def move(self, rows: Rows, target: Any, step: Callable[[int], None]) -> None:
        plan = plan_shuffle(rows.dataset, self.budget)
        assert plan is not None
        if plan.region >= rows.dataset.shape[0]:
            _shuffle_in_memory(rows, RawRows(target), self._key, plan, step)
        else:
            _distribute(rows, RawRows(target), self._key, plan, step)
            _settle(rows.dataset, RawRows(target), self._key, plan, step)


def plan_shuffle(dataset: RowDataset, budget: int) -> Plan | None:
    """How a dataset is shuffled in so many bytes, or None where they are too few."""
    rows, width = dataset.shape[0], max(1, dataset.row_bytes)
    piece_bytes = width + _INDEX_BYTES
    piece = min(rows, max(1, min(_PIECE_BYTES, budget // 8) // piece_bytes))
    left = budget - piece * piece_bytes
    decoding = dataset.decoding(budget)[1]
    # All rows in memory.
    if rows * width + decoding <= left:
        return Plan(dataset.whole_chunks(max(piece, dataset.chunk_rows)), rows, piece)
    # In the second pass: the rows of a region, their numbers, and the places that these say.
    region = left // (width + 2 * _INDEX_BYTES)
    count = -(-rows // region) if region > 0 else _MOST_REGIONS + 1
    if count > _MOST_REGIONS:
        return None
    # In the first pass: rows as they come and by region, the regions and the order.
    left = budget - decoding - 2 * _INDEX_BYTES * count
    block = dataset.whole_chunks(max(0, left) // (2 * width + _INDEX_BYTES + _REGION_INDEX_BYTES))
    if block // count * width < _WRITE_BYTES:
        return None
    return Plan(block, region, piece)


def _take(rows: NDArray[np.uint8], order: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # With "raise" NumPy would write to a copy of `out` first.
    return np.take(rows, order, axis=0, out=out, mode="clip")


def _shuffle_in_memory(rows: Rows, target: RawRows, key: np.uint64, plan: Plan, step: Callable[[int], None]) -> None:
    from fastsgd.kernels.rows import fill_order

    size, width = rows.dataset.shape[0], rows.dataset.row_bytes
    held = np.empty((size, width), np.uint8)
    for first in range(0, size, plan.block):
        step(rows.read(first, held[first : first + plan.block]).nbytes)
    order, out = np.empty(plan.piece, np.int64), np.empty((plan.piece, width), np.uint8)
    for first in range(0, size, plan.piece):
        count = min(plan.piece, size - first)
        fill_order(0, 1, key, size, first, order[:count])
        target.write(first, _take(held, order[:count], out[:count]))
        step(count * width)


def _distribute(rows: Rows, target: RawRows, key: np.uint64, plan: Plan, step: Callable[[int], None]) -> None:
    """Append each row to the region that its place is in."""
    from fastsgd.kernels.rows import group_by_region

    size, width = rows.dataset.shape[0], rows.dataset.row_bytes
    counts = np.zeros(-(-size // plan.region), np.int64)
    free = np.arange(counts.size) * plan.region  # the next place of each region
    block, grouped = np.empty((plan.block, width), np.uint8), np.empty((plan.block, width), np.uint8)
    regions, order = np.empty(plan.block, np.uint16), np.empty(plan.block, np.int64)
    for first in range(0, size, plan.block):
        count = min(plan.block, size - first)
        rows.read(first, block[:count])
        group_by_region(key, size, first, plan.region, regions[:count], counts, order[:count])
        _take(block, order[:count], grouped[:count])
        start = 0
        for region in np.flatnonzero(counts):
            stop = start + int(counts[region])
            target.write(int(free[region]), grouped[start:stop])
            start = stop
        free += counts
        step(count * width)


def _settle(dataset: RowDataset, target: RawRows, key: np.uint64, plan: Plan, step: Callable[[int], None]) -> None:
    """Put the rows of each region, which lie there in their old order, in their places."""
    from fastsgd.kernels.rows import fill_order

    size, width = dataset.shape[0], dataset.row_bytes
    held, numbers = np.empty((plan.region, width), np.uint8), np.empty(plan.region, np.int64)
    out = np.empty((plan.piece, width), np.uint8)
    for begin in range(0, size, plan.region):
        count = min(plan.region, size - begin)
        target.read(begin, held[:count])
        fill_order(0, 1, key, size, begin, numbers[:count])
        arrival = np.argsort(numbers[:count])
        # From here on, `numbers` are those that the rows have among the arrived.
        for first in range(0, count, plan.piece):
            some = arrival[first : first + plan.piece]
            numbers[some] = np.arange(first, first + some.size)
        del arrival
        for first in range(0, count, plan.piece):
            some = numbers[first : min(first + plan.piece, count)]
            target.write(begin + first, _take(held, some, out[: some.size]))
        step(count * width)
