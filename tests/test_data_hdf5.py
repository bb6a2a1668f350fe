"""HDF5 datasets: which columns, which files, which types and layouts."""

import glob
import os
import pickle
import threading

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk, features_of, numbers_of, write_rows

from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.loader import Loader

ROWS = 50


@pytest.fixture
def columns(tmp_path):
    """A file with columns of every shape."""
    path = tmp_path / "columns.h5"
    numbers = np.arange(ROWS)
    with h5py.File(path, "w") as file:
        file["flat"] = numbers.astype("f4")
        file["column"] = numbers.astype("f4")[:, None] + 0.5
        file["deep/er/wide"] = np.stack([numbers + 1, numbers + 2], axis=1).astype("i2")
        table = np.zeros(
            ROWS, [("a", ">f4"), ("b", "u1"), ("pair", "f8", (2,)), ("grid", "i4", (2, 2)), ("name", "S3")]
        )
        table["a"], table["b"] = numbers + 3, numbers
        table["pair"] = np.stack([numbers + 5, numbers + 6], axis=1)
        table["grid"] = numbers[:, None, None] + np.array([[7, 8], [9, 10]])
        file["table"] = table
        file["link"] = h5py.SoftLink("/deep/er/wide")
    return path


def stored(dataset):
    """x and y as they come in storage order, float64."""
    parts = [np.concatenate(part) for part in zip(*dataset.batches(7, shuffle=False, dtype="float64"), strict=True)]
    return parts[0], parts[1] if len(parts) > 1 else None


@pytest.mark.parametrize(
    ("features", "shifts", "dtype"),
    [
        ("flat", [0], "f4"),
        ("/flat", [0], "f4"),
        ("column", [0.5], "f4"),
        ("deep/er/wide", [1, 2], "i2"),
        ("link", [1, 2], "i2"),
        (["flat"], [0], "f4"),
        (("flat", "deep/er/wide", "column"), [0, 1, 2, 0.5], "f4"),
        ("table::a", [3], "f4"),
        ("table::b", [0], "u1"),
        ("table::pair", [5, 6], "f8"),
        ("table::grid", [7, 8, 9, 10], "i4"),
        (["table::pair", "flat", "table::a", "table::pair"], [5, 6, 0, 3, 5, 6], "f8"),
        (["table::b", "deep/er/wide"], [0, 1, 2], "i2"),
    ],
)
@pytest.mark.parametrize("target", [None, "flat", "table::b", ["column", "table::a"]])
def test_columns(columns, features, shifts, dtype, target):
    dataset = HDF5Dataset(columns, features, target)
    x, y = stored(dataset)
    assert np.array_equal(x, np.arange(ROWS)[:, None] + np.array(shifts))
    assert (dataset.n_rows, dataset.n_features, dataset.dtype) == (ROWS, len(shifts), np.dtype(dtype))
    if target is None:
        assert (dataset.n_targets, dataset.target_dtype, y) == (0, None, None)
    else:
        wanted = [0.5, 3] if isinstance(target, list) else [0]
        assert dataset.n_targets == len(wanted)
        assert np.array_equal(y, np.arange(ROWS)[:, None] + np.array(wanted))


def test_attributes(tmp_path):
    path = write_rows(tmp_path / "a.h5", 1000, chunk=64)
    dataset = HDF5Dataset(path, "X", ["y", "w"], weight="w")
    assert (dataset.n_rows, len(dataset), dataset.n_features, dataset.n_targets) == (1000, 1000, 3, 2)
    assert dataset.dtype == np.float32
    assert dataset.chunk_rows == 64
    assert dataset.nbytes == 1000 * (3 * 4 + 2 * 8 + 4)
    assert repr(dataset) == f"<HDF5Dataset {path}: 1000 rows, 3 features (float32), 2 targets>"
    train, validation = dataset.split(0.25)
    assert (train.n_rows, validation.n_rows) == (750, 250)
    assert validation.nbytes == dataset.nbytes / 4


