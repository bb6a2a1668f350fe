"""How a budget is read, spent, and kept."""

import os
import re
import tracemalloc

import h5py
import numpy as np
import pytest
from data_files import numbers_of, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.loader import Loader
from fastsgd.data.plan import DEFAULT_MEMORY, BlockCost, as_bytes, parse_memory, plan_memory, require_memory
from fastsgd.errors import MemoryBudgetError


@pytest.mark.parametrize(
    ("memory", "count"),
    [
        (None, 1_000_000_000),
        (1, 1),
        (2.5e6, 2_500_000),
        (np.int64(4096), 4096),
        ("10", 10),
        ("10B", 10),
        ("1K", 1000),
        ("64kb", 64_000),
        ("512MB", 512_000_000),
        (" 3 MB ", 3_000_000),
        ("1.5GB", 1_500_000_000),
        ("2TB", 2 * 10**12),
        ("1KiB", 1024),
        ("1MiB", 2**20),
        ("2Gi", 2**31),
        ("1tib", 2**40),
    ],
)
def test_parse_memory(memory, count):
    assert parse_memory(memory) == count


def test_the_default_is_one_figure_on_every_machine():
    assert DEFAULT_MEMORY == 10**9


@pytest.mark.parametrize(
    "memory",
    ["", "MB", "much", "-1MB", "1,5GB", "5IB", "5XB", "1 2", "0MB", "0", 0, -5, True, float("nan"), float("inf"), [1]],
)
def test_parse_memory_says_what_is_allowed(memory):
    with pytest.raises(MemoryBudgetError) as caught:
        parse_memory(memory)
    assert str(caught.value).startswith(f"memory is {memory!r}; ")
    assert '"512MB"' in str(caught.value)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_500_000, "12.5 MB"), (3e12, "3000.0 GB")]
)
def test_as_bytes(count, text):
    assert as_bytes(count) == text


def planned(*, block_rows, block_bytes, reading_bytes, decoder_bytes, **others):
    return plan_memory(cost=BlockCost(block_rows, block_bytes, reading_bytes, decoder_bytes), **others)


def least_of(error):
    """What a MemoryBudgetError says to use."""
    return re.search(r'the least that works here is memory="(\d+MB)"', str(error))[1]


