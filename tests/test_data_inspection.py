"""What is said about the datasets of a file."""

import json

import h5py
import numpy as np
import pytest

from fastsgd.data import HDF5Dataset
from fastsgd.data.inspection import inspect_file
from fastsgd.datasets import flights
from fastsgd.errors import DataError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "all.h5"
    values = np.arange(3000, dtype="f4").reshape(1000, 3)
    with h5py.File(path, "w") as file:
        file["plain"] = values
        file["group/deep"] = values[:, 0].astype(">i2")
        options = {"chunks": (100, 3), "shuffle": True, "fletcher32": True}
        file.create_dataset("packed", data=values, compression="gzip", **options)
        file.create_dataset("lzf", data=values, chunks=(64, 2), compression="lzf")
        file.create_dataset("scaled", data=values.astype("i4"), chunks=(100, 3), scaleoffset=0)
        file.create_dataset("unwritten", (10**6, 2), "f8", chunks=(1000, 2))
        file["yes"] = values > 5
        file["table"] = np.zeros(5, [("a", "f4"), ("b", "i8")])
        file["cube"], file["scalar"], file["none"] = np.zeros((2, 3, 4)), 1.5, np.zeros((0, 3))
        file["empty"], file["text"], file["complex"] = h5py.Empty("f4"), ["a", "b"], np.zeros(3, complex)
        h5py.h5d.create(file.id, b"time", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((8,)))
    return path


@pytest.fixture
def reports(path):
    return {report.path: report for report in inspect_file(path)}


def test_each_dataset_is_listed(reports):
    usable = {"plain", "group/deep", "packed", "lzf", "scaled", "unwritten", "yes"}
    assert set(reports) == usable | {"table", "cube", "scalar", "none", "empty", "text", "complex", "time"}


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "chunks", "filters", "nbytes"),
    [
        ("plain", (1000, 3), "float32", None, [], 12_000),
        ("group/deep", (1000,), ">i2", None, [], 2000),
        ("packed", (1000, 3), "float32", (100, 3), ["shuffle", "gzip", "fletcher32"], 12_000),
        ("lzf", (1000, 3), "float32", (64, 2), ["lzf"], 12_000),
        ("scaled", (1000, 3), "int32", (100, 3), ["scaleoffset"], 12_000),
        ("unwritten", (10**6, 2), "float64", (1000, 2), [], 16_000_000),
        ("yes", (1000, 3), "bool", None, [], 3000),
        ("cube", (2, 3, 4), "float64", None, [], 192),
        ("scalar", (), "float64", None, [], 8),
        ("none", (0, 3), "float64", None, [], 0),
        ("empty", (), "float32", None, [], 0),
        ("table", (5,), "[('a', '<f4'), ('b', '<i8')]", None, [], 60),
        ("time", (8,), "unknown", None, [], 0),
    ],
)
def test_storage(reports, name, shape, dtype, chunks, filters, nbytes):
    report = reports[name]
    assert (report.shape, report.dtype, report.chunks, report.nbytes) == (shape, dtype, chunks, nbytes)
    assert sorted(report.filters) == sorted(filters)


def test_stored_bytes(reports):
    assert reports["plain"].stored_bytes == 12_000
    assert 0 < reports["packed"].stored_bytes < 12_000
    assert reports["unwritten"].stored_bytes == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("table", "a table; name a field, as table::a"),
        ("cube", "3 axes; one or two can be used"),
        ("scalar", "0 axes; one or two can be used"),
        ("none", "empty"),
        ("empty", "empty"),
        ("text", "holds text or objects"),
        ("complex", "holds complex128"),
        ("time", "No NumPy equivalent for TypeTimeID exists"),
    ],
)
def test_problems(reports, path, name, problem):
    assert reports[name].problem == problem
    with pytest.raises(DataError):
        HDF5Dataset(path, name)


@pytest.mark.parametrize("name", ["plain", "group/deep", "packed", "lzf", "scaled", "unwritten", "yes"])
def test_what_has_no_problem_can_be_read(reports, path, name):
    assert reports[name].problem is None
    assert next(HDF5Dataset(path, name).batches(10, shuffle=False))[0].shape[0] == 10


def test_reports_are_json(reports):
    again = json.loads(json.dumps(reports["packed"].to_dict()))
    assert again["path"] == "packed"
    assert again["shape"] == [1000, 3]
    assert again["problem"] is None


def test_the_packaged_file():
    reports = {report.path: report for report in inspect_file(flights())}
    assert set(reports) == {"X", "y", "late"}
    assert all(report.problem is None and "gzip" in report.filters for report in reports.values())


def test_an_empty_file(tmp_path):
    h5py.File(tmp_path / "a.h5", "w").close()
    assert inspect_file(tmp_path / "a.h5") == []


@pytest.mark.parametrize(
    ("content", "words"), [(None, "there is no file"), (b"", "is empty"), (b"x,y\n", "is not an HDF5 file")]
)
def test_files_that_cannot_be_listed(tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        inspect_file(str(tmp_path / "a.h5"))
    assert "a.h5" in str(caught.value)
