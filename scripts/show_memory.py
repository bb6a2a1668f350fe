"""Train from a file many times larger than the memory budget, and show how far the process grows.

Makes the file if it is not there (`--size 2GB`), trains on it, and exits with 1 if the process grew by more than
`--limit` MiB. Memory is what the kernel counts for the process, mapped files not included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

import fastsgd as fs
from fastsgd.data.plan import parse_memory


def resident() -> int:
    """Bytes of memory of this process that belong to no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


class Peak:
    """Samples the process's memory every few milliseconds."""

    def __init__(self) -> None:
        self.largest = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.largest = max(self.largest, resident())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()


def trainer(features: int) -> fs.Trainer:
    """The seed network."""
    layers = [fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)]
    return fs.Trainer(fs.Sequential(layers, input_dim=features), fs.SGD(0.01), "mse")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="an HDF5 file with X and y; made if missing")
    parser.add_argument("--size", default="2GB", help="of a file that is made (default: 2GB)")
    parser.add_argument("--memory", default="128MB", help="budget (default: 128MB)")
    parser.add_argument("--limit", type=float, default=160, help="MiB that the process may grow by (default: 160)")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = options.file or Path(folder) / "teacher.h5"
        if not path.exists():
            maker = Path(__file__).with_name("make_teacher.py")
            subprocess.run([sys.executable, str(maker), str(path), "--size", options.size], check=True)
        dataset = fs.HDF5Dataset(path, "X", "y")
        # Compiled code and libraries are loaded before the measurement: they are not data. The workspace of a
        # million-row slab would be, so the small run streams as the large one does.
        small = fs.ArrayDataset(np.zeros((4096, dataset.n_features)), np.zeros(4096))
        trainer(dataset.n_features).fit(small, batch_size=256)
        next(dataset.batches(256, memory=options.memory))
        before = resident()
        with Peak() as peak:
            history = trainer(dataset.n_features).fit(
                dataset, epochs=options.epochs, batch_size=256, memory=options.memory, progress=True
            )
        grown = (peak.largest - before) / 2**20
        size, budget = os.path.getsize(path), parse_memory(options.memory)
        print(f"file {size / 1e9:.2f} GB, budget {budget / 1e6:.0f} MB, loss {history.epochs[-1]['loss']:.4g}")
        print(f"the process grew by {grown:.0f} MiB (limit {options.limit:.0f})")
        return int(grown > options.limit)


if __name__ == "__main__":
    sys.exit(main())
