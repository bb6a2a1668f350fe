"""Tables in HDF5 files: one file, several, or a glob; columns from one dataset or many."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Reader, Spans
from fastsgd.data.checks import NaN, as_nan
from fastsgd.data.chunks import PIECE_BYTES, Layout
from fastsgd.data.claims import require_credible
from fastsgd.data.dataset import Dataset
from fastsgd.data.external import other_files
from fastsgd.data.files import Fingerprint, OpenFile
from fastsgd.data.helpers import Helpers
from fastsgd.data.places import Home
from fastsgd.data.readers import OPEN_FILES, HDF5Reader
from fastsgd.data.schema import Column, Path, expand, find_columns, opened
from fastsgd.data.spent import Spent
from fastsgd.data.transfer import Placement
from fastsgd.errors import DataError

# Rows of a dataset that is not chunked are read this many bytes at a time.
_CONTIGUOUS_BYTES = 1 << 20
# And this many of each of several datasets: 200 columns took eleven times as long as one dataset of them at 5 kB, and
# four times so.
_LEAST_OF_EACH = 1 << 14


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
        compound dataset. A matrix of a MAT-file (v7.3) has the rows that it has in MATLAB, and a vector is a column.
    target, weight : str or list of str, optional
        Likewise; a weight is one column.
    nan : {"error", "skip", "zero"}
        What is done about a row with a value that is NaN, infinite, or too large for the dtype it is trained in: an
        error that names it; the row is left out; or, of features, 0 takes its place, while targets and weights still
        are an error.
    allow_external : bool
        Whether values may lie in files that are not in the file's own folder or below: sources of virtual datasets,
        external storage, external links. A file from a stranger may name any file that you can read.

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
        nan: NaN = "error",
        allow_external: bool = False,
    ) -> None:
        self.nan = as_nan(nan)
        self._allow_external = allow_external
        self.paths = expand(path)
        self._specs = {"x": _listed(features, "features")}
        self._specs |= {"y": _listed(target, "target")} if target is not None else {}
        self._specs |= {"weight": _listed(weight, "weight")} if weight is not None else {}
        found: list[dict[str, tuple[Column, ...]]] = []
        self._fingerprints: list[dict[str, Fingerprint]] = []  # of each file, and of others that its values lie in
        self._layouts: list[dict[str, Layout | str]] = [{} for _ in self.paths]
        for file_path in self.paths:
            with opened(file_path) as file:
                fingerprints = {file_path: Fingerprint.of(file.id.get_vfd_handle())}
                fingerprints |= {other: Fingerprint.of(other) for other in self._other_files(file, file_path)}
                self._fingerprints.append(fingerprints)
                found.append(find_columns(file, file_path, self._specs))
                self._require_credible(file_path, found[-1])
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
        self._bounds: list[int] = self._starts.tolist()
        self._spans = np.array([[0, self._starts[-1]]], np.int64)
        chunk_rows = max(column.chunk_rows for columns in found for column in columns["x"])
        datasets = len({column.path for column in self._columns()})
        block_bytes = max(_CONTIGUOUS_BYTES, _LEAST_OF_EACH * datasets)
        self.chunk_rows = chunk_rows or min(max(lengths), max(1, block_bytes // self.row_bytes))
        self._found = [column for columns in found for part in columns.values() for column in part]
        self._missing = [{name: _missing(part) for name, part in columns.items()} for columns in found]

    def _other_files(self, file: Any, path: str) -> Iterator[str]:
        """The other files that values of the columns of a file lie in."""
        home = Home(path, self._allow_external)
        for name in dict.fromkeys(spec.partition("::")[0] for listed in self._specs.values() for spec in listed):
            yield from other_files(file, path, name, home)

    def _require_credible(self, path: str, found: dict[str, tuple[Column, ...]]) -> None:
        datasets = {column.path: column.rows * column.stored_row_bytes for part in found.values() for column in part}
        stored = sum(fingerprint.size for fingerprint in self._fingerprints[-1].values())
        require_credible(
            sum(datasets.values()), stored, f"{path}: what is to be read, {', '.join(map(repr, datasets))},"
        )

    def _name(self) -> str:
        return self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"

    def _files(self) -> NDArray[np.int64]:
        return self._starts

    def place(self, row: int) -> tuple[int, int]:
        """Number of the file that holds a source row, and the row's number there."""
        index = bisect_right(self._bounds, row) - 1
        return index, row - self._bounds[index]

    def places(self, spans: Spans) -> tuple[NDArray[np.int64], Spans]:
        """Number of the file that holds each of some ranges of source rows, and the rows' numbers there."""
        index = np.searchsorted(self._starts, spans[:, 0], side="right") - 1
        return index, spans - self._starts[index].reshape(-1, 1)

    def locate(self, part: str, row: int, column: int) -> str:
        index, row = self.place(row)
        for source in self._parts[part].columns:
            if column < source.width:
                break
            column -= source.width
        return f"{self.paths[index]}: dataset {source.name!r}, row {row}, column {column}"

    def missing_values(self, part: str, row: int) -> Sequence[tuple[slice, np.generic]]:
        return self._missing[self.place(row)[0]][part]

    def _columns(self) -> list[Column]:
        return [column for part in self._parts.values() for column in part.columns]

    def column_names(self) -> list[str]:
        """What is read, in order."""
        return [column.name for column in self._columns()]

    def empty_rows(self, rows: int) -> dict[str, NDArray[np.generic]]:
        """Memory for rows, by part."""
        return {name: np.empty((rows, part.width), part.dtype) for name, part in self._parts.items()}

    def _placements(self) -> dict[str, list[Placement]]:
        """Where the values of each dataset go."""
        found: dict[str, list[Placement]] = {}
        for name, part in self._parts.items():
            at = 0
            for column in part.columns:
                found.setdefault(column.path, []).append(Placement(column.field, name, at, column.width))
                at += column.width
        return found

    def through_hdf5(self) -> dict[str, str]:
        """The datasets, of the files that were opened for reading so far, that HDF5 itself reads: slower, and why."""
        return {
            f"{path}: {name}": layout
            for path, layouts in zip(self.paths, self._layouts, strict=True)
            for name, layout in layouts.items()
            if isinstance(layout, str)
        }

    def open_file(self, index: int, spent: Spent) -> OpenFile:
        """One of the files, to be closed by the caller."""
        return OpenFile(self.paths[index], self.cache_bytes(), self._placements(), self._layouts[index], spent)

    def cache_bytes(self) -> int:
        """Bytes of the chunk cache of each HDF5 dataset: a block's worth for all that are open at once."""
        datasets = len({column.path for column in self._columns()}) * min(len(self.paths), OPEN_FILES)
        datasets *= max(map(len, self._fingerprints))  # HDF5 keeps all sources of a virtual one open
        return self.unit_rows() * self.row_bytes // datasets

    def reading_bytes(self, rows: int) -> int:
        """Bytes that HDF5 takes to read `rows` rows: a dataset of them, and its chunk cache."""
        made: dict[str, int] = {}
        for column in self._columns():
            made[column.path] = made.get(column.path, 0) + column.width * column.stored.itemsize
        return rows * max(made.values()) + self.unit_rows() * self.row_bytes

    def decoder_bytes(self) -> int:
        rows = self.unit_rows()
        return max(
            column.decode_bytes
            or min(
                max(PIECE_BYTES, column.stored_row_bytes),
                min(rows, column.chunk_rows or rows) * column.stored_row_bytes,
            )
            for column in self._found
        )

    def decodes(self) -> bool:
        return any(column.decode_bytes for column in self._found)

    def require_unchanged(self, index: int, file: OpenFile) -> None:
        """Raise DataError unless a file is still as it was found: rows of two versions must not be mixed."""
        for path, before in self._fingerprints[index].items():
            own = path == self.paths[index]
            now = Fingerprint.of(file.descriptor) if own else Fingerprint.of_any(path)
            if now != before:
                written = "it was written to since it was first looked at"
                what = "it is gone" if now is None else "it was cut short" if now.size < before.size else written
                raise DataError(
                    f"{path} has changed: {(own and self._other_schema(index, file)) or what}; make the dataset "
                    "again, when nothing writes to the file any more"
                )

    def _other_schema(self, index: int, file: OpenFile) -> str | None:
        """How the columns of a file differ from those that it had, if they do."""
        path, rows = self.paths[index], int(self._starts[index + 1] - self._starts[index])
        for _ in self._other_files(file.file, path):  # which it may have only now
            pass
        for name, columns in find_columns(file.file, path, self._specs).items():
            for column, known in zip(columns, self._parts[name].columns, strict=True):
                if (column.rows, column.width, column.stored) != (rows, known.width, known.stored):
                    return (
                        f"{column.name!r} has {column.rows} rows of {column.width} {column.stored} now, it had {rows} "
                        f"of {known.width} {known.stored}"
                    )
        return None

    def __getstate__(self) -> dict[str, Any]:
        # The places of all chunks may be many, and are found again.
        return {**self.__dict__, "_layouts": [{} for _ in self.paths]}

    @contextmanager
    def open(self, threads: int = 1, spent: Spent | None = None, *, beside: bool = False) -> Iterator[Reader]:
        reader = HDF5Reader(self, Helpers(threads, give_way=beside), spent or Spent())
        try:
            yield reader
        finally:
            reader.close()


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


def _missing(columns: tuple[Column, ...]) -> list[tuple[slice, np.generic]]:
    ends = itertools.accumulate(column.width for column in columns)
    return [
        (slice(end - column.width, end), value)
        for column, end in zip(columns, ends, strict=True)
        for value in column.missing
    ]


def _part(columns_by_file: list[tuple[Column, ...]]) -> Part:
    dtype = np.result_type(*(column.dtype for columns in columns_by_file for column in columns))
    return Part(columns_by_file[0], dtype)
