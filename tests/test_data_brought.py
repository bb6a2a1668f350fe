"""Rows that Python brings to their places in a slab, by all threads: the same as by blocks, and what goes wrong."""

from collections import deque

import numpy as np
import pytest
from data_files import numbers_of
from epochs import BATCH, CHUNK, ROWS, loader_of, rows_of, write

import fastsgd.data.brought as brought_module
import fastsgd.data.passage as passage_module
import fastsgd.data.stream as stream_module
import fastsgd.data.team as team_module
import fastsgd.data.transfer as transfer_module
from fastsgd.data.loader import Loader
from fastsgd.errors import DataError


@pytest.fixture(autouse=True)
def small_turns(monkeypatch):
    """Of a few rows each, as slabs are small."""
    monkeypatch.setattr(passage_module, "_TASK_BYTES", 100)


KINDS = {
    "packed": {"compression": "gzip"},
    "shuffled": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "swapped": {"dtype": ">f4"},
    "half": {"dtype": np.float16},
    "zero": {},
}


def write_kind(folder, kind, **options):
    """Rows that no compiled code reads."""
    dataset = write(folder, **KINDS[kind], **options)
    if kind == "zero":
        dataset.nan = "zero"
    return dataset


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("threads", "files", "batch_size"), [(1, 1, 16), (2, 3, 7), (3, 1, 16), (6, 40, 100)])
def test_what_python_brings_are_the_same_rows(tmp_path, monkeypatch, kind, shuffle, threads, files, batch_size):
    dataset = write_kind(tmp_path, kind, files=files)
    options = {"shuffle": shuffle, "batch_size": batch_size, "memory": "60kB"}
    monkeypatch.setattr(stream_module, "goes_straight", lambda loader: False)
    wanted = rows_of(loader_of(dataset, threads=1, **options))
    monkeypatch.undo()
    monkeypatch.setattr(Loader, "threads", lambda self: threads)
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    loader = loader_of(dataset, **options)
    found = rows_of(loader)
    assert len(found) > 2
    for one, other in zip(zip(*found, strict=True), zip(*wanted, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(one), np.concatenate(other))
    room = loader.take_room()
    assert room.nbytes <= loader.plan.total_bytes
    for start in (777, 2500, ROWS - 1):
        rest = np.concatenate([x for x, _, _ in rows_of(loader, start=start)])
        np.testing.assert_array_equal(rest, np.concatenate([x for x, _, _ in wanted])[start:])


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_block_of_which_slabs_take_parts_is_decoded_once(tmp_path, monkeypatch, shuffle):
    dataset, decoded, undo = write_kind(tmp_path, "packed"), [], transfer_module.undo
    monkeypatch.setattr(transfer_module, "undo", lambda *some: decoded.append(1) or undo(*some))
    for memory in ("60kB", "9kB"):  # slabs of several blocks, and of less than one
        loader = loader_of(dataset, shuffle=shuffle, memory=memory)
        assert (len(loader.take_room().slab) < CHUNK) == (memory == "9kB")
        for _ in range(2):  # when a file is opened first, some chunks are decoded to compare them
            decoded.clear()
            assert sum(len(x) for x, _, _ in rows_of(loader)) == ROWS
        assert len(decoded) == 3 * ROWS // CHUNK


def test_no_more_threads_decode_than_there_is_memory_for(tmp_path, monkeypatch):
    dataset, used, do_some = write_kind(tmp_path, "packed"), set(), brought_module._do_some
    monkeypatch.setattr(Loader, "threads", lambda self: 6)
    monkeypatch.setattr(brought_module, "_do_some", lambda *some: used.add(some[1]) or do_some(*some))
    loader = loader_of(dataset, memory="20kB")
    assert 1 < loader.plan.decoders < 6
    assert sum(len(x) for x, _, _ in rows_of(loader)) == ROWS
    assert max(used) == loader.plan.decoders


@pytest.mark.parametrize("kind", ["swapped", "half"])
def test_as_many_blocks_are_brought_together_as_are_planned(tmp_path, monkeypatch, kind):
    dataset, asked, empty_rows = write_kind(tmp_path, kind), [], Loader.empty_rows
    loader = loader_of(dataset, memory="20kB", shuffle=False)
    monkeypatch.setattr(Loader, "empty_rows", lambda self, n: asked.append(n) or empty_rows(self, n))
    with dataset.open() as reader:
        assert sum(len(rows.x) for rows in loader.read(reader, loader.blocks)) == ROWS
    assert max(asked) == (1 + loader.plan.blocks_ahead) * CHUNK


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["packed", "swapped"])
def test_what_is_wrong_with_what_python_brings(tmp_path, kind, shuffle):
    bad = 1234

    def spoil(numbers, parts):
        parts["X"][numbers == bad] = np.nan

    loader, found = loader_of(write_kind(tmp_path, kind, change=spoil), shuffle=shuffle, memory="60kB"), []
    for _ in range(2):  # the second finds the memory of the first
        found.clear()
        with pytest.raises(DataError, match=rf"dataset 'X', row {bad}, column 0 is nan"):
            rows_of(loader, found=found)
        if not shuffle:
            np.testing.assert_array_equal(numbers_of(found), np.arange(bad // CHUNK * CHUNK // BATCH * BATCH))


def test_an_interrupt_leaves_the_other_jobs_undone():
    done = []

    def interrupted():
        raise KeyboardInterrupt

    jobs = deque([lambda: done.append(1), interrupted, lambda: done.append(2)])
    with pytest.raises(KeyboardInterrupt):
        brought_module._do_some(0, 2, jobs)
    brought_module._do_some(1, 2, jobs)
    assert done == [1]