sizes = st.fixed_dictionaries(
    {
        "n_rows": st.integers(1, 10**8),
        "row_bytes": st.integers(1, 20_000),
        "slab_row_bytes": st.integers(4, 40_000),
        "block_rows": st.integers(1, 100_000),
        "block_bytes": st.integers(0, 10**8),
        "reading_bytes": st.integers(0, 10**8),
        "decoder_bytes": st.integers(0, 10**8),
        "batch_size": st.integers(1, 20_000),
        "budget": st.integers(1, 4 * 10**9),
        "shuffle": st.booleans(),
        "in_memory": st.booleans(),
    }
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(sizes)
def test_a_plan_is_never_above_its_budget(given_sizes):
    n, budget = given_sizes["n_rows"], given_sizes["budget"]
    given_sizes["block_rows"] = blocks = min(given_sizes["block_rows"], n)
    batch = min(given_sizes["batch_size"], n)
    try:
        plan = planned(**given_sizes)
    except MemoryBudgetError as error:
        least = parse_memory(least_of(error))
        assert least > budget
        assert planned(**given_sizes | {"budget": least}).total_bytes <= least
        if least > 10**6:
            with pytest.raises(MemoryBudgetError):
                planned(**given_sizes | {"budget": least - 10**6})
        return
    assert plan.total_bytes == plan.window_bytes + plan.slab_bytes + plan.block_bytes <= plan.budget == budget
    assert plan.slab_bytes == plan.slabs * plan.slab_rows * given_sizes["slab_row_bytes"]
    assert plan.slab_rows % batch == 0
    assert plan.slab_rows < n + batch
    if given_sizes["in_memory"]:
        assert (plan.whole, plan.window_rows, plan.window_bytes, plan.block_bytes) == (True, n, 0, 0)
        return
    assert plan.window_bytes == plan.window_rows * given_sizes["row_bytes"]
    block, reading, decoder = (given_sizes[f"{name}_bytes"] for name in ("block", "reading", "decoder"))
    assert block + reading + decoder <= plan.block_bytes <= budget // 4 + block + reading + decoder
    assert (1 + plan.blocks_ahead) * block + reading + plan.decoders * decoder <= plan.block_bytes
    assert 0 <= plan.blocks_ahead <= 8
    assert 1 <= plan.decoders <= 16
    if plan.whole:
        assert plan.window_rows == n
    elif given_sizes["shuffle"]:
        assert blocks <= plan.window_rows < n
        assert plan.total_bytes + given_sizes["row_bytes"] > budget  # the window takes what is left
    else:
        assert plan.window_rows == 0


FEW = {
    "n_rows": 10**6,
    "row_bytes": 100,
    "slab_row_bytes": 100,
    "block_rows": 1000,
    "block_bytes": 300_000,
    "reading_bytes": 50_000,
    "decoder_bytes": 200_000,
}


def test_more_memory_never_holds_fewer_rows():
    held = [planned(**FEW, batch_size=32, budget=budget * 10**6, shuffle=True).window_rows for budget in range(1, 150)]
    assert held == sorted(held)
    assert held[-1] == 10**6


def test_rows_that_fit_are_held_rather_than_blocks_read_ahead():
    plan = planned(**FEW, batch_size=32, budget=10**9, shuffle=True)
    assert plan.whole
    least = next(
        budget * 10**6
        for budget in range(1, 200)
        if planned(**FEW, batch_size=32, budget=budget * 10**6, shuffle=True).whole
    )
    tight = planned(**FEW, batch_size=32, budget=least, shuffle=True)
    rows = FEW["n_rows"] * FEW["row_bytes"]
    assert tight.total_bytes <= least < rows + tight.slab_bytes + plan.block_bytes, "not all that is read ahead there"


def test_a_plan_describes_itself():
    whole, window, nothing = (
        str(planned(**FEW, batch_size=32, budget=budget, shuffle=shuffle))
        for budget, shuffle in ((10**9, True), (64 * 10**6, True), (64 * 10**6, False))
    )
    assert whole.startswith("memory 1.0 GB: all 1000000 rows held (100.0 MB), slabs 12.")
    assert re.match(r"memory 64\.0 MB: a window of \d+ rows held \(4\d\.\d MB\), slabs 1\d\.\d MB, ", window)
    assert nothing.startswith("memory 64.0 MB: no rows held (0 B), ")
    assert all(text.endswith("blocks being read 6.0 MB") for text in (whole, window, nothing))


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_least_that_an_error_names_works(tmp_path, shuffle):
    dataset = HDF5Dataset(write_rows(tmp_path / "wide.h5", 90_000, chunk=45_000), "X", "y", weight="w")
    with pytest.raises(MemoryBudgetError, match=r"memory is 1\.0 MB, too little to ") as caught:
        dataset.batches(100, memory="1MB", shuffle=shuffle)
    least = least_of(caught.value)
    assert "batches of 100 rows (2.0 kB)" in str(caught.value)
    assert "blocks of 45000 rows (1.1 MB)" in str(caught.value)
    numbers = numbers_of(dataset.batches(100, memory=least, shuffle=shuffle))
    assert np.array_equal(np.sort(numbers), np.arange(90_000))
    with pytest.raises(MemoryBudgetError):
        dataset.batches(100, memory=f"{int(least[:-2]) - 1}MB", shuffle=shuffle)


def test_a_batch_of_rows_in_memory_is_held_to_the_budget_too():
    dataset = ArrayDataset(np.zeros((10_000, 100), np.uint8))
    with pytest.raises(MemoryBudgetError, match=r"to hand over batches of 10000 rows \(4.0 MB\)") as caught:
        dataset.batches(10_000, memory="3MB")
    assert sum(len(x) for (x,) in dataset.batches(10_000, memory=least_of(caught.value))) == 10_000


def traced_peak(loader):
    """Bytes of arrays that an epoch holds at most."""
    for _ in loader.epoch(0):  # compiles what is not yet
        pass
    tracemalloc.start()
    try:
        for _ in loader.epoch(1):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Beside arrays of rows: the plan of the blocks, the order they come in, Python's own objects.
BESIDE = 400_000


@pytest.fixture
def tables(tmp_path):
    """300,000 rows in chunks of 10,000: one dataset of 8 columns and one of them 1-D; a table; a twin of both."""
    rows, path = 300_000, tmp_path / "tables.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        X = rng.integers(0, 255, (rows, 8))
        file.create_dataset("X", data=X.astype("f4"), chunks=(10_000, 8))
        file.create_dataset("half", data=X.astype("f2"), chunks=(10_000, 8))
        file.create_dataset("y", data=X[:, 0].astype("i4"), chunks=(10_000,), compression="lzf")
        table = np.zeros(rows, [(f"c{k}", "<f4") for k in range(8)])
        file.create_dataset("t", data=table, chunks=(10_000,))
    return path


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    "features", ["X", "half", ["X", "y"], [f"t::c{k}" for k in range(8)]], ids=["one", "float16", "joined", "table"]
)
@pytest.mark.parametrize("part", ["all", "train", "validation"])
def test_a_stream_holds_no_more_than_its_plan(tables, features, part, shuffle):
    whole = HDF5Dataset(tables, features, "y")
    dataset = dict(zip(("train", "validation"), whole.split(0.3), strict=True)).get(part, whole)
    loader = Loader(dataset, batch_size=100, memory="5MB" if part != "validation" else "3.2MB", shuffle=shuffle)
    assert not loader.plan.whole
    assert traced_peak(loader) <= loader.plan.total_bytes + BESIDE


