"""Rows of HDF5 files as they are asked for: several blocks at a time on their way, each decoded by several threads."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Asked, Check, Errand, Known, Rows, Spans, offsets
from fastsgd.data.compressors import DamagedChunkError
from fastsgd.data.files import OpenFile
from fastsgd.data.helpers import Helpers
from fastsgd.data.runs import Run
from fastsgd.data.schema import READ_ERRORS
from fastsgd.data.spent import Spent
from fastsgd.data.transfer import JOB_BYTES, Direct, Work
from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.hdf5 import HDF5Dataset
    from fastsgd.kernels.sharing import Job

# Files that stay open for reading. To open one takes as long as to read a block; blocks come from all files in turn.
# More than blocks are ever asked for: the files of those must stay open.
OPEN_FILES = 32

Memory = dict[str, NDArray[np.generic]]


class HDF5Reader:
    """Reads rows of the files of a dataset, decoding them on several threads, of which one is that which waits."""

    def __init__(self, dataset: HDF5Dataset, helpers: Helpers, spent: Spent) -> None:
        self._dataset = dataset
        self._spent = spent
        self._open: dict[int, OpenFile] = {}  # the one used last comes last
        self._spare: list[Memory] = []  # of rows that were given back
        self._helpers = helpers

    def close(self) -> None:
        self._helpers.close()  # first, as they read from the files
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, index: int) -> OpenFile:
        file = self._open.pop(index, None)
        if file is None:
            if len(self._open) == OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            file = self._dataset.open_file(index, self._spent)
            self._dataset.require_unchanged(index, file)
        self._open[index] = file
        return file

    def empty_rows(self, rows: int, most: int) -> Memory:
        """Memory for rows: that of up to `most` earlier ones where there is enough of it, since to touch new memory
        takes about as long as to read into it."""
        with suppress(IndexError):  # none is left, maybe since another thread took it
            while True:
                outs = self._spare.pop()
                if rows <= len(outs["x"]) <= most:
                    return {name: out[:rows] for name, out in outs.items()}
        return self._dataset.empty_rows(rows)

    def give_back(self, rows: Rows) -> None:
        parts = {
            name: part if part is None or part.base is None else part.base for name, part in rows._asdict().items()
        }
        self._spare.append({name: part for name, part in parts.items() if part is not None})

    def in_one(self, asked: Sequence[Asked]) -> Rows | None:
        readings = [one for one in asked if isinstance(one, _Reading) and one.lies_straight()]
        if len(readings) < max(2, len(asked)):
            return None
        whole, at = _as_rows(self.empty_rows(sum(one.rows for one in readings), sys.maxsize)), 0
        for one in readings:
            one.lie_in(whole.cut(at, at + one.rows))
            at += one.rows
        return whole

    def settle(self, asked: Sequence[Asked]) -> None:
        readings = [one for one in asked if isinstance(one, _Reading)]
        for one in readings:
            one.settle()
        for one in {id(one.file): one for one in readings}.values():
            one.require_unchanged()

    def straight(self, spans: Spans, places: Rows) -> Straight | None:
        files, ranges = self._dataset.places(spans)
        numbers, at = set(files.tolist()), offsets(spans)[:-1]
        if len(numbers) > OPEN_FILES:
            return None
        outs = {name: part for name, part in places._asdict().items() if part is not None}
        tables, opened = list[NDArray[np.int64]](), list[tuple[int, OpenFile, list[Direct]]]()
        for number in sorted(numbers):
            own = files == number if len(numbers) > 1 else slice(None)
            with _explained(self._dataset, number, int(ranges[own].min()), int(ranges[own].max())):
                file = self._file(number)
                sources = file.straight(outs)
            if not sources:
                return None
            tables += [source.tell(ranges[own], outs[part], at[own]) for part, source in sources.items()]
            opened.append((number, file, list(sources.values())))
        return Straight(self._dataset, np.concatenate(tables), opened, places)

    def request(self, start: int, stop: int, check: Check | None = None) -> Asked:
        # The memory of several blocks is none for one: there would be too much of it if each had such.
        take = partial(self.empty_rows, stop - start, 2 * (stop - start))
        reading = _Reading(self._wanted(start, stop), take, check)
        reading.start(self._helpers)
        return reading

    def bring(self, start: int, stop: int, places: Rows, check: Check) -> Errand:
        return _Bringing(self._wanted(start, stop), places, check)

    def _wanted(self, start: int, stop: int) -> _Wanted:
        index, first = self._dataset.place(start)
        last, work = first + stop - start, Work({}, [], [], [])
        with _explained(self._dataset, index, first, last):
            file = self._file(index)
            for source in file.sources():
                source.read(first, last, work)
        return _Wanted(self._dataset, index, file, (first, last), work)


class Straight:
    """Rows of some ranges that compiled code reads to places in memory, in any order and by any thread.

    Attributes
    ----------
    table : array (n, 9), int64
        Runs, as `fastsgd.kernels.reading` takes them, and the place that each begins with.
    """

    def __init__(
        self,
        dataset: HDF5Dataset,
        table: NDArray[np.int64],
        opened: Sequence[tuple[int, OpenFile, list[Direct]]],
        places: Rows,
    ) -> None:
        self.table = table
        self._dataset = dataset
        self._opened = opened
        self._places = places  # whose addresses are in the table

    def settle(self, *, slow: bool) -> None:
        """Called when all came; raises DataError where a file is no longer as it was."""
        sources = [source for _, _, sources in self._opened for source in sources]
        for source in sources:
            source.came(slow=slow, reads=-(-len(self.table) // len(sources)))
        for index, file, _ in self._opened:
            self._dataset.require_unchanged(index, file)


def _as_rows(memory: Memory) -> Rows:
    return Rows(memory["x"], memory.get("y"), memory.get("weight"))


class _Wanted(NamedTuple):
    """Rows of one of a dataset's files, which is open: the numbers of the first and the end there, and what is to be
    done to read them."""

    dataset: HDF5Dataset
    number: int  # of the file
    file: OpenFile
    span: tuple[int, int]
    work: Work

    @property
    def rows(self) -> int:
        """How many they are."""
        return self.span[1] - self.span[0]

    def lie_in(self, rows: Rows) -> None:
        """Let them have this memory."""
        self.work.outs.update((name, part) for name, part in rows._asdict().items() if part is not None)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Do the last of the work; errors say of which rows it is that they cannot be read."""
        with _explained(self.dataset, self.number, *self.span):
            try:
                yield
            finally:  # what has changed may be why it cannot be read
                self.require_unchanged()

    def require_unchanged(self) -> None:
        """Raise DataError where the file is no longer as it was."""
        self.dataset.require_unchanged(self.number, self.file)


