"""Files as other libraries write them (`scripts/make_sample_files.py`): what is read is what was written."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastsgd as fs
from fastsgd.data import HDF5Dataset
from fastsgd.errors import DataError

FILES = Path(__file__).parent / "files"
ROWS = 40
NUMBERS = np.arange(ROWS)
THIRD = NUMBERS % 3 == 0


def numbers(columns):
    return NUMBERS[:, None] + 0.25 * np.arange(columns)


def refused(make, *parts):
    with pytest.raises(DataError) as caught:
        make()
    for part in parts:
        assert str(part) in str(caught.value), str(caught.value)
    return str(caught.value)


SAMPLES = [
    ("pandas_fixed.h5", "df/block0_values", numbers(3)),
    ("pandas_fixed.h5", "df/block1_values", NUMBERS),
    ("pandas_fixed.h5", "df/block2_values", -NUMBERS),
    ("pandas_fixed.h5", "df/block3_values", THIRD),
    ("pandas_table.h5", "df/table::values_block_0", numbers(3)),
    ("pandas_table.h5", "df/table::values_block_1", NUMBERS),
    ("pandas_columns.h5", ["df/table::a", "df/table::c"], numbers(3)[:, ::2]),
    ("pandas_columns.h5", ["df/table::f", "df/table::n"], np.stack([-NUMBERS, NUMBERS], 1)),
    ("pandas_columns.h5", "df/table::yes", THIRD),
    ("pandas_series.h5", "s/values", NUMBERS),
    ("pytables.h5", "array", numbers(3)),
    ("pytables.h5", "big_endian", numbers(3)),
    ("pytables.h5", "yes", THIRD),
    ("pytables.h5", "carray", numbers(3)),
    ("pytables.h5", "earray", numbers(2) * 4),
    ("pytables.h5", "group/table::x", numbers(3)),
    ("pytables.h5", ["group/table::y", "group/table::x"], np.column_stack([NUMBERS, numbers(3)])),
    ("pytables.h5", "group/table::yes", THIRD),
    ("netcdf.nc", "x", numbers(3)),
    ("netcdf.nc", "y", NUMBERS),
    ("netcdf.nc", ["label", "x"], np.column_stack([NUMBERS, numbers(3)])),
    ("matlab.mat", "X", numbers(3)),
    ("matlab.mat", "single", numbers(3)),
    ("matlab.mat", "y", NUMBERS),
    ("matlab.mat", "lying", NUMBERS),
    ("matlab.mat", "logical", THIRD),
    ("matlab.mat", ["label", "X"], np.column_stack([NUMBERS, numbers(3)])),
    ("matlab.mat", "s/X", numbers(2)),
    ("anndata_dense.h5ad", "X", numbers(3)),
    ("anndata_dense.h5ad", "obs/age", NUMBERS),
    ("anndata_dense.h5ad", "obs/kind/codes", NUMBERS % 3),
]
# Blosc is a plugin, which the tests do not need.
if importlib.util.find_spec("hdf5plugin"):
    SAMPLES.append(("pandas_blosc.h5", ["df/table::a", "df/table::b"], numbers(2)))


def rows_in_order(array):
    return array[np.lexsort(array.T)]


@pytest.mark.parametrize(("file", "features", "wanted"), SAMPLES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_is_read_as_it_was_written(file, features, wanted, shuffle):
    wanted = np.asarray(wanted, np.float64).reshape(ROWS, -1)
    dataset = HDF5Dataset(FILES / file, features, features)
    assert (dataset.n_rows, dataset.n_features, dataset.n_targets) == (ROWS, wanted.shape[1], wanted.shape[1])
    x, y = map(np.concatenate, zip(*dataset.batches(8, shuffle=shuffle, dtype="float64"), strict=True))
    assert np.array_equal(x, y)
    assert np.array_equal(*map(rows_in_order, (x, wanted))) if shuffle else np.array_equal(x, wanted)


@pytest.mark.parametrize(
    ("file", "features", "target"),
    [
        ("pandas_fixed.h5", "df/block0_values", "df/block1_values"),
        ("pandas_columns.h5", ["df/table::a", "df/table::f"], "df/table::n"),
        ("pytables.h5", "carray", "group/table::y"),
        ("netcdf.nc", "x", "y"),
        ("matlab.mat", "X", "y"),
        ("matlab.mat", "X", "lying"),
        ("anndata_dense.h5ad", "X", "obs/age"),
    ],
)
def test_trains_as_on_arrays(file, features, target):
    dataset = HDF5Dataset(FILES / file, features, target)
    held = dataset.take(ROWS)
    losses = []
    for data in (dataset, (held.x, held.y)):
        model = fs.Sequential([fs.Standardize(), fs.Dense(1)])
        losses.append([epoch["loss"] for epoch in fs.Trainer(model, fs.SGD(0.1), "mse").fit(data, epochs=3).epochs])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize(
    ("file", "name", "parts"),
    [
        (
            "pandas_fixed.h5",
            "df",
            [
                "'df' is a group, not a dataset, a DataFrame of pandas; its numbers are 'df/block0_values', ",
                'write it with format="table", data_columns=True',
            ],
        ),
        ("pandas_table.h5", "df", ["its numbers are 'df/table::values_block_0', 'df/table::values_block_1', "]),
        ("pandas_columns.h5", "df", ["its numbers are 'df/table::a', 'df/table::b', 'df/table::c', 'df/table::n'"]),
        ("pandas_columns.h5", "df/table", ["a table with the fields 'index', 'a', 'b'", "'df/table::index'"]),
        ("pandas_columns.h5", "df/table::text", ["'df/table::text' holds text or objects"]),
        ("pandas_columns.h5", "a", ["no dataset 'a'; the file has 'df/table::a'"]),
        ("pandas_columns.h5", "table", ["no dataset 'table'; the file has 'df/table'"]),
        ("pandas_series.h5", "s", ["'s' is a group, not a dataset; it holds 's/values'"]),
        ("pytables.h5", "group/table::name", ["'group/table::name' holds text or objects"]),
        ("matlab.mat", "s", ["'s' is a group, not a dataset; it holds 's/X'"]),
        ("matlab.mat", "text", ["'text' is a char of MATLAB; save it as a matrix of numbers"]),
        ("matlab.mat", "cell", ["'cell' is a cell of MATLAB"]),
        ("matlab.mat", "empty", ["'empty' is an empty array of MATLAB; it needs at least one row and one column"]),
        ("matlab.mat", "complex", ["'complex' "]),
        (
            "anndata_sparse.h5ad",
            "X",
            [
                "'X' is a group, not a dataset, a sparse matrix of AnnData; fastsgd reads dense ones",
                "adata.X.toarray()",
            ],
        ),
        ("anndata_dense.h5ad", "obs/kind", ["categories of AnnData; name their numbers: 'obs/kind/codes'"]),
        ("anndata_dense.h5ad", "obs", ["it holds 'obs/age', 'obs/kind/codes'"]),
        ("netcdf.nc", "packed", ["holds packed numbers: its attributes say scale_factor 0.25 and add_offset 10.0"]),
    ],
)
def test_what_cannot_be_read_is_said(file, name, parts):
    message = refused(lambda: HDF5Dataset(FILES / file, name), FILES / file, *parts)
    assert message.count(str(FILES)) == 1
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [("gaps", 7, "1.0000000200408773e+20"), ("holes", 7, "-1"), ("unwritten", 20, "9.969209968386869e+36")],
)
def test_missing_values_of_netcdf_are_refused(name, row, value):
    dataset = HDF5Dataset(FILES / "netcdf.nc", "x", name)
    for memory in ("1MB", "10kB"):
        refused(
            lambda memory=memory: list(dataset.batches(8, shuffle=False, memory=memory)),
            f"dataset '{name}', row {row}, column 0 is {value}",
            "which stands for a missing value",
        )


def test_a_filter_plugin_that_is_missing_is_named():
    # In a process of its own: a plugin that was loaded once stays.
    code = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        "from fastsgd.data import HDF5Dataset\n"
        "try: HDF5Dataset(sys.argv[1], 'df/table::a')\n"
        "except ValueError as error: print(error)"
    )
    path = FILES / "pandas_blosc.h5"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "dataset 'df/table' was written with the filter 'blosc'" in done.stdout
    assert "pip install hdf5plugin" in done.stdout
