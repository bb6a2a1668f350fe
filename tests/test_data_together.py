"""Blocks that are read several at a time: as one where they lie in the file as in memory, else by themselves."""

import os
import tracemalloc
from contextlib import nullcontext

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk, numbers_of, write_rows

import fastsgd.data.loader as loader_module
import fastsgd.data.passage as passage_module
import fastsgd.data.runs as runs_module
import fastsgd.data.team as team_module
import fastsgd.data.together as together_module
import fastsgd.data.transfer as transfer_module
from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.loader import Loader
from fastsgd.data.spent import Spent
from fastsgd.data.team import Team
from fastsgd.data.together import Together
from fastsgd.errors import DataError
from fastsgd.kernels import sharing

ROWS, MANY, CHUNK, AT_ONCE = 1000, 6000, 50, 4
ORDER = [7, 2, 19, 3, 0, 11, 12, 5, 18]


def pieces_of(loader, *, apart=False, checks=True):
    """What comes of some blocks in some order: the lists of rows, copied."""
    found = []
    with loader.dataset.open() as reader:
        together = Together(loader, reader, Team(2, Spent()), lambda: AT_ONCE, apart=apart, checks=checks)
        for rows in together.read(loader.blocks[index] for index in ORDER):
            found.append([one.each(np.copy) for one in rows])
    return found


def plain(path, **options):
    return Loader(ChunkByChunk(path, "X", "y", weight="w"), batch_size=8, memory="200kB", **options)


def numbers_of_blocks():
    return np.concatenate([np.arange(CHUNK * index, CHUNK * (index + 1)) for index in ORDER])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("options", "apart", "sizes"),
    [
        ({}, False, [[200], [200], [50]]),
        ({}, True, [[50] * 4, [50] * 4, [50]]),
        ({"compression": "gzip"}, False, [[50] * 4, [50] * 4, [50]]),
    ],
    ids=["plain", "apart", "packed"],
)
def test_rows_of_blocks_come_in_their_order(tmp_path, options, apart, sizes, dtype):
    loader = plain(write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK, **options), dtype=dtype)
    assert loader.plan.blocks_ahead >= 2 * AT_ONCE - 1
    found = pieces_of(loader, apart=apart)
    assert [[len(rows.x) for rows in some] for some in found] == sizes
    rows = [(one.x, one.y, one.weight[:, 0]) for some in found for one in some]
    assert np.array_equal(numbers_of(rows), numbers_of_blocks())


def test_arrays_come_as_they_lie():
    x = np.arange(100 * ROWS, dtype=np.float32).reshape(ROWS, 100)
    loader = Loader(ArrayDataset(x), batch_size=8)
    with loader.dataset.open() as reader:
        (rows,) = Together(loader, reader, Team(1, Spent()), lambda: AT_ONCE).read(loader.blocks)
        assert np.shares_memory(rows[0].x, x)


@pytest.mark.parametrize("row", [100, 149, 950, 999])
@pytest.mark.parametrize("what", ["label", "large label", "weight", "value"])
def test_what_is_unfit_in_one_of_several_is_named(tmp_path, row, what):
    path = write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK)
    with h5py.File(path, "r+") as file:
        file["y"][row] = {"label": 10**6, "large label": 1e300}.get(what, -row)
        file["w"][row] = np.inf if what == "weight" else file["w"][row]
        file["X"][row, 1] = np.nan if what == "value" else file["X"][row, 1]

    def check(y):
        wrong = np.flatnonzero(y[:, 0] == 10**6)
        return (int(wrong[0]), "too large") if len(wrong) else None

    part = {"label": "y", "large label": "y", "weight": "w", "value": "X"}[what]
    loader = plain(path, check_target=check)
    with pytest.raises(DataError, match=rf"dataset '{part}', row {row}\b"):
        pieces_of(loader)
    assert sum(len(rows.x) for some in pieces_of(loader, checks=False) for rows in some) == CHUNK * len(ORDER)


def test_one_look_at_the_targets_of_several_will_do(tmp_path):
    seen = []
    pieces_of(plain(write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK), check_target=lambda y: seen.append(len(y))))
    assert seen == [200, 200, 50]


def test_a_file_that_changes_between_two_reads_is_noticed(tmp_path):
    path = write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK)
    loader = plain(path)
    with loader.dataset.open() as reader:
        several = Together(loader, reader, Team(1, Spent()), lambda: AT_ONCE).read(loader.blocks)
        assert len(next(several)[0].x) == AT_ONCE * CHUNK
        os.utime(path, (1, 1))
        with pytest.raises(DataError, match="changed"):
            next(several)


@pytest.mark.parametrize("slow", [True, False])
def test_after_a_slow_read_the_system_is_told_what_comes(tmp_path, slow, monkeypatch):
    """While the rows are used that came, of as many blocks as there is time for."""
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, offset, size, advice: told.append(size))
    monkeypatch.setattr(runs_module, "is_slow", lambda *_: slow)
    monkeypatch.setattr(transfer_module, "is_slow", lambda *_: False)  # of the samples that are read at first
    loader, ahead = plain(write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK)), 15
    with loader.dataset.open() as reader:
        several = Together(loader, reader, Team(1, Spent()), lambda: AT_ONCE, ahead=ahead).read(loader.blocks)
        next(several)
        memory = 1 + loader.plan.blocks_ahead
        asked_after = ahead - (memory - AT_ONCE)
        assert 0 < asked_after < ahead
        # Of each block there are features, targets and weights.
        assert told.count(CHUNK * 12) == told.count(CHUNK * 8) == told.count(CHUNK * 4) == slow * asked_after
        monkeypatch.setattr(runs_module, "is_slow", lambda *_: False)
        monkeypatch.setattr(transfer_module, "_MOST_ASKED", 0)
        rows = AT_ONCE * CHUNK + sum(len(rows.x) for some in several for rows in some)
    assert rows == ROWS


