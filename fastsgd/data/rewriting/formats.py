"""Tables of other formats, a block of rows at a time: CSV and Parquet through pyarrow, NPY and NPZ through NumPy."""

from __future__ import annotations

import importlib
import math
import os
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import DataError

_LARGEST_BLOCK, _LEAST_BLOCK = 4 << 20, 64 << 10
_SHARE = 16  # of the budget that a block takes: readers keep some ahead, and convert them
_SAMPLE_BYTES = 1 << 20


class Column(NamedTuple):
    """A column of a table; `of` is the array that it is a column of, if there is one. `kind` is what its values are,
    "number" or how the source calls them."""

    name: str
    of: str
    kind: str


class Codes(NamedTuple):
    """Values as numbers of a list of names; -1 where there is none."""

    codes: NDArray[np.int64]
    names: list[str]


Values = NDArray[Any] | Codes


class Block(NamedTuple):
    """Some rows: the values of each column that was asked for, NaN where there are none."""

    rows: int
    values: list[Values]


class Source(Protocol):
    """A file with a table.

    Attributes
    ----------
    path : str
    columns : list of Column
    rows : int or None
        An estimate or None where only reading tells.
    nbytes : int
        Of the file.
    """

    path: str
    columns: list[Column]
    rows: int | None
    nbytes: int

    def blocks(self, names: Sequence[str], categories: Sequence[str], memory: int) -> Generator[Block, None, None]:
        """All rows of some columns, those of `categories` as codes."""

    def position(self) -> int:
        """Bytes of the file that are done with, about."""


def open_source(path: str, *, header: bool, delimiter: str | None) -> Source:
    """The table in a file.

    Raises
    ------
    DataError
        If there is no file, it is of another format, is damaged, or pyarrow is needed and missing.
    """
    lower = path.lower()
    if not os.path.exists(path):
        raise DataError(f"there is no file {path!r}")
    for endings, make in _FORMATS.items():
        if lower.endswith(endings):
            with _explained(path):
                return make(path, header, delimiter)
    known = ", ".join(ending for endings in _FORMATS for ending in endings)
    raise DataError(f"{path!r} is of no known format; names of files that can be converted end in {known}")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Name the file in what its reader raises."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, KeyError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, ArithmeticError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise DataError(f"{path}: {error}") from error


def _arrow(path: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"to read {path!r} takes pyarrow; install it with: pip install 'fastsgd[convert]'") from error


def _kind(arrow: Any, kind: Any) -> str:
    is_ = arrow.types
    if is_.is_integer(kind) or is_.is_floating(kind) or is_.is_boolean(kind) or is_.is_null(kind):
        return "number"
    return "text" if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_dictionary(kind) else str(kind)


def _from_arrow(arrow: Any, array: Any, coded: bool) -> Values:
    if coded:
        found = array if arrow.types.is_dictionary(array.type) else array.dictionary_encode()
        names = [str(name) for name in found.dictionary.to_pylist()]
        return Codes(found.indices.cast(arrow.int64()).fill_null(-1).to_numpy(zero_copy_only=False), names)
    if arrow.types.is_boolean(array.type):
        array = array.cast(arrow.uint8())
    if array.null_count or arrow.types.is_null(array.type):
        array = array.cast(arrow.float64(), safe=False)
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


