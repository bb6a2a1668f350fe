"""What checkpoints cost: `fit` with none, with those that it writes by itself (at its begin, after 300 seconds, at its
end), and with one a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from runner import print_table, take_turns

import fastsgd as fs

PEERS: tuple[str, ...] = ()
# Layers, rows of the epoch, and rows of a batch: epochs of some seconds, one of few parameters and one of many.
NETWORKS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "10-64-64-1": ((10, 64, 64, 1), 8_000_000, 256),
    "784-512-512-10": ((784, 512, 512, 10), 100_000, 128),
}
WAYS: dict[str, float | None] = {"none": None, "by itself": 300, "one a second": 1}


def _turn(
    layers: tuple[int, ...], x: NDArray[Any], y: NDArray[Any], batch: int, every: float | None, options: Any
) -> Callable[[], Mapping[str, float]]:
    hidden = [fs.Dense(units, "relu") for units in layers[1:-1]]

    def turn() -> Mapping[str, float]:
        model = fs.Sequential([*hidden, fs.Dense(layers[-1])])
        trainer = fs.Trainer(model, fs.SGD(0.001, momentum=0.9), "mse", threads=options.threads)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            checkpoint = None if every is None else fs.Checkpoint(folder, every_seconds=every)
            begin = time.perf_counter()
            trainer.fit((x, y), batch_size=batch, checkpoint=checkpoint, progress=False)
            return {"seconds": time.perf_counter() - begin}

    return turn


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train in all ways, in turns."""
    found = {}
    for name, (layers, rows, batch) in NETWORKS.items():
        count = rows // (200 if options.quick else 1)
        rng = np.random.default_rng(options.seed)
        x = rng.standard_normal((count, layers[0]), dtype=np.float32)
        y = rng.standard_normal((count, layers[-1]), dtype=np.float32)
        turns = {way: _turn(layers, x, y, batch, every, options) for way, every in WAYS.items()}
        turns["none"]()
        measured = take_turns(turns, dict.fromkeys(turns, count), rounds=options.rounds, pause=options.pause)
        found[name] = {
            "contestants": {way: one.to_dict() for way, one in measured.items()},
            "time_over_none": {way: round(measured["none"].ratio_over(one), 4) for way, one in measured.items()},
        }
    return {"networks": found}


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    rows = [[name, *(f"{one['time_over_none'][way]:.3f}" for way in WAYS)] for name, one in content["networks"].items()]
    print_table(["time over none", *WAYS], rows)


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here can disagree."""
    return []
