"""Rows that compiled code reads to their places in a slab: the same as by blocks, and what goes wrong."""

import gc
import itertools
import os
from itertools import product

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk, features_of, numbers_of
from epochs import BATCH, CHUNK, MEMORY, ROWS, loader_of, plainly, rows_of, write

import fastsgd.data.passage as passage_module
import fastsgd.data.readers as readers_module
import fastsgd.data.stream as stream_module
import fastsgd.data.team as team_module
from fastsgd import SGD, Checkpoint, Dense, Sequential, Trainer
from fastsgd.data import ArrayDataset
from fastsgd.data.incoming import Read
from fastsgd.data.loader import Loader
from fastsgd.data.order import block_order
from fastsgd.data.straight import StraightFiller
from fastsgd.data.team import Team
from fastsgd.errors import DataError, MemoryBudgetError


@pytest.fixture(autouse=True)
def small_turns(monkeypatch):
    """Of a few rows each, as slabs are small."""
    monkeypatch.setattr(passage_module, "_TASK_BYTES", 100)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3, 6, 16])
def test_rows_are_those_of_blocks(tmp_path, monkeypatch, shuffle, threads):
    dataset = write(tmp_path)
    wanted = plainly(dataset, monkeypatch, shuffle=shuffle, threads=1)
    assert len(wanted) == ROWS
    monkeypatch.setattr(Loader, "threads", lambda self: threads)
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    found = rows_of(loader_of(dataset, shuffle=shuffle))
    assert len(found) > 5
    np.testing.assert_array_equal(numbers_of(found), wanted)


@pytest.mark.parametrize("files", [1, 3, 40])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("looks", [False, True])
def test_whatever_files_and_batches(tmp_path, monkeypatch, files, batch_size, looks):
    dataset = write(tmp_path, files=files)
    options = {"batch_size": batch_size, "check_target": (lambda y: None) if looks else None}
    wanted = plainly(dataset, monkeypatch, **options)
    np.testing.assert_array_equal(numbers_of(rows_of(loader_of(dataset, **options))), wanted)


def test_of_more_files_than_may_be_open_some_rows_come_otherwise(tmp_path, monkeypatch):
    dataset = write(tmp_path, files=40)
    wanted = plainly(dataset, monkeypatch)
    monkeypatch.setattr(readers_module, "OPEN_FILES", 3)
    np.testing.assert_array_equal(numbers_of(rows_of(loader_of(dataset))), wanted)


def test_blocks_that_lack_rows_come_otherwise(tmp_path):
    """As those of a split may, they have more than one range."""
    numbers = np.flatnonzero(np.arange(ROWS) % CHUNK % 20 < 17)
    spans = np.array([[run[0], run[-1] + 1] for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)])
    loader = loader_of(write(tmp_path)._with_spans(spans))
    assert loader.blocks.scattered
    assert not loader.plan.whole
    assert sorted(numbers_of(rows_of(loader))) == numbers.tolist()


def test_a_turn_may_swap_a_row_that_the_turn_before_swapped(tmp_path, monkeypatch):
    """A window of few slots, which rows of a turn, and of the next, meet in."""
    monkeypatch.setattr(passage_module, "_TASK_BYTES", 600)
    dataset = write(tmp_path)
    options = {"memory": "12kB", "batch_size": 8}
    loader = loader_of(dataset, **options)
    assert loader.plan.window_rows < 300
    np.testing.assert_array_equal(numbers_of(rows_of(loader)), plainly(dataset, monkeypatch, **options))


@pytest.mark.parametrize("shuffle", [False, True])
def test_arrays_in_several_stretches_come_otherwise(monkeypatch, shuffle):
    """They lend views."""
    numbers = np.arange(ROWS)
    whole = ArrayDataset(features_of(numbers), -numbers.astype(np.float32), weight=(numbers / 2).astype(np.float32))
    monkeypatch.setattr(ArrayDataset, "unit_rows", lambda self: CHUNK)
    part = whole._with_spans(np.array([[0, 700], [900, ROWS]]))
    loader = loader_of(part, memory="30kB", shuffle=shuffle)
    assert not loader.plan.whole
    assert sorted(numbers_of(rows_of(loader))) == [*range(700), *range(900, ROWS)]


