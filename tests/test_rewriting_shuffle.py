"""Shuffling a file: exactly the permutation that the seed names, whatever the budget."""

from __future__ import annotations

import os
import tracemalloc

import h5py
import numpy as np
import pytest
from data_files import KINDS, datasets_of, write_kinds, write_rows

from fastsgd.data import HDF5Dataset, repack_file, shuffle_file
from fastsgd.data.order import rewrite_key
from fastsgd.data.rewriting.shuffling import plan_shuffle
from fastsgd.data.rewriting.table import RowDataset
from fastsgd.errors import DataError, MemoryBudgetError
from fastsgd.kernels.random import permutation
from fastsgd.kernels.rows import group_by_region


def order_of(rows, seed=0):
    return permutation(rewrite_key(seed), rows)


def row_dataset(rows, row_bytes, chunk_rows=1, decode_bytes=0):
    return RowDataset(b"/X", "X", (rows, row_bytes), row_bytes, chunk_rows, decode_bytes)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4099, 65_536])
def test_places_are_those_of_the_permutation(size):
    key = rewrite_key(3)
    regions, counts, order = np.empty(size, np.uint16), np.zeros(size, np.int64), np.empty(size, np.int64)
    group_by_region(key, size, 0, 1, regions, counts, order)
    assert np.array_equal(permutation(key, size)[regions], np.arange(size))
    assert np.array_equal(order, permutation(key, size))
    assert (counts == 1).all()


