"""Row ranges, the blocks that rows are read in, and reading them.

Ranges are half-open and stand in arrays `spans` (k, 2), ascending and apart: a dataset of a billion rows has few
enough of them to cut and count without a Python loop.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.runs import Run

if TYPE_CHECKING:
    from fastsgd.data.readers import Straight

Spans = NDArray[np.int64]


class Rows(NamedTuple):
    """Rows in their storage dtype: x (rows, n_features), y (rows, n_targets), weight (rows, 1); y, weight or None."""

    x: NDArray[np.generic]
    y: NDArray[np.generic] | None
    weight: NDArray[np.generic] | None

    def each(self, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Rows:
        """The rows with each part that there is changed."""
        x, y, weight = (None if part is None else change(part) for part in self)
        assert x is not None
        return Rows(x, y, weight)

    def parts(self) -> list[NDArray[Any]]:
        """Those that there are."""
        return [part for part in self if part is not None]

    def cut(self, first: int, last: int) -> Rows:
        """Rows first to last."""
        return self.each(operator.itemgetter(slice(first, last)))


def cut_blocks(blocks: Sequence[Rows], first: int, count: int | None = None) -> Iterator[Rows]:
    """What of some blocks, one after the other, are `count` rows from row `first` on, or all from there on."""
    start = 0
    for rows in blocks:
        n = len(rows.x)
        left, right = max(0, first - start), n if count is None else min(n, first + count - start)
        if left < right:
            yield rows.cut(left, right)
        start += n


# By the name of a part of rows what became of its values, where that is known, as `fastsgd.kernels.reading` numbers it.
Known = Mapping[str, int]
# Called with rows, and with what is known of them.
Check = Callable[[Rows, Known], Rows]


class Asked:
    """Rows that were asked for, so many before any are left out; a call waits for them and returns them."""

    def __init__(self, wait: Callable[[], Rows], rows: int) -> None:
        self._wait = wait
        self.rows = rows

    def __call__(self) -> Rows:
        return self._wait()

    def runs(self) -> Sequence[Run]:
        """What of them compiled code may read, with that of others, before they are waited for."""
        return ()

    def is_read(self) -> bool:
        """Whether nothing but their check is left to be done."""
        return False

    def known(self) -> Known:
        """What is known of them."""
        return {}


class Errand(Protocol):
    """Rows that some threads bring to places."""

    def jobs(self) -> Sequence[Callable[[], None]]:
        """What is to be done, by any thread and in any order; each is called once, and raises no error."""

    def result(self) -> None:
        """Called when all is done; raises what kept the rows from coming."""


class Reader(Protocol):
    """An open source of rows."""

    def request(self, start: int, stop: int, check: Check | None = None) -> Asked:
        """Begin to read source rows start to stop, which lie in one file. `check` is called with them, maybe by another
        thread; it returns those to be had, or raises."""

    def bring(self, start: int, stop: int, places: Rows, check: Check) -> Errand:
        """What brings source rows start to stop, which lie in one file, to places, and checks them there: `check` may
        change but not move them. The system may read them ahead. Not for readers that lend views."""

    def in_one(self, asked: Sequence[Asked]) -> Rows | None:
        """Let rows that were asked for lie one after the other in one memory, where nothing but reading them is to be
        done; None where more is, or nothing is gained."""

    def straight(self, spans: Spans, places: Rows) -> Straight | None:
        """Source rows of some ranges, each in one file, that go to places one after the other, if nothing but reading
        them is to be done and few enough files are open at once; else None. None is read yet; it must have been read
        before others are asked for."""

    def settle(self, asked: Sequence[Asked]) -> None:
        """Called when rows that lie in one have come; raises DataError where a file is no longer as it was."""

    def give_back(self, rows: Rows) -> None:
        """Rows that were read are no longer needed: their memory may be used again."""


class Block(NamedTuple):
    """Rows that are read at once: those of `spans` (k, 2), ranges of source rows in ascending order."""

    spans: Spans

    @property
    def n_rows(self) -> int:
        return count(self.spans)

    @property
    def first_row(self) -> int:
        """The source row that it starts with."""
        return int(self.spans[0, 0])

    def source_row(self, row: int) -> int:
        """The source row that is row `row` of the block."""
        starts = offsets(self.spans)
        span = int(np.searchsorted(starts, row, side="right")) - 1
        return int(self.spans[span, 0] + row - starts[span])


class Blocks:
    """The blocks of a dataset, in the order of their rows.

    Attributes
    ----------
    first_rows : array (blocks,), int64
        The source row that each starts with.
    largest : int
        Rows of the largest block.
    widest : int
        Rows from the first to the last of the widest block: what is read to get at its own.
    scattered : bool
        Whether a block lacks some rows between its first and its last.
    """

    def __init__(self, spans: Spans, units: NDArray[np.int64]) -> None:
        """Of the ranges in `spans`, those with the same number in `units` (k,) make a block."""
        self._spans = spans
        self._starts = np.append(np.flatnonzero(np.diff(units, prepend=-1)), len(spans))
        rows = np.add.reduceat(spans[:, 1] - spans[:, 0], self._starts[:-1])
        widths = spans[self._starts[1:] - 1, 1] - spans[self._starts[:-1], 0]
        self.first_rows = spans[self._starts[:-1], 0]
        self.largest = int(rows.max())
        self.widest = int(widths.max())
        self.scattered = bool((widths > rows).any())

    def __len__(self) -> int:
        return len(self._starts) - 1

    def rows_before(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the blocks that come before each in some order, and at last those of all (blocks + 1,)."""
        rows = np.add.reduceat(self._spans[:, 1] - self._spans[:, 0], self._starts[:-1])
        return np.concatenate([[0], np.cumsum(rows[order])])

    def digest(self) -> str:
        """Tells the blocks from others."""
        return digest(self._spans, self._starts)

    def __getitem__(self, index: int) -> Block:
        return Block(self._spans[self._starts[index] : self._starts[index + 1]])

    def __iter__(self) -> Iterator[Block]:
        return (self[index] for index in range(len(self)))


