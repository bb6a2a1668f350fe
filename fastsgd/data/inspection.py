"""What an HDF5 file holds, and whether it can be trained on."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from fastsgd.data.arrays import storage_dtype
from fastsgd.data.clustering import advice, sample
from fastsgd.data.codecs import filter_name
from fastsgd.data.conventions import unfit
from fastsgd.data.hdf5 import HDF5Dataset
from fastsgd.data.loader import Loader
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.errors import DataError


@dataclass(frozen=True)
class DatasetReport:
    """One dataset of a file.

    Attributes
    ----------
    path : str
    shape : tuple of int
    dtype : str
    chunks : tuple of int or None
        None where it is contiguous.
    filters : list of str
    nbytes, stored_bytes : int
        Before and after compression.
    problem : str or None
        Why it cannot be trained on, if it cannot.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
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


def inspect_file(path: str | os.PathLike[str]) -> list[DatasetReport]:
    """Describe each dataset of an HDF5 file.

    Raises
    ------
    DataError
        If it is no HDF5 file, or cannot be read.
    """
    import h5py

    path = os.fspath(path)
    reports: list[DatasetReport] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            reports.append(_report(name, item))

    with opened(path) as file:
        try:
            file.visititems(visit)
        except READ_ERRORS as error:
            raise DataError(f"{path!r} cannot be listed ({error}); the file may be damaged") from error
    return reports


def _report(name: str, item: Any) -> DatasetReport:
    plist = item.id.get_create_plist()
    filters = [filter_name(code, text) for code, _, _, text in map(plist.get_filter, range(plist.get_nfilters()))]
    shape = () if item.shape is None else tuple(item.shape)
    stored_bytes = int(item.id.get_storage_size())
    try:
        dtype = item.dtype
    except (TypeError, ValueError) as error:
        return DatasetReport(name, shape, "unknown", item.chunks, filters, 0, stored_bytes, f"{error}")
    problem: str | None = None
    if item.shape is None or 0 in shape:
        problem = "empty"
    elif len(shape) not in (1, 2):
        problem = f"{len(shape)} axes; one or two can be used"
    elif dtype.names is not None:
        problem = f"a table; name a field, as {name}::{dtype.names[0]}"
    else:
        try:
            storage_dtype(dtype, name)
        except DataError as error:
            problem = str(error).removeprefix(f"{name} ").partition(";")[0]
        problem = problem or unfit(item)
    nbytes = item.size * dtype.itemsize if item.size else 0
    return DatasetReport(name, shape, str(dtype), item.chunks, filters, nbytes, stored_bytes, problem)
