"""What shuffling and repacking a file share: from the table of one file to that of another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.plan import as_bytes
from fastsgd.data.readers import Fingerprint
from fastsgd.data.rewriting.output import copy_structure, new_file
from fastsgd.data.rewriting.table import RawRows, RowDataset, Table, find_table
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.errors import DataError, MemoryBudgetError

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
    """The rows of one dataset of the file that is read, whose errors say which they are."""

    def __init__(self, path: str, item: Any, dataset: RowDataset) -> None:
        self.item = item
        self.dataset = dataset
        self._path = path
        self._raw = RawRows(item)

    def read(self, first: int, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rows from `first` on, in `out` (rows, bytes of a row)."""
        try:
            self._raw.read(first, out)
        except READ_ERRORS as error:
            raise DataError(
                f"{self._path}: rows {first} to {first + len(out) - 1} of {self.dataset.name!r} cannot be read "
                f"({error}); the file is damaged, changed while it was read, or needs a filter plugin"
            ) from error
        return out


class Job(Protocol):
    """What happens to the rows."""

    passes: int  # in which each byte of the rows is moved

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
        table = find_table(source, path, rows_of)
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
                    job.move(Rows(path, source[dataset.path], dataset), target[dataset.path], step)
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
