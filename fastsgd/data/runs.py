"""Rows that lie in a file as they will in memory: compiled code reads them, and looks whether they are finite.

Python would take about as long for a block as the system takes to copy it, and two threads in Python wait for each
other. So those of several blocks are read in one call, of which each thread does its share of every block.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUN_NUMBERS = 8  # that stand for a run, as `fastsgd.kernels.reading` has it
# Of them: rows of a chunk; the first row, the end, and where it goes.
HEIGHT, FIRST, LAST, OUT = 2, 5, 6, 7
# What is in memory comes at so many bytes a second at least, after so many seconds for each call; disks are slower.
_PAGE_CACHE_RATE, _CALL_SECONDS = 2e9, 1e-5


STRAIGHT_BYTES = 1 << 24  # read in one compiled call at most, but for what is larger by itself


def calls_of(table: NDArray[np.int64]) -> int:
    """Calls of the system that some runs take: one for each chunk that they lie in."""
    return int(((table[:, LAST] - 1) // table[:, HEIGHT] - table[:, FIRST] // table[:, HEIGHT] + 1).sum())


def first_of(sizes: NDArray[np.int64]) -> int:
    """How many of some runs of so many bytes are read in one call."""
    return max(1, int(np.searchsorted(np.cumsum(sizes), STRAIGHT_BYTES, side="right")))


def is_slow(nbytes: int, calls: int, seconds: float) -> bool:
    """Whether bytes that took so many calls and seconds came from no memory."""
    return seconds > calls * _CALL_SECONDS + nbytes / _PAGE_CACHE_RATE


def address_of(values: NDArray[Any]) -> int:
    """Where an array lies. Its `__array_interface__` would say so, too, but makes Python's table of names grow."""
    return values.ctypes.data


class Place:
    """Where a dataset without filters lies.

    Parameters
    ----------
    descriptor : int
        Of the open file.
    offsets : array (chunks,), int64, C-contiguous
        Where each chunk starts in the file.
    height : int
        Rows of a chunk.
    columns : int
    dtype : numpy.dtype
        Of the values.
    """

    def __init__(
        self, descriptor: int, offsets: NDArray[np.int64], height: int, columns: int, dtype: np.dtype[Any]
    ) -> None:
        self.looks = dtype.kind == "f" and dtype.itemsize in (4, 8)  # whether values are looked at
        # Of others the bytes are read.
        value_bytes = dtype.itemsize if self.looks else 1
        width = columns * dtype.itemsize // value_bytes
        self.height = height
        self._offsets = offsets  # whose address is among the numbers
        self.numbers = (descriptor, address_of(offsets), height, width, value_bytes)


class Run:
    """Rows first to last of a dataset without filters.

    Attributes
    ----------
    place : Place
    first, last : int
    out : array (rows, columns), C-contiguous, or None
        Where they go, of the type that they have in the file; to be set before they are read.
    came : bool
        Whether they were read.
    outcome : int
        What became of their values, as `fastsgd.kernels.reading` numbers it: no more than `READ` where it does not look
        at them.
    slow : bool
        Whether they came from no memory, with others that were read together.
    """

    def __init__(self, place: Place, first: int, last: int) -> None:
        self.place = place
        self.first = first
        self.last = last
        self.out: NDArray[Any] | None = None
        self.came = False
        self.outcome = 0
        self.slow = False

    @property
    def nbytes(self) -> int:
        assert self.out is not None
        return self.out.nbytes

    @property
    def chunks(self) -> int:
        """How many chunks the rows lie in."""
        return (self.last - 1) // self.place.height - self.first // self.place.height + 1

    def numbers(self) -> tuple[int, ...]:
        """What the kernel takes; arrays by their addresses."""
        assert self.out is not None
        return (*self.place.numbers, self.first, self.last, address_of(self.out))


# ``together(work, threads, *arguments)`` calls ``work(i, n, *arguments)`` for each i below an n of at most `threads`.
Together = Callable[..., None]


@cache
def _kernel() -> Callable[..., None]:
    """What reads, compiled: the time that this takes is none of reading."""
    from fastsgd.kernels.reading import read_shares

    read_shares(0, 1, np.empty((0, RUN_NUMBERS), np.int64), np.empty((0, 1), np.int8))
    kernel: Callable[..., None] = read_shares
    return kernel


def _read_share(
    thread: int,
    threads: int,
    kept: object,
    table: NDArray[np.int64],
    outcomes: NDArray[np.int8],
    seconds: NDArray[np.float64],
) -> None:
    """A thread's share, and how long that took: until it begins, it may wait for a core. `kept` has the memory, also
    where an interrupt ends the wait for the thread."""
    kernel = _kernel()
    begin = time.perf_counter()
    kernel(thread, threads, table, outcomes)
    seconds[thread] = time.perf_counter() - begin


def read_runs(runs: Sequence[Run], together: Together, threads: int) -> float:
    """Read some runs; what does not come is to be read by who can say why. Returns the seconds that it took."""
    from numba import config

    from fastsgd.kernels.reading import READ, SINGLE

    if config.DISABLE_JIT:
        return 0.0  # plain Python has no addresses
    numbers = array("q", itertools.chain.from_iterable(run.numbers() for run in runs))
    table = np.frombuffer(numbers, np.int64).reshape(len(runs), RUN_NUMBERS)
    outcomes, each = np.full((len(runs), threads), SINGLE, np.int8), np.zeros(threads)
    _kernel()  # before the threads, which would wait for one another
    together(_read_share, threads, list(runs), table, outcomes, each)
    seconds = float(each.max())
    slow = is_slow(sum(run.nbytes for run in runs), sum(run.chunks for run in runs), seconds)
    for run, outcome in zip(runs, outcomes.min(axis=1).tolist(), strict=True):
        run.came, run.slow = outcome >= READ, slow
        run.outcome = outcome if run.place.looks else min(outcome, READ)
    return seconds
