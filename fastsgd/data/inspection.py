"""What an HDF5 file holds, and whether it can be trained on."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from fastsgd.data.arrays import storage_dtype
from fastsgd.data.hdf5 import opened
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


def inspect_file(path: str | os.PathLike[str]) -> list[DatasetReport]:
    """Describe each dataset of an HDF5 file.

    Raises
    ------
    DataError
        If it is no HDF5 file, or cannot be read.
    """
    import h5py

    reports: list[DatasetReport] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            reports.append(_report(name, item))

    with opened(os.fspath(path)) as file:
        file.visititems(visit)
    return reports


def _report(name: str, item: Any) -> DatasetReport:
    filters = [text for text in (item.compression, "shuffle" if item.shuffle else None) if text]
    filters += ["fletcher32"] if item.fletcher32 else []
    shape = () if item.shape is None else tuple(item.shape)
    problem: str | None = None
    if item.dtype.names is not None:
        problem = f"a table; name a field, as {name}::{item.dtype.names[0]}"
    elif len(shape) not in (1, 2):
        problem = f"{len(shape)} axes; one or two can be used"
    elif 0 in shape:
        problem = "empty"
    else:
        try:
            storage_dtype(item.dtype, name)
        except DataError:
            problem = f"{item.dtype} is no number of 8 to 64 bits"
    return DatasetReport(
        name, shape, str(item.dtype), item.chunks, filters, int(item.nbytes), int(item.id.get_storage_size()), problem
    )
