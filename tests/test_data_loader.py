"""What comes out of a dataset: each row exactly once, in an order that seed, epoch and budget fix; and splits."""

import itertools

import numpy as np
import pytest
from data_files import ChunkByChunk, features_of, numbers_of, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.blocks import Blocks, cut, joined
from fastsgd.data.loader import Loader
from fastsgd.data.readers import HDF5Reader
from fastsgd.errors import DataError, MemoryBudgetError

EXAMPLES = settings(max_examples=70, deadline=None, derandomize=True, database=None)


def arrays_of(numbers):
    return ArrayDataset(features_of(numbers), -numbers.astype("f8"), weight=(numbers / 2).astype("f4"))


def write_files(folder, lengths, chunks):
    """Files that go on counting where the one before ended."""
    starts = itertools.accumulate(lengths, initial=0)
    return [
        write_rows(folder / f"{index}.h5", length, start=start, chunk=chunk)
        for index, (length, start, chunk) in enumerate(zip(lengths, starts, chunks, strict=False))
    ]


def plain_order(blocks, window, seed, epoch):
    """The order of a stream, worked out with lists."""
    from fastsgd.data.order import block_order, drain_key, exchange_key
    from fastsgd.kernels.random import permutation, random_below

    slots, out, key = [], [], exchange_key(seed, epoch)
    for index in block_order(len(blocks), seed, epoch):
        for number in blocks[index]:
            if len(slots) < window:
                slots.append(number)
            else:
                slot = random_below(key, len(out), window)
                out.append(slots[slot])
                slots[slot] = number
    return out + [slots[place] for place in permutation(drain_key(seed, epoch), window)]


@EXAMPLES
@given(
    lengths=st.lists(st.integers(1, 1700), min_size=1, max_size=3),
    chunks=st.lists(st.integers(1, 400), min_size=3, max_size=3),
    batch_size=st.integers(1, 700),
    budget=st.integers(6_000, 250_000),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(-5, 2**64),
    epoch=st.integers(0, 3),
)
def test_each_row_comes_once(tmp_path_factory, lengths, chunks, batch_size, budget, shuffle, drop_last, seed, epoch):
    dataset = ChunkByChunk(write_files(tmp_path_factory.mktemp("rows"), lengths, chunks), "X", "y", weight="w")
    n = sum(lengths)
    options = {"seed": seed, "epoch": epoch, "shuffle": shuffle, "drop_last": drop_last}
    try:
        batches = list(dataset.batches(batch_size, memory=budget, **options))
    except MemoryBudgetError:
        batches = list(dataset.batches(batch_size, memory="1MB", **options))
    sizes = [len(x) for x, _, _ in batches]
    full, left = divmod(n, batch_size)
    assert sizes == [batch_size] * full + [left] * (left > 0 and not drop_last)
    if sizes:
        numbers = numbers_of(batches)
        assert len(np.unique(numbers)) == len(numbers) == sum(sizes)
        assert 0 <= numbers.min() <= numbers.max() < n
        assert shuffle or np.array_equal(numbers, np.arange(len(numbers)))


