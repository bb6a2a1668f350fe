"""What an HDF5 file holds, and whether it can be trained on."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastsgd.data.arrays import storage_dtype
from fastsgd.data.clustering import advice, sample
from fastsgd.data.codecs import filter_name
from fastsgd.data.conventions import unfit
from fastsgd.data.external import other_files, source_files
from fastsgd.data.hdf5 import HDF5Dataset
from fastsgd.data.loader import Loader
from fastsgd.data.places import Home
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.data.walk import text_of, walk
from fastsgd.errors import DataError


@dataclass(frozen=True)
class DatasetReport:
    """One dataset of a file.

    Attributes
    ----------
    path : str
    shape : tuple of int
    dtype : str
    layout : {"contiguous", "chunked", "compact", "external", "virtual", "link"}
        How it is stored: external files and virtual datasets have their values in other files, and a link leads into
        another file.
    chunks : tuple of int or None
        None where it is not chunked.
    filters : list of str
    nbytes, stored_bytes : int
        Before and after compression.
    problem : str or None
        Why it cannot be trained on, if it cannot.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    chunks: tuple[int, ...] | None
    filters: list[str]
    nbytes: int
    stored_bytes: int
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TableReport:
    """Columns of a file as a table to be trained on.

    Attributes
    ----------
    rows, features, targets : int
    nbytes : int
        Of all rows, uncompressed.
    block_rows, blocks : int
        Rows that are read at once, along the chunks, and how many such blocks there are.
    plan : str
        Of the memory.
    whole : bool
        Whether the data fit, and are read once.
    window_rows, window_blocks : int, float
        Rows of the window that a larger table is shuffled through, and how many blocks that is.
    clustering : float or None
        The share of the target's variance that lies between blocks, of a sample.
    bytes_per_second, epoch_seconds : float
        Uncompressed, at which a sample of blocks was read, and what all rows would take.
    through_hdf5 : dict of str to str
        The datasets that HDF5 itself reads, which is slower, and why.
    advice : str or None
        What is wrong with this, and the way out.
    """

    rows: int
    features: int
    targets: int
    nbytes: int
    block_rows: int
    blocks: int
    plan: str
    whole: bool
    window_rows: int
    window_blocks: float
    clustering: float | None
    bytes_per_second: float
    epoch_seconds: float
    through_hdf5: dict[str, str]
    advice: str | None

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return dataclasses.asdict(self)


def inspect_table(
    dataset: HDF5Dataset, *, batch_size: int = 32, memory: int | str | None = None, threads: int | None = None
) -> TableReport:
    """Describe how columns would be read in training; reads some of them.

    Raises
    ------
    DataError
        If they cannot be read.
    MemoryBudgetError
        If `memory` is too small.
    """
    loader = Loader(dataset, batch_size=batch_size, memory=memory, threads=threads)
    plan, blocks = loader.plan, loader.blocks
    found = sample(loader)
    return TableReport(
        rows=dataset.n_rows,
        features=dataset.n_features,
        targets=dataset.n_targets,
        nbytes=dataset.nbytes,
        block_rows=blocks.largest,
        blocks=len(blocks),
        plan=str(plan),
        whole=plan.whole,
        window_rows=plan.window_rows,
        window_blocks=plan.window_rows / blocks.largest,
        clustering=found.clustering,
        bytes_per_second=found.bytes_per_second,
        epoch_seconds=dataset.nbytes / found.bytes_per_second,
        through_hdf5=dataset.through_hdf5(),
        advice=advice(loader, found.clustering),
    )


def inspect_file(path: str | os.PathLike[str], *, allow_external: bool = False) -> list[DatasetReport]:
    """Describe each dataset of an HDF5 file, and what links into other files lead to.

    Other files are looked at as `HDF5Dataset` does: where `allow_external` is false, not outside the file's folder.

    Raises
    ------
    DataError
        If it is no HDF5 file, or cannot be read.
    """
    import h5py

    path = os.fspath(path)
    home = Home(path, allow_external)
    reports: list[DatasetReport] = []
    with opened(path) as file:
        try:
            for found in walk(file):
                name = text_of(found.path)
                if found.kind == h5py.h5l.TYPE_EXTERNAL:
                    reports.append(_link_report(file, path, name, home))
                elif isinstance(found.item, h5py.Dataset) and found.path == found.first:
                    reports.append(_report(name, found.item, _problem(source_files(found.item, path, home))))
        except DataError:
            raise
        except READ_ERRORS as error:
            raise DataError(f"{path!r} cannot be listed ({error}); the file may be damaged") from error
    return reports


def _problem(others: Iterator[str]) -> str | None:
    """Why other files cannot be read, if they cannot."""
    try:
        for _ in others:
            pass
    except DataError as error:
        return str(error)
    return None


def _link_report(file: Any, path: str, name: str, home: Home) -> DatasetReport:
    import h5py

    problem = _problem(other_files(file, path, name, home))
    item = None if problem else file.get(name)
    if not isinstance(item, h5py.Dataset):
        problem = problem or "a link that leads to no dataset"
        return DatasetReport(name, (), "unknown", "link", None, [], 0, 0, problem)
    return dataclasses.replace(_report(name, item, None), layout="link")


def _report(name: str, item: Any, problem: str | None) -> DatasetReport:
    """What is said about a dataset; `problem` is what is wrong with the other files that it lies in."""
    plist = item.id.get_create_plist()
    filters = [filter_name(code, text) for code, _, _, text in map(plist.get_filter, range(plist.get_nfilters()))]
    # HDF5 may ask other files for the shape of a virtual dataset.
    found = _shape_of_virtual(item) if item.is_virtual and problem else item.shape
    shape = () if found is None else tuple(found)
    stored_bytes = int(item.id.get_storage_size())
    layout = _layout(item)
    try:
        dtype = item.dtype
    except (TypeError, ValueError) as error:
        return DatasetReport(name, shape, "unknown", layout, item.chunks, filters, 0, stored_bytes, f"{error}")
    problem = problem or ("empty" if found is None else _unfit(name, item, shape, dtype))
    nbytes = 0 if found is None else math.prod(shape) * dtype.itemsize
    return DatasetReport(name, shape, str(dtype), layout, item.chunks, filters, nbytes, stored_bytes, problem)


def _shape_of_virtual(item: Any) -> tuple[int, ...]:
    """That which a virtual dataset was made with."""
    mappings = item.virtual_sources()
    return tuple(mappings[0].vspace.shape) if mappings else ()


def _layout(item: Any) -> str:
    import h5py

    if item.external:
        return "external"
    names = {h5py.h5d.COMPACT: "compact", h5py.h5d.CHUNKED: "chunked", h5py.h5d.VIRTUAL: "virtual"}
    return names.get(item.id.get_create_plist().get_layout(), "contiguous")


def _unfit(name: str, item: Any, shape: tuple[int, ...], dtype: Any) -> str | None:
    """Why a dataset cannot be trained on, if it cannot."""
    if 0 in shape:
        return "empty"
    if len(shape) not in (1, 2):
        return f"{len(shape)} axes; one or two can be used"
    if dtype.names is not None:
        return f"a table; name a field, as {name}::{dtype.names[0]}"
    try:
        storage_dtype(dtype, name)
    except DataError as error:
        return str(error).removeprefix(f"{name} ").partition(";")[0]
    return unfit(item)
