"""Tables in HDF5 files: one file, several, or a glob; columns from one dataset or many."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.arrays import storage_dtype
from fastsgd.data.dataset import Dataset, Reader, Rows
from fastsgd.errors import DataError

# Rows of a dataset that is not chunked are read this many bytes at a time.
_CONTIGUOUS_BYTES = 1 << 20


@dataclass(frozen=True)
class Column:
    """One HDF5 dataset, or a field of a compound one: its path, its field, its columns, its dtype in memory."""

    path: str
    field: str | None
    width: int
    dtype: np.dtype[np.generic]

    @property
    def name(self) -> str:
        return self.path if self.field is None else f"{self.path}::{self.field}"


@dataclass(frozen=True)
class Part:
    """The columns that make up x, y or weight, joined side by side, in one dtype for all files."""

    columns: tuple[Column, ...]
    dtype: np.dtype[np.generic]

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
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        features: str | Sequence[str],
        target: str | Sequence[str] | None = None,
        *,
        weight: str | Sequence[str] | None = None,
    ) -> None:
        self.paths = _expand(path)
        specs = {
            "x": _listed(features, "features"),
            "y": _listed(target, "target"),
            "weight": _listed(weight, "weight"),
        }
        lengths: list[int] = []
        chunks: list[int] = []
        found: list[dict[str, tuple[Column, ...]]] = []
        for file_path in self.paths:
            with opened(file_path) as file:
                columns, rows, chunk = _inspect(file, file_path, specs)
            found.append(columns)
            lengths.append(rows)
            chunks.append(chunk)
        for file_path, columns in zip(self.paths[1:], found[1:], strict=True):
            _same_schema(self.paths[0], found[0], file_path, columns)
        self._parts = {name: _part([columns[name] for columns in found]) for name in specs if found[0][name]}
        if "weight" in self._parts and self._parts["weight"].width != 1:
            raise DataError(f"{self._name()}: the weight has {self._parts['weight'].width} columns; it is one column")
        self.n_features = self._parts["x"].width
        self.n_targets = self._parts["y"].width if "y" in self._parts else 0
        self.dtype = self._parts["x"].dtype
        self.target_dtype = self._parts["y"].dtype if "y" in self._parts else None
        self.weight_dtype = self._parts["weight"].dtype if "weight" in self._parts else None
        self.chunk_rows = max(chunks)
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._spans = np.array([[0, self._starts[-1]]], np.int64)

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

    @contextmanager
    def open(self) -> Iterator[Reader]:
        """The files, opened as they are needed and closed when the context ends."""
        with ExitStack() as stack:
            yield _HDF5Reader(self, stack)


class _HDF5Reader:
    """Reads rows through h5py; one file is open at a time."""

    def __init__(self, dataset: HDF5Dataset, stack: ExitStack) -> None:
        self._dataset = dataset
        self._stack = stack
        self._index = -1
        self._file: Any = None

    def _file_of(self, index: int) -> Any:
        if index != self._index:
            self._stack.close()
            # A cache that holds a chunk or two: a chunk that several reads share is decoded once.
            chunk = max(1 << 20, 2 * self._dataset.chunk_rows * self._dataset.row_bytes)
            self._file = self._stack.enter_context(opened(self._dataset.paths[index], rdcc_nbytes=min(chunk, 1 << 26)))
            self._index = index
        return self._file

    def read(self, start: int, stop: int) -> Rows:
        index, first = self._dataset._place(start)
        file = self._file_of(index)
        parts: dict[str, NDArray[np.generic]] = {}
        for name, part in self._dataset._parts.items():
            try:
                parts[name] = _read_part(file, part, first, first + stop - start)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                names = ", ".join(repr(column.name) for column in part.columns)
                raise DataError(
                    f"{self._dataset.paths[index]}: rows {first} to {first + stop - start - 1} of {names} cannot be "
                    f"read ({error}); the file is damaged, changed since it was opened, or needs a filter plugin"
                ) from error
        return Rows(parts["x"], parts.get("y"), parts.get("weight"))


def _read_part(file: Any, part: Part, start: int, stop: int) -> NDArray[np.generic]:
    out = np.empty((stop - start, part.width), part.dtype)
    at = 0
    for column in part.columns:
        source = file[column.path]
        shape = (stop - start,) if source.ndim == 1 else (stop - start, column.width)
        if column.field is not None:
            out[:, at : at + column.width] = source.fields(column.field)[start:stop].reshape(-1, column.width)
        elif column.width == part.width:
            source.read_direct(out.reshape(shape), np.s_[start:stop])
        else:
            block = np.empty(shape, column.dtype)
            source.read_direct(block, np.s_[start:stop])
            out[:, at : at + column.width] = block.reshape(-1, column.width)
        at += column.width
    return out


def _expand(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that a path, a list of paths or a glob pattern names."""
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not given:
        raise DataError("no files were given; path is a file, a list of files, or a glob pattern")
    paths: list[str] = []
    for entry in given:
        item = os.fspath(entry)
        if glob.has_magic(item) and not os.path.exists(item):
            matches = sorted(glob.glob(item, recursive=True))
            if not matches:
                raise DataError(f"no file matches the pattern {item!r}")
            paths.extend(matches)
        else:
            paths.append(item)
    return paths


