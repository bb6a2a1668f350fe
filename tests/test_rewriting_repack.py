"""Repacking a file: the same values stored otherwise, and all that is no rows as it was."""

from __future__ import annotations

import errno
import os
import tracemalloc

import h5py
import numpy as np
import pytest
from data_files import KINDS, datasets_of, write_kinds, write_rows

from fastsgd.data import repack_file, shuffle_file
from fastsgd.errors import DataError, MemoryBudgetError

ROWS = 1003


def same(before, after):
    assert list(after) == list(before)
    for name, values in before.items():
        assert after[name].dtype == values.dtype, name
        assert np.array_equal(after[name], values), name


@pytest.mark.parametrize(
    ("options", "chunks", "filters"),
    [
        ({}, None, (None, False)),
        ({"chunk_rows": 100}, (100, 3), (None, False)),
        ({"chunk_rows": 10**9}, (ROWS, 3), (None, False)),
        ({"compression": "gzip"}, (ROWS, 3), ("gzip", True)),
        ({"compression": "gzip", "level": 9, "chunk_rows": 7}, (7, 3), ("gzip", True)),
        ({"compression": "lzf", "chunk_rows": 64}, (64, 3), ("lzf", True)),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [{}, {"chunks": (100, 2), "compression": "gzip", "maxshape": (None, 3)}], ids=str)
def test_values_are_the_same_in_every_storage(tmp_path, options, chunks, filters, layout):
    before = datasets_of(write_kinds(tmp_path / "in.h5", ROWS, **layout))
    found = repack_file(tmp_path / "in.h5", tmp_path / "out.h5", **options)
    same(before, datasets_of(tmp_path / "out.h5"))
    assert set(found.datasets) == set(KINDS)
    assert found.bytes_before == os.path.getsize(tmp_path / "in.h5")
    assert found.bytes_after == os.path.getsize(tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        item = file["X"]
        assert (item.chunks, (item.compression, item.shuffle)) == (chunks, filters)
        assert item.maxshape == (layout.get("maxshape", (ROWS, 3)) if chunks else (ROWS, 3))
        if options.get("level"):
            assert item.compression_opts == 9
        if chunks is None:
            assert item.id.get_offset() is not None


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("dtype", ["f8", ">f4", "f2", ">i2", "u1", "?", "c8", "S5", "f4,>i8", "(2,)f4,i1"])
def test_compressed_values_of_every_type(tmp_path, dtype, shuffle, compression):
    values = np.random.default_rng(0).integers(0, 256, (503, 3, 360), np.uint8).view(dtype)[..., :4]
    values = values % 2 == 1 if dtype == "?" else values
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name, array in {"flat": values[:, 0, 0], "wide": values[:, 0], "deep": values}.items():
            chunks = (100, *array.shape[1:-1], 3)[: array.ndim]
            file.create_dataset(name, data=array, chunks=chunks, compression=compression, shuffle=shuffle)
    repack_file(tmp_path / "in.h5", tmp_path / "out.h5", memory="150kB")
    with h5py.File(tmp_path / "in.h5") as before, h5py.File(tmp_path / "out.h5") as after:
        for name in before:
            assert after[name].dtype == before[name].dtype
            assert after[name][()].tobytes() == before[name][()].tobytes()


def test_chunks_are_of_a_mebibyte(tmp_path):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["X"] = np.zeros((50_000, 100), "f4")
    repack_file(tmp_path / "in.h5", tmp_path / "out.h5", compression="lzf")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["X"].chunks == (2**20 // 400, 100)


def write_all(path):
    """A file with everything that is no rows, too."""
    with h5py.File(path, "w", libver="latest", track_order=True, userblock_size=512) as file:
        rows = file.create_dataset("z/rows", data=np.arange(40.0).reshape(20, 2))
        file["z"].attrs["of"] = "z"
        group = file.create_group("a", track_order=True)
        group["second"], group["first"] = np.arange(20), np.arange(3)
        group.create_dataset("packed", data=np.arange(100), chunks=(7,), compression="gzip", maxshape=(None,))
        file["texts"] = np.array(["x", "grün"], dtype=h5py.string_dtype())
        file["scalar"], file["empty"] = 3.5, h5py.Empty("f4")
        file["kind"] = np.dtype([("a", "f4"), ("b", "i8")])
        file["soft"], file["hard"] = h5py.SoftLink("/a/first"), group["first"]
        file["outside"] = h5py.ExternalLink("other.h5", "/k")
        group["again"] = file["a"]
        file["references"] = np.array([rows.ref, group.ref], dtype=h5py.ref_dtype)
        file["scale"] = np.arange(2)
        file["scale"].make_scale("columns")
        rows.dims[1].attach_scale(file["scale"])
        values = {"text": "hé", "bytes": np.bytes_(b"xx"), "none": h5py.Empty("f8"), "long": np.zeros(30_000, ">i4")}
        for name, value in {**values, "texts": ["a", "bb"], "one": rows.ref, "number": 2}.items():
            rows.attrs[name] = value
        file.attrs["about"] = "all"
    with open(path, "r+b") as file:
        file.write(b"in front")
    return path


@pytest.mark.parametrize("rewrite", [repack_file, shuffle_file])
def test_all_else_is_as_it_was(tmp_path, rewrite):
    write_all(tmp_path / "in.h5")
    found = rewrite(tmp_path / "in.h5", tmp_path / "out.h5", rows_of="a/second")
    assert found.datasets == ("z/rows", "a/second")
    assert found.copied == ("a/first", "a/packed", "texts", "scalar", "empty", "references", "scale")
    assert (tmp_path / "out.h5").read_bytes()[:8] == b"in front"
    with h5py.File(tmp_path / "in.h5") as before, h5py.File(tmp_path / "out.h5") as after:
        names, others = [], []
        before.visit_links(names.append)
        after.visit_links(others.append)
        assert others == names
        assert list(after) == list(before)
        assert list(after["a"]) == ["second", "first", "packed", "again"]
        for name in found.copied:
            if name not in ("references", "empty"):
                assert after[name].dtype == before[name].dtype
                assert np.array_equal(after[name][()], before[name][()])
        assert after["empty"].shape is None
        assert after["hard"] == after["a/first"]
        assert after["a/again"] == after["a"]
        assert after.get("soft", getlink=True).path == "/a/first"
        link = after.get("outside", getlink=True)
        assert (link.filename, link.path) == ("other.h5", "/k")
        assert after["kind"].dtype == before["kind"].dtype
        assert (after["a/packed"].compression, after["a/packed"].chunks) == ("gzip", (7,))
        assert [after[reference].name for reference in after["references"]] == ["/z/rows", "/a"]
        rows, attributes = after["z/rows"], before["z/rows"].attrs
        assert list(rows.attrs) == list(attributes)
        for name in ("text", "bytes", "none", "long", "texts", "number"):
            assert np.all(rows.attrs[name] == attributes[name])
            assert type(rows.attrs[name]) is type(attributes[name])
        assert rows.attrs["long"].dtype == ">i4"
        assert after[rows.attrs["one"]] == rows
        assert rows.dims[1]["columns"] == after["scale"]
        assert after["scale"].is_scale
        assert (after.attrs["about"], after["z"].attrs["of"]) == ("all", "z")


def test_the_rows_are_the_table_with_most_bytes(tmp_path):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["long"], file["wide"], file["other"] = np.zeros(100, "u1"), np.zeros((10, 50)), np.zeros(10)
    assert set(repack_file(tmp_path / "in.h5", tmp_path / "out.h5").datasets) == {"wide", "other"}
    assert repack_file(tmp_path / "in.h5", tmp_path / "out.h5", rows_of="long").datasets == ("long",)
    for name, message in [("lang", "no dataset 'lang'; the file has 'long'"), ("/", "a group")]:
        with pytest.raises(DataError, match=message):
            repack_file(tmp_path / "in.h5", tmp_path / "out.h5", rows_of=name)


def test_virtual_and_external_values_come_into_the_file(tmp_path):
    layout = h5py.VirtualLayout((200, 3), "f4")
    for part in range(2):
        write_rows(tmp_path / f"part{part}.h5", 100, start=100 * part)
        layout[100 * part : 100 * part + 100] = h5py.VirtualSource(f"part{part}.h5", "X", (100, 3))
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_virtual_dataset("rows", layout)
        file.create_dataset("raw", data=np.arange(200.0), external=[(str(tmp_path / "raw"), 0, 1600)])
        other = h5py.VirtualLayout((7, 3), "f4")
        other[:] = h5py.VirtualSource("part0.h5", "X", (100, 3))[:7]
        file.create_virtual_dataset("other", other)
    before = datasets_of(tmp_path / "in.h5")
    (tmp_path / "elsewhere").mkdir()
    repack_file(tmp_path / "in.h5", tmp_path / "elsewhere" / "out.h5", memory="1MB")
    same(before, datasets_of(tmp_path / "elsewhere" / "out.h5"))
    with h5py.File(tmp_path / "elsewhere" / "out.h5") as file:
        assert not any(file[name].is_virtual or file[name].external for name in file)
    os.unlink(tmp_path / "part1.h5")
    for rows_of in ("rows", "other"):
        with pytest.raises(DataError, match=r"'part1.h5', and there is no such file"):
            repack_file(tmp_path / "in.h5", tmp_path / "out.h5", rows_of=rows_of)
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a"] * 9, dtype=h5py.string_dtype()),
        np.array([[1]] * 9, dtype=h5py.vlen_dtype("i4")),
        np.zeros(9, h5py.ref_dtype),
        np.zeros(9, [("n", "i4"), ("t", h5py.string_dtype())]),
    ],
    ids=["text", "lists", "references", "table"],
)
@pytest.mark.parametrize("rewrite", [repack_file, shuffle_file])
def test_values_of_no_fixed_size_are_named(tmp_path, values, rewrite):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["X"] = np.zeros((9, 20))
        file.create_dataset("odd", (9,), values.dtype)
    with pytest.raises(DataError, match=r"in.h5: dataset 'odd' has values of no fixed size"):
        rewrite(tmp_path / "in.h5", tmp_path / "out.h5")
    assert os.listdir(tmp_path) == ["in.h5"]


@pytest.mark.parametrize(("dtype", "narrow"), [("float32", ["f8", ">f8"]), ("float16", ["f8", ">f8", "f4"])])
def test_narrower_types(tmp_path, dtype, narrow):
    values = {name: np.random.default_rng(0).normal(size=(50, 2, 2)).astype(name) for name in ("f8", ">f8", "f4", "f2")}
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name, array in values.items():
            array[3, 1, 0], array[4] = np.nan, -np.inf
            file[name] = array
        file["n"], file["c"], file["t"] = np.arange(50), np.ones(50, "c16"), np.ones(50, [("a", "f8")])
    for compression in ("none", "lzf"):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5", dtype=dtype, compression=compression)
        found = datasets_of(tmp_path / "out.h5")
        for name, array in values.items():
            assert found[name].dtype == np.dtype(dtype if name in narrow else name)
            assert np.array_equal(found[name], array.astype(found[name].dtype), equal_nan=True)
        assert [found[name].dtype for name in "nct"] == [np.int64, np.complex128, np.dtype([("a", "f8")])]


def test_a_value_that_is_too_large_is_named(tmp_path):
    values = np.zeros((30_000, 4))
    values[23_456, 2] = -1e5
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["X"] = values
    with pytest.raises(DataError, match=r"in.h5: dataset 'X', row 23456, column 2 is -100000, more than float16 holds"):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5", dtype="float16", memory="200kB")
    assert os.listdir(tmp_path) == ["in.h5"]
    repack_file(tmp_path / "in.h5", tmp_path / "out.h5", dtype="float32", memory="200kB")
    assert datasets_of(tmp_path / "out.h5")["X"][23_456, 2] == -1e5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "zip"}, "compression is 'zip'; it is one of 'none', 'gzip', 'lzf'"),
        ({"level": 10}, "level is 10"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"chunk_rows": 0}, "chunk_rows is 0"),
        ({"chunk_rows": 2**31}, "more than the 4 GB that a chunk may have"),
    ],
    ids=str,
)
def test_options_that_cannot_be(tmp_path, options, message):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("X", (2**32,), "f4", chunks=(10**6,))
    with pytest.raises(DataError, match=message):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5", **options)


