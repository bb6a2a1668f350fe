"""HDF5 files and what is in them: opening, finding columns, and errors that say what is wrong and what there is."""

from __future__ import annotations

import difflib
import glob
import importlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastsgd.data.arrays import storage_dtype
from fastsgd.data.codecs import filter_name
from fastsgd.data.conventions import contents, is_internal, is_transposed, missing_values, of_group, unfit
from fastsgd.data.walk import text_of, walk
from fastsgd.errors import DataError

Path = str | os.PathLike[str]

# What h5py raises for a damaged file, a missing filter, or a type that NumPy does not have.
READ_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError)
_LISTED = 8  # names in a message
# Filters by their number: what the package hdf5plugin brings, and what PyTables keeps to itself.
_OF_HDF5PLUGIN = {307, 32001, 32004, 32008, 32013, 32015, 32017, 32018, 32024, 32026, 32028}
_LZO = 305
_COMPLEX = (("real", "imag"), ("r", "i"))  # as MATLAB and others store them


@dataclass(frozen=True)
class Column:
    """One HDF5 dataset, or a field of a compound one.

    Attributes
    ----------
    path, field : str, str or None
    width : int
        Columns.
    stored, dtype : numpy.dtype
        In the file, and as held in memory.
    rows, chunk_rows : int
        Rows of a chunk; 0 where it is not chunked.
    decode_bytes : int
        Bytes that a thread takes to undo the filters of a chunk: as it is stored, with its bytes shuffled, and whole.
        0 where there are none.
    stored_row_bytes : int
        Bytes of a row in the file, of a table all its fields.
    missing : tuple of scalars
        Values that say there is none, of the dtype `stored`.
    """

    path: str
    field: str | None
    width: int
    stored: np.dtype[np.generic]
    dtype: np.dtype[np.generic]
    rows: int
    chunk_rows: int
    decode_bytes: int
    stored_row_bytes: int
    missing: tuple[np.generic, ...]

    @property
    def name(self) -> str:
        return self.path if self.field is None else f"{self.path}::{self.field}"


def expand(path: Path | Sequence[Path]) -> list[str]:
    """The files that a path, a list of paths or a glob pattern names.

    Raises
    ------
    DataError
        If there are none.
    """
    try:
        given = [os.fspath(path)] if isinstance(path, (str, os.PathLike)) else [os.fspath(entry) for entry in path]
    except TypeError:
        raise DataError(f"path is {path!r}; it is a file, a list of files, or a glob pattern") from None
    if not given:
        raise DataError("no files were given; path is a file, a list of files, or a glob pattern")
    paths: list[str] = []
    for item in given:
        if glob.has_magic(item) and not os.path.exists(item):
            matches = sorted(match for match in glob.glob(item, recursive=True) if not os.path.isdir(match))
            if not matches:
                raise DataError(f"no file matches the pattern {item!r}")
            paths.extend(matches)
        else:
            paths.append(item)
    return paths


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """The names that one was perhaps meant to be: alike, of other case, or in another group; else the first few."""
    folded = name.strip("/").casefold()
    last = _last(folded)
    same = [other for other in names if _last(other.casefold()) == last]
    alike = difflib.get_close_matches(folded, [other.casefold() for other in names], n=3, cutoff=0.5)
    near = same + [other for match in alike for other in names if other.casefold() == match and other not in same]
    return near[:_LISTED] or list(names[:_LISTED])


def _last(name: str) -> str:
    """A dataset's name without its groups, or that of a field."""
    return name.replace("::", "/").rpartition("/")[2]


@contextmanager
def opened(path: str, **options: Any) -> Iterator[Any]:
    """An HDF5 file open for reading.

    Raises
    ------
    DataError
        If it cannot be opened; says what is wrong with it.
    """
    import h5py

    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        names = os.listdir(folder) if os.path.isdir(folder) else []
        near = difflib.get_close_matches(os.path.basename(path), sorted(names))
        hint = f"; nearby there is {', '.join(map(repr, near))}" if near else ""
        raise DataError(f"there is no file {path!r}{hint}")
    if os.path.isdir(path):
        raise DataError(f"{path!r} is a folder; give a file, or a pattern such as {os.path.join(path, '*.h5')!r}")
    try:
        file = h5py.File(path, "r", **options)
    except PermissionError as error:
        raise DataError(f"{path!r} may not be read: {error.strerror or error}") from error
    except OSError as error:
        if os.path.getsize(path) == 0:
            what = "is empty: 0 bytes; copy or write it again"
        elif "truncated file" in str(error):
            what = "is truncated: its end is missing, as after an interrupted copy; copy or write it again"
        elif "lock" in str(error):
            what = (
                f"cannot be locked for reading ({error}): another process has it open for writing, so let that end "
                "first; or its file system, over a network, knows no locks, then set HDF5_USE_FILE_LOCKING=FALSE in "
                "the environment"
            )
        elif "already open for write" in str(error):
            what = (
                "is marked as open for writing: let the process that writes it end; if that died, the file may be "
                "damaged, and `h5clear -s` removes the mark"
            )
        elif not h5py.is_hdf5(path):
            what = "is not an HDF5 file"
        else:
            what = f"cannot be opened ({error})"
        raise DataError(f"{path!r} {what}") from error
    with file:
        yield file