@pytest.mark.parametrize("start", [1, 777, 2500, 2999, ROWS])
def test_an_epoch_is_gone_on_with_at_any_row(tmp_path, start):
    loader = loader_of(write(tmp_path))
    wanted = numbers_of(rows_of(loader))[start:]
    found = rows_of(loader, start=start)
    np.testing.assert_array_equal(numbers_of(found) if found else [], wanted)


def test_of_what_dtypes_and_sources(tmp_path, monkeypatch):
    """All but those of which some may be left out."""
    seen = []
    monkeypatch.setattr(
        stream_module, "StraightFiller", lambda *arguments: seen.append(1) or StraightFiller(*arguments)
    )
    for name, dtype, options, straight in [
        ("single", np.float32, {}, True),
        ("double", np.float64, {}, True),
        ("half", np.float16, {}, True),
        ("packed", np.float32, {"compression": "gzip"}, True),
        ("skip", np.float32, {}, False),
    ]:
        (tmp_path / name).mkdir()
        dataset = write(tmp_path / name, dtype=dtype, **options)
        dataset.nan = "skip" if name == "skip" else "error"
        seen.clear()
        assert sum(len(x) for x, _, _ in rows_of(loader_of(dataset))) == ROWS
        assert bool(seen) == straight, name
    found = rows_of(loader_of(write(tmp_path, dtype=np.float64), dtype=np.float64))
    assert seen == [1]
    assert np.concatenate([x for x, _, _ in found]).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stored", ["f8 f8 f8", "f4 i8 f4", "u1 f4 i2", "i8 u4 f8", "f4 f8 u1"])
def test_parts_of_other_dtypes_are_cast(tmp_path, monkeypatch, stored, shuffle, looks, dtype):
    def change(numbers, parts):
        for (name, part), one in zip(parts.items(), stored.split(), strict=True):
            parts[name] = (np.abs(part) % 251).astype(one)

    dataset = write(tmp_path, change=change)
    seen, fill = [], StraightFiller._finish
    monkeypatch.setattr(StraightFiller, "_finish", lambda *some: seen.append(1) or fill(*some))
    options = {"shuffle": shuffle, "check_target": (lambda y: None) if looks else None, "dtype": dtype}
    loader = loader_of(dataset, **options)
    found = rows_of(loader)
    assert len(seen) == len(found) > 3
    assert loader.take_room().nbytes <= loader.plan.total_bytes
    monkeypatch.setattr(stream_module, "goes_straight", lambda loader: False)
    for one, other in zip(
        zip(*found, strict=True), zip(*rows_of(loader_of(dataset, **options)), strict=True), strict=True
    ):
        assert one[0].dtype == dtype
        np.testing.assert_array_equal(np.concatenate(one), np.concatenate(other))


@pytest.mark.parametrize("part", ["X", "y", "w"])
@pytest.mark.parametrize("memory", [MEMORY, "1MB"])  # streamed, and loaded
def test_a_value_too_large_for_the_dtype_that_is_trained_in(tmp_path, memory, part):
    def spoil(numbers, parts):
        parts[part][numbers == 1234] = -1e39

    dataset = write(tmp_path, dtype=np.float64, change=spoil)
    loader = loader_of(dataset, memory=memory)
    with pytest.raises(DataError, match=rf"dataset '{part}', row 1234, column 0 is -1e\+39; too large for float32"):
        rows_of(loader)
    found = rows_of(loader_of(dataset, memory=memory, dtype=np.float64))
    assert (
        sum(
            int((array.reshape(len(x), -1) == -1e39).any(axis=1).sum())
            for x, *others in found
            for array in (x, *others)
        )
        == 1
    )


