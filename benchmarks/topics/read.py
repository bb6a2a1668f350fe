"""The reader alone, all rows of a file in the page cache block by block, beside slices through h5py of the same rows
and beside `preadv` of the file's bytes into one buffer.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from limits import PIECE_BYTES
from runner import print_table, take_turns

import fastsgd as fs
from fastsgd.data.blocks import Block
from fastsgd.data.loader import Loader
from fastsgd.kernels.sharing import keep_threads

PEERS: tuple[str, ...] = ()
COLUMNS = 32
CHUNK_BYTES = 2**20
# Options of `create_dataset`, and bytes of values; the values are small whole numbers, which compress as measured
# tables do (about 3.5 times with gzip and shuffle). Without filters 4 GB take a fifth of a second; what half a gigabyte
# took was for the most part the time in which idle cores wake.
FORMATS: dict[str, tuple[dict[str, Any], int]] = {
    "contiguous": ({}, 2**32),
    "chunked": ({"chunks": True}, 2**32),
    "gzip + shuffle": ({"chunks": True, "shuffle": True, "compression": "gzip", "compression_opts": 1}, 2**27),
    "lzf + shuffle": ({"chunks": True, "shuffle": True, "compression": "lzf"}, 2**27),
    "blosc": ({"chunks": True, **hdf5plugin.Blosc()}, 2**28),
    "zstd": ({"chunks": True, **hdf5plugin.Zstd()}, 2**27),
    "bitshuffle": ({"chunks": True, **hdf5plugin.Bitshuffle()}, 2**28),
}


def write_file(path: Path, options: Mapping[str, Any], rows: int, seed: int) -> None:
    """A file of float32 rows, just written and so in the page cache."""
    chunk = CHUNK_BYTES // (4 * COLUMNS)
    options = {**options, "chunks": (chunk, COLUMNS)} if options else {}
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("X", (rows, COLUMNS), np.float32, **options)
        for first in range(0, rows, chunk):
            x[first : first + chunk] = rng.integers(0, 500, (min(chunk, rows - first), COLUMNS)) / 8


def read_all(dataset: fs.HDF5Dataset, loader: Loader, blocks: Iterable[Block]) -> None:
    """All rows, in the order of some blocks."""
    with keep_threads(), dataset.open(loader.decoders()) as reader:
        rows = sum(len(rows.x) for rows in loader.read(reader, blocks))
    assert rows == dataset.n_rows


def read_plainly(path: Path) -> None:
    """The bytes of a file, from the first to the last, into one buffer."""
    piece = bytearray(PIECE_BYTES)
    descriptor = os.open(path, os.O_RDONLY)
    for start in range(0, os.fstat(descriptor).st_size, PIECE_BYTES):
        os.preadv(descriptor, [piece], start)
    os.close(descriptor)


def turns_of(path: Path, threads: int) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Each reads all there is, with a quarter of it as memory."""
    dataset = fs.HDF5Dataset(path, "X")
    loader = Loader(dataset, batch_size=256, shuffle=False, memory=max(dataset.nbytes // 4, 8_000_000), threads=threads)

    def reader() -> Mapping[str, float]:
        begin = time.perf_counter()
        read_all(dataset, loader, loader.blocks)
        return {"seconds": time.perf_counter() - begin}

    def slices() -> Mapping[str, float]:
        begin = time.perf_counter()
        with h5py.File(path) as file:
            x = file["X"]
            for first in range(0, len(x), dataset.unit_rows()):
                x[first : first + dataset.unit_rows()]
        return {"seconds": time.perf_counter() - begin}

    def plain() -> Mapping[str, float]:
        begin = time.perf_counter()
        read_plainly(path)
        return {"seconds": time.perf_counter() - begin}

    reader()
    return {"fastsgd": reader, "h5py": slices, "preadv": plain}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all at every format."""
    found = {}
    for name, (settings, nbytes) in FORMATS.items():
        rows = nbytes // (4 * COLUMNS) // (16 if options.quick else 1)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "rows.h5"
            write_file(path, settings, rows, options.seed)
            turns = turns_of(path, options.threads)
            measured = take_turns(turns, dict.fromkeys(turns, rows), rounds=options.rounds, pause=options.pause)
            stored = path.stat().st_size
        gbytes = {way: one.median_rate * 4 * COLUMNS / 1e9 for way, one in measured.items()}
        found[name] = {
            "rows": rows,
            "columns": COLUMNS,
            "stored_over_values": round(stored / (rows * 4 * COLUMNS), 3),
            "contestants": {way: one.to_dict() for way, one in measured.items()},
            "gbytes": {way: round(rate, 2) for way, rate in gbytes.items()},
            "times_h5py": round(measured["fastsgd"].ratio_over(measured["h5py"]), 3),
            "times_preadv": round(measured["fastsgd"].ratio_over(measured["preadv"]), 3),
        }
    return {"formats": found}


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    rows = [
        [
            name,
            *(f"{one['gbytes'][way]:.2f}" for way in ("fastsgd", "h5py", "preadv")),
            f"{one['times_h5py']:.2f}",
            f"{one['times_preadv']:.2f}",
        ]
        for name, one in content["formats"].items()
    ]
    print_table(["GB/s of values", "fastsgd", "h5py", "preadv of the file", "over h5py", "over preadv"], rows)


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here can disagree."""
    return []
