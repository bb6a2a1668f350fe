"""Files of some kilobytes that claim what no machine has: one clear error, before it is allocated or gone through."""

import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from fastsgd.cli import run
from fastsgd.data import HDF5Dataset, repack_file, shuffle_file
from fastsgd.data.inspection import inspect_file, inspect_table
from fastsgd.errors import DataError, FastSGDError

ROOM = 2 << 30  # that a test may take, beside what it has
ENDLESS = h5py.h5s.UNLIMITED
SHAPES = {
    "rows": ((2**60,), (2**20,)),
    "rows of one byte": ((2**63 - 1,), (2**31,)),
    "rows, no chunks": ((2**60,), None),
    "chunks": ((2**40, 3), (1, 3)),
    "columns": ((7, 2**58), (1, 2**20)),
    "columns and chunks": ((7, 2**40), (1, 1)),
}


@pytest.fixture(autouse=True)
def _little_memory():
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def write(path, shape, chunk=None, *, kind=h5py.h5t.IEEE_F32LE, name=b"X", plist=None, limits=None):
    """A dataset of which nothing was written."""
    plist = plist or h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk is not None:
        plist.set_chunk(chunk)
    with h5py.File(path, "a") as file:
        h5py.h5d.create(file.id, name, kind, h5py.h5s.create_simple(shape, limits), plist)
    return path


def refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize("kind", SHAPES)
def test_more_than_a_file_can_hold(tmp_path, kind, capsys):
    type_ = h5py.h5t.STD_U8LE if "byte" in kind else h5py.h5t.IEEE_F32LE
    path = write(tmp_path / "a.h5", *SHAPES[kind], kind=type_)
    said = r"claims \d+\.\d GB of values, and its files have \d\.\d kB, which hold 274\.9 GB at most"
    refused(lambda: HDF5Dataset(path, "X"), said)
    for rewrite in (shuffle_file, repack_file):
        refused(lambda rewrite=rewrite: rewrite(path, tmp_path / "out.h5"), said)
    refused(lambda: repack_file(path, tmp_path / "out.h5", compression="gzip"), said)
    assert inspect_file(path)[0].shape == SHAPES[kind][0]
    assert run(["inspect", str(path)]) == 0
    assert run(["inspect", str(path), "-x", "X"]) == 1
    assert "which hold 274.9 GB at most" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["a.h5"]


def test_what_a_file_may_claim_is_read(tmp_path):
    """A quarter of a terabyte in a kilobyte, as of a dataset that is still to be filled."""
    dataset = HDF5Dataset(write(tmp_path / "a.h5", (2**32, 15), (2**14, 15)), "X")
    [x] = next(dataset.batches(100, memory="64MB"))
    assert not x.any()
    refused(
        lambda: dataset.take(slice(None)), r"take: slice\(None, None, None\) of 4294967296 rows of .* are more than"
    )
    assert inspect_table(dataset, memory="64MB").rows == 2**32


def test_several_files_and_columns_count_together(tmp_path):
    for name in (b"X", b"y"):
        write(tmp_path / "a.h5", (2**35 + 1,), (2**20,), name=name)
    HDF5Dataset(tmp_path / "a.h5", "X")
    refused(lambda: HDF5Dataset(tmp_path / "a.h5", "X", "y"), "what is to be read, 'X', 'y', claims")


@pytest.mark.parametrize("act", ["train", "take", "inspect", "shuffle", "repack"])
def test_a_chunk_larger_than_memory(tmp_path, act):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((2**30 - 1,))
    plist.set_deflate(1)
    path = write(tmp_path / "a.h5", (100,), limits=(ENDLESS,), plist=plist)
    with h5py.File(path, "r+") as file:
        file["X"].id.write_direct_chunk((0,), b"no four gigabytes")
    acts = {
        "train": lambda: next(HDF5Dataset(path, "X").batches(10)),
        "take": lambda: HDF5Dataset(path, "X").take(2),
        "inspect": lambda: inspect_table(HDF5Dataset(path, "X")),
        "shuffle": lambda: shuffle_file(path, tmp_path / "out.h5"),
        "repack": lambda: repack_file(path, tmp_path / "out.h5"),
    }
    with pytest.raises(FastSGDError, match=r"the least that works|cannot be read"):
        acts[act]()


