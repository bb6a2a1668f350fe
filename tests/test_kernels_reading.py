"""Rows from a file straight into memory, against slices of what was written."""

import os

import numpy as np
import pytest

import fastsgd.data.runs as runs_module
from fastsgd.data.runs import Place, Run, read_runs
from fastsgd.kernels.reading import FINITE, READ, SHORT, SINGLE, look_at_share, read_shares

HEIGHTS = [1, 3, 7, 50, 10_000]


def write_chunks(path, rows, height, rng):
    """The rows in chunks of so many, in any order and with gaps; where each starts."""
    n_chunks = -(-len(rows) // height)
    offsets = np.empty(n_chunks, np.int64)
    with open(path, "wb") as file:
        for chunk in rng.permutation(n_chunks):
            file.write(bytes(int(rng.integers(0, 9))))
            offsets[chunk] = file.tell()
            part = np.zeros((height, *rows.shape[1:]), rows.dtype)  # as HDF5 writes the last, whole
            some = rows[chunk * height : (chunk + 1) * height]
            part[: len(some)] = some
            file.write(part.tobytes())
    return offsets


@pytest.fixture
def opened(tmp_path):
    """Opens files, and closes them."""
    descriptors = []

    def open_file(path):
        descriptors.append(os.open(path, os.O_RDONLY))
        return descriptors[-1]

    yield open_file
    for descriptor in descriptors:
        os.close(descriptor)


def alone(threads):
    """As many threads as are wanted, one after the other."""

    def together(work, most, *arguments):
        assert most == threads
        for thread in range(threads):
            work(thread, threads, *arguments)

    return together


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "u2", "i8", "?"])
def test_rows_are_those_of_the_file(tmp_path, opened, dtype, height, threads):
    rng = np.random.default_rng(height)
    wide = rng.integers(0, 2 if dtype == "?" else 100, (211, 5)).astype(dtype)
    narrow = rng.integers(0, 2, (211, 1)).astype(dtype)
    runs = []
    for name, rows in (("wide", wide), ("narrow", narrow)):
        offsets = write_chunks(tmp_path / name, rows, height, rng)
        place = Place(opened(tmp_path / name), offsets, height, rows.shape[1], rows.dtype)
        for first, last in ((0, 211), (0, 1), (3, 4), (6, 8), (49, 151), (210, 211)):
            run = Run(place, first, last)
            run.out = np.full((last - first, rows.shape[1]), 99, dtype)
            runs.append((run, rows[first:last]))
    read_runs([run for run, _ in runs], alone(threads), threads)
    for run, expected in runs:
        assert run.came
        assert run.outcome == (SINGLE if dtype in ("f4", "f8") else READ)
        assert run.out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("row", [0, 4095, 4096, 40_000, 70_000])
def test_a_value_that_is_not_finite_is_noticed_wherever_it_is(tmp_path, opened, dtype, bad, row):
    """Also in what is read or summed on its own."""
    rows = np.ones((70_001, 1), dtype)
    rows[row] = bad
    rows.tofile(tmp_path / "a")
    run = Run(Place(opened(tmp_path / "a"), np.zeros(1, np.int64), len(rows), 1, rows.dtype), 0, len(rows))
    run.out = np.empty_like(rows)
    read_runs([run], alone(2), 2)
    assert run.came
    assert run.outcome < FINITE
    assert run.out.tobytes() == rows.tobytes()