def test_files_stay_open_of_which_blocks_are_asked_for(tmp_path):
    """Of a hundred files with a block each no more are asked for ahead than may be open."""
    paths = [write_rows(tmp_path / f"{k}.h5", CHUNK, start=CHUNK * k, chunk=CHUNK) for k in range(100)]
    loader = Loader(ChunkByChunk(paths, "X", "y"), batch_size=8, memory="100kB")
    order, found = np.random.default_rng(0).permutation(100), []
    with loader.dataset.open() as reader:
        together = Together(loader, reader, Team(2, Spent()), lambda: AT_ONCE, ahead=10**6)
        for rows in together.read(loader.blocks[index] for index in order):
            found += [(one.x.copy(), one.y.copy()) for one in rows]
    assert numbers_of(found).tolist() == [CHUNK * k + i for k in order for i in range(CHUNK)]


@pytest.mark.parametrize("ahead", [0, 15])
def test_what_cannot_be_asked_for_comes_after_what_was_read(tmp_path, ahead):
    loader = plain(write_rows(tmp_path / "a.h5", ROWS, chunk=CHUNK))

    def blocks():
        for index in range(6):
            yield loader.blocks[index]
        raise DataError("there is no more")

    found = []
    with loader.dataset.open() as reader:
        together = Together(loader, reader, Team(1, Spent()), lambda: AT_ONCE, ahead=ahead)
        with pytest.raises(DataError, match="there is no more"):
            found.extend(len(rows[0].x) for rows in together.read(blocks()))
    assert found == [4 * CHUNK, 2 * CHUNK]


def test_an_error_that_is_kept_keeps_none_of_several(tmp_path):
    path = write_rows(tmp_path / "a.h5", 200_000, chunk=5000)
    with h5py.File(path, "r+") as file:
        file["X"][-1, 1] = np.nan
    loader = Loader(HDF5Dataset(path, "X", "y"), batch_size=8, memory="20MB")
    kept = []
    for _ in range(2):  # the first compiles what is not yet
        tracemalloc.start()
        with loader.dataset.open() as reader:
            together = Together(loader, reader, Team(1, Spent()), lambda: 8)
            try:
                list(together.read(list(loader.blocks)[-8:]))
            except DataError as error:
                kept.append(error)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert len(kept) == 2
    assert held < 8 * 5000 * 20 / 4


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("nan", [None, 0, 4321, MANY - 1])
def test_who_reads_alone_does_so_with_all_threads_that_are_kept(tmp_path, kept, nan, monkeypatch):
    """To start others would take longer than to read."""
    x = np.arange(3 * MANY, dtype=np.float32).reshape(MANY, 3)
    if nan is not None:
        x[nan, 1] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("X", data=x, chunks=(700, 3))
    dataset = ChunkByChunk(tmp_path / "a.h5", "X")
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    loader = Loader(dataset, batch_size=8, memory="200kB", shuffle=False)
    shared, share = [], sharing.share

    def seen(work, threads, *arguments):
        shared.append(threads)
        share(work, threads, *arguments)

    monkeypatch.setattr(sharing, "share", seen)
    found = []
    refused = nullcontext() if nan is None else pytest.raises(DataError, match=f"row {nan}, column 1")
    with sharing.keep_threads() if kept else nullcontext(), dataset.open() as reader, refused:
        for rows in loader.read(reader, loader.blocks):
            found.append(rows.x.copy())
    assert set(shared) == ({3} if kept else set())
    assert np.concatenate([*found, x[:0]]).tobytes() == x[: sum(map(len, found))].tobytes()
    assert nan is not None or len(found) > 1


def test_no_more_threads_decode_than_there_is_memory_for(tmp_path, monkeypatch):
    """As many as it is shared out to: none of those beside that move rows."""
    path = write_rows(tmp_path / "a.h5", 300_000, chunk=5000, compression="gzip")
    dataset = ChunkByChunk(path, "X", "y", nan="skip")
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    loader = Loader(dataset, batch_size=100, memory="4MB", takes_turns=True)
    asked, take = set(), together_module._take

    def seen(thread, threads, *arguments):
        asked.add(threads)
        take(thread, threads, *arguments)

    monkeypatch.setattr(together_module, "_take", seen)
    with sharing.keep_threads():
        assert sum(len(slab) for slab in loader.epoch()) == 300_000
    assert asked == {1}


@pytest.mark.parametrize(("packed", "threads"), [(True, 1), (False, 3)])
def test_beside_others_that_decode_one_thread_reads(tmp_path, packed, threads, monkeypatch):
    """Targets without filters are few beside features that several threads decode."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        x = np.arange(2 * MANY, dtype=np.float32).reshape(MANY, 2)
        file.create_dataset("X", data=x, chunks=(CHUNK, 2), compression="gzip" if packed else None)
        file.create_dataset("y", data=x[:, :1], chunks=(CHUNK, 1))
    monkeypatch.setattr(loader_module.Loader, "threads", lambda self: 3)
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    asked, together = set(), Team.together

    def seen(self, work, threads, *arguments):
        if work in (runs_module._read_share, passage_module._run):
            asked.add(min(threads, 3))
        together(self, work, threads, *arguments)

    monkeypatch.setattr(Team, "together", seen)
    dataset = ChunkByChunk(tmp_path / "a.h5", "X", "y", nan="skip" if packed else "error")
    found = [y[:, 0].copy() for _, y in dataset.batches(8, memory="1MB")]
    assert sorted(np.concatenate(found)) == x[:, 0].tolist()
    assert asked == {threads}
