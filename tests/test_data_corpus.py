"""Generated files of every kind: what is read past HDF5 is what h5py reads, bit for bit."""

import itertools
import warnings

import h5py
import hdf5plugin
import numpy as np

from fastsgd.data import HDF5Dataset
from fastsgd.data.arrays import storage_dtype

TYPES = ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]
FILTERS = [
    {},
    {"compression": "gzip", "compression_opts": 1},
    {"shuffle": True},
    {"shuffle": True, "compression": "gzip"},
    {"fletcher32": True},
    {"shuffle": True, "compression": "gzip", "fletcher32": True},
    {"compression": "lzf"},
    {"shuffle": True, "compression": "lzf", "fletcher32": True},
]
PLUGINS = [
    {**hdf5plugin.Zstd()},
    {**hdf5plugin.Zstd(), "shuffle": True, "fletcher32": True},
    {**hdf5plugin.LZ4()},
    {**hdf5plugin.LZ4(nbytes=64), "shuffle": True},
    {**hdf5plugin.Blosc()},
    {**hdf5plugin.Blosc(cname="zstd", shuffle=hdf5plugin.Blosc.BITSHUFFLE)},
    {**hdf5plugin.Blosc(cname="zlib", shuffle=hdf5plugin.Blosc.NOSHUFFLE), "shuffle": True},
    {**hdf5plugin.Bitshuffle()},
    {**hdf5plugin.Bitshuffle(nelems=16)},
    {**hdf5plugin.Bitshuffle(cname="zstd"), "fletcher32": True},
    {**hdf5plugin.Bitshuffle(cname="none")},
]
# Rows, columns (None: one axis) and chunks (None: contiguous): edges at the end, on the right, on both and on neither;
# chunks of more rows than there are, of one row, and of one column.
LAYOUTS = [
    (96, 6, (32, 6)),
    (97, 6, (32, 6)),
    (97, 7, (30, 3)),
    (60, 8, (20, 4)),
    (50, 5, (64, 5)),
    (11, 4, (1, 4)),
    (90, 3, (40, 1)),
    (101, None, (25,)),
]
WHOLE = [(97, 6, None), (101, None, None)]
VERSIONS = ["earliest", "v108", "v110", "latest"]


def values(kind, shape, rng):
    """Any bits that make a number; the first third compress well."""
    bits = rng.integers(0, 256, (*shape, np.dtype(kind).itemsize), np.uint8)
    bits[: shape[0] // 3] //= 64
    if kind == "?":
        bits %= 2
    found = bits.view(kind)[..., 0]
    return np.where(np.isfinite(found), found, 1) if found.dtype.kind == "f" else found


def cases():
    numbers = itertools.count()
    for kind, order, options in itertools.product(TYPES, "<>", FILTERS + PLUGINS):
        if np.dtype(kind).itemsize == 1 and order == ">":
            continue
        every = 3 if options in PLUGINS else 2
        for layout in LAYOUTS[next(numbers) % every :: every]:
            yield kind, order, options, layout
        if not options:
            yield from ((kind, order, options, layout) for layout in WHOLE)


def write(path, kind, order, options, layout, number):
    rows, columns, chunks = layout
    shape = (rows,) if columns is None else (rows, columns)
    data = values(kind, shape, np.random.default_rng(number))
    dtype = np.dtype(kind) if kind == "?" else np.dtype(order + kind)
    user_block = {"userblock_size": 512} if number % 7 == 3 else {}
    with h5py.File(path, "w", libver=VERSIONS[number % 4], **user_block) as file:
        maxshape = (None, *shape[1:]) if chunks is not None and (number % 3 == 0 or chunks[0] > rows) else None
        made = file.create_dataset("X", shape, dtype, chunks=chunks, maxshape=maxshape, fillvalue=number % 2, **options)
        if chunks is not None and number % 5 == 4:
            made[rows // 2 :] = data[rows // 2 :]  # the rest is never written
        else:
            made[...] = data
    return dtype


def test_a_corpus_of_files_gives_the_bits_of_h5py(tmp_path):
    count = 0
    for number, case in enumerate(cases()):
        path = tmp_path / "file.h5"
        dtype = write(path, *case, number)
        dataset = HDF5Dataset(path, "X")
        rows = dataset.n_rows
        with h5py.File(path) as file:
            wanted = file["X"][...].reshape(rows, -1).astype(storage_dtype(dtype, "X"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for first, last in ((0, rows), (rows // 3, rows // 3 + 1), (1, rows - 1), (rows - 2, rows)):
                found = dataset.take(slice(first, last)).x
                assert found.dtype == wanted.dtype
                assert found.tobytes() == wanted[first:last].tobytes(), (case, number, first, last)
        assert dataset.through_hdf5() == {}, (case, number)
        count += 1
    assert count >= 300
