"""Write `tests/files/`: small files as the libraries write them that users' files come from.

Needs pandas, tables, netCDF4, anndata and hdf5storage, none of which the package or its tests need. Values are those of
`numbers`, so that a test knows them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 40


def numbers(columns: int) -> NDArray[np.float64]:
    """(ROWS, columns): the row's number and k quarters in column k."""
    rows: NDArray[np.float64] = np.arange(ROWS)[:, None] + 0.25 * np.arange(columns)
    return rows


def write_pandas(folder: Path) -> None:
    """DataFrames in both formats: columns a, b, c of float64, n of int64, f of float32, yes of bool, and text."""
    import pandas as pd

    frame = pd.DataFrame(numbers(3), columns=["a", "b", "c"])
    frame["n"] = np.arange(ROWS)
    frame["f"] = -np.arange(ROWS, dtype="f4")
    frame["yes"] = np.arange(ROWS) % 3 == 0
    frame.to_hdf(folder / "pandas_fixed.h5", key="df", format="fixed")
    frame.to_hdf(folder / "pandas_table.h5", key="df", format="table")
    frame["text"] = ["abc"[i % 3] for i in range(ROWS)]
    options: dict[str, Any] = {"key": "df", "format": "table", "data_columns": True, "index": False}
    frame.to_hdf(folder / "pandas_columns.h5", complib="zlib", complevel=5, **options)
    frame[["a", "b"]].to_hdf(folder / "pandas_blosc.h5", complib="blosc", complevel=5, **options)
    frame["a"].to_hdf(folder / "pandas_series.h5", key="s")


def write_pytables(folder: Path) -> None:
    """Each kind of leaf."""
    import tables as tb

    packed = tb.Filters(complevel=5, complib="zlib", shuffle=True, fletcher32=True)
    with tb.open_file(folder / "pytables.h5", "w") as file:
        file.create_array("/", "array", numbers(3).astype("f4"))
        file.create_array("/", "big_endian", numbers(3).astype(">f8"))
        file.create_array("/", "yes", np.arange(ROWS) % 3 == 0)
        file.create_carray("/", "carray", obj=numbers(3), filters=packed, chunkshape=(16, 2))
        growing = file.create_earray("/", "earray", tb.Int16Atom(), (0, 2), filters=packed, chunkshape=(16, 2))
        for row in range(0, ROWS, 8):
            growing.append((numbers(2)[row : row + 8] * 4).astype("i2"))
        kinds = {"x": tb.Float32Col(shape=(3,)), "y": tb.Int32Col(), "yes": tb.BoolCol(), "name": tb.StringCol(4)}
        table = file.create_table("/group", "table", kinds, createparents=True, filters=packed, chunkshape=16)
        rows = np.zeros(ROWS, table.dtype)
        rows["x"], rows["y"], rows["yes"] = numbers(3), np.arange(ROWS), np.arange(ROWS) % 3 == 0
        table.append(rows)


def write_netcdf(folder: Path) -> None:
    """Variables along an unlimited dimension: plain, big-endian, packed, with values missing or none."""
    import netCDF4

    with netCDF4.Dataset(folder / "netcdf.nc", "w") as file:
        file.createDimension("obs", None)
        file.createDimension("band", 3)
        file.createVariable("x", "f4", ("obs", "band"), zlib=True, fill_value=-9999.0)[:] = numbers(3)
        file.createVariable("y", ">f8", ("obs",), endian="big")[:] = numbers(1)[:, 0]
        file.createVariable("label", "i2", ("obs",), fill_value=-1)[:] = np.arange(ROWS)
        gaps = np.ma.masked_equal(np.arange(ROWS), 7)
        file.createVariable("gaps", "f4", ("obs",), fill_value=1e20)[:] = gaps
        file.createVariable("holes", "i4", ("obs",), fill_value=-1)[:] = gaps
        unwritten = file.createVariable("unwritten", "f4", ("obs",))
        unwritten[: ROWS // 2], unwritten[ROWS - 1] = np.arange(ROWS // 2), ROWS - 1
        packed = file.createVariable("packed", "i2", ("obs",))
        packed.scale_factor, packed.add_offset = 0.25, 10.0
        packed[:] = numbers(2)[:, 1]


def write_matlab(folder: Path) -> None:
    """A MAT-file of version 7.3: a user block, and each matrix (rows, columns) as (columns, rows)."""
    import hdf5storage

    content = {
        "X": numbers(3),
        "single": numbers(3).astype("f4"),
        "y": numbers(1),
        "lying": numbers(1).T,
        "label": np.arange(ROWS, dtype="u1")[:, None],
        "logical": (np.arange(ROWS) % 3 == 0)[:, None],
        "complex": numbers(2) * 1j,
        "empty": np.zeros((0, 3)),
        "text": "forty characters of text, one for a row!",
        "cell": np.array([1.0, "a"], object),
        "s": {"X": numbers(2)},
    }
    hdf5storage.savemat(
        str(folder / "matlab.mat"), content, format="7.3", oned_as="column", store_python_metadata=False
    )


def write_anndata(folder: Path) -> None:
    """Cells with dense and with sparse X, and a column of numbers, of categories and of text in `obs`."""
    import anndata
    import pandas as pd
    import scipy.sparse

    obs = pd.DataFrame(
        {"age": np.arange(ROWS), "kind": pd.Categorical(["abc"[i % 3] for i in range(ROWS)])},
        index=[f"cell {i}" for i in range(ROWS)],
    )
    for name, x in (("dense", numbers(3).astype("f4")), ("sparse", scipy.sparse.csr_matrix(numbers(3) % 2))):
        anndata.AnnData(x, obs).write_h5ad(folder / f"anndata_{name}.h5ad", compression="gzip")


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1] / "tests" / "files")
    folder: Path = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    for write in (write_pandas, write_pytables, write_netcdf, write_matlab, write_anndata):
        write(folder)


if __name__ == "__main__":
    main()
