"""The packaged flights file, and the script that makes files of any size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from fastsgd.datasets import flights

ROOT = Path(__file__).parents[1]
ROWS, FEATURES = 327_346, 42


@pytest.fixture(scope="module")
def flights_file():
    with h5py.File(flights()) as file:
        yield file


@pytest.fixture(scope="module", name="X")
def features(flights_file):
    return flights_file["X"][:]


@pytest.fixture(scope="module")
def y(flights_file):
    return flights_file["y"][:]


def test_flights_is_a_small_file():
    path = flights()
    assert isinstance(path, Path)
    assert path.is_file()
    assert path.stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [("X", (ROWS, FEATURES), "int16"), ("y", (ROWS,), "float32"), ("late", (ROWS,), "uint8")],
)
def test_flights_datasets(flights_file, name, shape, dtype):
    dataset = flights_file[name]
    assert dataset.shape == shape
    assert dataset.dtype == dtype
    assert dataset.chunks == (8192, *shape[1:])
    assert (dataset.compression, dataset.shuffle) == ("gzip", True)


def test_flights_attributes(flights_file):
    attributes = flights_file.attrs
    assert attributes["licence"] == "CC0"
    assert attributes["rows_in_source"] - attributes["rows_dropped"] == ROWS
    assert f"{ROWS:,}" in attributes["description"]
    assert {"title", "source", "provenance", "created_by", "order"} <= set(attributes)
    assert flights_file["y"].attrs["unit"] == "minutes"


def test_flights_columns_are_known_at_departure(flights_file):
    columns = list(flights_file["X"].attrs["columns"])
    assert len(columns) == len(set(columns)) == FEATURES
    assert columns[:4] == ["dep_delay", "distance", "sched_duration", "sched_dep_minute"]
    assert all(name.startswith(("month_", "weekday_", "carrier_", "origin_")) for name in columns[4:])


def test_flights_values(flights_file, X, y):
    assert np.isfinite(y).all()
    assert np.array_equal(flights_file["late"][:], y > 15)
    assert not any(np.array_equal(column, y) for column in X.T)
    assert (X.min(axis=0) < X.max(axis=0)).all()
    columns = flights_file["X"].attrs["columns"]
    for group in ("month", "weekday", "carrier", "origin"):
        members = [i for i, name in enumerate(columns) if name.startswith(f"{group}_")]
        assert (X[:, members].sum(axis=1) == 1).all(), group


def test_flights_can_be_learned(X, y):
    A = np.column_stack([X[:, :4], np.ones(len(X))]).astype(np.float64)
    w = np.linalg.solve(A.T @ A, A.T @ y)
    rmse = np.sqrt(np.mean((A @ w - y) ** 2))
    assert 15 < rmse < 0.5 * y.std()


def make_teacher(out, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / "make_teacher.py"), str(out), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def read(path):
    with h5py.File(path) as file:
        return file["X"][:], file["y"][:]


def test_teacher_rows_do_not_depend_on_storage(tmp_path):
    first, second, other = tmp_path / "first.h5", tmp_path / "second.h5", tmp_path / "other.h5"
    for path in (first, second):
        result = make_teacher(path, "--rows", 20_000, "--features", 3, "--hidden", 8, "--chunk-rows", 1000)
        assert result.returncode == 0, result.stderr
        assert "20,000 rows" in result.stderr
    assert first.read_bytes() == second.read_bytes()
    # Another layout and number of rows: the same rows come first.
    result = make_teacher(other, "--rows", 9001, "--features", 3, "--hidden", 8, "--layout", "contiguous")
    assert result.returncode == 0, result.stderr
    (X, y), (X_other, y_other) = read(first), read(other)
    assert X.shape == (20_000, 3)
    assert y.shape == (20_000,)
    assert X.dtype == y.dtype == np.float32
    assert np.array_equal(X[:9001], X_other)
    assert np.array_equal(y[:9001], y_other)
    assert abs(X.mean()) < 0.02
    assert abs(X.std() - 1) < 0.02
    assert abs(y.std() - 1) < 0.1
    assert len(np.unique(X[:, 0])) > 19_900  # blocks are not repeats of one another
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.h5", "other.h5", "second.h5"]


def test_teacher_sorted_is_a_stable_sort_of_the_same_rows(tmp_path):
    task = ("--rows", 10_000, "--features", 3, "--hidden", 8, "--classes", 4, "--chunk-rows", 700)
    for name, flags in {"drawn.h5": (), "sorted.h5": ("--sorted", "--filter", "gzip")}.items():
        result = make_teacher(tmp_path / name, *task, *flags)
        assert result.returncode == 0, result.stderr
    (X, y), (X_sorted, y_sorted) = read(tmp_path / "drawn.h5"), read(tmp_path / "sorted.h5")
    order = np.argsort(y, kind="stable")
    assert y.dtype == np.int32
    assert set(y) == {0, 1, 2, 3}
    assert np.array_equal(y_sorted, y[order])
    assert np.array_equal(X_sorted, X[order])


def test_teacher_size_targets_and_dtype(tmp_path):
    out = tmp_path / "size.h5"
    result = make_teacher(
        out, "--size", "60kB", "--features", 4, "--targets", 2, "--dtype", "float64", "--filter", "lzf", "--noise", 0
    )
    assert result.returncode == 0, result.stderr
    X, y = read(out)
    assert X.shape == (60_000 // 48, 4)
    assert y.shape == (60_000 // 48, 2)
    assert X.dtype == y.dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--size", "900000TB"), 1, "lower --rows or --size"),
        (("--rows", 10, "--size", "1MB"), 2, "--rows or --size"),
        (("--rows", 10, "--sorted"), 2, "--classes"),
    ],
)
def test_teacher_refuses(tmp_path, arguments, code, message):
    result = make_teacher(tmp_path / "refused.h5", *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