@pytest.mark.parametrize(
    ("chunks", "features", "chunk_rows"),
    [
        ({"a": 100}, "a", 100),
        ({"a": 100, "b": 300}, ["a", "b"], 300),
        ({"a": None, "b": 300}, ["a", "b"], 300),
        ({"a": 10**9}, "a", 40_000),
        # Not chunked: a MiB of whole rows, not of a column.
        ({"a": None}, "a", 40_000),
        (dict.fromkeys("abcdefghij"), list("abcdefghij"), 2**20 // 80),
        # Of many columns, 16 KiB of each.
        (dict.fromkeys(map(str, range(100))), list(map(str, range(100))), 2**14 // 8),
    ],
)
def test_chunk_rows(tmp_path, chunks, features, chunk_rows):
    rows = 40_000
    with h5py.File(tmp_path / "chunks.h5", "w") as file:
        for name, chunk in chunks.items():
            file.create_dataset(name, data=np.zeros(rows), chunks=chunk and (min(chunk, rows),))
    assert HDF5Dataset(tmp_path / "chunks.h5", features).chunk_rows == chunk_rows


TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.mark.parametrize("dtype", [*TYPES, *(f">{name}" for name in TYPES[:-1] if name[1] != "1")])
@pytest.mark.parametrize("joined", [False, True])
def test_number_types(tmp_path, dtype, joined):
    held = {"f2": "f4", "?": "u1"}.get(dtype.strip(">"), dtype.strip(">"))
    values = (np.arange(60) % 2 if dtype == "?" else np.arange(60) - 30 * (dtype[-2] in "if")).astype(dtype)
    with h5py.File(tmp_path / "types.h5", "w") as file:
        file["X"], file["other"] = values.reshape(20, 3), values[:20]
    dataset = HDF5Dataset(tmp_path / "types.h5", ["X", "other"] if joined else "X", "other", weight="other")
    assert (dataset.dtype, dataset.target_dtype, dataset.weight_dtype) == (np.dtype(held),) * 3
    assert dataset.dtype.isnative
    x = np.concatenate([x for x, _, _ in dataset.batches(6, shuffle=False)])
    wanted = np.column_stack([values.reshape(20, 3), values[:20]]) if joined else values.reshape(20, 3)
    assert x.dtype == np.float32
    assert np.array_equal(x, wanted.astype("f4"))
    assert {tuple(row) for x, _, _ in dataset.batches(6) for row in x} == {tuple(row) for row in wanted.astype("f4")}


def test_an_enumeration_is_its_numbers(tmp_path):
    with h5py.File(tmp_path / "enum.h5", "w") as file:
        file.create_dataset("X", data=[0, 1, 2, 1], dtype=h5py.enum_dtype({"A": 0, "B": 1, "C": 2}, "i2"))
    assert HDF5Dataset(tmp_path / "enum.h5", "X").take(4).x.tolist() == [[0], [1], [2], [1]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (7, 2)},
        {"chunks": True},
        {"chunks": (500, 3)},
        {"chunks": (64, 3), "compression": "gzip"},
        {"chunks": (64, 3), "compression": "lzf", "shuffle": True},
        {"chunks": (64, 1), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (100, 3), "scaleoffset": 3},
        {"maxshape": (None, 3)},
    ],
    ids=str,
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_layouts(tmp_path, options, shuffle):
    dataset = HDF5Dataset(write_rows(tmp_path / "layout.h5", 500, **options), "X", "y", weight="w")
    numbers = numbers_of(dataset.batches(32, shuffle=shuffle))
    assert np.array_equal(np.sort(numbers), np.arange(500))
    assert np.array_equal(numbers, np.arange(500)) != shuffle


def test_virtual_datasets(tmp_path):
    layout = h5py.VirtualLayout((200, 3), "f4")
    for part in range(2):
        source = write_rows(tmp_path / f"part{part}.h5", 100, start=100 * part)
        layout[100 * part : 100 * part + 100] = h5py.VirtualSource(os.path.basename(source), "X", (100, 3))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("X", layout)
    numbers = numbers_of(HDF5Dataset(tmp_path / "virtual.h5", "X").batches(32))
    assert np.array_equal(np.sort(numbers), np.arange(200))


class TestFiles:
    """Several files are one table."""

    LENGTHS = (130, 1, 77)

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "part_1").mkdir()  # a folder that the pattern meets
        start = 0
        for index, length in enumerate(self.LENGTHS):
            write_rows(tmp_path / f"part_{index}.h5", length, start=start, chunk=(40, 64, 10)[index])
            start += length
        write_rows(tmp_path / "other.h5", 9)
        return tmp_path

    @pytest.mark.parametrize("kind", [str, os.fspath, lambda pattern: [pattern]])
    def test_a_pattern_is_its_files_in_sorted_order(self, folder, kind):
        dataset = HDF5Dataset(kind(folder / "part_*"), "X", "y", weight="w")
        assert [os.path.basename(path) for path in dataset.paths] == ["part_0.h5", "part_1.h5", "part_2.h5"]
        assert dataset.n_rows == 208
        assert dataset.chunk_rows == 40
        assert np.array_equal(numbers_of(dataset.batches(32, shuffle=False)), np.arange(208))
        assert repr(dataset).startswith(f"<HDF5Dataset {folder / 'part_0.h5'} and 2 more: 208 rows")

    def test_a_recursive_pattern(self, folder):
        write_rows(folder / "part_1" / "deep.h5", 5)
        assert HDF5Dataset(folder / "**" / "[!po]*.h5", "X").paths == [str(folder / "part_1" / "deep.h5")]

    def test_a_list_keeps_its_order(self, folder):
        paths = [folder / "part_2.h5", str(folder / "part_0.h5")]
        numbers = numbers_of(HDF5Dataset(paths, "X", "y").batches(32, shuffle=False))
        assert np.array_equal(numbers, [*range(131, 208), *range(130)])

    def test_a_name_with_brackets_is_a_file(self, tmp_path):
        path = write_rows(tmp_path / "train[1].h5", 12)
        assert HDF5Dataset(path, "X").n_rows == 12
        assert HDF5Dataset(glob.escape(str(path)), "X").n_rows == 12

    @pytest.mark.parametrize("memory", ["64MB", "20kB"])
    def test_more_files_than_are_kept_open(self, tmp_path, memory):
        for index in range(40):
            write_rows(tmp_path / f"{index:02}.h5", 50 + index, start=100 * index, chunk=20)
        dataset = ChunkByChunk(tmp_path / "*.h5", "X", "y")
        numbers = numbers_of(dataset.batches(10, memory=memory))
        assert np.array_equal(np.sort(numbers), [100 * k + i for k in range(40) for i in range(50 + k)])

    def test_types_that_differ_meet_in_one_that_holds_both(self, tmp_path):
        parts = {"a": np.arange(5, dtype="i1"), "b": np.arange(5, dtype=">i4") * 70_000, "c": np.arange(5, dtype="f2")}
        for name, values in parts.items():
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file["v"], file["k"] = values if name != "b" else values[:, None], np.ones(5, "u1")
        for features in ("v", ["k", "v"]):
            dataset = HDF5Dataset(tmp_path / "*.h5", features)
            assert dataset.dtype == np.float64
            assert np.array_equal(stored(dataset)[0][:, -1], np.concatenate(list(parts.values())))


