"""Rows that are read as they are trained on, beside the consumer or in turns with it: what begins with an epoch ends
with its consumer, and errors reach it."""

import gc
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from contextlib import suppress

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk, numbers_of, write_rows

import fastsgd.data.loader as loader_module
import fastsgd.data.stream as stream_module
import fastsgd.data.team as team_module
from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.loader import Loader
from fastsgd.data.spent import Spent
from fastsgd.data.stream import Stream
from fastsgd.errors import DataError, MemoryBudgetError
from fastsgd.kernels import sharing

ROWS, CHUNK = 6000, 50


def threads(kind="loader"):
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"fastsgd-{kind}")]


def descriptors(folder):
    """How many of the open descriptors are of files in a folder."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return sum(link.startswith(str(folder)) for link in links)


@pytest.fixture(autouse=True, params=[False, True], ids=["beside", "in-turns"])
def turns(tmp_path, request, monkeypatch):
    """Whether rows are read and moved in turns with the consumer, and not by a thread beside it."""
    monkeypatch.setitem(Loader.__init__.__kwdefaults__, "takes_turns", request.param)
    yield request.param
    assert threads() + threads("decoder") + threads("worker") == []
    assert descriptors(tmp_path) == 0


def consume_some(batches):
    for number, _ in enumerate(batches):
        if number == 2:
            raise RuntimeError("the consumer's own")


@pytest.fixture
def packed(tmp_path):
    """Decoded by threads."""
    return HDF5Dataset(write_rows(tmp_path / "packed.h5", 300_000, chunk=10_000, compression="gzip"), "X", "y")


@pytest.fixture
def dataset(tmp_path):
    return ChunkByChunk(write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK), "X", "y", weight="w")


@pytest.fixture(params=[True, False], ids=["window", "stored"])
def batches(request, dataset, turns):
    """An epoch, begun."""
    batches = dataset.batches(8, memory="60kB", shuffle=request.param)
    assert threads() == []  # not before the first batch
    next(batches)
    assert [thread.daemon for thread in threads()] == ([] if turns else [True])
    return [batches]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("end", ["close", "forget", "error", "rows"])
def test_decoders_end_too(packed, end, shuffle, monkeypatch, tmp_path, turns):
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    batches = [packed.batches(10, memory="5MB", shuffle=shuffle)]
    next(batches[0])
    assert len(threads()) == 1 - turns
    assert bool(threads("decoder")) != turns  # in turns the consumer's own threads decode
    assert descriptors(tmp_path) >= 1
    if end == "close":
        batches[0].close()
    elif end == "forget":
        batches.clear()
    elif end == "rows":
        assert sum(len(x) for x, _ in batches[0]) == packed.n_rows - 10
    else:
        with pytest.raises(RuntimeError, match="the consumer's own"):
            consume_some(batches.pop())
    assert threads() + threads("decoder") == []
    assert descriptors(tmp_path) == 0


def test_one_of_two_that_is_abandoned_leaves_the_other_alone(packed, turns):
    one, other = (packed.batches(10, memory="5MB", epoch=epoch) for epoch in range(2))
    next(one)
    rows = len(next(other)[0])
    assert len(threads()) == 2 * (1 - turns)
    del one
    assert len(threads()) == 1 - turns
    assert rows + sum(len(x) for x, _ in other) == packed.n_rows


def test_an_interrupt_of_a_consumer_that_waits(dataset):
    """No slab can be ready before the window is full."""
    seen = []

    def interrupt(y):
        seen.append(len(y))
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    loader = Loader(dataset, batch_size=8, memory="60kB", check_target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(loader.epoch())
    assert threads() == []
    assert 3 <= len(seen) < len(loader.blocks)


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
    with pytest.raises(RuntimeError, match="the consumer's own"):
        consume_some(batches.pop())
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
    assert len(seen) == 1


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", [ZeroDivisionError, MemoryError, SystemExit])
def test_any_error_reaches_the_consumer_as_it_is(dataset, kind, shuffle):
    seen = []

    def fail(y):
        seen.append(len(y))
        if sum(seen) > ROWS * 3 // 4:
            raise kind("in the thread")

    loader = Loader(dataset, batch_size=8, memory="60kB", shuffle=shuffle, check_target=fail)
    lengths = []
    with pytest.raises(MemoryBudgetError if kind is MemoryError else kind, match="in the thread") as caught:
        lengths.extend(len(slab.x) for slab in loader.epoch())
    assert type(caught.value.__cause__ or caught.value) is kind
    assert 0 < sum(lengths) < ROWS
    assert threads() == []
    loader.check._check_target = None
    assert sum(len(slab.x) for slab in loader.epoch()) == ROWS  # the loader is as good as before


def test_an_error_waits_for_nobody(dataset):
    """The thread ends with it although nobody takes what is ready; whoever does later gets the rows first."""
    seen = []

    def fail(y):
        seen.append(y)
        if len(seen) == 6:
            raise ZeroDivisionError("in the thread")

    options = {"shuffle": False, "check_target": fail, "takes_turns": False}
    stream = Stream(Loader(dataset, batch_size=8, memory="60kB", **options), 0)
    for thread in threads():
        thread.join()
    assert len(stream.next().x) <= 5 * CHUNK
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        stream.next()


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_any_error_beside_decoders_reaches_the_consumer_as_it_is(packed, kind, monkeypatch):
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    seen = []

    def fail(y):
        seen.append(y)
        if len(seen) == 5:
            raise kind("beside decoders")

    loader = Loader(packed, batch_size=10, memory="5MB", shuffle=False, check_target=fail)
    with pytest.raises(kind, match="beside decoders"):
        list(loader.epoch())


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_damaged_chunk_ends_all(packed, shuffle):
    with h5py.File(packed.paths[0], "r") as file:
        place = file["X"].id.get_chunk_info(13)
    found = os.stat(packed.paths[0])
    with open(packed.paths[0], "r+b") as file:
        file.seek(place.byte_offset + place.size // 2)
        file.write(bytes(200))
    os.utime(packed.paths[0], ns=(found.st_atime_ns, found.st_mtime_ns))  # it was so when it was first looked at
    with pytest.raises(DataError, match=r"packed\.h5: rows 130000 to 139999 of 'X', 'y' cannot be read"):
        list(packed.batches(10, memory="5MB", shuffle=shuffle))
    assert threads() + threads("decoder") == []


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
    slabs, rows, waited = set(), set(), loader.waited
    for slab in loader.epoch():
        slabs.add(slab.x.__array_interface__["data"][0])
        rows.add(len(slab))
    if loader.takes_turns:  # a single one, with what blocks do not take
        room = loader.take_room()
        assert slabs == {room.slab.x.__array_interface__["data"][0]}
        assert max(rows) == len(room.slab) > loader.plan.slab_rows * loader.plan.slabs
        assert room.nbytes <= loader.plan.total_bytes
    else:
        assert len(slabs) == loader.plan.slabs
        assert max(rows) == loader.plan.slab_rows
    assert loader.waited > waited


def test_slabs_hold_whole_batches_and_no_more_than_is_wanted(dataset):
    loader = Loader(dataset, batch_size=8, memory="60kB", slab_limit=20)
    assert {len(slab) for slab in loader.epoch()} == {16}
    small = Loader(dataset, batch_size=8, memory="60kB", slab_limit=1)
    assert {len(slab) for slab in small.epoch()} == {8}
    assert small.plan == loader.plan == Loader(dataset, batch_size=8, memory="60kB").plan


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_consumer_that_waits_gets_its_rows_from_several_threads(dataset, shuffle, monkeypatch):
    """The same rows in the same order as from one; in turns its own thread is among them."""
    options = {"memory": "60kB", "shuffle": shuffle}
    expected = numbers_of(dataset.batches(8, **options))
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    used, move = set(), team_module.Team.move

    def seen(team, nbytes, work, *arguments):
        def noted(thread, threads, *rest):
            used.add((thread, threads, threading.current_thread() is threading.main_thread()))
            work(thread, threads, *rest)

        move(team, nbytes, noted, *arguments)

    monkeypatch.setattr(team_module.Team, "move", seen)
    with sharing.keep_threads():
        assert numbers_of(dataset.batches(8, **options)).tolist() == expected.tolist()
    turns = Loader.__init__.__kwdefaults__["takes_turns"]
    assert {(0, 3, turns), (1, 3, False), (2, 3, False)} <= used


def test_beside_a_consumer_that_computes_one_thread_moves_rows(dataset, monkeypatch):
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    reader = Stream(Loader(dataset, batch_size=8, memory="60kB", takes_turns=False), 0)
    used, move = [], team_module.Team.move

    def seen(team, nbytes, work, *arguments):
        def noted(thread, threads, *rest):
            used.append(threads)
            work(thread, threads, *rest)

        move(team, nbytes, noted, *arguments)

    monkeypatch.setattr(team_module.Team, "move", seen)
    try:
        assert reader.next() is not None
        while reader._between.free.qsize() or reader._between.ready.qsize() < 2:
            threads()[0].join(0.01)  # until it waits for a slab
        used.clear()
        reader._between.free.put(reader._current)  # as `give_back`, but going on to compute
        while reader._between.free.qsize() or reader._between.ready.qsize() < 3:
            threads()[0].join(0.01)
    finally:
        reader.close()
    assert set(used) == {1}


def test_what_threads_do_side_by_side_counts_as_once():
    spent = Spent(threads=4)
    with spent.side_by_side(2):
        spent.add(reading=2.0)
        spent.add(decoding=2.0, shared=True)
    spent.add(reading=0.5)
    assert spent.total() == {"reading": 1.5, "decoding": 0.5, "shuffling": 0.0}


@pytest.mark.parametrize("start", [0, 1234, ROWS - 1])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_does_not_depend_on_who_moves_rows(dataset, shuffle, start, monkeypatch):
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    found = []
    for takes_turns in (False, True):
        loader = Loader(dataset, batch_size=8, memory="60kB", shuffle=shuffle, takes_turns=takes_turns)
        slabs = loader.epoch(1, start)
        with sharing.keep_threads():
            found.append(numbers_of((slab.x.copy(), slab.y.copy(), slab.weight.copy()) for slab in slabs))
    assert len(found[0]) == ROWS - start
    assert found[0].tolist() == found[1].tolist()


def test_epochs_one_after_the_other_and_at_once(dataset, turns):
    loader = Loader(dataset, batch_size=8, memory="60kB")
    first, second = loader.epoch(0), loader.epoch(1)
    rows = [len(next(first).x), len(next(second).x)]
    assert len(threads()) == 2 * (1 - turns)
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
        ("import os; os._exit(5)", 5, ""),
        ("fit(KeyError('the end'))", 1, "KeyError: 'the end'"),
        ("fit(SystemExit(4))", 4, ""),
        ("child = os.fork()\nsys.exit(0 if child == 0 else os.waitpid(child, 0)[1] + 6)", 6, ""),
        ("import os, signal; signal.signal(signal.SIGTERM, lambda *_: exit(143)); os.kill(os.getpid(), 15)", 143, ""),
    ],
    ids=["end", "exit", "error", "at once", "training error", "training exit", "fork", "signal"],
)
def test_an_interpreter_that_ends_in_mid_epoch(tmp_path, end, code, words, turns):
    """With the iterator still there, and the thread at work or waiting for a slab."""
    path = write_rows(tmp_path / "a.h5", 400_000, chunk=20_000, compression="gzip")
    program = f"""
