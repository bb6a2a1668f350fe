"""Files that are damaged, locked, written to, or need what is not installed: one clear error, or what h5py reads."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_files import write_rows

from fastsgd.data import HDF5Dataset
from fastsgd.data.codecs import SHUFFLE, Filter, undo
from fastsgd.data.compressors import DamagedChunkError
from fastsgd.errors import DataError

SCRIPT = Path(__file__).parents[1] / "scripts" / "flip_bits.py"


def test_damaged_files_are_refused_or_read_as_h5py_reads_them():
    """The short form of scripts/flip_bits.py, of which 100,000 files take some minutes."""
    spec = importlib.util.spec_from_file_location("flip_bits", SCRIPT)
    flip_bits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(flip_bits)
    outcomes, bugs = flip_bits.run(3000, seed=1)
    assert bugs == []
    assert sum(outcomes.values()) == 3000
    assert min(outcomes["read alike"], outcomes["refused"]) > 500


@pytest.mark.parametrize(
    "number", [994, 31368], ids=["a name that is no UTF-8", "a fill value that contradicts itself"]
)
def test_files_that_once_were_bugs(number):
    command = [sys.executable, str(SCRIPT), str(number + 1), "--seed", "2", "--first", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) in ([number, "refused"], [number, "read alike"])


def all_rows(dataset):
    return dataset.take(slice(None)).x


def damaged_chunk(path, content, **options):
    """A file of 100 rows, four chunks, of which the third holds other bytes."""
    with h5py.File(path, "w") as file:
        x = file.create_dataset("X", data=np.arange(300, dtype="f4").reshape(100, 3), chunks=(25, 3), **options)
        x.id.write_direct_chunk((50, 0), content)
    return path


@pytest.mark.parametrize(
    ("options", "content", "part"),
    [
        ({"compression": "gzip"}, b"no gzip at all", "the gzip data of a chunk are damaged"),
        ({"compression": "lzf"}, b"\xff\xff\xff", "the LZF data of a chunk are damaged"),
        ({"fletcher32": True}, bytes(303) + b"x", "the checksum of a chunk is wrong"),
        ({"fletcher32": True}, b"x", "the checksum of a chunk is missing"),
        ({"shuffle": True}, bytes(200), "a chunk has 200 bytes, 300 are needed"),
    ],
    ids=["gzip", "lzf", "checksum", "no checksum", "short"],
)
def test_a_damaged_chunk_is_named(tmp_path, options, content, part):
    dataset = HDF5Dataset(damaged_chunk(tmp_path / "d.h5", content, **options), "X")
    with pytest.raises(DataError, match=r"d\.h5: rows \d+ to \d+ of 'X' cannot be read") as error:
        all_rows(dataset)
    assert part in str(error.value)


def test_a_plugin_sees_no_chunk_that_is_damaged(tmp_path):
    """Of a type that only HDF5 reads, as a damaged one may be: its plugins write beyond their memory, or give what lies
    there."""
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(20)
    for name, content in (("whole", None), ("cut", bytes(40))):
        with h5py.File(tmp_path / name, "w") as file:
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((25, 4))
            plist.set_filter(32015, h5py.h5z.FLAG_MANDATORY, (3,))
            space = h5py.h5s.create_simple((100, 4))
            h5py.h5d.create(file.id, b"X", kind, space, plist)
            file["X"][...] = np.arange(400).reshape(100, 4)
            if content is not None:
                file["X"].id.write_direct_chunk((50, 0), content)
    whole = HDF5Dataset(tmp_path / "whole", "X")
    assert np.array_equal(all_rows(whole), np.arange(400).reshape(100, 4))
    assert "its type in the file" in whole.through_hdf5()[f"{tmp_path / 'whole'}: X"]
    with pytest.raises(DataError, match="the zstd data of a chunk are damaged"):
        all_rows(HDF5Dataset(tmp_path / "cut", "X"))


def test_rows_wider_than_memory_are_refused(tmp_path):
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file.create_dataset("X", (70, 2**40), "f4", chunks=(1, 2**20))  # as a damaged shape may say
    os.truncate(tmp_path / "wide.h5", 2**39)  # a smaller file would not be believed; takes no room
    with pytest.raises(DataError, match=r"take: 70 rows of .*wide\.h5 take 307863\.\d GB, more than there is"):
        HDF5Dataset(tmp_path / "wide.h5", "X").take(slice(None))


def test_a_shuffle_of_nothing_is_damage():
    for values in ((), (0,)):
        with pytest.raises(DamagedChunkError, match="no element size"):
            undo((Filter(SHUFFLE, values),), 0, np.zeros(12, np.uint8), 12)


def test_a_file_that_is_being_written_is_refused(tmp_path):
    path = write_rows(tmp_path / "w.h5", 50)
    code = f"import h5py, sys; file = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); sys.stdin.read()"
    environment = os.environ | {"HDF5_USE_FILE_LOCKING": "TRUE"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(DataError, match=r"another process has it open for writing.*HDF5_USE_FILE_LOCKING=FALSE"):
            HDF5Dataset(path, "X")
        writer.stdin.close()


@pytest.mark.parametrize("change", ["values", "time", "another file"])
def test_a_file_that_changed_between_epochs_is_refused(tmp_path, change):
    path = write_rows(tmp_path / "c.h5", 500, chunk=50)
    dataset = HDF5Dataset(path, "X", "y")
    assert len(list(dataset.batches(100))) == 5
    if change == "values":
        with h5py.File(path, "r+") as file:
            file["X"][7] = 3
    elif change == "time":
        os.utime(path, ns=(1, 1))
    else:
        os.replace(write_rows(tmp_path / "other.h5", 500, chunk=50), path)
    with pytest.raises(DataError, match=r"c\.h5 has changed: it was .*; make the dataset again"):
        list(dataset.batches(100))
    assert len(list(HDF5Dataset(path, "X", "y").batches(100))) == 5
