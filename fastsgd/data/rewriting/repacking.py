"""Rows stored anew: in chunks and with a filter that are good for streaming, and in fewer bytes each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.places import Home
from fastsgd.data.plan import parse_memory
from fastsgd.data.rewriting.output import bytes_beside, create_dataset
from fastsgd.data.rewriting.rewrite import Progress, Rewritten, Rows, require_budget, rewrite
from fastsgd.data.rewriting.table import RawRows, RowDataset, Table
from fastsgd.errors import DataError

COMPRESSIONS = ("none", "gzip", "lzf")
DTYPES = ("float32", "float16")
_CHUNK_BYTES = 1 << 20
_LARGEST_CHUNK = (1 << 32) - 1  # that HDF5 allows
_BLOCK_BYTES = 16 << 20  # that are moved at a time, at most: a signal is heard in between


def repack_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    compression: str = "none",
    level: int = 1,
    chunk_rows: int | None = None,
    dtype: str | None = None,
    memory: int | str | None = None,
    rows_of: str | None = None,
    allow_external: bool = False,
    progress: Progress | None = None,
) -> Rewritten:
    """Write a file with the rows of another stored for streaming.

    Chunks are of whole rows, so that reading rows decodes nothing else. Without compression the rows are contiguous,
    which is read several times as fast as any compressed form; "gzip" is smaller than "lzf" and, with the extra
    ``fastsgd[codecs]``, read faster. Compressed chunks have their bytes shuffled first. All else in the file is copied
    as it is.

    Parameters
    ----------
    path, out : path
        HDF5 files; `out` is replaced whole, or not at all, and may be the same file.
    compression : {"none", "gzip", "lzf"}
    level : int
        Of gzip, 1 to 9; higher ones take much longer to write and save little.
    chunk_rows : int, optional
        Rows of a chunk; about 1 MiB. Without compression and this there are no chunks.
    dtype : {"float32", "float16"}, optional
        Store wider floating-point rows in this.
    memory : int or str, optional
        Budget in bytes, or as "512MB"; 1 GB.
    rows_of : str, optional
        A dataset; those of as many rows are repacked, instead of the largest.
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
        If the file cannot be read, has no rows, has rows whose values are of no fixed size, or a value does not fit in
        `dtype`.
    MemoryBudgetError
        If the budget is too small; names the least that works.
    OSError
        If `out` cannot be written, or there is no room for it.

    Examples
    --------
    >>> fs.data.repack_file("packed.h5", "fast.h5", dtype="float32")
    """
    if compression not in COMPRESSIONS:
        raise DataError(f"compression is {compression!r}; it is one of {', '.join(map(repr, COMPRESSIONS))}")
    if level not in range(1, 10):
        raise DataError(f"level is {level!r}; it is a whole number from 1 to 9")
    if dtype is not None and dtype not in DTYPES:
        raise DataError(f"dtype is {dtype!r}; it is one of {', '.join(map(repr, DTYPES))}, or None to keep the types")
    if chunk_rows is not None and chunk_rows < 1:
        raise DataError(f"chunk_rows is {chunk_rows!r}; it is a whole number from 1 on")
    storage = {"compression": None if compression == "none" else compression, "level": level}
    job = _Repack(storage, chunk_rows, dtype and np.dtype(dtype), parse_memory(memory), os.fspath(path))
    return rewrite(path, out, job, Home(os.fspath(path), allow_external), rows_of, progress)


class _Repack:
    passes = 1

    def __init__(self, storage: dict[str, Any], chunk_rows: int | None, dtype: Any, budget: int, path: str) -> None:
        self._storage = storage
        self._chunk_rows = chunk_rows
        self._dtype = dtype
        self.budget = budget
        self._path = path
        self._largest_chunk = 0

    def prepare(self, table: Table, source: Any) -> None:
        self._largest_chunk = max(self._chunk_bytes(source[dataset.path]) for dataset in table.datasets)
        for dataset in table.datasets:
            item = source[dataset.path]
            if self._chunk_bytes(item) > _LARGEST_CHUNK:
                raise DataError(
                    f"{self._path}: {self._chunk(item)[0]} rows of {dataset.name!r} are more than the 4 GB that a "
                    "chunk may have; choose fewer"
                )
            if dataset.nbytes:
                require_budget(self.budget, dataset.name, partial(self._block, dataset, item))

    def bytes_needed(self, table: Table, source: Any) -> int:
        needed = bytes_beside(source, table)
        for dataset in table.datasets:
            item = source[dataset.path]
            nbytes = dataset.shape[0] * self._row_bytes(item)
            stored = int(item.id.get_storage_size())
            if not self._storage["compression"]:
                needed += nbytes
            elif dataset.decode_bytes:
                # What compressing leaves is known afterwards; about as much as another compression did.
                needed += min(nbytes, stored)
        return needed

    def create(self, target: Any, like: Any, path: bytes) -> None:
        narrow = self._narrower(like)
        kind = None if narrow is None else _hdf5_type(narrow)
        chunks = self._chunk(like) if self._is_chunked() and like.size else None
        create_dataset(target, like, path, kind=kind, chunks=chunks, **(self._storage if chunks else {}))

    def file_options(self, table: Table) -> dict[str, Any]:
        # A chunk that is written in two parts stays in memory in between; one that is whole leaves it first.
        return {"rdcc_nbytes": 2 * self._largest_chunk, "rdcc_w0": 1}

    def move(self, rows: Rows, target: Any, step: Callable[[int], None]) -> None:
        dataset, narrow = rows.dataset, self._narrower(rows.item)
        block = self._block(dataset, rows.item, self.budget)
        memory = np.empty((block, dataset.row_bytes), np.uint8)
        raw = RawRows(target)
        for first in range(0, dataset.shape[0], block):
            some = rows.read(first, memory[: dataset.shape[0] - first])
            if narrow is None:
                raw.write(first, some)
            else:
                where = partial(_where, f"{self._path}: dataset {dataset.name!r}", first)
                raw.write(first, narrowed(some.view(rows.item.dtype), narrow, where).view(np.uint8))
            step(some.nbytes)

    def _is_chunked(self) -> bool:
        return bool(self._storage["compression"] or self._chunk_rows)

    def _chunk(self, item: Any) -> tuple[int, ...]:
        rows = self._chunk_rows or max(1, _CHUNK_BYTES // max(1, self._row_bytes(item)))
        return (max(1, min(rows, item.shape[0])), *item.shape[1:])

    def _chunk_bytes(self, item: Any) -> int:
        return self._chunk(item)[0] * self._row_bytes(item) if self._is_chunked() else 0

    def _row_bytes(self, item: Any) -> int:
        kind = self._narrower(item)
        size = item.id.get_type().get_size() if kind is None else kind.itemsize
        return int(math.prod(item.shape[1:]) * size)

    def _narrower(self, item: Any) -> np.dtype[Any] | None:
        """The dtype to store a dataset in, where it is of wider floating-point numbers."""
        import h5py

        kind = item.id.get_type()
        if self._dtype is None or not isinstance(kind, h5py.h5t.TypeFloatID) or kind.get_size() <= self._dtype.itemsize:
            return None
        return self._dtype if h5py.h5t.py_create(item.dtype).equal(kind) else None  # else of a format of its own

    def _block(self, dataset: RowDataset, item: Any, budget: int) -> int:
        """Rows that are moved at a time in so many bytes; 0 where they are too few."""
        # Chunks that are being made: as they lie in the cache, and filtered.
        left = budget - dataset.decoding(budget)[1] - 2 * self._largest_chunk - 2 * self._chunk_bytes(item)
        row = dataset.row_bytes
        if self._narrower(item) is not None:
            row = 2 * row + self._row_bytes(item)  # as it was, as it will be, and whether each value fits
        least = dataset.chunk_rows * row
        return dataset.whole_chunks(max(0, min(left, max(_BLOCK_BYTES, least))) // max(1, row))


def narrowed(values: NDArray[Any], dtype: np.dtype[Any], where: Callable[..., str]) -> NDArray[Any]:
    """Values in another floating-point type.

    Raises
    ------
    DataError
        If it cannot hold a finite one; `where` says, by the indices of a value, which that is.
    """
    with np.errstate(over="ignore"):
        found: NDArray[Any] = values.astype(dtype)
    if not np.isfinite(found).all():
        lost = np.argwhere(np.isinf(found) & np.isfinite(values))
        if len(lost):
            raise DataError(
                f"{where(*lost[0])} is {values[tuple(lost[0])]:g}, more than {dtype} holds, which is "
                f"{np.finfo(dtype).max:g}; choose a wider type"
            )
    return found


def _where(what: str, first: int, row: int, column: int) -> str:
    return f"{what}, row {first + row}, column {column}"


def _hdf5_type(dtype: np.dtype[Any]) -> Any:
    import h5py

    return h5py.h5t.py_create(dtype)