def test_memory_stays_within_the_budget(tmp_path):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["X"] = np.arange(10**6, dtype="f8").reshape(-1, 10)
    for options in ({}, {"compression": "lzf", "chunk_rows": 100}, {"dtype": "float32"}):
        tracemalloc.start()
        try:
            repack_file(tmp_path / "in.h5", tmp_path / "out.h5", memory="1MB", **options)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert 0.5e6 < peak < 1.1e6
    with pytest.raises(MemoryBudgetError, match=r"least that works here is memory=.5MB"):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5", memory="1MB", compression="gzip")


@pytest.mark.parametrize("rewrite", [repack_file, shuffle_file])
def test_room_is_asked_for_first(tmp_path, rewrite):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("X", (10**10, 100), "f4", chunks=(1000, 100))
    os.truncate(tmp_path / "in.h5", 2**32)  # a smaller file would not be believed
    (tmp_path / "out.h5").write_bytes(b"old")
    with pytest.raises(OSError, match=r"4000.0 GB are needed, \d+\.\d GB are free") as error:
        rewrite(tmp_path / "in.h5", tmp_path / "out.h5")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "out.h5"))
    assert (tmp_path / "out.h5").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "out.h5"]


def test_a_file_without_rows(tmp_path):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["scalar"], file["empty"] = 1, h5py.Empty("f4")
    with pytest.raises(DataError, match="no dataset with rows"):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5")
    with pytest.raises(DataError, match="'scalar' has no rows"):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5", rows_of="scalar")


