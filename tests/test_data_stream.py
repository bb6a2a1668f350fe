"""The thread that reads ahead: it starts with an epoch, hands its errors over, and ends with its consumer."""

import gc
import signal
import subprocess
import sys
import threading
import tracemalloc

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk, numbers_of, write_rows

import fastsgd.data.loader as loader_module
import fastsgd.data.stream as stream_module
import fastsgd.kernels.threads as threads_module
from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.loader import Loader
from fastsgd.data.stream import Stream
from fastsgd.errors import DataError, MemoryBudgetError

ROWS, CHUNK = 6000, 50


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "fastsgd-loader"]


@pytest.fixture
def dataset(tmp_path):
    return ChunkByChunk(write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK), "X", "y", weight="w")


@pytest.fixture(params=[True, False], ids=["window", "stored"])
def batches(request, dataset):
    """An epoch through the thread, begun."""
    batches = dataset.batches(8, memory="60kB", shuffle=request.param)
    assert threads() == []  # not before the first batch
    next(batches)
    assert len(threads()) == 1
    assert threads()[0].daemon
    return [batches]


def test_ends_with_the_rows(batches):
    assert sum(len(x) for x, *_ in batches[0]) == ROWS - 8
    assert threads() == []


def test_ends_when_closed(batches):
    batches[0].close()
    assert threads() == []
    assert list(batches[0]) == []


def test_ends_when_forgotten(batches):
    batches.clear()
    assert threads() == []


def test_ends_when_its_cycle_is_collected(batches):
    cycle = {"batches": batches.pop()}
    cycle["cycle"] = cycle
    del cycle
    gc.collect()
    assert threads() == []


def test_ends_with_an_error_of_the_consumer(batches):
    def consume():
        own = batches.pop()
        for number, _ in enumerate(own):
            if number == 2:
                raise RuntimeError("the consumer's own")

    with pytest.raises(RuntimeError, match="the consumer's own"):
        consume()
    gc.collect()
    assert threads() == []


def test_ends_with_an_interrupt(batches):
    def consume():
        for _ in batches.pop():
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        consume()
    gc.collect()
    assert threads() == []


def test_is_never_there_for_rows_in_memory(dataset):
    for source in (dataset, ArrayDataset(np.zeros(100))):
        batches = source.batches(8, memory="1MB")
        next(batches)
        assert threads() == []


@pytest.mark.parametrize("shuffle", [True, False])
def test_stops_while_the_window_still_fills(dataset, shuffle):
    """Ended by the thread itself, as the garbage collector may: after the block at hand, not after the window."""
    seen, ready = [], threading.Event()

    def end(y):
        ready.wait()
        stream.close()
        seen.append(len(y))

    loader = Loader(dataset, batch_size=8, memory="60kB", shuffle=shuffle, check_target=end)
    assert loader.plan.window_rows > 10 * CHUNK or not shuffle
    stream = Stream(loader, 0)
    thread = threads()[0]
    ready.set()
    thread.join()
    assert seen == [CHUNK]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", [ZeroDivisionError, MemoryError, SystemExit])
def test_any_error_reaches_the_consumer_as_it_is(dataset, kind, shuffle):
    seen = []

    def fail(y):
        seen.append(y)
        if len(seen) == 100:
            raise kind("in the thread")

    loader = Loader(dataset, batch_size=8, memory="60kB", shuffle=shuffle, check_target=fail)
    lengths = []
    with pytest.raises(MemoryBudgetError if kind is MemoryError else kind, match="in the thread") as caught:
        lengths.extend(len(slab.x) for slab in loader.epoch())
    assert type(caught.value.__cause__ or caught.value) is kind
    assert 0 < sum(lengths) < ROWS
    assert threads() == []
    loader._check_target = None
    assert sum(len(slab.x) for slab in loader.epoch()) == ROWS  # the loader is as good as before