def test_pickle_keeps_paths_and_rows(tmp_path):
    dataset = HDF5Dataset(write_rows(tmp_path / "p.h5", 3000, chunk=100), "X", "y", weight="w")
    part = dataset.split(0.3, seed=4)[1]
    content = pickle.dumps(part)
    assert len(content) < 5000
    again = pickle.loads(content)
    assert repr(again) == repr(part)
    assert np.array_equal(numbers_of(again.batches(64, seed=1)), numbers_of(part.batches(64, seed=1)))


def test_files_are_closed_after_reading(tmp_path):
    path = write_rows(tmp_path / "closed.h5", 5000, chunk=100)
    dataset = ChunkByChunk(path, "X", "y")
    for memory in ("1MB", "50kB"):
        batches = dataset.batches(100, memory=memory)
        next(batches)
        batches.close()
        list(dataset.batches(100, memory=memory))
    dataset.take(3)
    with h5py.File(path, "r+") as file:  # HDF5 refuses where the process still reads it
        file["X"][0] = features_of([0])[0]
    assert [file for file in os.listdir("/proc/self/fd") if points_to(file, path)] == []


def points_to(descriptor, path):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except FileNotFoundError:  # the descriptor of the listing itself
        return False


class TestTake:
    @pytest.fixture(params=["hdf5", "split", "arrays"])
    def dataset(self, request, tmp_path):
        paths = [write_rows(tmp_path / "0.h5", 70, chunk=16), write_rows(tmp_path / "1.h5", 40, start=70, chunk=16)]
        whole = HDF5Dataset(paths, "X", "y", weight="w")
        if request.param == "arrays":
            numbers = np.arange(110)
            whole = ArrayDataset(features_of(numbers), -numbers.astype("f8"), weight=(numbers / 2).astype("f4"))
        return whole.split(0.4)[0] if request.param == "split" else whole

    @pytest.mark.parametrize(
        "rows",
        [
            5,
            np.int64(7),
            1000,
            slice(60, 75),
            slice(None, None, -7),
            [3],
            [5, 5, 0, 64, -1, -1],
            np.array([40, 2, 41], np.uint8),
            np.arange(66)[::-1],
        ],
        ids=str,
    )
    def test_rows(self, dataset, rows):
        numbers = numbers_of(dataset.batches(1000, shuffle=False))
        wanted = numbers[:rows] if isinstance(rows, int | np.integer) else numbers[rows]
        found = dataset.take(rows)
        assert isinstance(found, ArrayDataset)
        assert (found.dtype, found.target_dtype, found.weight_dtype) == ("f4", "f8", "f4")
        assert np.array_equal(found.x, features_of(wanted))
        assert np.array_equal(found.y[:, 0], -wanted)
        assert np.array_equal(found.weight[:, 0], (wanted / 2).astype("f4"))

    def test_a_mask(self, dataset):
        numbers = numbers_of(dataset.batches(1000, shuffle=False))
        mask = numbers % 3 == 0
        assert np.array_equal(dataset.take(mask).x, features_of(numbers[mask]))

    def test_is_a_copy(self, dataset):
        found = dataset.take(3)
        before = found.x.copy()
        found.x[:] = -1
        assert np.array_equal(dataset.take(3).x, before)

    def test_without_target_and_weight(self, tmp_path):
        found = HDF5Dataset(write_rows(tmp_path / "9.h5", 9), "X")
        assert (found.take([1, 0]).y, found.take(1).weight) == (None, None)


