"""The reader alone on files that are not in the page cache, blocks in random order as training takes them and in the
order of the file, beside `preadv` of the file from its first byte to its last: the disk's sequential rate.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from runner import print_table, take_turns

import fastsgd as fs
from fastsgd.data.loader import Loader
from topics.read import COLUMNS, read_all, read_plainly, write_file

PEERS: tuple[str, ...] = ()
FORMATS: dict[str, tuple[dict[str, Any], int]] = {"contiguous": ({}, 2**31), "chunked": ({"chunks": True}, 2**31)}


def evict(path: Path) -> None:
    """Bring a file to the disk and out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def turns_of(path: Path, threads: int) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Each reads all there is from the disk."""

    def reader(order: np.ndarray[Any, Any]) -> Mapping[str, float]:
        evict(path)
        begin = time.perf_counter()
        dataset = fs.HDF5Dataset(path, "X")
        loader = Loader(dataset, batch_size=256, shuffle=False, memory=dataset.nbytes // 4, threads=threads)
        read_all(dataset, loader, (loader.blocks[index] for index in order))
        return {"seconds": time.perf_counter() - begin}

    def plain() -> Mapping[str, float]:
        evict(path)
        begin = time.perf_counter()
        read_plainly(path)
        return {"seconds": time.perf_counter() - begin}

    blocks = len(fs.HDF5Dataset(path, "X").blocks())
    shuffled = np.random.default_rng(0).permutation(blocks)
    return {"in order": partial(reader, np.arange(blocks)), "shuffled": partial(reader, shuffled), "preadv": plain}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all at every format."""
    found = {}
    for name, (settings, nbytes) in FORMATS.items():
        rows = nbytes // (4 * COLUMNS) // (64 if options.quick else 1)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "rows.h5"
            write_file(path, settings, rows, options.seed)
            turns = turns_of(path, options.threads)
            measured = take_turns(turns, dict.fromkeys(turns, rows), rounds=options.rounds, pause=options.pause)
        found[name] = {
            "rows": rows,
            "columns": COLUMNS,
            "contestants": {way: one.to_dict() for way, one in measured.items()},
            "gbytes": {way: round(one.median_rate * 4 * COLUMNS / 1e9, 3) for way, one in measured.items()},
            "in_order_over_preadv": round(measured["in order"].ratio_over(measured["preadv"]), 3),
            "shuffled_over_preadv": round(measured["shuffled"].ratio_over(measured["preadv"]), 3),
        }
    return {"formats": found}


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    rows = [
        [
            name,
            *(f"{one['gbytes'][way]:.2f}" for way in ("in order", "shuffled", "preadv")),
            f"{one['in_order_over_preadv']:.2f}",
            f"{one['shuffled_over_preadv']:.2f}",
        ]
        for name, one in content["formats"].items()
    ]
    print_table(["GB/s from the disk", "in order", "shuffled", "preadv", "in order/preadv", "shuffled/preadv"], rows)


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here can disagree."""
    return []