def _shares(jobs: Sequence[Callable[[], None]], rows: Rows) -> list[Sequence[Callable[[], None]]]:
    """Jobs that bring some rows, each of which is worth a thread as far as its dataset knows: of many narrow ones,
    several together are."""
    size = sum(part.nbytes for part in rows.parts())
    together = max(1, -(-len(jobs) // max(1, size // JOB_BYTES)))
    return [jobs[at : at + together] for at in range(0, len(jobs), together)]


class _Reading(Asked):
    """Rows that are being read. No closure: whoever keeps an error from here must not keep the rows with it."""

    def __init__(self, wanted: _Wanted, take: Callable[[], Memory], check: Check | None) -> None:
        self.rows = wanted.rows
        self.file = wanted.file
        self._wanted = wanted
        self._work = wanted.work
        self._rows: Rows | None = None
        self._take = take
        self._check = check
        self._left = itertools.count(0)
        self._helpers: Helpers
        self._started: list[Job] = []

    def start(self, helpers: Helpers) -> None:
        """Let others decode."""
        self._helpers = helpers
        jobs = self._work.decoding
        if not helpers:
            self._work.reading.extend(jobs)
        elif jobs:
            shares = _shares(jobs, self._taken())
            self._left = itertools.count(len(shares), -1)
            self._started = [helpers.hand_over(partial(self._do, *share)) for share in shares]

    def runs(self) -> Sequence[Run]:
        if not self._work.straight:
            return ()
        self._taken()
        return [one.run for one in self._work.straight if one.take(self._work.outs)]

    def is_read(self) -> bool:
        work = self._work
        return not (work.reading or work.decoding) and all(one.run.came for one in work.straight)

    def _taken(self) -> Rows:
        """Memory that nobody else writes to; taken as late as can be, then it is that of the block before, still in
        cache."""
        if self._rows is None:
            self.lie_in(_as_rows(self._take()))
        assert self._rows is not None
        return self._rows

    def lies_straight(self) -> bool:
        """Whether all of it may be read by compiled code."""
        work = self._work
        return bool(work.straight) and not (work.reading or work.decoding)

    def lie_in(self, rows: Rows) -> None:
        """Let them have this memory."""
        self._rows = rows
        self._wanted.lie_in(rows)

    def known(self) -> Known:
        return {one.part: one.run.outcome for one in self._work.straight}

    def settle(self) -> None:
        """Note how it came."""
        for one in self._work.straight:
            one.settle()

    def require_unchanged(self) -> None:
        """Raise DataError where the file is no longer as it was."""
        with _explained(self._wanted.dataset, self._wanted.number, *self._wanted.span):
            self._wanted.require_unchanged()

    def _do(self, *jobs: Callable[[], None]) -> None:
        for job in jobs:
            job()
        # The check is for whoever is last, and so finds rows in its cache.
        if next(self._left) == 0 and self._check is not None:
            assert self._rows is not None
            self._rows = self._check(self._rows, self.known())

    def __call__(self) -> Rows:
        with self._wanted.read():
            self._taken()
            for one in self._work.straight:
                one.read(self._work.outs)
            self._do(*self._work.reading)
            for job in self._started:
                self._helpers.finish(job)
        return self._taken()


class _Bringing:
    """An `Errand`. No closure, as `_Reading`."""

    def __init__(self, wanted: _Wanted, places: Rows, check: Check) -> None:
        wanted.lie_in(places)
        self._wanted = wanted
        self._rows = places
        self._check = check
        self._left = itertools.count(0)
        self._given: list[Job] = []

    def jobs(self) -> Sequence[Callable[[], None]]:
        from fastsgd.kernels.sharing import Job

        shares = _shares(self._wanted.work.jobs(), self._rows)
        self._left = itertools.count(len(shares) - 1, -1)
        self._given = [Job(partial(self._do, share)) for share in shares]
        return [job.do for job in self._given]

    def _do(self, jobs: Sequence[Callable[[], None]]) -> None:
        for job in jobs:
            job()
        if next(self._left) == 0:  # the check is for whoever is last, and so finds rows in its cache
            self._check(self._rows, {})

    def result(self) -> None:
        with self._wanted.read():
            for job in self._given:
                job.result()


@contextmanager
def _explained(dataset: HDF5Dataset, index: int, first: int, last: int) -> Iterator[None]:
    """Say of which rows it is that they cannot be read."""
    try:
        yield
    except DataError:
        raise
    except (*READ_ERRORS, DamagedChunkError) as error:
        names = ", ".join(repr(name) for name in dataset.column_names())
        raise DataError(
            f"{dataset.paths[index]}: rows {first} to {last - 1} of {names} cannot be read ({error}); the file is "
            "damaged, changed while it was read, or needs a filter plugin"
        ) from error
