"""Compressed chunks: what each library is given, and what is done without the extra."""

import struct
import subprocess
import sys
import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest

from fastsgd.data import HDF5Dataset
from fastsgd.data.compressors import BITSHUFFLE, BLOSC, DEFLATE, LZ4, LZF, ZSTD, DamagedChunkError, decompress
from fastsgd.data.inspection import inspect_file

ROWS = np.round(np.random.default_rng(0).standard_normal((500, 6)), 2).astype("f4")
KINDS = {
    "zstd": (ZSTD, hdf5plugin.Zstd()),
    "lz4": (LZ4, hdf5plugin.LZ4(nbytes=4096)),
    "blosc": (BLOSC, hdf5plugin.Blosc()),
    "bitshuffle": (BITSHUFFLE, hdf5plugin.Bitshuffle(nelems=512)),
    "bitshuffle_zstd": (BITSHUFFLE, hdf5plugin.Bitshuffle(nelems=512, cname="zstd")),
    "bitshuffle_none": (BITSHUFFLE, hdf5plugin.Bitshuffle(cname="none")),
    "gzip": (DEFLATE, {"compression": "gzip"}),
    "lzf": (LZF, {"compression": "lzf"}),
}


def stored(path, options):
    """A chunk as it stands in the file, and the filter's parameters."""
    with h5py.File(path, "w") as file:
        x = file.create_dataset("X", data=ROWS, chunks=ROWS.shape, **options)
        number, _, values, _ = x.id.get_create_plist().get_filter(0)
        return np.frombuffer(x.id.read_direct_chunk((0, 0))[1], np.uint8), number, values


def whole_or_none(number, values, data):
    """The bytes, where they are as many as asked for: fewer are damage to whoever asked."""
    try:
        found = decompress(number, values, data, ROWS.nbytes)
    except DamagedChunkError:
        return None
    return found if len(found) == ROWS.nbytes else None


@pytest.mark.parametrize("kind", KINDS)
def test_cut_or_lengthened_data_are_damage(tmp_path, kind):
    number, options = KINDS[kind]
    data, found, values = stored(tmp_path / "c.h5", options)
    assert found == number
    assert decompress(number, values, data, ROWS.nbytes).tobytes() == ROWS.tobytes()
    for wrong in (data[: len(data) // 2], data[:9], data[:0]):
        assert whole_or_none(number, values, wrong) is None
    with pytest.raises(DamagedChunkError):
        decompress(number, values, data, ROWS.nbytes - 24)


def test_a_blosc_header_that_tells_of_more_than_there_is_reaches_no_library(tmp_path):
    data, number, values = stored(tmp_path / "c.h5", hdf5plugin.Blosc())
    for at, value in ((4, 10**9), (12, len(data) + 1)):
        wrong = data.copy()
        wrong[at : at + 4] = np.frombuffer(struct.pack("<I", value), np.uint8)
        with pytest.raises(DamagedChunkError, match=r"the header tells of \d+ bytes in \d+"):
            decompress(number, values, wrong, ROWS.nbytes)


def test_elements_of_a_table_are_bitshuffled_by_their_size(tmp_path):
    dtype = np.dtype([("a", "f4"), ("b", "i8"), ("c", "u1")])
    table = np.zeros(1003, dtype)
    table["a"], table["b"] = np.arange(1003), np.arange(1003)[::-1] * 10**9
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("T", data=table, chunks=(200,), **hdf5plugin.Bitshuffle())
    dataset = HDF5Dataset(tmp_path / "t.h5", ["T::a", "T::b"])
    found = dataset.take(slice(None)).x
    np.testing.assert_array_equal(found, np.column_stack([table["a"], table["b"]]))
    assert dataset.through_hdf5() == {}


def test_without_the_extra_hdf5_reads_and_gzip_is_slower(tmp_path):
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file.create_dataset("X", data=ROWS, chunks=(100, 6), **hdf5plugin.Zstd())
        file.create_dataset("y", data=ROWS[:, 0], chunks=(100,), compression="gzip")
    code = f"""
import sys
sys.modules["imagecodecs"] = None
from fastsgd.data import HDF5Dataset
dataset = HDF5Dataset({str(tmp_path / "z.h5")!r}, "X", "y")
rows = dataset.take(slice(None))
print(rows.x.sum().item(), rows.y.sum().item(), dataset.through_hdf5())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sums = f"{ROWS.sum().item()} {ROWS[:, 0].sum().item()} "
    assert done.stdout.startswith(sums)
    assert "z.h5: X': \"its filter zstd needs what pip install 'fastsgd[codecs]' brings\"}" in done.stdout
    assert "z.h5: y" not in done.stdout


def test_what_only_hdf5_knows_is_said(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("X", data=(ROWS * 100).astype("i4"), chunks=(100, 6), scaleoffset=0)
        file.create_dataset("b", data=ROWS, chunks=(100, 6), **hdf5plugin.Blosc2())
    for name, filter_name in (("X", "scaleoffset"), ("b", "blosc2")):
        dataset = HDF5Dataset(tmp_path / "s.h5", name)
        dataset.take(5)
        assert list(dataset.through_hdf5().values()) == [f"its filter {filter_name} is known to HDF5 only"]
    assert [report.filters for report in inspect_file(tmp_path / "s.h5")] == [["scaleoffset"], ["blosc2"]]


def test_zlib_says_as_libdeflate_what_is_damaged():
    whole = zlib.compress(b"x" * 1000)
    for data in (whole[:-1], whole[:-4] + b"1234"):
        with pytest.raises(DamagedChunkError, match="the gzip data of a chunk are damaged"):
            decompress(DEFLATE, (), np.frombuffer(data, np.uint8), 1000)