@pytest.mark.parametrize("memory", ["90kB", "50kB"])
@pytest.mark.parametrize("files", [1, 3])
def test_a_streamed_order_is_that_of_the_window(tmp_path, memory, files):
    lengths, chunk = (5000 // files,) * files, 64
    dataset = ChunkByChunk(write_files(tmp_path, lengths, [chunk] * files), "X", "y", weight="w")
    loader = Loader(dataset, batch_size=50, memory=memory, seed=3)
    assert not loader.plan.whole
    bounds = [
        (start, stop)
        for a, b in itertools.pairwise(dataset._files().tolist())
        for start, stop in itertools.pairwise([*range(a, b, chunk), b])
    ]
    expected = plain_order([range(*bound) for bound in bounds], loader.plan.window_rows, 3, 2)
    assert numbers_of(dataset.batches(50, memory=memory, seed=3, epoch=2)).tolist() == expected


class TestOrder:
    @pytest.fixture
    def dataset(self, tmp_path):
        return ChunkByChunk(write_rows(tmp_path / "a.h5", 6000, chunk=50), "X", "y", weight="w")

    @pytest.mark.parametrize("memory", ["1MB", "60kB"])
    def test_fixed_by_seed_epoch_and_memory(self, dataset, memory):
        def order(**options):
            return tuple(numbers_of(dataset.batches(32, memory=memory, **options)))

        orders = {(seed, epoch): order(seed=seed, epoch=epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)}
        assert len(set(orders.values())) == 9
        assert orders[1, 2] == order(seed=1, epoch=2)
        assert orders[0, 0] == order()

    def test_the_order_of_held_rows_does_not_depend_on_the_budget(self, dataset):
        orders = {
            tuple(numbers_of(dataset.batches(size, memory=memory)))
            for size, memory in ((32, "1MB"), (999, "64MB"), (6000, "1GB"))
        }
        assert len(orders) == 1

    def test_a_smaller_window_is_another_order(self, dataset):
        assert not np.array_equal(
            numbers_of(dataset.batches(32, memory="60kB")), numbers_of(dataset.batches(32, memory="90kB"))
        )

    def test_arrays_and_a_file_that_fits_come_in_one_order(self, dataset):
        arrays = arrays_of(np.arange(6000))
        for epoch in range(2):
            ours, theirs = (numbers_of(source.batches(100, seed=9, epoch=epoch)) for source in (dataset, arrays))
            assert np.array_equal(ours, theirs)

    def test_a_loader_draws_epoch_after_epoch(self, dataset):
        loader = Loader(dataset, batch_size=100, memory="1MB", seed=9)
        for epoch in (0, 1, 0):
            slabs = [slab.x[:, 0].copy() for slab in loader.epoch(epoch)]
            assert np.array_equal(np.concatenate(slabs), numbers_of(dataset.batches(100, seed=9, epoch=epoch)))

    def test_held_rows_are_well_mixed(self, dataset):
        self.require_mixed(numbers_of(dataset.batches(32, memory="1MB")))

    def test_streamed_rows_are_well_mixed_through_a_fair_window(self, dataset):
        loader = Loader(dataset, batch_size=32, memory="60kB")
        assert 0.2 < loader.plan.window_rows / 6000 < 0.4
        self.require_mixed(numbers_of(dataset.batches(32, memory="60kB")))

    def require_mixed(self, numbers):
        """Batches of 60 rows draw on the whole file, and neighbours in it come apart."""
        n = len(numbers)
        assert abs(np.corrcoef(numbers, np.arange(n))[0, 1]) < 0.35  # four deviations of an order of 120 chunks
        chunks = [len(np.unique(batch // 50)) for batch in numbers.reshape(-1, 60)]
        assert min(chunks) > 15
        assert np.mean(chunks) > 25
        places = np.argsort(numbers)
        assert (np.abs(np.diff(places)) < 10).mean() < 0.05
        means = numbers.reshape(-1, 60).mean(axis=1)
        assert np.abs(means / n - 0.5).max() < 0.35


class TestStart:
    """An epoch that goes on in the middle: the rows that had not come, in the order in which they would have."""

    def require_each_start(self, dataset, starts, **options):
        whole = numbers_of(dataset.batches(7, seed=3, epoch=1, **options))
        for start in starts:
            left = list(dataset.batches(7, seed=3, epoch=1, start=start, **options))
            found = numbers_of(left) if left else np.empty(0, np.int64)
            assert found.tolist() == whole[start:].tolist(), start

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("memory", ["1MB", "12kB", "8kB"])
    def test_at_any_row(self, tmp_path, memory, shuffle):
        dataset = ChunkByChunk(write_files(tmp_path, [150, 270, 1], [30] * 3), "X", "y", weight="w")
        assert Loader(dataset, batch_size=7, memory=memory).plan.whole == (memory == "1MB")
        self.require_each_start(dataset, range(dataset.n_rows + 1), memory=memory, shuffle=shuffle)

    def test_of_a_part_of_the_rows(self, tmp_path):
        train, _ = ChunkByChunk(write_rows(tmp_path / "a.h5", 3000, chunk=16), "X", "y", weight="w").split(0.3)
        self.require_each_start(train, range(0, train.n_rows, 41), memory="20kB")

    def test_of_arrays(self):
        self.require_each_start(arrays_of(np.arange(100)), range(101))

    def test_reads_only_what_the_window_held(self, tmp_path, monkeypatch):
        dataset = ChunkByChunk(write_rows(tmp_path / "a.h5", 20_000, chunk=20), "X", "y", weight="w")
        loader = Loader(dataset, batch_size=10, memory="8kB")
        slots, start = loader.plan.window_rows, 15_000
        assert slots < 300
        asked, request = [], HDF5Reader.request
        monkeypatch.setattr(
            HDF5Reader, "request", lambda self, *rows: (asked.append(rows[:2]), request(self, *rows))[1]
        )
        assert sum(len(slab) for slab in loader.epoch(0, start)) == 5000
        # The oldest of the rows in the window came in about the last slots * log(slots), ten times that at most.
        assert len(asked) < (5000 + 10 * slots * np.log(slots)) / 20
        assert len(asked) < 500

    @pytest.mark.parametrize("start", [-1, 101, 1.5, "3", None, True])
    def test_is_a_number_of_rows(self, start):
        with pytest.raises(DataError, match=r"start is .* from 0 to 100"):
            list(arrays_of(np.arange(100)).batches(7, start=start))


class TestBatches:
    @pytest.fixture(params=["held", "window", "stored", "arrays", "stored arrays"])
    def batches(self, request, tmp_path):
        """A function of the options of `batches`."""
        dataset = ChunkByChunk(write_rows(tmp_path / "a.h5", 2000, chunk=50), "X", "y", weight="w")
        if request.param.endswith("arrays"):
            dataset = arrays_of(np.arange(2000))
        more = {"memory": "30kB"} if request.param == "window" else {}
        more |= {"shuffle": False} if request.param.startswith("stored") else {}
        return lambda size, **options: dataset.batches(size, **more | options)

    @pytest.mark.parametrize("dtype", ["float32", np.float64])
    def test_arrays_are_contiguous_and_of_the_type(self, batches, dtype):
        for x, y, weight in batches(33, dtype=dtype):
            assert x.dtype == y.dtype == weight.dtype == dtype
            assert x.flags.c_contiguous
            assert y.flags.c_contiguous
            assert weight.flags.c_contiguous
            assert (x.ndim, y.ndim, weight.ndim) == (2, 2, 1)

    def test_arrays_are_the_callers_own(self, batches):
        found = list(batches(100))
        wanted = numbers_of(found)
        again = []
        for batch in batches(100):
            again.append(tuple(part.copy() for part in batch))
            for part in batch:
                assert part.flags.owndata
                part[:] = np.nan
        assert np.array_equal(numbers_of(again), wanted)
        assert np.array_equal(numbers_of(found), wanted)
        assert np.array_equal(numbers_of(batches(100)), wanted)

    @pytest.mark.parametrize(("size", "dropped"), [(1, 0), (7, 5), (1999, 1), (2000, 0), (2001, 2000), (10**9, 2000)])
    def test_last_batch(self, batches, size, dropped):
        if size > 2000:
            assert list(batches(size, drop_last=True, memory="1MB")) == []
            assert [len(x) for x, *_ in batches(size, memory="1MB")] == [2000]
            return
        memory = {"memory": "1MB"} if size > 100 else {}
        assert sum(len(x) for x, *_ in batches(size, drop_last=True, **memory)) == 2000 - dropped
        assert sum(len(x) for x, *_ in batches(size, **memory)) == 2000

    def test_parts_that_there_are(self, tmp_path):
        path = write_rows(tmp_path / "b.h5", 20)
        for columns, parts in (
            ({}, 1),
            ({"target": "y"}, 2),
            ({"weight": "w"}, 2),
            ({"target": "y", "weight": "w"}, 3),
        ):
            batch = next(HDF5Dataset(path, "X", **columns).batches(4))
            assert len(batch) == parts
            assert batch[-1].ndim == (1 if "weight" in columns else 2)

    def test_float64_values_keep_their_digits(self):
        values = np.array([1 + 2**-40, 2**53 - 1])
        assert np.concatenate(
            [x for (x,) in ArrayDataset(values).batches(2, dtype="float64", shuffle=False)]
        ).tolist() == (values[:, None].tolist())


def test_arrays_are_taken_as_they_are():
    x = np.arange(12.0).reshape(6, 2)
    dataset = ArrayDataset(x, [1, 0, 1, 0, 1, 0], weight=np.ones((6, 1), bool))
    assert (dataset.n_rows, dataset.n_features, dataset.n_targets, dataset.nbytes) == (6, 2, 1, 6 * (16 + 8 + 1))
    assert np.shares_memory(dataset.x, x)
    assert (dataset.dtype, dataset.target_dtype, dataset.weight_dtype) == ("f8", "i8", "u1")
    assert repr(dataset) == "<ArrayDataset the arrays: 6 rows, 2 features (float64), 1 targets>"
    for values in (x[::2], np.asfortranarray(x), x.astype(">f4"), x.astype("f2"), x.tolist()):
        found = np.concatenate([batch for (batch,) in ArrayDataset(values).batches(4, shuffle=False)])
        assert np.array_equal(found, np.asarray(values))
    frozen = x.copy()
    frozen.setflags(write=False)
    assert sorted(batch[0, 0] for (batch,) in ArrayDataset(frozen).batches(1)) == x[:, 0].tolist()


class TestSplit:
    def require_split(self, whole, parts, share):
        """Two parts hold each row of the whole once; the second has its share to the row."""
        numbers = numbers_of(whole.batches(500, shuffle=False))
        halves = [numbers_of(part.batches(500, shuffle=False)) for part in parts]
        assert [part.n_rows for part in parts] == [len(half) for half in halves]
        assert np.array_equal(np.sort(np.concatenate(halves)), np.sort(numbers))
        assert parts[1].n_rows == round(len(numbers) * share)
        for half in halves:
            assert np.array_equal(half, np.sort(half))  # in stored order, in which they are read
        return halves

    @settings(EXAMPLES, max_examples=30)
    @given(
        lengths=st.lists(st.integers(1, 1700), min_size=1, max_size=3),
        chunks=st.lists(st.integers(1, 2000), min_size=3, max_size=3),
        shares=st.tuples(st.floats(0.01, 0.99), st.floats(0.1, 0.9)),
        seed=st.integers(0, 2**32),
        memory=st.sampled_from(["40kB", "1MB"]),
    )
    def test_disjoint_complete_and_to_the_row(self, tmp_path_factory, lengths, chunks, shares, seed, memory):
        dataset = ChunkByChunk(write_files(tmp_path_factory.mktemp("split"), lengths, chunks), "X", "y", weight="w")
        n = dataset.n_rows
        if not 0 < round(n * shares[0]) < n:
            return
        parts = dataset.split(shares[0], seed=seed)
        halves = self.require_split(dataset, parts, shares[0])
        for part, half in zip(parts, halves, strict=True):
            if 0 < round(part.n_rows * shares[1]) < part.n_rows:
                self.require_split(part, part.split(shares[1], seed=seed), shares[1])
            try:
                shuffled = numbers_of(part.batches(16, memory=memory))
            except MemoryBudgetError:
                continue
            assert np.array_equal(np.sort(shuffled), half)

    @pytest.mark.parametrize("kind", ["file", "files", "arrays"])
    def test_deterministic_by_seed_and_share(self, tmp_path, kind):
        if kind == "arrays":
            dataset = arrays_of(np.arange(3000))
        else:
            lengths = (3000,) if kind == "file" else (1000, 1500, 500)
            dataset = HDF5Dataset(write_files(tmp_path, lengths, (100, 70, 30)), "X", "y", weight="w")
        found = {
            (seed, share): tuple(self.require_split(dataset, dataset.split(share, seed=seed), share)[1])
            for seed in (0, 1, 2)
            for share in (0.1, 0.25)
        }
        assert len(set(found.values())) == 6
        assert found[1, 0.1] == tuple(numbers_of(dataset.split(0.1, seed=1)[1].batches(500, shuffle=False)))
        assert found[0, 0.1] == tuple(numbers_of(dataset.split()[1].batches(500, shuffle=False)))

    def test_along_chunks_where_there_are_many(self, tmp_path):
        dataset = ChunkByChunk(write_rows(tmp_path / "many.h5", 40_000, chunk=10), "X", "y")
        _, validation = dataset.split(0.1)
        numbers = numbers_of(validation.batches(500, shuffle=False))
        assert set(np.unique(numbers // 10, return_counts=True)[1]) == {10}

    def test_all_over_the_file_where_there_are_few(self, tmp_path):
        dataset = HDF5Dataset(write_rows(tmp_path / "few.h5", 5000, chunk=2500), "X", "y")
        _, validation = dataset.split(0.1)
        numbers = numbers_of(validation.batches(500, shuffle=False))
        assert np.bincount(numbers // 1000, minlength=5).min() > 20

    def test_parts_of_arrays_are_shuffled_too(self):
        train, validation = arrays_of(np.arange(3000)).split(0.3)
        both = [numbers_of(part.batches(50)) for part in (train, validation)]
        assert np.array_equal(np.sort(np.concatenate(both)), np.arange(3000))
        assert all((np.diff(numbers) < 0).any() for numbers in both)
        assert np.array_equal(train.x[:, 0], np.sort(both[0]))
        assert np.array_equal(train.y[:, 0], -np.sort(both[0]))

    def test_many_files(self, tmp_path):
        dataset = HDF5Dataset(write_files(tmp_path, [3] * 60, [1] * 60), "X", "y")
        self.require_split(dataset, dataset.split(0.4), 0.4)


@EXAMPLES
@given(data=st.data())
def test_cut_and_joined_against_a_plain_loop(data):
    lengths = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    files = np.array([0, *itertools.accumulate(lengths)])
    chosen = sorted(data.draw(st.sets(st.integers(0, int(files[-1]) - 1), min_size=1)))
    unit = data.draw(st.integers(1, 70))
    size = data.draw(st.integers(1, unit))
    spans = joined(np.array([[row, row + 1] for row in chosen]))
    assert [row for start, stop in spans.tolist() for row in range(start, stop)] == chosen
    assert (spans[1:, 0] > spans[:-1, 1]).all()

    def cell(row):
        file = max(index for index, start in enumerate(files[:-1]) if start <= row)
        return file, (row - files[file]) // unit, (row - files[file]) % unit // size

    pieces, units = cut(spans, files, unit, size)
    expected = []
    for row in chosen:
        if expected and expected[-1][1] == row and cell(row - 1) == cell(row):
            expected[-1][1] += 1
        else:
            expected.append([row, row + 1])
    assert pieces.tolist() == expected
    of_unit = {}
    for start, number in zip(pieces[:, 0], units, strict=True):
        assert of_unit.setdefault(number, cell(start)[:2]) == cell(start)[:2]
    assert len(set(of_unit.values())) == len(of_unit)
    blocks = Blocks(*cut(spans, files, unit, unit))
    rows = [[row for start, stop in block.spans.tolist() for row in range(start, stop)] for block in blocks]
    assert rows == [list(group) for _, group in itertools.groupby(chosen, lambda row: cell(row)[:2])]
    assert [block.source_row(i) for block in blocks for i in range(block.n_rows)] == chosen
    assert blocks.largest == max(map(len, rows))
    assert blocks.widest == max(row[-1] + 1 - row[0] for row in rows)
    assert blocks.scattered == any(row[-1] + 1 - row[0] > len(row) for row in rows)