def _listed(spec: str | Sequence[str] | None, name: str) -> list[str]:
    if spec is None:
        return []
    listed = [spec] if isinstance(spec, str) else list(spec)
    if not listed or not all(isinstance(item, str) and item for item in listed):
        raise DataError(f"{name} is {spec!r}; it is the path of a dataset in the file, or a list of such paths")
    return listed


@contextmanager
def opened(path: str, **options: Any) -> Iterator[Any]:
    """An HDF5 file open for reading, with errors that say what is wrong with it."""
    import h5py

    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        near = difflib.get_close_matches(os.path.basename(path), os.listdir(folder) if os.path.isdir(folder) else [])
        hint = f"; nearby there is {', '.join(near)}" if near else ""
        raise DataError(f"there is no file {path!r}{hint}")
    if os.path.isdir(path):
        raise DataError(f"{path!r} is a folder; give a file, or a pattern such as {os.path.join(path, '*.h5')!r}")
    try:
        file = h5py.File(path, "r", **options)
    except PermissionError as error:
        raise DataError(f"{path!r} may not be read: {error.strerror or error}") from error
    except OSError as error:
        if "truncated file" in str(error):
            what = "is truncated: its end is missing, as after an interrupted copy; copy or write it again"
        elif not h5py.is_hdf5(path):
            what = "is not an HDF5 file"
        else:
            what = f"cannot be opened ({error})"
        raise DataError(f"{path!r} {what}") from error
    with file:
        yield file


def _dataset_names(file: Any) -> list[str]:
    import h5py

    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _find(file: Any, path: str, spec: str) -> tuple[Any, str | None]:
    """The h5py dataset that "path" or "path::field" names, and the field."""
    import h5py

    name, _, field = spec.partition("::")
    item = file.get(name)
    if item is None:
        names = _dataset_names(file)
        near = difflib.get_close_matches(name.strip("/"), names, n=3, cutoff=0.5) or names[:8]
        listing = ", ".join(repr(other) for other in near) or "no datasets at all"
        raise DataError(f"{path}: there is no dataset {name!r}; the file has {listing}")
    if not isinstance(item, h5py.Dataset):
        inside = [f"{name.rstrip('/')}/{other}" for other in item][:8] if isinstance(item, h5py.Group) else []
        listing = f"; it holds {', '.join(repr(other) for other in inside)}" if inside else ""
        raise DataError(f"{path}: {name!r} is a group, not a dataset{listing}")
    return item, field or None


def _column(file: Any, path: str, spec: str) -> tuple[Column, int, int]:
    """A column, its rows, and the rows of a chunk."""
    item, field = _find(file, path, spec)
    dtype, shape = item.dtype, item.shape
    if shape is None or len(shape) not in (1, 2):
        raise DataError(f"{path}: dataset {spec!r} has shape {shape}; it has one axis, or two: (rows, columns)")
    if dtype.names is not None:
        if field is None or field not in dtype.names:
            raise DataError(
                f"{path}: dataset {spec!r} is a table with the fields {', '.join(dtype.names)}; name one as "
                f"{item.name.strip('/') + '::' + dtype.names[0]!r}"
            )
        base, inner = dtype[field].subdtype or (dtype[field], ())
        width = int(np.prod(inner, dtype=np.int64)) if len(shape) == 1 else 0
        dtype = base
    else:
        if field is not None:
            raise DataError(f"{path}: dataset {item.name.strip('/')!r} has no fields, so no {field!r}")
        width = 1 if len(shape) == 1 else shape[1]
    if shape[0] == 0 or width == 0:
        raise DataError(f"{path}: dataset {spec!r} has shape {shape}; it needs at least one row and one column")
    stored = storage_dtype(dtype, f"{path}: dataset {spec!r}")
    row_bytes = max(1, width * dtype.itemsize)
    chunk = item.chunks[0] if item.chunks else max(1, min(shape[0], _CONTIGUOUS_BYTES // row_bytes))
    return Column(spec.partition("::")[0], field, width, stored), shape[0], min(chunk, shape[0])


def _inspect(file: Any, path: str, specs: dict[str, list[str]]) -> tuple[dict[str, tuple[Column, ...]], int, int]:
    """The columns of each part in one file, its rows, and the rows of a chunk of the features."""
    found: dict[str, tuple[Column, ...]] = {}
    rows, chunk, first = -1, 0, ""
    for name, listed in specs.items():
        columns: list[Column] = []
        for spec in listed:
            column, length, chunk_rows = _column(file, path, spec)
            if rows < 0:
                rows, first = length, spec
            elif length != rows:
                raise DataError(f"{path}: {first!r} has {rows} rows, {spec!r} has {length}; they need the same number")
            if name == "x":
                chunk = max(chunk, chunk_rows)
            columns.append(column)
        found[name] = tuple(columns)
    return found, rows, chunk


def _same_schema(
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
    dtype = np.result_type(*(column.dtype for columns in columns_by_file for column in columns))
    return Part(columns_by_file[0], dtype)