@pytest.mark.parametrize("part", ["X", "y", "w"])
@pytest.mark.parametrize("memory", [MEMORY, "1MB"])  # streamed, and loaded
def test_a_part_that_lies_otherwise_in_the_file_is_read_too(tmp_path, part, memory):
    def turn(numbers, parts):
        parts[part] = parts[part].astype(">f4")

    dataset = write(tmp_path, change=turn)
    with dataset.open() as reader:
        assert reader.straight(dataset.blocks()[0].spans, loader_of(dataset).empty_rows(1)) is None
    assert sorted(numbers_of(rows_of(loader_of(dataset, memory=memory)))) == list(range(ROWS))


def test_blocks_before_one_that_cannot_be_had_come_first(tmp_path):
    def spoil(numbers, parts):
        parts["X"][numbers == 4 * CHUNK + 7] = np.inf

    dataset = write(tmp_path, change=spoil)
    loader, came = loader_of(dataset, memory="100kB"), []
    assert loader.plan.blocks_ahead > 4
    with dataset.open() as reader, pytest.raises(DataError, match=f"row {4 * CHUNK + 7}, column 0 is inf"):
        came.extend(rows.x[:, 0].copy() for rows in loader.read(reader, loader.blocks))
    assert np.concatenate(came).tolist() == list(range(4 * CHUNK))


