"""Tables in HDF5 files: one file, several, or a glob; columns from one dataset or many."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Reader, Rows
from fastsgd.data.dataset import Dataset
from fastsgd.data.schema import READ_ERRORS, Column, Path, expand, find_columns, opened
from fastsgd.errors import DataError

# Rows of a dataset that is not chunked are read this many bytes at a time.
_CONTIGUOUS_BYTES = 1 << 20
# Files that stay open for reading. To open one takes as long as to read a block; blocks come from all files in turn.
_OPEN_FILES = 32


@dataclass(frozen=True)
class Part:
    """The columns that make up x, y or weight, joined side by side, in one dtype for all files."""

    columns: tuple[Column, ...]
    dtype: np.dtype[np.generic]
    as_stored: bool  # one dataset, in that dtype in each file: what is read needs no copy

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns)


class HDF5Dataset(Dataset):
    """Rows of one or several HDF5 files, read as one table.

    Parameters
    ----------
    path : str, path, or list of them
        A file, several of one schema, or a glob pattern (its files in sorted order).
    features : str or list of str
        HDF5 path of a 1-D or 2-D dataset, or several to be joined column-wise; ``"table::field"`` names a field of a
        compound dataset.
    target, weight : str or list of str, optional
        Likewise; a weight is one column.

    Raises
    ------
    DataError
        If a file or dataset is missing or unfit; the message names it, and the nearest names where there are any.
    """

    def __init__(
        self,
        path: Path | Sequence[Path],
        features: str | Sequence[str],
        target: str | Sequence[str] | None = None,
        *,
        weight: str | Sequence[str] | None = None,
    ) -> None:
        self.paths = expand(path)
        self._specs = {"x": _listed(features, "features")}
        self._specs |= {"y": _listed(target, "target")} if target is not None else {}
        self._specs |= {"weight": _listed(weight, "weight")} if weight is not None else {}
        found: list[dict[str, tuple[Column, ...]]] = []
        for file_path in self.paths:
            with opened(file_path) as file:
                found.append(find_columns(file, file_path, self._specs))
            _require_same_schema(self.paths[0], found[0], file_path, found[-1])
        self._parts = {name: _part([columns[name] for columns in found]) for name in self._specs}
        if "weight" in self._parts and self._parts["weight"].width != 1:
            raise DataError(f"{self._name()}: the weight has {self._parts['weight'].width} columns; it is one column")
        self.n_features = self._parts["x"].width
        self.n_targets = self._parts["y"].width if "y" in self._parts else 0
        self.dtype = self._parts["x"].dtype
        self.target_dtype = self._parts["y"].dtype if "y" in self._parts else None
        self.weight_dtype = self._parts["weight"].dtype if "weight" in self._parts else None
        lengths = [columns["x"][0].rows for columns in found]
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._spans = np.array([[0, self._starts[-1]]], np.int64)
        chunk_rows = max(column.chunk_rows for columns in found for column in columns["x"])
        self.chunk_rows = chunk_rows or min(max(lengths), max(1, _CONTIGUOUS_BYTES // self.row_bytes))
        self._decode_bytes = max(
            column.decode_bytes for columns in found for part in columns.values() for column in part
        )

    def _name(self) -> str:
        return self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"

    def _files(self) -> NDArray[np.int64]:
        return self._starts

    def _place(self, row: int) -> tuple[int, int]:
        """Number of the file that holds a source row, and the row's number there."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return index, int(row - self._starts[index])

    def locate(self, part: str, row: int, column: int) -> str:
        index, row = self._place(row)
        for source in self._parts[part].columns:
            if column < source.width:
                break
            column -= source.width
        return f"{self.paths[index]}: dataset {source.name!r}, row {row}, column {column}"

    def tables(self) -> dict[str, list[str]]:
        """The fields that are read of each compound dataset."""
        fields: dict[str, list[str]] = {}
        for column in self._columns():
            if column.field is not None and column.field not in fields.setdefault(column.path, []):
                fields[column.path].append(column.field)
        return fields

    def _columns(self) -> list[Column]:
        return [column for part in self._parts.values() for column in part.columns]

    def cache_bytes(self) -> int:
        """Bytes of the chunk cache of each HDF5 dataset: a block's worth for all that are open at once."""
        datasets = len({column.path for column in self._columns()}) * min(len(self.paths), _OPEN_FILES)
        return self.unit_rows() * self.row_bytes // datasets

    def reading_bytes(self, rows: int) -> int:
        """Bytes that reading `rows` rows takes: the rows, what they are made of, the chunk cache, a chunk in decoding.

        Columns that are joined or converted are read one at a time; fields are read table by table, and kept.
        """
        made = [
            column.width * part.dtype.itemsize
            for part in self._parts.values()
            for column in part.columns
            if column.field is None and not part.as_stored
        ]
        kept = sum(column.width * column.stored.itemsize for column in self._columns() if column.field is not None)
        row_bytes = self.row_bytes + max(made, default=0) + kept
        return rows * row_bytes + self.unit_rows() * self.row_bytes + self._decode_bytes

    def require_unchanged(self, index: int, file: Any) -> None:
        """Raise DataError unless a file still has the rows and columns that it had."""
        path, rows = self.paths[index], int(self._starts[index + 1] - self._starts[index])
        for name, columns in find_columns(file, path, self._specs).items():
            part = self._parts[name]
            for column, known in zip(columns, part.columns, strict=True):
                alike = (column.rows, column.width) == (rows, known.width)
                fits = np.result_type(column.dtype, part.dtype) == part.dtype
                if not alike or not fits or (part.as_stored and column.stored != part.dtype):
                    raise DataError(
                        f"{path} has changed: {column.name!r} has {column.rows} rows of {column.width} {column.stored} "
                        f"now, it had {rows} of {known.width} {part.dtype}; make the dataset again"
                    )

    @contextmanager
    def open(self) -> Iterator[Reader]:
        """The files, opened as they are needed and closed when the context ends."""
        reader = _HDF5Reader(self)
        try:
            yield reader
        finally:
            reader.close()


