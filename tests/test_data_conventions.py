"""What attributes say about values, in files that h5py writes as MATLAB and netCDF do."""

import tracemalloc

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk, features_of, numbers_of

from fastsgd.data import HDF5Dataset
from fastsgd.data.inspection import inspect_file
from fastsgd.errors import DataError

ROWS = 500


def refused(make, *parts):
    with pytest.raises(DataError) as caught:
        make()
    for part in parts:
        assert str(part) in str(caught.value), str(caught.value)


def write_matlab(path, rows=ROWS, *, kind=b"double", chunks=None, **options):
    """X and y as MATLAB stores (rows, 3) and (rows, 1): with the axes exchanged."""
    numbers = np.arange(rows)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in (("X", features_of(numbers)), ("y", -numbers[:, None].astype("f8"))):
            made = file.create_dataset(name, data=values.T, chunks=chunks and (1, chunks), **options)
            made.attrs["MATLAB_class"] = np.bytes_(kind)
    return path


class TestMatlab:
    @pytest.mark.parametrize("memory", ["15kB", "1MB"])
    @pytest.mark.parametrize(
        "options", [{}, {"chunks": 20}, {"chunks": 20, "compression": "gzip", "shuffle": True}], ids=str
    )
    def test_rows_are_read_as_rows(self, tmp_path, options, memory):
        dataset = ChunkByChunk(write_matlab(tmp_path / "m.mat", **options), "X", "y")
        assert (dataset.n_rows, dataset.n_features, dataset.n_targets) == (ROWS, 3, 1)
        assert dataset.chunk_rows == options.get("chunks", ROWS)
        memory = memory if options else "1MB"  # what is not chunked is one block here
        assert np.array_equal(numbers_of(dataset.batches(16, shuffle=False, memory=memory)), np.arange(ROWS))
        assert np.array_equal(np.sort(numbers_of(dataset.batches(16, memory=memory))), np.arange(ROWS))
        assert np.array_equal(dataset.take([499, 3, 77]).x, features_of([499, 3, 77]))

    @pytest.mark.parametrize("shape", [(ROWS, 1), (1, ROWS)], ids=["lying", "standing"])
    def test_a_vector_is_a_column_either_way(self, tmp_path, shape):
        path = write_matlab(tmp_path / "m.mat")
        with h5py.File(path, "r+") as file:
            file["v"] = np.arange(ROWS).reshape(shape)
            file["v"].attrs["MATLAB_class"] = np.bytes_(b"double")
        dataset = HDF5Dataset(path, "X", "v")
        assert dataset.n_targets == 1
        assert np.array_equal(dataset.take(ROWS).y[:, 0], np.arange(ROWS))

    def test_stays_in_its_budget(self, tmp_path):
        rows, columns = 100_000, 20
        with h5py.File(tmp_path / "m.mat", "w") as file:
            made = file.create_dataset("X", (columns, rows), "f8", chunks=(5, 1000), compression="gzip")
            made[...] = np.arange(rows) + np.arange(columns)[:, None]
            made.attrs["MATLAB_class"] = np.bytes_(b"double")
        dataset = HDF5Dataset(tmp_path / "m.mat", "X")
        assert sum(len(x) for (x,) in dataset.batches(100, memory="2MB")) == rows  # compiles
        tracemalloc.start()
        try:
            seen = np.zeros(rows, int)
            for (x,) in dataset.batches(100, memory="2MB"):
                seen[x[:, 0].astype(int)] += 1
                assert np.array_equal(x - x[:, :1], np.broadcast_to(np.arange(columns), x.shape))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (seen == 1).all()
        assert peak < 2_000_000 + rows * 8 + 200_000  # what counts the rows, and small things

    @pytest.mark.parametrize("kind", ["char", "table", "datetime", "string", "function_handle"])
    def test_what_is_numbers_in_the_file_alone(self, tmp_path, kind):
        path = write_matlab(tmp_path / "m.mat", kind=kind.encode())
        refused(lambda: HDF5Dataset(path, "X"), path, f"dataset 'X' is a {kind} of MATLAB; save it as a matrix")
        assert {report.path: report.problem for report in inspect_file(path)}["X"].startswith(f"is a {kind}")

    def test_an_empty_array(self, tmp_path):
        path = write_matlab(tmp_path / "m.mat")
        with h5py.File(path, "r+") as file:
            file["y"].attrs["MATLAB_empty"] = np.uint8(1)
        refused(lambda: HDF5Dataset(path, "X", "y"), "'y' is an empty array of MATLAB")

    def test_a_sparse_matrix(self, tmp_path):
        path = write_matlab(tmp_path / "m.mat")
        with h5py.File(path, "r+") as file:
            file["S/data"], file["S/ir"], file["S/jc"] = np.ones(3), np.arange(3), np.arange(4)
            file["S"].attrs["MATLAB_sparse"] = np.uint64(3)
        refused(lambda: HDF5Dataset(path, "S"), "'S' is a group, not a dataset, a sparse matrix of MATLAB", "full(S)")