def find_columns(file: Any, path: str, specs: dict[str, list[str]]) -> dict[str, tuple[Column, ...]]:
    """The columns of each part, all of the same number of rows.

    Raises
    ------
    DataError
        If one is missing or unfit; the message names it, and the nearest names where there are any.
    """
    found = {part: tuple(_column(file, path, spec) for spec in listed) for part, listed in specs.items()}
    columns = [column for part in found.values() for column in part]
    for column in columns[1:]:
        if column.rows != columns[0].rows:
            hint = ""
            for one, other in ((column, columns[0]), (columns[0], column)):
                if one.width == other.rows:
                    hint = f"; {one.name!r} has {one.width} columns: R and Julia store a matrix so, save its transpose"
            raise DataError(
                f"{path}: {columns[0].name!r} has {columns[0].rows} rows, {column.name!r} has {column.rows}; "
                f"they need the same number{hint}"
            )
    return found


def _column(file: Any, path: str, spec: str) -> Column:
    name, _, field = spec.partition("::")
    what = f"{path}: dataset {name!r}"
    try:
        item = find_dataset(file, path, name)
        dtype = _numpy_dtype(item, what)
        shape, chunks, turned = item.shape, item.chunks, item.shape is not None and is_transposed(item)
        reason, missing = unfit(item), missing_values(item)
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(f"{what} cannot be read ({error}); the file may be damaged") from error
    if reason is not None:
        raise DataError(f"{what} {reason}")
    filters = require_filters(item, what)
    if shape is None or len(shape) not in (1, 2):
        raise DataError(f"{what} has shape {shape}; it has one axis, or two: (rows, columns)")
    if turned:
        shape, chunks = shape[::-1], chunks and chunks[::-1]
    width = 1 if len(shape) == 1 else shape[1]
    decode_bytes = 3 * math.prod(chunks) * dtype.itemsize if filters else 0
    stored_row_bytes = width * dtype.itemsize
    if dtype.names is not None:
        dtype, width = _field(dtype, field, len(shape), what, name)
    elif field:
        raise DataError(f"{what} has no fields, so no {field!r}; name it as {name!r}")
    if shape[0] == 0 or width == 0:
        raise DataError(f"{path}: dataset {spec!r} has shape {shape}; it needs at least one row and one column")
    held = storage_dtype(dtype, f"{path}: dataset {spec!r}")
    chunk_rows = min(chunks[0], shape[0]) if chunks else 0
    return Column(
        name, field or None, width, dtype, held, shape[0], chunk_rows, decode_bytes, stored_row_bytes, missing
    )


def _numpy_dtype(dataset: Any, what: str) -> np.dtype[Any]:
    try:
        return dataset.dtype  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{what} is of a type that NumPy does not have ({error}); fastsgd reads integers, booleans and float16, "
            "float32 or float64"
        ) from error


def find_dataset(file: Any, path: str, name: str) -> Any:
    """The h5py dataset of that name.

    Raises
    ------
    DataError
        If there is none; names the nearest.
    """
    import h5py

    item = file.get(name)
    if item is None:
        listing = ", ".join(map(repr, nearest(name, _names(file)))) or "no datasets at all"
        raise DataError(f"{path}: there is no dataset {name!r}; the file has {listing}")
    if isinstance(item, h5py.Group):
        raise DataError(f"{path}: {name!r} is a group, not a dataset{of_group(item, contents(item, name, _LISTED))}")
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{path}: {name!r} is a named datatype, not a dataset")
    return item


def _names(file: Any) -> list[str]:
    """All datasets, each table followed by its fields."""
    import h5py

    names: list[str] = []
    for found in walk(file):
        name = text_of(found.path)
        if isinstance(found.item, h5py.Dataset) and found.path == found.first and not is_internal(name):
            names.append(name)
            with suppress(TypeError, ValueError):  # of a type that NumPy does not have
                names.extend(f"{name}::{field}" for field in found.item.dtype.names or ())
    return names


def require_filters(item: Any, what: str) -> list[int]:
    """The numbers of a dataset's filters.

    Raises
    ------
    DataError
        If HDF5 lacks one of them; says where to get it.
    """
    plist = item.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    for number, _, _, given in filters:
        if not _filter_available(number):
            raise DataError(
                f"{what} was written with the filter {filter_name(number, given)!r}, which HDF5 does not have here; "
                f"{_way_to_filter(number)}"
            )
    return [number for number, _, _, _ in filters]


def _filter_available(number: int) -> bool:
    """Whether HDF5 has a filter, the package `hdf5plugin` being asked for it where it is installed."""
    import h5py

    if not h5py.h5z.filter_avail(number):
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")
    return bool(h5py.h5z.filter_avail(number))


def _way_to_filter(number: int) -> str:
    """Where to get a filter, or how to do without."""
    if number in _OF_HDF5PLUGIN:
        return "install it with: pip install hdf5plugin"
    if number == _LZO:
        return "rewrite the file where PyTables is installed: ptrepack --complib=zlib OLD.h5 NEW.h5"
    return "put its plugin where HDF5_PLUGIN_PATH says, or write the file with gzip instead"


def _field(dtype: Any, field: str, axes: int, what: str, name: str) -> tuple[Any, int]:
    """The dtype and the columns of a field of a table."""
    if dtype.names in _COMPLEX:
        raise DataError(f"{what} holds complex numbers; save their parts, or magnitude and angle, as real ones")
    if axes != 1:
        raise DataError(f"{what} is a table of two axes; one with a single axis can be used")
    if field not in dtype.names:
        near = ", ".join(map(repr, nearest(field, dtype.names) if field else dtype.names[:_LISTED]))
        given = f"no field {field!r}; it has" if field else "the fields"
        raise DataError(f"{what} is a table with {given} {near}; name one as {f'{name}::{dtype.names[0]}'!r}")
    base, inner = dtype[field].subdtype or (dtype[field], ())
    return base, int(np.prod(inner, dtype=np.int64))
