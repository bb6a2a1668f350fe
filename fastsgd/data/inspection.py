"""What an HDF5 file holds, and whether it can be trained on."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from fastsgd.data.arrays import storage_dtype
from fastsgd.data.conventions import unfit
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.errors import DataError

# HDF5's own filters by their number; the others go by the name that their plugin gave.
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


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
    filters = [
        _FILTERS.get(code, text.decode()) for code, _, _, text in map(plist.get_filter, range(plist.get_nfilters()))
    ]
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