@pytest.mark.parametrize(("features", "target"), [("X", "y"), ("y", "X")])
def test_a_matrix_without_the_mark_of_matlab_is_hinted_at(tmp_path, features, target):
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["X"], file["y"] = np.ones((3, 8)), np.ones(8)
    refused(
        lambda: HDF5Dataset(tmp_path / "r.h5", features, target),
        "they need the same number; 'X' has 8 columns: R and Julia store a matrix so, save its transpose",
    )


def write_marked(path, values, **attributes):
    with h5py.File(path, "w") as file:
        chunk = min(50, len(values))
        file.create_dataset("a", (len(values), 2), "f4", chunks=(chunk, 2))
        file.create_dataset("X", data=values, chunks=(chunk, *values.shape[1:]))
        file["X"].attrs.update(attributes)
    return path


class TestMissing:
    @pytest.mark.parametrize("kind", ["f4", "f8", ">f4", "f2", "i2", ">i4", "u1", "i8"])
    @pytest.mark.parametrize("name", ["_FillValue", "missing_value"])
    @pytest.mark.parametrize("memory", ["30kB", "1MB"])
    def test_is_refused_where_it_occurs(self, tmp_path, kind, name, memory):
        values = np.arange(1, 801).reshape(400, 2).astype(kind) % 100 + 1
        fill = np.array([99], kind)
        path = write_marked(tmp_path / "m.h5", np.where(values == 99, 98, values), **{name: fill})
        dataset = ChunkByChunk(path, ["a", "X"])
        assert sum(len(x) for (x,) in dataset.batches(8, memory=memory)) == 400
        with h5py.File(path, "r+") as file:
            file["X"][123, 1] = 99
        refused(
            lambda: list(ChunkByChunk(path, ["a", "X"]).batches(8, memory=memory)),
            f"{path}: dataset 'X', row 123, column 1 is 99",
            "which stands for a missing value",
        )

    def test_several_values(self, tmp_path):
        for value in (7, 9):
            values = np.where(np.arange(20) == 13, value, 0)
            path = write_marked(tmp_path / "m.h5", values, missing_value=np.array([7.0, 9.0]))
            refused(lambda path=path: list(HDF5Dataset(path, "a", "X").batches(8)), f"row 13, column 0 is {value}")

    @pytest.mark.parametrize("fill", [np.nan, 1e300, 2.5, "none", -1])
    def test_one_that_cannot_occur(self, tmp_path, fill):
        path = write_marked(tmp_path / "m.h5", np.arange(20, dtype="u1"), _FillValue=fill)
        assert sum(len(x) for (x,) in HDF5Dataset(path, "X").batches(8)) == 20

    def test_each_file_has_its_own(self, tmp_path):
        for number in range(2):
            values = np.full(20, 1 - number)
            write_marked(tmp_path / f"{number}.h5", values, _FillValue=number)
        dataset = HDF5Dataset(tmp_path / "*.h5", "X")
        assert sum(len(x) for (x,) in dataset.batches(8)) == 40
        write_marked(tmp_path / "1.h5", np.arange(20), _FillValue=13)
        refused(
            lambda: list(HDF5Dataset(tmp_path / "*.h5", "X").batches(8)), f"{tmp_path / '1.h5'}: dataset 'X', row 13"
        )


@pytest.mark.parametrize("attributes", [{"scale_factor": 0.1}, {"add_offset": 5}, {"scale_factor": [2.0]}], ids=str)
def test_packed_numbers_are_refused(tmp_path, attributes):
    path = write_marked(tmp_path / "m.h5", np.arange(20), **attributes)
    (name,) = attributes
    refused(lambda: HDF5Dataset(path, "X"), path, f"dataset 'X' holds packed numbers: its attributes say {name} ")
    assert HDF5Dataset(path, "a").n_rows == 20


def test_packing_that_changes_nothing_is_none(tmp_path):
    path = write_marked(tmp_path / "m.h5", np.arange(20), scale_factor=1.0, add_offset=0.0)
    assert HDF5Dataset(path, "X").n_rows == 20