class _OpenFile:
    """One file, open until it is closed, and the datasets of it that were asked for."""

    def __init__(self, path: str, cache_bytes: int) -> None:
        self._stack = ExitStack()
        self.file = self._stack.enter_context(opened(path, rdcc_nbytes=cache_bytes))
        self._handle = self.file.id.get_vfd_handle()
        self._size = self.size()
        self._datasets: dict[str, Any] = {}

    def dataset(self, path: str) -> Any:
        if path not in self._datasets:
            self._datasets[path] = self.file[path]
        return self._datasets[path]

    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def require_whole(self) -> None:
        """Raise OSError if the file has lost its end: HDF5 would read zeros there, in silence."""
        if self.size() < self._size:
            raise OSError("the file was cut short while it was read")

    def close(self) -> None:
        self._datasets.clear()
        self._stack.close()


class _HDF5Reader:
    """Reads rows through h5py."""

    def __init__(self, dataset: HDF5Dataset) -> None:
        self._dataset = dataset
        self._tables = dataset.tables()
        self._open: dict[int, _OpenFile] = {}  # the one used last comes last
        self._verified: set[int] = set()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, index: int) -> _OpenFile:
        file = self._open.pop(index, None)
        if file is None:
            if len(self._open) == _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            file = _OpenFile(self._dataset.paths[index], self._dataset.cache_bytes())
        self._open[index] = file
        if index not in self._verified:
            self._dataset.require_unchanged(index, file.file)
            self._verified.add(index)
        return file

    def read(self, start: int, stop: int) -> Rows:
        index, first = self._dataset._place(start)
        last = first + stop - start
        file = self._file(index)
        try:
            tables = {path: file.dataset(path).fields(fields)[first:last] for path, fields in self._tables.items()}
            parts = {name: _read(file, tables, part, first, last) for name, part in self._dataset._parts.items()}
            file.require_whole()
        except READ_ERRORS as error:
            names = ", ".join(repr(column.name) for column in self._dataset._columns())
            raise DataError(
                f"{self._dataset.paths[index]}: rows {first} to {last - 1} of {names} cannot be read ({error}); the "
                "file is damaged, changed while it was read, or needs a filter plugin"
            ) from error
        return Rows(parts["x"], parts.get("y"), parts.get("weight"))


def _read(file: _OpenFile, tables: dict[str, NDArray[Any]], part: Part, first: int, last: int) -> NDArray[np.generic]:
    """Rows first to last of a part. NumPy converts: HDF5 does it at a third to a tenth of that speed."""
    out = None if part.as_stored else np.empty((last - first, part.width), part.dtype)
    at = 0
    for column in part.columns:
        values = file.dataset(column.path)[first:last] if column.field is None else tables[column.path][column.field]
        values = values.reshape(last - first, column.width)
        if out is None:
            return values
        out[:, at : at + column.width] = values
        at += column.width
    assert out is not None
    return out


def _listed(spec: str | Sequence[str], name: str) -> list[str]:
    listed = [spec] if isinstance(spec, str) else list(spec) if isinstance(spec, Sequence) else []
    if not listed or not all(isinstance(item, str) and item for item in listed):
        raise DataError(f"{name} is {spec!r}; it is the path of a dataset in the file, or a list of such paths")
    return listed


def _require_same_schema(
    path: str, columns: dict[str, tuple[Column, ...]], other: str, others: dict[str, tuple[Column, ...]]
) -> None:
    for name, part in columns.items():
        for column, twin in zip(part, others[name], strict=True):
            if column.width != twin.width:
                raise DataError(
                    f"{path} and {other} differ: {column.name!r} has {column.width} columns there, {twin.width} here; "
                    "files that are read as one table have one schema"
                )


def _part(columns_by_file: list[tuple[Column, ...]]) -> Part:
    columns = [column for listed in columns_by_file for column in listed]
    dtype = np.result_type(*(column.dtype for column in columns))
    single = len(columns_by_file[0]) == 1 and columns[0].field is None
    return Part(columns_by_file[0], dtype, single and all(column.stored == dtype for column in columns))