def test_rows_of_gigabytes(tmp_path):
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 2**31 - 1)
    kind.insert(b"a", 0, h5py.h5t.IEEE_F32LE)
    refused(lambda: HDF5Dataset(write(tmp_path / "a.h5", (2**31,), kind=kind), "X::a"), "claims")
    path = write(tmp_path / "b.h5", (5,), (1,), kind=kind)
    with pytest.raises(FastSGDError, match="the least that works"):
        next(HDF5Dataset(path, "X::a").batches(2))
    assert inspect_file(path)[0].nbytes == 5 * (2**31 - 1)


def test_types_within_types(tmp_path):
    kind = h5py.h5t.IEEE_F32LE
    for _ in range(400):
        outer = h5py.h5t.create(h5py.h5t.COMPOUND, 4)
        outer.insert(b"a", 0, kind)
        kind = outer
    path = write(tmp_path / "a.h5", (5,), kind=kind)
    refused(lambda: HDF5Dataset(path, "X::a"), "dataset 'X::a' holds")
    for act in (lambda: inspect_file(path), lambda: repack_file(path, tmp_path / "out.h5")):
        refused(act, "a.h5' cannot be listed")


def test_groups_within_groups(tmp_path):
    """h5py opens each by its whole name: to list a file of two megabytes took a minute."""
    for depth, path in ((1500, tmp_path / "a.h5"), (3000, tmp_path / "b.h5")):
        with h5py.File(path, "w") as file:
            group = file
            for _ in range(depth):
                group = group.create_group("g")
            group["X"], file["y"] = np.ones(5), np.ones(5)
            group["up"] = file["g"]
    name = "g/" * 1500 + "X"
    assert [report.path for report in inspect_file(tmp_path / "a.h5")] == [name, "y"]
    assert len(HDF5Dataset(tmp_path / "a.h5", name)) == len(HDF5Dataset(tmp_path / "b.h5", "y")) == 5
    said = r"b\.h5: a name has more than 4096 characters, 'g/g/g"
    for act in (
        lambda: inspect_file(tmp_path / "b.h5"),
        lambda: HDF5Dataset(tmp_path / "b.h5", "X"),
        lambda: HDF5Dataset(tmp_path / "b.h5", "g"),
        lambda: repack_file(tmp_path / "b.h5", tmp_path / "out.h5"),
    ):
        refused(act, said)


def virtual(path, name, sources, rows):
    """A dataset of so many rows from each source."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for number, source in enumerate(sources):
        space, whole = h5py.h5s.create_simple((rows * len(sources),)), h5py.h5s.create_simple((rows,))
        space.select_hyperslab((rows * number,), (rows,))
        plist.set_virtual(space, b".", source, whole)
    return write(path, (rows * len(sources),), name=name, plist=plist)


def test_sources_of_sources_that_multiply(tmp_path):
    """Of 2**30 ways down; HDF5 would go them all for a single row."""
    path = write(tmp_path / "a.h5", (1,), name=b"30")
    with h5py.File(path, "r+") as file:
        file["30"][...] = 1
    for depth in range(29, -1, -1):
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        for _ in range(2):
            space = h5py.h5s.create_simple((1,))
            plist.set_virtual(space, b".", b"%d" % (depth + 1), space)
        write(path, (1,), name=b"%d" % depth, plist=plist)
    refused(lambda: HDF5Dataset(path, "0"), "draws on others, and these on others, more than 131072 times")
    assert len(HDF5Dataset(path, "20")) == 1
    assert sum(report.problem is not None for report in inspect_file(path)) == 14


def test_virtual_and_external_rows_without_end(tmp_path):
    path = write(tmp_path / "a.h5", (2**50,), (2**20,), name=b"source")
    virtual(path, b"X", [b"source"], 2**50)
    refused(lambda: HDF5Dataset(path, "X"), "claims")
    refused(lambda: repack_file(path, tmp_path / "out.h5"), "claims")
    (tmp_path / "raw").write_bytes(bytes(100))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_external(str(tmp_path / "raw").encode(), 0, ENDLESS)
    refused(lambda: HDF5Dataset(write(tmp_path / "b.h5", (2**60,), plist=plist), "X"), "cut short: it has 100 bytes")
