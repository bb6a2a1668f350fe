"""What shuffling and repacking a file share: from the table of one file to that of another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.compressors import DamagedChunkError
from fastsgd.data.files import Fingerprint, checked_layout
from fastsgd.data.places import Home
from fastsgd.data.plan import as_bytes
from fastsgd.data.rewriting.output import copy_structure, new_file
from fastsgd.data.rewriting.table import RawRows, RowDataset, Table, find_table
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.data.spent import Spent
from fastsgd.data.transfer import Direct, Placement, Work
from fastsgd.errors import DataError, MemoryBudgetError

_PART = "rows"
_READ_BYTES = 16 << 20  # at a time: a signal is heard in between

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Rewritten:
    """What was done.

    Attributes
    ----------
    path, out : str
    rows : int
    datasets : tuple of str
        Those whose first axis are the rows.
    copied : tuple of str
        Those that were copied as they are.
    bytes_before, bytes_after : int
        Sizes of the files.
    """

    path: str
    out: str
    rows: int
    datasets: tuple[str, ...]
    copied: tuple[str, ...]
    bytes_before: int
    bytes_after: int

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)


class Rows:
    """The rows of one dataset of the file that is read, whose errors say which they are.

    Chunks that need decoding are read past HDF5, where that is possible, which does one thing at a time.
    """

    def __init__(self, path: str, item: Any, dataset: RowDataset, budget: int) -> None:
        self.item = item
        self.dataset = dataset
        self._path = path
        self._raw = RawRows(item)
        self._threads = dataset.decoding(budget)[0]
        with self._explained(0, dataset.shape[0]):
            self._direct = _find_direct(item, path) if dataset.decode_bytes and len(dataset.shape) <= 2 else None

    def read(self, first: int, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rows from `first` on, in `out` (rows, bytes of a row); whole chunks, but for the last."""
        chunk = self.dataset.chunk_rows
        step = chunk * max(1, _READ_BYTES // (chunk * self.dataset.row_bytes))
        for start in range(0, len(out), step):
            some = out[start : start + step]
            with self._explained(first + start, len(some)):
                if self._direct is None:
                    self._raw.read(first + start, some)
                else:
                    self._decode(self._direct, first + start, some)
        return out

    def _decode(self, direct: Direct, first: int, out: NDArray[np.uint8]) -> None:
        from fastsgd.kernels.threads import available_threads

        work = Work({_PART: out.view(self.item.dtype)}, [], [], [])
        direct.read(first, first + len(out), work)
        with ThreadPoolExecutor(min(self._threads, available_threads(None))) as pool:
            for job in [pool.submit(job) for job in work.jobs()]:
                job.result()

    @contextmanager
    def _explained(self, first: int, count: int) -> Iterator[None]:
        try:
            yield
        except (*READ_ERRORS, DamagedChunkError) as error:
            raise DataError(
                f"{self._path}: rows {first} to {first + count - 1} of {self.dataset.name!r} cannot be read "
                f"({error}); the file is damaged, changed while it was read, or needs a filter plugin"
            ) from error


def _find_direct(item: Any, path: str) -> Direct | None:
    """What reads a dataset past HDF5, or None where only HDF5 can."""
    descriptor = item.file.id.get_vfd_handle()
    try:
        layout = checked_layout(item, descriptor, path)
    except TypeError:  # of a type that NumPy does not have
        return None
    if isinstance(layout, str):
        return None
    return Direct(descriptor, layout, [Placement(None, _PART, 0, layout.columns)], Spent())


class Job(Protocol):
    """What happens to the rows."""

    passes: int  # in which each byte of the rows is moved
    budget: int

    def prepare(self, table: Table, source: Any) -> None:
        """Raise what speaks against it, before anything is written."""

    def bytes_needed(self, table: Table, source: Any) -> int:
        """Bytes that the new file will have, as far as that is known."""

    def create(self, target: Any, like: Any, path: bytes) -> None:
        """Make the dataset for some rows."""

    def move(self, rows: Rows, target: Any, step: Callable[[int], None]) -> None:
        """Bring all rows of a dataset into that of `target`; tells `step` of the bytes of each part."""

    def file_options(self, table: Table) -> dict[str, Any]:
        """For the new file."""


def rewrite(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    job: Job,
    home: Home,
    rows_of: str | None,
    progress: Progress | None,
) -> Rewritten:
    """Write a file anew, its rows as `job` has them, and all else as it was.

    Raises
    ------
    DataError
        If it cannot be read, or has no table.
    MemoryBudgetError
        If the budget is too small for it.
    OSError
        If the new file cannot be written.
    """
    path, out = os.fspath(path), os.fspath(out)
    # No chunk is kept: all are read once.
    with opened(path, rdcc_nbytes=0) as source:
        before = Fingerprint.of(path)
        table = find_table(source, path, rows_of, home)
        job.prepare(table, source)
        needed = job.bytes_needed(table, source)
        total, done = job.passes * table.nbytes, 0

        def step(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(done, total)

        step(0)
        with new_file(out, needed, like=source, **job.file_options(table)) as target:
            copy_structure(source, path, target, table, lambda name: job.create(target, source[name], name))
            for dataset in table.datasets:
                if dataset.nbytes:
                    job.move(Rows(path, source[dataset.path], dataset, job.budget), target[dataset.path], step)
            if Fingerprint.of(path) != before:
                raise DataError(f"{path} has changed while it was read; do it again when nothing writes to it any more")
    return Rewritten(
        path,
        out,
        table.rows,
        tuple(dataset.name for dataset in table.datasets),
        table.copied,
        before.size,
        os.path.getsize(out),
    )


def require_budget(budget: int, name: str, works: Callable[[int], object]) -> None:
    """Raise MemoryBudgetError unless a budget works; `works` is true from some budget on, which is named."""
    if works(budget):
        return
    low, high = budget, 2 * budget
    while not works(high):
        low, high = high, 2 * high
    while high - low > high // 1000:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    raise MemoryBudgetError(
        f"memory is {as_bytes(budget)}, too little for the rows of {name!r}; the least that works here is "
        f'memory="{-(-high // 10**6)}MB"'
    )