def digest(*arrays: NDArray[np.generic]) -> str:
    """Tells arrays from others."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(repr((array.dtype.str, array.shape)).encode())
        found.update(np.ascontiguousarray(array).data.cast("B"))
    return found.hexdigest()[:16]


def count(spans: Spans) -> int:
    """Rows in some ranges."""
    return int((spans[:, 1] - spans[:, 0]).sum())


def offsets(spans: Spans) -> NDArray[np.int64]:
    """How many rows stand before each range, and at last how many there are (k + 1,)."""
    return np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])


def cut(spans: Spans, files: NDArray[np.int64], unit: int, size: int) -> tuple[Spans, NDArray[np.int64]]:
    """Cut ranges at the files, at every `unit` rows of a file, and every `size` rows inside a unit.

    `files` says where each file starts, and at last where the last one ends. Returns the pieces, and the number of the
    unit that each lies in.
    """
    parts = -(-unit // size)
    units = np.concatenate([[0], np.cumsum(-(-np.diff(files) // unit))])  # that stand before each file

    def cell(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        file = np.searchsorted(files, rows, side="right") - 1
        offset = rows - files[file]
        cells: NDArray[np.int64] = (units[file] + offset // unit) * parts + offset % unit // size
        return cells

    first, last = cell(spans[:, 0]), cell(spans[:, 1] - 1)
    repeats = last - first + 1
    before = np.cumsum(repeats) - repeats
    number, part = np.divmod(np.arange(repeats.sum()) + np.repeat(first - before, repeats), parts)
    file = np.searchsorted(units, number, side="right") - 1
    origin = files[file] + (number - units[file]) * unit
    starts = np.maximum(origin + part * size, np.repeat(spans[:, 0], repeats))
    ends = np.minimum(origin + np.minimum((part + 1) * size, unit), files[file + 1])
    pieces = np.stack([starts, np.minimum(ends, np.repeat(spans[:, 1], repeats))], axis=1)
    there = pieces[:, 0] < pieces[:, 1]  # the last unit of a file may be short
    return pieces[there], number[there]


def joined(spans: Spans) -> Spans:
    """Ascending ranges, with those that touch made one."""
    apart = spans[1:, 0] != spans[:-1, 1]
    starts, stops = np.concatenate([[True], apart]), np.concatenate([apart, [True]])
    return np.stack([spans[starts, 0], spans[stops, 1]], axis=1)


def request_block(reader: Reader, block: Block, check: Check | None) -> Asked:
    """Begin to read the rows of a block; all from its first to its last, of which those between its spans are
    dropped."""
    first, last = int(block.spans[0, 0]), int(block.spans[-1, 1])
    if len(block.spans) == 1:
        return reader.request(first, last, check)
    rows, spans = reader.request(first, last), block.spans - first

    def kept() -> Rows:
        found = rows().each(lambda part: _kept(part, spans))
        return found if check is None else check(found, {})

    return Asked(kept, block.n_rows)


def _kept(part: NDArray[np.generic], spans: Spans) -> NDArray[np.generic]:
    # Range by range: an index of every row would take more memory than narrow rows do.
    out = np.empty((count(spans), part.shape[1]), part.dtype)
    at = 0
    for start, stop in spans.tolist():
        out[at : at + stop - start] = part[start:stop]
        at += stop - start
    return out


def read_rows(reader: Reader, numbers: NDArray[np.int64], files: NDArray[np.int64]) -> Rows:
    """Some source rows, in the order given."""
    order = np.argsort(numbers, kind="stable")
    wanted = numbers[order]
    runs = np.flatnonzero(np.concatenate([[True], np.diff(wanted) > 1, [True]]))
    found: list[Rows] = []
    for begin, end in itertools.pairwise(runs.tolist()):
        start, stop = int(wanted[begin]), int(wanted[end - 1]) + 1
        inside = files[(files > start) & (files < stop)]
        for first, last in itertools.pairwise([start, *inside.tolist(), stop]):
            run = wanted[begin:end]
            keep = run[(run >= first) & (run < last)] - first
            found.append(reader.request(first, last)().each(operator.itemgetter(keep)))
    back = np.argsort(order, kind="stable")
    x, y, weight = (None if part[0] is None else np.concatenate(part)[back] for part in zip(*found, strict=True))
    assert x is not None
    return Rows(x, y, weight)