@pytest.mark.parametrize("value", [1e39, -1e39, 3.5e38])
@pytest.mark.parametrize("row", [0, 4095, 4096, 70_000])
def test_a_value_that_is_not_finite_as_float32_is_noticed(tmp_path, opened, row, value):
    rows = np.full((70_001, 1), 3.4e38)
    rows.tofile(tmp_path / "a")
    run = Run(Place(opened(tmp_path / "a"), np.zeros(1, np.int64), len(rows), 1, rows.dtype), 0, len(rows))
    run.out = np.empty_like(rows)
    read_runs([run], alone(2), 2)
    assert run.outcome == SINGLE
    rows[row] = value
    rows.tofile(tmp_path / "a")
    read_runs([run], alone(2), 2)
    assert run.outcome == FINITE


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_values_in_memory_are_looked_at_by_each_thread_in_its_share(dtype, threads):
    values = np.full(50_000, np.finfo(np.float32).max, dtype)

    def found():
        outcomes = np.full(threads, -1)
        for thread in range(threads):
            look_at_share(thread, threads, values, outcomes)
        return outcomes.tolist()

    assert found() == [SINGLE] * threads
    for at in (0, 4095, 25_000, 49_999):
        who = next(thread for thread in range(threads) if at < 50_000 * (thread + 1) // threads)
        for bad, least in [(np.nan, READ), (-np.inf, READ), *([(-1e39, FINITE)] if dtype == "f8" else [])]:
            kept, values[at] = values[at], bad
            assert found() == [least if thread == who else SINGLE for thread in range(threads)]
            values[at] = kept
    values = values[:0]
    assert found() == [SINGLE] * threads


@pytest.mark.parametrize("left", [0, 1, 4 * 3 * 10 - 1])
def test_what_does_not_come_is_said(tmp_path, opened, left):
    """Of a file that ends too soon; the share of the other thread comes."""
    rows = np.ones((20, 3), np.float32)
    (tmp_path / "a").write_bytes(rows[:10].tobytes() + rows[10:].tobytes()[:left])
    place = Place(opened(tmp_path / "a"), np.zeros(1, np.int64), 20, 3, rows.dtype)
    run = Run(place, 0, 20)
    run.out = np.empty_like(rows)
    outcomes = np.full((1, 2), -1, np.int8)
    for thread in range(2):
        read_shares(thread, 2, np.array([run.numbers()], np.int64), outcomes)
    assert outcomes.tolist() == [[SINGLE, SHORT]]
    read_runs([run], alone(2), 2)
    assert not run.came
    assert run.outcome < FINITE


def test_what_cannot_be_read_is_no_error_here(tmp_path):
    """Python says what is wrong, as it reads the same again."""
    descriptor = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT)
    try:
        run = Run(Place(descriptor, np.zeros(1, np.int64), 4, 1, np.dtype(np.int32)), 0, 4)
        run.out = np.empty((4, 1), np.int32)
        read_runs([run], alone(1), 1)
        assert not run.came
    finally:
        os.close(descriptor)


def test_whole_numbers_are_not_looked_at(tmp_path, opened):
    """Their bytes may be those of a NaN."""
    rows = np.full((8, 2), -1, np.int32)
    rows.tofile(tmp_path / "a")
    run = Run(Place(opened(tmp_path / "a"), np.zeros(1, np.int64), 8, 2, rows.dtype), 0, 8)
    run.out = np.zeros_like(rows)
    outcomes = np.zeros((1, 1), np.int8)
    read_shares(0, 1, np.array([run.numbers()], np.int64), outcomes)
    assert outcomes.tolist() == [[SINGLE]]
    assert (run.out == -1).all()


class Clock:
    """A time that goes on only where it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(runs_module.time, "perf_counter", lambda: self.now)

    def together(self, before, within):
        """Two threads that begin so many seconds after they are asked to, and take so many each."""

        def together(work, threads, *arguments):
            for thread in range(threads):
                self.now += before
                work(thread, threads, *arguments)

        read_shares = runs_module._kernel()

        def slowly(*arguments):
            self.now += within
            read_shares(*arguments)

        return together, slowly


@pytest.mark.parametrize(
    ("before", "within", "height", "slow"),
    [
        (1.0, 0.0, 5000, False),  # that a thread begins late says nothing of the disk
        (0.0, 1.0, 5000, True),
        (0.0, 5e-4, 5000, True),  # 20 kB in two calls
        (0.0, 5e-4, 50, False),  # in a hundred
    ],
)
def test_slow_is_what_no_memory_takes(tmp_path, opened, monkeypatch, before, within, height, slow):
    rows = np.ones((5000, 1), np.float32)
    rows.tofile(tmp_path / "a")
    offsets = np.arange(0, rows.nbytes, height * 4)
    run = Run(Place(opened(tmp_path / "a"), offsets, height, 1, rows.dtype), 0, 5000)
    run.out = np.empty_like(rows)
    together, slowly = Clock(monkeypatch).together(before, within)
    monkeypatch.setattr(runs_module, "_kernel", lambda: slowly)
    seconds = read_runs([run], together, 2)
    assert run.came
    assert run.slow == slow
    assert seconds == pytest.approx(within)
