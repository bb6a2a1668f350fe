"""What the programs that write HDF5 files mean by attributes: MATLAB, pandas, AnnData, netCDF."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsgd.data.arrays import storage_dtype
from fastsgd.data.walk import text_of, walk
from fastsgd.errors import DataError

# The classes of MATLAB that are numbers in HDF5 too; text, tables and dates are there as integers that mean others.
_MATLAB_NUMBERS = {
    "double", "single", "logical", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
}  # fmt: skip
# What netCDF puts where nothing was written; of integers it may as well be a value.
_NETCDF_FILL = 9.969209968386869e36
_AXES_OF_PANDAS = ("axis0", "axis1", "index", "table::index")
_SPARSE = "fastsgd reads dense ones, so write it as one"


def attribute(item: Any, name: str) -> Any:
    """An attribute of an HDF5 object, text as str and one value as a scalar; None where there is none."""
    value = item.attrs.get(name)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def is_transposed(dataset: Any) -> bool:
    """Whether a dataset is a matrix of MATLAB, which stores (rows, columns) as (columns, rows).

    A vector of MATLAB, standing or lying, is one column.
    """
    return len(dataset.shape) == 2 and dataset.shape[1] != 1 and "MATLAB_class" in dataset.attrs


def unfit(dataset: Any) -> str | None:
    """Why the numbers of a dataset are not its values, if its attributes say so."""
    kind = attribute(dataset, "MATLAB_class")
    if np.any(attribute(dataset, "MATLAB_empty")):
        return "is an empty array of MATLAB; it needs at least one row and one column"
    if kind is not None and kind not in _MATLAB_NUMBERS:
        return f"is a {kind} of MATLAB; save it as a matrix of numbers"
    packed = {
        name: value
        for name, neutral in (("scale_factor", 1), ("add_offset", 0))
        if (value := attribute(dataset, name)) is not None and np.any(value != neutral)
    }
    if packed:
        given = " and ".join(f"{name} {value}" for name, value in packed.items())
        return (
            f"holds packed numbers: its attributes say {given}; write the numbers that they stand for, as netCDF4 "
            "and xarray read them"
        )
    return None


def missing_values(dataset: Any) -> tuple[np.generic, ...]:
    """The values that say there is none: attributes `_FillValue` and `missing_value`, and netCDF's own of floats."""
    stored = dataset.dtype
    if stored.kind not in "iuf":
        return ()
    given = [attribute(dataset, name) for name in ("_FillValue", "missing_value")]
    if stored.kind == "f" and "_NCProperties" in dataset.file.attrs:
        given.append(_NETCDF_FILL)
    found: dict[float, np.generic] = {}
    for values in given:
        if values is None or np.asarray(values).dtype.kind not in "iuf":
            continue
        for value in np.asarray(values).reshape(-1):
            with np.errstate(over="ignore", invalid="ignore"):
                held = value.astype(stored)
            # NaN is refused as such, and what the dataset's type cannot hold does not occur.
            if np.isfinite(held) and (stored.kind == "f" or held == value):
                found[held.item()] = held
    return tuple(found.values())


def is_internal(name: str) -> bool:
    """Whether a dataset is none of the user's: an index that PyTables keeps of a table, or what cells of MATLAB are
    made of."""
    return "/_i_" in f"/{name}" or name.startswith("#")


def contents(group: Any, name: str, most: int) -> list[str]:
    """What can be named to be read of a group: datasets of numbers, and such fields of tables."""
    import h5py

    found: list[str] = []
    of_pandas = attribute(group, "pandas_type") is not None

    for each in walk(group):
        inner = text_of(each.path)
        if isinstance(each.item, h5py.Dataset) and each.path == each.first and not is_internal(inner):
            for one in _readable(each.item, inner):
                if not (of_pandas and one in _AXES_OF_PANDAS):
                    found.append(f"{name.rstrip('/')}/{one}".lstrip("/"))
        if len(found) > most:
            break
    return found[:most]


def _readable(dataset: Any, name: str) -> list[str]:
    """The names under which a dataset, or fields of it, can be read."""
    try:
        dtype, shape = dataset.dtype, None if dataset.is_virtual else dataset.shape
    except (TypeError, ValueError):
        return []
    if dataset.is_virtual and dtype.names is None:  # whose shape HDF5 may look up in other files
        return [name] if _is_number(dtype) else []
    if shape is None or len(shape) not in (1, 2) or 0 in shape:
        return []
    if dtype.names is None:
        return [name] if _is_number(dtype) else []
    return [f"{name}::{field}" for field in dtype.names if len(shape) == 1 and _is_number(dtype[field].base)]


def _is_number(dtype: np.dtype[Any]) -> bool:
    try:
        storage_dtype(dtype, "")
    except DataError:
        return False
    return True


def of_group(group: Any, names: list[str]) -> str:
    """What a group is that stands where a dataset should, and what to name instead; `names` can be."""
    listing = ", ".join(map(repr, names))
    encoding = attribute(group, "encoding-type") or ""
    pandas = attribute(group, "pandas_type")
    if encoding in ("csr_matrix", "csc_matrix") or "h5sparse_format" in group.attrs:
        return f", a sparse matrix of AnnData; {_SPARSE}: adata.X = adata.X.toarray()"
    if "MATLAB_sparse" in group.attrs:
        return f", a sparse matrix of MATLAB; {_SPARSE}: full(S)"
    if encoding == "categorical":
        return f", categories of AnnData; name their numbers: {listing}"
    if pandas is not None and str(pandas).startswith("frame"):
        return (
            f", a DataFrame of pandas; its numbers are {listing or 'none'}; for its columns by name, write it with "
            'format="table", data_columns=True'
        )
    return f"; it holds {listing or _nothing(group)}"


def _nothing(group: Any) -> str:
    return "nothing that can be trained on" if len(group) else "nothing"