@pytest.mark.parametrize("part", ["X", "y", "w"])
def test_a_value_that_is_not_finite_is_named(tmp_path, part):
    def spoil(numbers, parts):
        parts[part][numbers == 1234] = np.nan

    loader = loader_of(write(tmp_path, change=spoil))
    with pytest.raises(DataError, match=rf"part0\.h5: dataset '{part}', row 1234, column 0 is nan"):
        rows_of(loader)
    with pytest.raises(DataError, match="row 1234"):
        rows_of(loader)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_their_own_order_rows_before_a_bad_one_come_first(tmp_path, dtype):
    """Whole batches of them, from the blocks before its own."""
    bad, found = 1234, []

    def spoil(numbers, parts):
        parts["X"][numbers == bad] = np.nan

    with pytest.raises(DataError, match=f"row {bad}, column 0 is nan"):
        rows_of(loader_of(write(tmp_path, dtype=dtype, change=spoil), shuffle=False), found=found)
    np.testing.assert_array_equal(numbers_of(found), np.arange(bad // CHUNK * CHUNK // BATCH * BATCH))


def test_a_target_that_does_not_suit_is_named_when_its_row_comes(tmp_path, monkeypatch):
    """Which may be long before it goes out, of those that do so last."""
    dataset, went_out = write(tmp_path), []
    for bad in plainly(dataset, monkeypatch)[-12:]:

        def check(y, bad=bad):
            wrong = np.flatnonzero(y[:, 0] == -bad)
            return (int(wrong[0]), "it is bad") if len(wrong) else None

        came = []
        with pytest.raises(DataError, match=rf"dataset 'y', row {bad}, column 0: it is bad"):
            rows_of(loader_of(dataset, check_target=check), found=came)
        went_out.append(sum(len(x) for x, _, _ in came))
    assert min(went_out) < ROWS // 4
    assert ROWS // 4 < max(went_out) < ROWS - 12


def go_with_a_cut(dataset, monkeypatch, *, back, found, **options):
    """An epoch in which the file is cut short when a few turns of the third slab are done, and, if it comes `back`, is
    whole again before its rows are read by block, and says that it never changed."""
    path, loader, moved, moves = dataset.paths[0], loader_of(dataset, **options), [], []
    read_by_block, move = Read._read_by_block, Team.move
    with open(path, "rb") as file:
        content = file.read()
    times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns

    def count(self, *arguments):
        if len(found) == 2:
            moves.append(1)
            if len(moves) == 5:
                os.truncate(path, len(content) // 3)
        move(self, *arguments)

    def read_again(self, team, first):
        moved.append((first, len(self._places.x)))
        if back:
            with open(path, "r+b") as file:
                file.write(content)
            os.utime(path, ns=times)
        read_by_block(self, team, first)

    with monkeypatch.context() as patch:
        patch.setattr(passage_module, "_PIECE_BYTES", 1)  # a turn
        patch.setattr(Read, "_read_by_block", read_again)
        patch.setattr(Team, "move", count)
        try:
            rows_of(loader, found=found)
        finally:
            ((first, rows),) = moved
            assert 0 < first < rows


@pytest.mark.parametrize("back", [False, True])
def test_a_file_that_is_cut_short_meanwhile(tmp_path, monkeypatch, back):
    """What cannot be read is read once more."""
    dataset = write(tmp_path)
    wanted, found = plainly(dataset, monkeypatch), []
    if back:
        go_with_a_cut(dataset, monkeypatch, back=True, found=found)
        np.testing.assert_array_equal(numbers_of(found), wanted)
    else:
        with pytest.raises(DataError, match="has changed: it was cut short"):
            go_with_a_cut(dataset, monkeypatch, back=False, found=found)


def incoming_numbers(loader, first, count):
    """The numbers of some rows in the order in which they come."""
    order = block_order(len(loader.blocks), loader.seed, 0)
    return np.concatenate([np.arange(*loader.blocks[index].spans[0]) for index in order])[first : first + count]


@pytest.mark.parametrize("place", [0, 5, 20])
@pytest.mark.parametrize("part", ["X", "y", "label"])
def test_rows_that_were_swapped_before_a_read_fell_short_are_looked_at_too(tmp_path, monkeypatch, part, place):
    (tmp_path / "sound").mkdir()
    loader = loader_of(write(tmp_path / "sound"))
    bad = incoming_numbers(loader, loader.plan.window_rows + 2 * len(loader.take_room().slab), 40)[place]

    def spoil(numbers, parts):
        if part != "label":
            parts[part][numbers == bad] = np.nan

    def check(y):
        wrong = np.flatnonzero(y[:, 0] == -bad)
        return (int(wrong[0]), "it is bad") if len(wrong) and part == "label" else None

    found = []
    with pytest.raises(DataError, match=f"dataset '{part[0] if part == 'X' else 'y'}', row {bad}, column 0"):
        go_with_a_cut(write(tmp_path, change=spoil), monkeypatch, back=True, found=found, check_target=check)
    assert len(found) == 2


def test_what_keeps_a_slab_from_being_asked_for_comes_after_the_one_before(tmp_path, monkeypatch):
    ask, numbers, came = StraightFiller._ask, itertools.count(), []

    def some(self, *arguments):
        if next(numbers) == 4:
            raise DataError("no more")
        return ask(self, *arguments)

    monkeypatch.setattr(StraightFiller, "_ask", some)
    with pytest.raises(DataError, match="no more"):
        rows_of(loader_of(write(tmp_path)), found=came)
    assert len(came) == 4


def test_memory_is_kept_for_the_next_epoch_until_others_need_it(tmp_path):
    loader = loader_of(write(tmp_path))

    def places():
        return {slab.x.__array_interface__["data"][0] for slab in loader.epoch(0)}

    first = places()
    assert len(first) == 1
    assert places() == first
    room = loader.take_room()
    assert {room.slab.x.__array_interface__["data"][0]} == first
    assert loader.take_room() is not room
    slabs = loader.epoch(0)
    next(slabs)  # two epochs at once have memory of their own
    assert len(numbers_of(rows_of(loader))) == ROWS
    slabs.close()
    loader.keep_room(room)
    assert places() == first
    loader.keep_room(None)
    del room
    gc.collect()
    assert loader._room is None


@pytest.mark.parametrize("options", [{}, {"dtype": np.float64}, {"dtype": np.float64, "compression": "gzip"}])
def test_room_is_no_more_than_is_planned(tmp_path, options):
    dataset, slabs = write(tmp_path, **options), 0
    for kilobytes, batch_size, looks in product(range(5, 100, 3), [1, 16, 200], [None, lambda y: None]):
        try:
            loader = loader_of(dataset, memory=f"{kilobytes}kB", batch_size=batch_size, check_target=looks)
        except MemoryBudgetError:
            continue
        plan, room = loader.plan, loader.take_room()
        blocks = (1 + plan.blocks_ahead) * dataset.block_bytes(loader.blocks.widest)
        assert room.nbytes <= plan.window_bytes + plan.slab_bytes + blocks
        assert len(room.slab) % batch_size == 0
        assert options or len(room.slab) >= plan.slab_rows
        slabs += 1
    assert slabs > 100


def losses(history):
    return [one["loss"] for one in history.epochs]


class TestTraining:
    """The same with a real trainer, on two threads."""

    @staticmethod
    def trainer(loss="mse"):
        last = Dense(4) if loss.startswith("sparse") else Dense(1)
        return Trainer(Sequential([Dense(32, "tanh"), last], seed=1), SGD(1e-3, momentum=0.5), loss, threads=2)

    @staticmethod
    def data(folder):
        rng = np.random.default_rng(0)
        with h5py.File(folder / "t.h5", "w") as file:
            for name, part in {
                "X": rng.normal(size=(20_000, 6)).astype(np.float32),
                "y": rng.integers(0, 4, 20_000).astype(np.float32),
            }.items():
                file.create_dataset(name, data=part, chunks=(500, *part.shape[1:]))
        return ChunkByChunk(folder / "t.h5", "X", "y")

    @pytest.fixture(autouse=True)
    def in_turns(self, monkeypatch):
        monkeypatch.setattr(Trainer, "_takes_turns", lambda self, *_: True)

    @pytest.mark.parametrize("loss", ["mse", "sparse_categorical_crossentropy"])
    def test_the_same_bits(self, tmp_path, monkeypatch, loss):
        dataset, found = self.data(tmp_path), []
        for straight in (True, False):
            with monkeypatch.context() as patch:
                if not straight:
                    patch.setattr(stream_module, "goes_straight", lambda loader: False)
                trainer = self.trainer(loss)
                history = trainer.fit(
                    dataset, epochs=3, batch_size=64, memory="300kB", validation=dataset, progress=False
                )
            found.append(
                ([(one["loss"], one["val_loss"]) for one in history.epochs], trainer.model.network.parameters.tobytes())
            )
        assert found[0] == found[1]

    def test_memory_is_not_kept_while_other_data_are_looked_at(self, tmp_path, monkeypatch):
        dataset, loaders, kept = self.data(tmp_path), [], []
        make, evaluate = Trainer._loader, Trainer._evaluate

        def seen(self, *arguments, **options):
            loaders.append(make(self, *arguments, **options))
            return loaders[-1]

        monkeypatch.setattr(Trainer, "_loader", seen)
        monkeypatch.setattr(Trainer, "_evaluate", lambda *some: kept.append(loaders[0]._room) or evaluate(*some))
        options = {"epochs": 2, "batch_size": 64, "memory": "300kB", "progress": False}
        self.trainer().fit(dataset, validation=dataset, **options)
        assert kept == [None, None]
        loaders.clear()
        self.trainer().fit(dataset, **options)
        assert loaders[0]._room is not None

    def test_it_goes_on_from_a_checkpoint_in_the_middle(self, tmp_path):
        dataset, options = self.data(tmp_path), {"epochs": 2, "batch_size": 64, "memory": "300kB", "progress": False}
        whole, part = self.trainer(), self.trainer()
        wanted = losses(whole.fit(dataset, **options))
        settings = Checkpoint(tmp_path / "c", every_steps=97, keep=100)
        part.fit(dataset, checkpoint=settings, **options)
        assert part.model.network.parameters.tobytes() == whole.model.network.parameters.tobytes()
        for step in sorted((tmp_path / "c").iterdir())[-4:]:
            step.unlink()
        again = self.trainer()
        assert losses(again.fit(dataset, checkpoint=settings, resume=True, **options)) == wanted
        assert again.model.network.parameters.tobytes() == whole.model.network.parameters.tobytes()
