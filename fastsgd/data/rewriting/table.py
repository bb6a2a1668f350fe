"""What a file to be rewritten holds: the datasets that are the rows of its table, and all else."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.claims import require_credible
from fastsgd.data.conventions import is_transposed
from fastsgd.data.external import other_files, source_files
from fastsgd.data.places import WAY_OUT, Home, link_places
from fastsgd.data.schema import READ_ERRORS, find_dataset, require_filters
from fastsgd.data.walk import Found, text_of, walk
from fastsgd.errors import DataError

# Threads that decode, at most, and the share of the budget that more than one of them may take.
_DECODERS, _DECODING_SHARE = 16, 8

GROUP, DATASET, DATATYPE, LINK = "group", "dataset", "datatype", "link"


class Entry(NamedTuple):
    """A name in a file. `first` is the name under which its object was met first: an object may have several."""

    path: bytes
    kind: str
    first: bytes


@dataclass(frozen=True)
class RowDataset:
    """A dataset whose first axis are the rows of the table.

    Attributes
    ----------
    path : bytes
    name : str
        The path, to be shown.
    shape : tuple of int
    row_bytes : int
    chunk_rows : int
        Rows that are decoded together; 1 where there are no filters, and nothing is decoded.
    decode_bytes : int
        Bytes that it takes to decode a chunk: as it is stored, with its bytes shuffled, and whole; 0 where there are no
        filters.
    """

    path: bytes
    name: str
    shape: tuple[int, ...]
    row_bytes: int
    chunk_rows: int
    decode_bytes: int

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes

    def decoding(self, budget: int) -> tuple[int, int]:
        """Threads that decode chunks, and the bytes that they take together."""
        threads = max(1, min(_DECODERS, budget // _DECODING_SHARE // max(1, self.decode_bytes)))
        return threads, threads * self.decode_bytes

    def whole_chunks(self, rows: int) -> int:
        """As many rows of at most so many as are whole chunks: no chunk is to be decoded twice. All rows are, too."""
        return self.shape[0] if rows >= self.shape[0] else rows // self.chunk_rows * self.chunk_rows


@dataclass(frozen=True)
class Table:
    """The content of a file.

    Attributes
    ----------
    rows : int
    datasets : tuple of RowDataset
    entries : tuple of Entry
        All names of the file, each after the group that it is in.
    copied : tuple of str
        The datasets that are no rows of the table.
    """

    rows: int
    datasets: tuple[RowDataset, ...]
    entries: tuple[Entry, ...]
    copied: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(dataset.nbytes for dataset in self.datasets)


def find_table(file: Any, path: str, rows_of: str | None, home: Home) -> Table:
    """The table of an open file: of its datasets those of one number of rows, that which most bytes have.

    Parameters
    ----------
    file : h5py.File
    path : str
        Its name, for errors.
    rows_of : str, optional
        A dataset whose number of rows is taken instead.
    home : Home
        Where other files that values lie in may be.

    Raises
    ------
    DataError
        If there is no such table, or one of its datasets cannot be read or has values of no fixed size.
    """
    try:
        entries = tuple(map(_entry, walk(file)))
        lengths: dict[bytes, tuple[int, int]] = {}
        files = {path}
        for entry in entries:
            if entry.kind == DATASET and entry.path == entry.first:
                item = file[entry.path]
                files.update(source_files(item, path, home))
                require_filters(item, f"{path}: dataset {shown(entry.path)!r}")
                lengths[entry.path] = _length(item)
        rows = _most_rows(lengths, path) if rows_of is None else _rows_of(file, path, rows_of, home)
        found = tuple(_row_dataset(file, path, name) for name, (length, _) in lengths.items() if length == rows)
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(f"{path!r} cannot be listed ({error}); the file may be damaged") from error
    # Values that lie elsewhere come into the copy, as rows do; of others only what was written is copied.
    stored = sum(map(os.path.getsize, files))
    for name, (length, nbytes) in lengths.items():
        if length == rows or lies_elsewhere(file[name]):
            require_credible(nbytes, stored, f"{path}: dataset {shown(name)!r}")
    copied = tuple(shown(name) for name, (length, _) in lengths.items() if length != rows)
    return Table(rows, found, entries, copied)


def lies_elsewhere(item: Any) -> bool:
    """Whether the values of a dataset come from other datasets or files."""
    return bool(item.is_virtual or item.external)


def shown(path: bytes) -> str:
    """The path of an object as one writes it."""
    return text_of(path.lstrip(b"/")) or "/"


def _entry(found: Found) -> Entry:
    import h5py

    kinds = {h5py.Group: GROUP, h5py.Dataset: DATASET, h5py.Datatype: DATATYPE, type(None): LINK}
    return Entry(b"/" + found.path, kinds[type(found.item)], b"/" + found.first)


def _length(item: Any) -> tuple[int, int]:
    """Rows of a dataset, -1 where it has no axis, and its bytes."""
    return (item.shape[0] if item.shape else -1), int(item.size or 0) * item.id.get_type().get_size()


def _most_rows(lengths: dict[bytes, tuple[int, int]], path: str) -> int:
    totals: dict[int, int] = {}
    for rows, nbytes in lengths.values():
        if rows >= 0:
            totals[rows] = totals.get(rows, 0) + nbytes
    if not totals:
        raise DataError(f"{path}: there is no dataset with rows in the file")
    return max(totals, key=lambda rows: (totals[rows], rows))


def _rows_of(file: Any, path: str, name: str, home: Home) -> int:
    for _ in other_files(file, path, name, home):
        pass
    shape = find_dataset(file, path, name).shape
    if not shape:
        raise DataError(f"{path}: dataset {name!r} has no rows: its shape is {shape}")
    return int(shape[0])


def _row_dataset(file: Any, path: str, name: bytes) -> RowDataset:
    item, called = file[name], shown(name)
    filters = require_filters(item, f"{path}: dataset {called!r}")
    if is_transposed(item):
        raise DataError(
            f"{path}: dataset {called!r} is a matrix of MATLAB, which stores rows as columns: its columns would "
            "be taken for rows; save its transpose, without the attribute MATLAB_class, or train on it as it is"
        )
    if not is_fixed(item.id.get_type()):
        raise DataError(
            f"{path}: dataset {called!r} has values of no fixed size (text, lists or references), whose rows cannot be "
            "rewritten; store text at a fixed length, or name a dataset of another table as the rows"
        )
    size = item.id.get_type().get_size()
    chunk = item.chunks if filters else None
    return RowDataset(
        name,
        called,
        item.shape,
        math.prod(item.shape[1:]) * size,
        chunk[0] if chunk else 1,
        3 * math.prod(chunk) * size if chunk else 0,
    )


def is_fixed(kind: Any) -> bool:
    """Whether values of an HDF5 type are their bytes: no text of any length, no references, which lie elsewhere."""
    import h5py

    if isinstance(kind, h5py.h5t.TypeStringID):
        return not kind.is_variable_str()
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        return all(is_fixed(kind.get_member_type(index)) for index in range(kind.get_nmembers()))
    if isinstance(kind, h5py.h5t.TypeArrayID):
        return is_fixed(kind.get_super())
    return not isinstance(kind, (h5py.h5t.TypeVlenID, h5py.h5t.TypeReferenceID))


def require_no_rows_elsewhere(file: Any, path: str, table: Table, home: Home) -> None:
    """Raise DataError if a link leads to a dataset of another file with as many rows, which would stay in their
    order."""
    import h5py

    for entry in table.entries:
        if entry.kind != LINK or file.id.links.get_info(entry.path).type != h5py.h5l.TYPE_EXTERNAL:
            continue
        name = shown(entry.path)
        other = os.fsdecode(file.id.links.get_val(entry.path)[0])
        if home.outside(link_places(other, path)[0]) is not None:
            raise DataError(
                f"{path}: {name!r} is a link into {other!r}, outside the file's folder, whose rows would stay in their "
                f"order; to have it looked at, give {WAY_OUT}"
            )
        try:
            for _ in other_files(file, path, entry.path.decode(errors="surrogateescape"), home):
                pass
            item = file[entry.path]
        except (DataError, *READ_ERRORS):
            continue  # it leads nowhere, and may
        if isinstance(item, h5py.Dataset) and _length(item)[0] == table.rows:
            raise DataError(
                f"{path}: {name!r} is a link to a dataset of {table.rows} rows in another file, which would stay in "
                "their order; bring them into this file first"
            )


class RawRows:
    """The rows of an open dataset as bytes: of any type, and never converted."""

    def __init__(self, dataset: Any) -> None:
        self._id = dataset.id
        self._type = dataset.id.get_type()
        self._shape = dataset.shape

    def read(self, first: int, out: NDArray[np.uint8]) -> None:
        """Rows from `first` on into `out` (rows, bytes of a row)."""
        memory, place = self._spaces(first, len(out))
        self._id.read(memory, place, out, self._type)

    def write(self, first: int, rows: NDArray[np.uint8]) -> None:
        """Write rows (rows, bytes of a row) from `first` on."""
        # Held by names: as h5py frees what nothing else holds, it runs code in which an interrupt is lost, and one that
        # came during the writing would be heard there first.
        memory, place = self._spaces(first, len(rows))
        self._id.write(memory, place, rows, self._type)

    def _spaces(self, first: int, count: int) -> tuple[Any, Any]:
        import h5py

        extent = (count, *self._shape[1:])
        place = self._id.get_space()
        place.select_hyperslab((first, *(0 for _ in extent[1:])), extent)
        return h5py.h5s.create_simple(extent), place