def test_bad_data_in_the_middle_come_after_the_good_rows(tmp_path):
    path = write_rows(tmp_path / "nan.h5", ROWS, chunk=CHUNK)
    with h5py.File(path, "r+") as file:
        file["X"][3017, 1] = np.nan
    good = []
    with pytest.raises(DataError, match=r"nan\.h5: dataset 'X', row 3017, column 1 is nan"):
        good.extend(ChunkByChunk(path, "X", "y").batches(10, memory="60kB", shuffle=False))
    numbers = numbers_of(good)
    assert np.array_equal(numbers, np.arange(len(numbers)))
    assert 2500 < len(numbers) <= 3000
    assert threads() == []


def test_an_error_that_is_kept_keeps_no_rows(tmp_path):
    path = write_rows(tmp_path / "nan.h5", 200_000, chunk=20_000)
    with h5py.File(path, "r+") as file:
        file["X"][:, 0] = np.nan
        file["X"][:180_000, 0] = 0
    loader = Loader(HDF5Dataset(path, "X", "y"), batch_size=100, memory="5MB")
    kept = []
    for _ in range(2):  # the first compiles what is not yet
        tracemalloc.start()
        try:
            list(loader.epoch())
        except DataError as error:
            kept.append(error)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert len(kept) == 2
    assert held < loader.plan.slab_bytes + loader.plan.window_bytes / 10


def test_an_epoch_uses_the_slabs_that_are_planned(dataset):
    loader = Loader(dataset, batch_size=8, memory="60kB")
    slabs, waited = set(), loader.waited
    for slab in loader.epoch():
        slabs.add(slab.x.__array_interface__["data"][0])
    assert len(slabs) == loader.plan.slabs
    assert loader.waited > waited


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_consumer_that_waits_gets_its_rows_from_several_threads(dataset, shuffle, monkeypatch):
    """The same rows in the same order as from one."""
    options = {"memory": "60kB", "shuffle": shuffle}
    expected = numbers_of(dataset.batches(8, **options))
    monkeypatch.setattr(loader_module, "_ROWS_A_THREAD", 1)
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    used, share = [], threads_module.share

    def seen(work, threads, *arguments):
        used.append(threads)
        share(work, threads, *arguments)

    monkeypatch.setattr(threads_module, "share", seen)
    assert numbers_of(dataset.batches(8, **options)).tolist() == expected.tolist()
    assert max(used) == 3


def test_epochs_one_after_the_other_and_at_once(dataset):
    loader = Loader(dataset, batch_size=8, memory="60kB")
    first, second = loader.epoch(0), loader.epoch(1)
    rows = [len(next(first).x), len(next(second).x)]
    assert len(threads()) == 2
    for pair in zip(first, second, strict=True):
        rows = [count + len(slab.x) for count, slab in zip(rows, pair, strict=True)]
    assert rows == [ROWS, ROWS]
    assert threads() == []
    assert np.array_equal(np.sort(numbers_of(dataset.batches(8, memory="60kB", epoch=1))), np.arange(ROWS))


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise ValueError('the end')", 1, "ValueError: the end"),
        ("import os, signal; signal.signal(signal.SIGTERM, lambda *_: exit(143)); os.kill(os.getpid(), 15)", 143, ""),
    ],
    ids=["end", "exit", "error", "signal"],
)
def test_an_interpreter_that_ends_in_mid_epoch(tmp_path, end, code, words):
    """With the iterator still there, and the thread at work or waiting for a slab."""
    path = write_rows(tmp_path / "a.h5", 400_000, chunk=20_000, compression="gzip")
    program = f"""
from fastsgd.data import HDF5Dataset
kept = [HDF5Dataset({str(path)!r}, "X", "y").batches(10, memory="6MB", shuffle=bool(k)) for k in range(2)]
for batches in kept:
    next(batches)
cycle = [kept]
cycle.append(cycle)
{end}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip().endswith(words)
    assert done.stderr.count("\n") < 8
    assert "Exception ignored" not in done.stderr
    assert code == 1 or done.stderr == ""


def test_garbage_that_is_collected_inside_of_hdf5_is_not_waited_for(batches, monkeypatch):
    """The thread may wait for the lock that the collector's caller holds: it ends when it can."""
    from h5py._objects import phil

    monkeypatch.setattr(stream_module, "_END_SECONDS", 10_000)
    thread = threads()[0]
    with phil:
        batches.clear()
        assert thread.is_alive()  # it cannot close its file yet
    thread.join()
    assert threads() == []
