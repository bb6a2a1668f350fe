"""Tables of other formats as HDF5 files to train from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.plan import as_bytes, parse_memory
from fastsgd.data.rewriting.formats import Block, Codes, Column, Source, Values, open_source
from fastsgd.data.rewriting.output import new_file
from fastsgd.data.rewriting.repacking import narrowed
from fastsgd.data.rewriting.rewrite import Progress
from fastsgd.data.schema import Path, expand, nearest
from fastsgd.errors import DataError, MemoryBudgetError

DTYPES = ("float32", "float64", "float16")
_LEAST_MEMORY = 4_000_000  # blocks of 64 kB, several of them at a time
_CHUNK_BYTES = 1 << 20
_MOST_CATEGORIES = 100_000
_LISTED = 8  # columns in a message


@dataclass(frozen=True)
class Converted:
    """What was done.

    Attributes
    ----------
    out : str
    rows : int
    datasets : dict of str to list of str
        The columns of each dataset.
    missing : dict of str to int
        Values that were not there and are NaN now, of the columns that have some.
    categories : dict of str to list of str
        The names of the numbers in each column of `categories`.
    bytes_before, bytes_after : int
        Sizes of all files that were read, and of the new one.
    """

    out: str
    rows: int
    datasets: dict[str, list[str]]
    missing: dict[str, int]
    categories: dict[str, list[str]]
    bytes_before: int
    bytes_after: int

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)


def convert_files(
    path: Path | Sequence[Path],
    out: str | os.PathLike[str],
    *,
    target: str | Sequence[str] = (),
    weight: str | None = None,
    drop: Sequence[str] = (),
    categories: Sequence[str] = (),
    dtype: str = "float32",
    header: bool = True,
    delimiter: str | None = None,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write the tables in CSV, Parquet, NPY or NPZ files as one HDF5 file.

    The columns become one dataset "X" (rows, columns), those of `target` "y" and that of `weight` "weight"; the
    attribute ``columns`` of each holds their names. Values that are missing become NaN. Columns without names have
    numbers, from 0 on; those of an array `a` in an NPZ file are ``a_0``, ``a_1`` and so on, and `a` means all.

    Parameters
    ----------
    path : path, list of paths, or glob pattern
        Files of the same columns, whose rows follow each other. CSV (also gzipped, and TSV) and Parquet need the extra
        ``fastsgd[convert]``.
    out : path
        HDF5 file; replaced whole, or not at all.
    target : str or list of str
    weight : str, optional
    drop : list of str
        Columns to leave out.
    categories : list of str
        Columns, of text for instance, that become numbers: 0 for the value that comes first, 1 for the next new one.
        The attribute ``categories:<column>`` keeps the values.
    dtype : {"float32", "float64", "float16"}
    header : bool
        Whether the first row of a CSV file names the columns.
    delimiter : str, optional
        Of CSV; a comma, or in .tsv files a tab.
    memory : int or str, optional
        Budget in bytes, or as "512MB"; 1 GB.
    progress : callable, optional
        Called with the bytes of the files that are done with and those of all.

    Returns
    -------
    Converted

    Raises
    ------
    DataError
        If a file cannot be read, the columns differ, one is not there or holds no numbers, or a value does not fit in
        `dtype`.
    MemoryBudgetError
        If the budget is too small; names the least that works.
    OSError
        If `out` cannot be written, or there is no room for it.

    Examples
    --------
    >>> fs.data.convert_files("part*.csv", "train.h5", target="price", drop=["id"])
    """
    budget = parse_memory(memory)
    if budget < _LEAST_MEMORY:
        least = f'the least that works here is memory="{_LEAST_MEMORY // 10**6}MB"'
        raise MemoryBudgetError(f"memory is {as_bytes(budget)}, too little to read tables in blocks; {least}")
    if dtype not in DTYPES:
        raise DataError(f"dtype is {dtype!r}; it is one of {', '.join(map(repr, DTYPES))}")
    out = os.fspath(out)
    sources = [open_source(name, header=header, delimiter=delimiter) for name in expand(path)]
    columns = _same_columns(sources)
    given = {"target": [target] if isinstance(target, str) else target, "weight": [weight] if weight else []}
    parts = _parts(sources[0].path, columns, given | {"drop": drop, "categories": categories})
    coded = {name: _Names(name) for name in _named(sources[0].path, columns, categories, "categories")}
    needed = sum(source.rows or 0 for source in sources) * sum(map(len, parts.values())) * np.dtype(dtype).itemsize
    before = sum(source.nbytes for source in sources)
    with new_file(out, needed, rdcc_nbytes=4 * _CHUNK_BYTES, rdcc_w0=1) as file:
        table = _Table(file, parts, coded, np.dtype(dtype))
        done = 0
        for source in sources:
            with closing(source.blocks(table.columns, list(coded), budget)) as blocks:
                for number, block in _numbered(blocks):
                    table.append(block, source.path, number)
                    if progress is not None:
                        progress(done + min(source.nbytes, source.position()), before)
            done += source.nbytes
        table.finish()
    names = {name: list(column.codes) for name, column in coded.items() if name in table.columns}
    return Converted(out, table.rows, parts, dict(table.missing), names, before, os.path.getsize(out))


def _numbered(blocks: Iterable[Block]) -> Iterator[tuple[int, Block]]:
    """Blocks with the number of their first row."""
    first = 0
    for block in blocks:
        yield first, block
        first += block.rows