@pytest.mark.parametrize(("start", "count", "region"), [(0, 1000, 64), (333, 500, 7), (999, 1, 1000)])
def test_rows_are_grouped_by_region_in_their_order(start, count, region):
    key, size = rewrite_key(0), 1000
    places = np.argsort(permutation(key, size))[start : start + count]
    regions, order = np.empty(count, np.uint16), np.empty(count, np.int64)
    counts = np.full(-(-size // region), -1)
    group_by_region(key, size, start, region, regions, counts, order)
    assert np.array_equal(regions, places // region)
    assert np.array_equal(counts, np.bincount(places // region, minlength=counts.size))
    assert np.array_equal(order, np.argsort(places // region, kind="stable"))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_each_row_is_as_likely_at_each_place(size):
    drawn = np.array([order_of(size, seed) for seed in range(20_000)])
    places = np.array([np.bincount(column, minlength=size) for column in drawn.T])
    expected = len(drawn) / size
    freedom = (size - 1) ** 2
    assert (((places - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom) < 15


@pytest.mark.parametrize("rows", [1, 2, 7, 1000, 20_011])
@pytest.mark.parametrize("seed", [0, 5])
def test_rows_of_every_kind_in_one_order(tmp_path, rows, seed):
    before = datasets_of(write_kinds(tmp_path / "in.h5", rows))
    found = shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5", seed=seed)
    after = datasets_of(tmp_path / "out.h5")
    assert list(after) == list(before)
    assert (found.rows, set(found.datasets), found.copied) == (rows, set(KINDS), ())
    for name, values in before.items():
        assert after[name].dtype == values.dtype
        assert np.array_equal(after[name], values[order_of(rows, seed)]), name


# Of 720 kB: in one pass; in two, with regions of another number of rows and as many as are useful.
@pytest.mark.parametrize("memory", ["1GB", "1MB", "500kB", "311kB", "160kB"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (500, 3), "compression": "gzip"},
        {"chunks": (777, 2), "compression": "lzf", "shuffle": True},
        {"chunks": (5, 3)},
    ],
    ids=str,
)
def test_the_same_bits_for_every_budget(tmp_path, memory, options):
    rows = 30_011
    before = datasets_of(write_kinds(tmp_path / "in.h5", rows, **options))
    shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5", memory=memory)
    after = datasets_of(tmp_path / "out.h5")
    for name, values in before.items():
        assert np.array_equal(after[name], values[order_of(rows)]), name


@pytest.mark.parametrize("rewritten", [shuffle_file, repack_file])
def test_a_matrix_of_matlab_has_its_rows_as_columns_and_is_refused(tmp_path, rewritten):
    with h5py.File(tmp_path / "m.mat", "w") as file:
        for name, values in (("X", np.arange(300.0).reshape(3, 100)), ("y", np.arange(100.0)[None])):
            file.create_dataset(name, data=values).attrs["MATLAB_class"] = np.bytes_(b"double")
    with pytest.raises(DataError, match=r"m\.mat: dataset 'X' is a matrix of MATLAB, which stores rows as columns"):
        rewritten(tmp_path / "m.mat", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_small_budgets_make_many_regions():
    dataset = row_dataset(30_011, 24)
    regions = {memory: -(-30_011 // plan_shuffle(dataset, memory).region) for memory in (10**6, 500_000, 160_000)}
    assert regions == {10**6: 1, 500_000: 3, 160_000: 9}


def test_every_plan_keeps_its_budget():
    for rows, width, chunk, one in [
        (10**9, 116, 1, 0),
        (10**10, 1, 1, 0),
        (10**6, 3140, 64, 400_000),
        (5, 10**6, 1, 0),
    ]:
        dataset = row_dataset(rows, width, chunk, one)
        for budget in [10**6, 10**7, 10**8, 10**9, 10**10]:
            plan = plan_shuffle(dataset, budget)
            if plan is None:
                continue
            pieces, decode = plan.piece * (width + 8), dataset.decoding(budget)[1]
            if plan.region >= rows:
                assert rows * width + pieces + decode <= budget
                continue
            assert plan.region * (width + 16) + pieces <= budget
            assert plan.block * (2 * width + 10) + decode + 16 * -(-rows // plan.region) <= budget
            assert plan.block % chunk == 0 or plan.block == rows


def test_memory_stays_within_the_budget(tmp_path):
    rows = 2**17
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset(
            "X", data=np.arange(rows * 16, dtype="f4").reshape(rows, 16), chunks=(1000, 16), shuffle=True
        )
        file["y"] = np.arange(rows)
    shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5", memory="1MB")  # what is compiled and imported is no data
    for memory in (10**6, 3 * 10**6, 20 * 10**6):
        tracemalloc.start()
        try:
            shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5", memory=memory)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert 0.5 * min(memory, rows * 64) < peak < memory + 100_000
        assert np.array_equal(datasets_of(tmp_path / "out.h5")["y"], order_of(rows))


def test_a_budget_that_is_too_small_says_which_is_not(tmp_path):
    write_rows(tmp_path / "in.h5", 100_000)
    with pytest.raises(MemoryBudgetError, match=r'rows of .X.; the least that works here is memory="1MB"'):
        shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5", memory="20kB")
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file.create_dataset("X", data=np.zeros((10**6, 4)), chunks=(10**6, 1), compression="gzip")
    with pytest.raises(MemoryBudgetError, match="least") as error:
        shuffle_file(tmp_path / "one.h5", tmp_path / "out.h5", memory="10MB")
    least = str(error.value).split('"')[1]
    assert 32 < int(least[:-2]) < 70
    shuffle_file(tmp_path / "one.h5", tmp_path / "out.h5", memory=least)
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "one.h5", "out.h5"]


def test_the_result_can_be_trained_on(tmp_path):
    write_rows(tmp_path / "in.h5", 5000, chunk=64, compression="gzip")
    shuffle_file(str(tmp_path / "in.h5"), str(tmp_path / "out.h5"))
    x, y, w = next(HDF5Dataset(tmp_path / "out.h5", "X", "y", weight="w").batches(5000, shuffle=False))
    assert np.array_equal(x[:, 0], order_of(5000))
    assert np.array_equal(y[:, 0], -x[:, 0])
    assert np.array_equal(w, x[:, 0] / 2)


@pytest.mark.parametrize("shape", [(0, 3), (0,), (4, 0)])
def test_nothing_to_shuffle(tmp_path, shape):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["X"] = np.zeros(shape)
    assert shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5").rows == shape[0]
    assert datasets_of(tmp_path / "out.h5")["X"].shape == shape


def test_the_file_itself_and_what_links_to_it(tmp_path):
    before = datasets_of(write_kinds(tmp_path / "in.h5", 3000))
    (tmp_path / "link.h5").symlink_to("in.h5")
    shuffle_file(tmp_path / "in.h5", tmp_path / "link.h5", memory="100kB")
    assert (tmp_path / "link.h5").is_symlink()
    shuffle_file(tmp_path / "in.h5", tmp_path / "in.h5", seed=1)
    order = order_of(3000)[order_of(3000, 1)]
    for name, values in datasets_of(tmp_path / "in.h5").items():
        assert np.array_equal(values, before[name][order])
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "link.h5"]


def test_progress_is_told(tmp_path):
    write_kinds(tmp_path / "in.h5", 30_000)
    for memory in ("1GB", "160kB"):
        done, totals = [], set()

        def tell(so_far, total, done=done, totals=totals):
            done.append(so_far)
            totals.add(total)

        shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5", memory=memory, progress=tell)
        assert done == sorted(done)
        assert (done[0], {done[-1]}) == (0, totals)
    assert len(done) > 50


def test_rows_that_another_file_holds(tmp_path):
    write_rows(tmp_path / "labels.h5", 40)
    write_rows(tmp_path / "in.h5", 40)
    with h5py.File(tmp_path / "in.h5", "r+") as file:
        file["gone"] = h5py.ExternalLink("nowhere.h5", "/y")
        file["label"] = h5py.ExternalLink("labels.h5", "/y")
    with pytest.raises(DataError, match=r"'label' is a link to a dataset of 40 rows in another file"):
        shuffle_file(tmp_path / "in.h5", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
