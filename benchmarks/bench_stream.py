"""A streamed epoch beside the same epoch in memory, whole `fit()` calls in turns, from an uncompressed file in the page
cache; and how long training waited for rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from runner import write_results

import fastsgd as fs


def write_file(path: Path, rows: int, features: int) -> None:
    """An uncompressed file of random rows in chunks of 8192, written and so in the page cache."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("X", (rows, features), "f4", chunks=(8192, features))
        y = file.create_dataset("y", (rows, 1), "f4", chunks=(8192, 1))
        for start in range(0, rows, 1 << 17):
            block = rng.standard_normal((min(rows - start, 1 << 17), features), dtype=np.float32)
            x[start : start + len(block)] = block
            y[start : start + len(block)] = block[:, :1] * 0.5 + 0.1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each epoch, streamed and in memory, round by round."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "rows.h5"
        write_file(path, options.rows, options.layers[0])
        dataset = fs.HDF5Dataset(path, "X", "y")
        contestants = {
            "memory": (dataset.take(options.rows), None),
            "streamed": (dataset, max(dataset.nbytes // 4, 8_000_000)),
        }
        trainers = {}
        for name in contestants:
            layers: list[fs.model.Layer] = [fs.Dense(units, "relu") for units in options.layers[1:-1]]
            model = fs.Sequential([*layers, fs.Dense(options.layers[-1])])
            trainers[name] = fs.Trainer(model, fs.SGD(0.01), "mse")
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        waited: list[float] = []
        for turn in range(options.rounds + 1):
            for name, (data, memory) in contestants.items():
                record = trainers[name].fit(data, batch_size=options.batch, memory=memory, seed=turn).epochs[0]
                if turn:  # the first round warms up
                    seconds[name].append(record["seconds"])
                    if name == "streamed":
                        waited.append(record["waited"] / record["seconds"])
    pairs = zip(seconds["streamed"], seconds["memory"], strict=True)
    return {
        "layers": options.layers,
        "batch": options.batch,
        "rows": options.rows,
        "seconds": seconds,
        "streamed_over_memory": statistics.median(streamed / memory for streamed, memory in pairs),
        "share_waited": statistics.median(waited),
    }


def numbers(text: str) -> list[int]:
    """A list of numbers like 10,64,64,1."""
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=numbers, default=[10, 64, 64, 1])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=".", help="where the file is made (default: here)")
    options = parser.parse_args(arguments)
    found = measure(options)
    rates = {name: options.rows / statistics.median(times) for name, times in found["seconds"].items()}
    print("  ".join(f"{name}: {rate:,.0f} rows/s" for name, rate in rates.items()))
    print(f"streamed over memory: {found['streamed_over_memory']:.2f}; waited {found['share_waited']:.0%} of the epoch")
    write_results("stream", found)


if __name__ == "__main__":
    main()