def _same_columns(sources: Sequence[Source]) -> list[Column]:
    columns, path = sources[0].columns, sources[0].path
    twice = [name for name, count in Counter(column.name for column in columns).items() if count > 1]
    if twice:
        raise DataError(f"{path}: more than one column is called {twice[0]!r}; give each a name of its own")
    for source in sources[1:]:
        names, others = [column.name for column in columns], [column.name for column in source.columns]
        if names != others:
            differing = [f"{one!r} and {other!r}" for one, other in zip(names, others, strict=False) if one != other]
            how = differing[0] if differing else f"{len(names)} and {len(others)} columns"
            raise DataError(
                f"{path} and {source.path} differ in their columns: {how}; files of one table have the same"
            )
        # A column that looks like numbers in one file and like text in another is text.
        columns = [one if one.kind != "number" else other for one, other in zip(columns, source.columns, strict=True)]
    return columns


def _named(path: str, columns: Sequence[Column], names: Sequence[str], what: str) -> list[str]:
    """The columns that some names mean."""
    found: list[str] = []
    for name in names:
        some = [column.name for column in columns if name in (column.name, column.of)]
        if not some:
            near = ", ".join(map(repr, nearest(name, [column.name for column in columns])))
            raise DataError(f"{path}: {what} names a column {name!r}, which is not there; there is {near}")
        found += some
    return list(dict.fromkeys(found))


def _parts(path: str, columns: Sequence[Column], given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The datasets and the columns of each."""
    target, weight, drop, coded = (_named(path, columns, names, what) for what, names in given.items())
    taken = Counter(target + weight + drop)
    for name, count in taken.items():
        if count > 1:
            raise DataError(f"{path}: column {name!r} is named twice; it is a target, a weight, or dropped")
    if len(weight) > 1:
        raise DataError(f"{path}: weight names {len(weight)} columns; it is one")
    features = [column.name for column in columns if column.name not in taken]
    if not features:
        raise DataError(f"{path}: no column is left for the features")
    used = {*features, *target, *weight} - {*coded}
    unfit = [column for column in columns if column.name in used and column.kind != "number"]
    if unfit:
        listing = ", ".join(f"{column.name!r} ({column.kind})" for column in unfit[:_LISTED])
        more = f" and {len(unfit) - _LISTED} more" if len(unfit) > _LISTED else ""
        raise DataError(
            f"{path}: there are no numbers in column {listing}{more}; leave it out (--drop) or number its values "
            "(--categories)"
        )
    return {name: part for name, part in (("X", features), ("y", target), ("weight", weight)) if part}


class _Names:
    """The values of a column, each with a number in the order they come."""

    def __init__(self, column: str) -> None:
        self.codes: dict[str, int] = {}
        self._column = column

    def numbers(self, values: Codes, path: str) -> NDArray[np.float64]:
        table = [float(self.codes.setdefault(name, len(self.codes))) for name in values.names]
        if len(self.codes) > _MOST_CATEGORIES:
            raise DataError(
                f"{path}: column {self._column!r} has more than {_MOST_CATEGORIES:,} different values, which are no "
                "categories; leave it out (--drop)"
            )
        return np.array([*table, np.nan])[values.codes]  # -1 is the last


class _Table:
    """The datasets of the new file, to which rows are appended."""

    def __init__(
        self, file: Any, parts: Mapping[str, list[str]], coded: Mapping[str, _Names], dtype: np.dtype[Any]
    ) -> None:
        self.rows = 0
        self.missing: Counter[str] = Counter()
        self.columns = [name for part in parts.values() for name in part]
        self._coded = coded
        self._dtype = dtype
        self._parts = parts
        self._datasets = {name: self._create(file, name, len(part)) for name, part in parts.items()}

    def _create(self, file: Any, name: str, width: int) -> Any:
        flat = name != "X" and width == 1
        rows = max(1, _CHUNK_BYTES // (width * self._dtype.itemsize))
        inner = () if flat else (width,)
        return file.create_dataset(name, (0, *inner), self._dtype, chunks=(rows, *inner), maxshape=(None, *inner))

    def append(self, block: Block, path: str, first: int) -> None:
        """Append a block, whose first row is row `first` of its file."""
        found = dict(zip(self.columns, block.values, strict=True))
        for name, part in self._parts.items():
            rows = np.empty((block.rows, len(part)), self._dtype)
            for index, column in enumerate(part):
                rows[:, index] = self._numbers(found[column], column, path, first)
            dataset = self._datasets[name]
            dataset.resize(self.rows + block.rows, 0)
            dataset[self.rows :] = rows.reshape(block.rows, *dataset.shape[1:])
        self.rows += block.rows

    def _numbers(self, values: Values, column: str, path: str, first: int) -> NDArray[Any]:
        numbers = self._coded[column].numbers(values, path) if isinstance(values, Codes) else values
        if numbers.dtype.kind == "f":
            missing = int(np.isnan(numbers).sum())
            if missing:
                self.missing[column] += missing
        return narrowed(numbers, self._dtype, lambda row: f"{path}: column {column!r}, row {first + row}")

    def finish(self) -> None:
        """Say what the columns are."""
        import h5py

        for name, part in self._parts.items():
            attributes = self._datasets[name].attrs
            attributes.create("columns", part, dtype=h5py.string_dtype())
            for column in part:
                if column in self._coded:
                    codes = list(self._coded[column].codes)
                    attributes.create(f"categories:{column}", codes, (len(codes),), h5py.string_dtype())