def test_a_damaged_chunk_leaves_the_old_file(tmp_path):
    write_rows(tmp_path / "in.h5", 1000, chunk=100, compression="gzip")
    with h5py.File(tmp_path / "in.h5") as file:
        info = file["X"].id.get_chunk_info(5)
    with open(tmp_path / "in.h5", "r+b") as file:
        file.seek(info.byte_offset)
        file.write(b"\0" * info.size)
    (tmp_path / "out.h5").write_bytes(b"old")
    with pytest.raises(DataError, match=r"in.h5: rows \d+ to \d+ of 'X' cannot be read"):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "out.h5"]


def test_a_file_that_changes_is_refused(tmp_path):
    write_rows(tmp_path / "in.h5", 1000)
    with pytest.raises(DataError, match="has changed while it was read"):
        repack_file(tmp_path / "in.h5", tmp_path / "out.h5", progress=lambda *_: os.utime(tmp_path / "in.h5", (0, 0)))
    assert os.listdir(tmp_path) == ["in.h5"]


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    write_rows(tmp_path / "in.h5", 1000)
    for rewrite in (repack_file, shuffle_file):
        with pytest.raises(KeyboardInterrupt):
            rewrite(tmp_path / "in.h5", tmp_path / "out.h5", progress=interrupt)
    assert os.listdir(tmp_path) == ["in.h5"]