import os, sys
import fastsgd as fs
from fastsgd.data import HDF5Dataset
from fastsgd.data.loader import Loader

Loader.__init__.__kwdefaults__["takes_turns"] = {turns}

def fit(error):
    class Ends:
        def plan(self, text): pass
        def start_epoch(self, *about): pass
        def advance(self, *about): raise error
        def end_epoch(self, record): pass
        def close(self): pass
    model = fs.Sequential([fs.Dense(16, "relu"), fs.Dense(1)])
    data = HDF5Dataset({str(path)!r}, "X", "y")
    fs.Trainer(model, fs.SGD(1e-9), "mse").fit(data, batch_size=100, memory="6MB", progress=Ends())

kept = [HDF5Dataset({str(path)!r}, "X", "y").batches(10, memory="6MB", shuffle=bool(k)) for k in range(2)]
for batches in kept:
    next(batches)
cycle = [kept]
cycle.append(cycle)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.strip().endswith(words)
    assert done.stderr.count("Traceback") == bool(words)
    assert "Exception ignored" not in done.stderr
    assert code == 1 or done.stderr == ""


def test_garbage_that_is_collected_inside_of_hdf5_is_not_waited_for(batches, monkeypatch, turns):
    """A thread beside may wait for the lock that the collector's caller holds: it ends when it can."""
    from h5py._objects import phil

    monkeypatch.setattr(stream_module, "_END_SECONDS", 10_000)
    beside = threads()
    with phil:
        batches.clear()
        assert [thread.is_alive() for thread in beside] == [True] * (1 - turns)  # it cannot close its file yet
    for thread in beside:
        thread.join()
    assert threads() == []