def test_loading_whole_holds_no_more_than_its_plan(tables):
    loader = Loader(HDF5Dataset(tables, "X", "y").split(0.5)[0], batch_size=100, memory="12MB")
    assert loader.plan.whole
    tracemalloc.start()
    try:
        for _ in loader.epoch(0):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert loader.plan.window_bytes <= peak <= loader.plan.total_bytes + BESIDE


def test_split_arrays_are_copied_within_the_budget_or_streamed():
    numbers = np.arange(400_000.0)
    train, _ = ArrayDataset(numbers).split(0.2)
    for memory, whole in (("6MB", True), ("2MB", False)):
        loader = Loader(train, batch_size=100, memory=memory)
        assert loader.plan.whole == whole
        assert traced_peak(loader) <= loader.plan.total_bytes + BESIDE
        assert sum(len(slab.x) for slab in loader.epoch(0)) == 320_000


def test_a_machine_that_cannot_give_the_memory_is_told(tmp_path):
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file.create_dataset("X", (10**12, 4), "f4", chunks=(1 << 22, 4))  # takes no room where nothing is written
    os.truncate(tmp_path / "wide.h5", 10**11)  # nor does this, and a file so large may hold what it claims
    dataset = HDF5Dataset(tmp_path / "wide.h5", "X")
    with pytest.raises(MemoryBudgetError, match=r"memory is 9000.0 GB, of which .* taken; this machine has .* Give"):
        Loader(dataset, batch_size=32, memory="9TB")
    assert Loader(dataset, batch_size=32, memory="1GB").plan.window_rows > 0


def test_a_control_group_that_allows_less_is_told(tmp_path):
    plan = planned(**FEW, batch_size=32, budget=64 * 10**6, shuffle=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.write_text(f"{plan.total_bytes}\n")
    require_memory(plan, str(tmp_path))
    limit.write_text(f"{plan.total_bytes - 1}\n")
    with pytest.raises(
        MemoryBudgetError, match=r"control group of this process allows \d\d.\d MB. Give memory=\"4\dMB"
    ):
        require_memory(plan, str(tmp_path))