class _CSV:
    def __init__(self, path: str, header: bool, delimiter: str | None) -> None:
        self.path = path
        self._arrow, self._csv = _arrow(path, "pyarrow"), _arrow(path, "pyarrow.csv")
        self._header = header
        self._delimiter = delimiter or ("\t" if ".tsv" in os.path.basename(path).lower() else ",")
        self.nbytes = os.path.getsize(path)
        self._position: Callable[[], int] = lambda: 0
        # Types are guessed from the first block; what looks like whole numbers may have fractions later.
        with self._reader(_LARGEST_BLOCK, autogenerate_column_names=not header) as reader:
            schema = reader.schema
        names = [field.name if header else str(index) for index, field in enumerate(schema)]
        self.columns = [
            Column(name, name, _kind(self._arrow, field.type)) for name, field in zip(names, schema, strict=True)
        ]
        self._truths = {
            name for name, field in zip(names, schema, strict=True) if self._arrow.types.is_boolean(field.type)
        }
        self.rows = None if self._compression() else self._estimate()

    def _compression(self) -> str | None:
        return "gzip" if self.path.lower().endswith(".gz") else None

    def _estimate(self) -> int | None:
        with open(self.path, "rb") as file:
            sample = file.read(_SAMPLE_BYTES)
        return self.nbytes * sample.count(b"\n") // max(1, len(sample))

    @contextmanager
    def _reader(self, block_bytes: int, convert: Any = None, **options: Any) -> Iterator[Any]:
        arrow, csv = self._arrow, self._csv
        with ExitStack() as stack:
            raw = stream = stack.enter_context(arrow.OSFile(self.path))
            if self._compression():
                stream = stack.enter_context(arrow.CompressedInputStream(raw, self._compression()))
            self._position = raw.tell
            yield stack.enter_context(
                csv.open_csv(
                    stream,
                    read_options=csv.ReadOptions(block_size=block_bytes, **options),
                    # A text may be of several lines, and lie in two blocks.
                    parse_options=csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                    convert_options=convert,
                )
            )

    def blocks(self, names: Sequence[str], categories: Sequence[str], memory: int) -> Generator[Block, None, None]:
        arrow = self._arrow
        types = {
            name: arrow.string() if name in categories else arrow.bool_() if name in self._truths else arrow.float64()
            for name in names
        }
        convert = self._csv.ConvertOptions(column_types=types, include_columns=list(names), strings_can_be_null=True)
        options = {} if self._header else {"column_names": [column.name for column in self.columns]}
        size = min(_LARGEST_BLOCK, max(_LEAST_BLOCK, memory // _SHARE))
        with _explained(self.path), self._reader(size, convert, **options) as reader:
            for batch in reader:
                yield Block(
                    batch.num_rows,
                    [
                        _from_arrow(arrow, array, name in categories)
                        for name, array in zip(names, batch.columns, strict=True)
                    ],
                )

    def position(self) -> int:
        return self._position()


class _Parquet:
    def __init__(self, path: str, header: bool, delimiter: str | None) -> None:
        self.path = path
        self._arrow, self._parquet = _arrow(path, "pyarrow"), _arrow(path, "pyarrow.parquet")
        self.nbytes = os.path.getsize(path)
        with self._parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            self.rows: int | None = file.metadata.num_rows
        self.columns = [Column(field.name, field.name, _kind(self._arrow, field.type)) for field in schema]
        self._done = 0

    def blocks(self, names: Sequence[str], categories: Sequence[str], memory: int) -> Generator[Block, None, None]:
        rows = max(1, min(_LARGEST_BLOCK, memory // _SHARE) // (8 * max(1, len(names))))
        with _explained(self.path), self._parquet.ParquetFile(self.path, buffer_size=_LEAST_BLOCK) as file:
            for batch in file.iter_batches(rows, columns=list(names)):
                yield Block(
                    batch.num_rows,
                    [_from_arrow(self._arrow, batch.column(name), name in categories) for name in names],
                )
                self._done += batch.num_rows

    def position(self) -> int:
        return self.nbytes * self._done // max(1, self.rows or 0)


class _Stored(NamedTuple):
    """An array in a file: its name, shape and type, and what reads its next rows."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], NDArray[Any]]


class _Arrays:
    """Arrays whose rows stand side by side."""

    def __init__(self, path: str, header: bool, delimiter: str | None) -> None:
        self.path = path
        self.nbytes = os.path.getsize(path)
        with ExitStack() as stack:
            arrays = self._open(stack)
        if not arrays:
            raise DataError(f"{path}: there is no array in the file")
        self.rows: int | None = arrays[0].shape[0] if arrays[0].shape else 0
        self._lengths = {array.name: array.shape[0] if array.shape else None for array in arrays}
        self.columns = [column for array in arrays for column in self._columns(array)]
        self._done = 0

    def _open(self, stack: ExitStack) -> list[_Stored]:
        """The arrays of the file, open until `stack` ends."""
        values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        done = 0

        def read(rows: int) -> NDArray[Any]:
            nonlocal done
            done += rows
            found: NDArray[Any] = values[done - rows : done]
            return found

        return [_Stored("", values.shape, values.dtype, read)]

    def _columns(self, array: _Stored) -> list[Column]:
        kinds = {"b": "number", "i": "number", "u": "number", "f": "number", "U": "text", "S": "text"}
        if array.dtype.names is not None and len(array.shape) == 1:
            return [
                Column(name, array.name or name, kinds.get(array.dtype[name].kind, str(array.dtype[name])))
                for name in array.dtype.names
            ]
        if len(array.shape) not in (1, 2):
            kind = f"an array of shape {array.shape}"
            return [Column(array.name or "0", array.name or "0", kind)]
        kind = kinds.get(array.dtype.kind, str(array.dtype))
        if len(array.shape) == 1 and array.name:
            return [Column(array.name, array.name, kind)]
        width, start = (array.shape[1] if len(array.shape) == 2 else 1), f"{array.name}_" if array.name else ""
        return [Column(f"{start}{index}", array.name or str(index), kind) for index in range(width)]

    def blocks(self, names: Sequence[str], categories: Sequence[str], memory: int) -> Generator[Block, None, None]:
        wanted = set(names)
        with _explained(self.path), ExitStack() as stack:
            arrays = [
                (array, [column.name for column in self._columns(array)])
                for array in self._open(stack)
                if any(column.name in wanted for column in self._columns(array))
            ]
            lengths = {self._lengths[array.name] for array, _ in arrays}
            if len(lengths) > 1:
                listing = ", ".join(f"{array.name!r} {self._lengths[array.name]}" for array, _ in arrays)
                raise DataError(f"{self.path}: the arrays have different numbers of rows: {listing}; drop some of them")
            (total,) = lengths
            row_bytes = sum(math.prod(array.shape[1:]) * array.dtype.itemsize for array, _ in arrays)
            step = max(1, min(_LARGEST_BLOCK, memory // _SHARE) // max(1, row_bytes))
            for first in range(0, total or 0, step):
                rows = min(step, (total or 0) - first)
                found: dict[str, NDArray[Any]] = {}
                for array, columns in arrays:
                    values = array.read(rows)
                    by_field = values.dtype.names is not None
                    flat = values if by_field else values.reshape(rows, -1)
                    found |= {name: flat[name] if by_field else flat[:, at] for at, name in enumerate(columns)}
                yield Block(rows, [_coded(found[name]) if name in categories else found[name] for name in names])
                self._done = first + rows

    def position(self) -> int:
        return self.nbytes * self._done // max(1, self.rows or 0)


class _Archive(_Arrays):
    """The arrays of an NPZ file, each of which is read from its beginning on."""

    def _open(self, stack: ExitStack) -> list[_Stored]:
        archive = stack.enter_context(zipfile.ZipFile(self.path))
        return [self._member(archive, name, stack) for name in archive.namelist() if name.endswith(".npy")]

    def _member(self, archive: zipfile.ZipFile, name: str, stack: ExitStack) -> _Stored:
        file = stack.enter_context(archive.open(name))
        form = np.lib.format
        version = form.read_magic(file)
        header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, by_columns, dtype = header(file)
        shown = name.removesuffix(".npy")
        width = math.prod(shape[1:])

        def read(rows: int) -> NDArray[Any]:
            if by_columns and min(shape) > 1:
                raise DataError(
                    f"{self.path}: array {shown!r} is stored by columns (Fortran order), which cannot be read by rows "
                    "from an archive; save it by rows, or in an .npy file"
                )
            size = rows * width * dtype.itemsize
            content = file.read(size)
            if len(content) < size:
                raise DataError(f"{self.path}: array {shown!r} is cut short")
            return np.frombuffer(content, dtype).reshape(rows, *shape[1:])

        return _Stored(shown, shape, dtype, read)


def _coded(values: NDArray[Any]) -> Codes:
    names, first, codes = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names[order]]
    return Codes(place[codes.reshape(-1)], texts)


_FORMATS: dict[tuple[str, ...], Callable[[str, bool, str | None], Source]] = {
    (".csv", ".csv.gz", ".tsv", ".tsv.gz"): _CSV,
    (".parquet", ".pq"): _Parquet,
    (".npy",): _Arrays,
    (".npz",): _Archive,
}