def test_taking_a_few_rows_of_a_billion_reads_a_few(tmp_path):
    with h5py.File(tmp_path / "long.h5", "w") as file:
        file.create_dataset("X", (10**9,), "u1", chunks=(2**16,))
    dataset = HDF5Dataset(tmp_path / "long.h5", "X")
    assert dataset.take(3).x.tolist() == [[0], [0], [0]]
    train, validation = dataset.split(0.1)
    assert (train.n_rows, validation.n_rows) == (900_000_000, 100_000_000)
    assert validation.take([-1, 0, 10**8 - 1]).n_rows == 3
    assert next(iter(train.batches(10, shuffle=False)))[0].shape == (10, 1)


def test_two_readers_at_once(tmp_path):
    path = write_rows(tmp_path / "two.h5", 4000, chunk=50)
    dataset = ChunkByChunk(path, "X", "y")
    first, second = dataset.batches(16, memory="30kB"), dataset.batches(16, memory="30kB", seed=1)
    pairs = list(zip(first, second, strict=True))
    for side in zip(*pairs, strict=True):
        assert np.array_equal(np.sort(numbers_of(side)), np.arange(4000))
    assert not [thread for thread in threading.enumerate() if thread.name == "fastsgd-loader"]


def test_the_plan_knows_of_chunks_that_must_be_decoded_whole(tmp_path):
    rows = 100_000
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset("X", data=np.zeros((rows, 8), "f4"), chunks=(1000, 8))
        file.create_dataset("plain", data=np.zeros(rows), chunks=(rows,))
        file.create_dataset("packed", data=np.zeros(rows), chunks=(rows,), compression="gzip")
    plain, packed = (HDF5Dataset(tmp_path / "y.h5", "X", target) for target in ("plain", "packed"))
    assert plain.decoder_bytes() == plain.unit_rows() * 8, "a block of it, as it lies in the file"
    assert packed.decoder_bytes() == 3 * 8 * rows
    plans = [Loader(dataset, batch_size=10, memory="20MB").plan for dataset in (plain, packed)]
    assert [plan.decoders for plan in plans] == [16, 1]
    for plan, dataset in zip(plans, (plain, packed), strict=True):
        assert plan.block_bytes >= plan.decoders * dataset.decoder_bytes()


def test_the_plan_knows_of_columns_that_are_joined_or_converted(tmp_path):
    rows = 10_000
    with h5py.File(tmp_path / "j.h5", "w") as file:
        file["a"], file["b"] = np.zeros((rows, 5), "f4"), np.zeros(rows, "f4")
        file["half"] = np.zeros((rows, 5), "f2")
        file["t"] = np.zeros(rows, [("k", "f4"), ("l", "f4", (4,))])

    def beside(features):
        """Bytes a row that reading takes beside the rows and the chunk cache: the widest dataset, as HDF5 gives it."""
        dataset = HDF5Dataset(tmp_path / "j.h5", features)
        assert dataset.unit_rows() == rows  # no more than there are
        return (dataset.reading_bytes(rows) - rows * dataset.row_bytes) / rows

    assert beside("a") == 20
    assert beside(["a", "b"]) == 20
    assert beside("half") == 10
    assert beside(["t::k", "t::l"]) == 20
    assert beside(["t::k", "b"]) == 4
