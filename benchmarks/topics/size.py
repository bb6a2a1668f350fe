"""The time of a row by how many rows a file has: streamed epochs of the seed network with the same memory, from a file
that fits many times to one many times larger.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from runner import print_table, take_turns

import fastsgd as fs

PEERS: tuple[str, ...] = ()
COLUMNS, BATCH, CHUNK = 10, 256, 16_384
ROWS = (100_000, 1_000_000, 10_000_000, 100_000_000)
LEAST = 4_000_000  # rows of a turn: small files take several epochs
MEMORY = "64MB"


def write_file(path: Path, rows: int, seed: int) -> None:
    """Rows of noise and what there is to learn from it."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("X", (rows, COLUMNS), np.float32, chunks=(CHUNK, COLUMNS))
        y = file.create_dataset("y", (rows, 1), np.float32, chunks=(CHUNK, 1))
        for first in range(0, rows, 64 * CHUNK):
            some = rng.standard_normal((min(64 * CHUNK, rows - first), COLUMNS), dtype=np.float32)
            x[first : first + len(some)] = some
            y[first : first + len(some)] = 0.5 * some[:, :1] + 0.25 * some[:, 1:2] * some[:, 2:3]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train on all, in turns."""
    sizes = [rows // (200 if options.quick else 1) for rows in ROWS]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        turns, covered = {}, {}
        for rows in sizes:
            path = Path(folder) / f"{rows}.h5"
            write_file(path, rows, options.seed)
            epochs = max(1, LEAST // (200 if options.quick else 1) // rows)
            turns[str(rows)] = _turn(path, epochs, options.threads)
            covered[str(rows)] = rows * epochs
        measured = take_turns(turns, covered, rounds=options.rounds, pause=options.pause)
    nanoseconds = {name: round(1e9 / one.median_rate, 1) for name, one in measured.items()}
    return {
        "memory": MEMORY,
        "contestants": {name: one.to_dict() for name, one in measured.items()},
        "nanoseconds_a_row": nanoseconds,
    }


def _turn(path: Path, epochs: int, threads: int) -> Callable[[], Mapping[str, float]]:
    def turn() -> Mapping[str, float]:
        layers = [fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)]
        trainer = fs.Trainer(fs.Sequential(layers), fs.SGD(0.01), "mse", threads=threads)
        begin = time.perf_counter()
        dataset = fs.HDF5Dataset(path, "X", "y")
        trainer.fit(dataset, epochs=epochs, batch_size=BATCH, memory=MEMORY, progress=False)
        return {"seconds": time.perf_counter() - begin}

    return turn


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    rows = [[f"{int(name):,}", f"{value:.1f}"] for name, value in content["nanoseconds_a_row"].items()]
    print_table(["rows of the file", "ns a row"], rows)


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here can disagree."""
    return []
