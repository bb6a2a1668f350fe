"""Accuracy after training on a file that is sorted by label, by how many of its blocks the shuffling window holds.

A linear model and a network, each also on the same rows in memory, which shuffles them whole, and in the order of the
file. Nothing here is timed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from runner import print_table

import fastsgd as fs
from fastsgd.data.loader import Loader

PEERS: tuple[str, ...] = ()
CLASSES, COLUMNS, CHUNK = 10, 20, 4096
CHUNKS, HELD_OUT = 60, 50_000
# Hidden layers, and a learning rate at the upper end of those that do well when rows are shuffled whole.
MODELS: dict[str, tuple[tuple[int, ...], float]] = {"20-10 (linear)": ((), 0.5), "20-64-10": ((64,), 0.2)}
WINDOWS = (1, 2, 5, 10, 20, 30)
EPOCHS, BATCH, SEEDS = 2, 32, 5


def make_rows(rows: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Overlapping clouds around ten centres, in random order."""
    centres = np.random.default_rng(7).standard_normal((CLASSES, COLUMNS)) * 0.75
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    return (centres[labels] + rng.standard_normal((rows, COLUMNS))).astype(np.float32), labels


def write_sorted(path: Path, chunks: int) -> None:
    """Rows sorted by their label."""
    x, labels = make_rows(CHUNK * chunks, 0)
    order = np.argsort(labels, kind="stable")
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=x[order], chunks=(CHUNK, COLUMNS))
        file.create_dataset("y", data=labels[order].astype(np.uint8), chunks=(CHUNK,))


def ways(dataset: fs.Dataset) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings of `fit` by the name of the way."""
    yield "file order", {"memory": "3MB", "shuffle": False}
    for wanted in WINDOWS:
        budget = 1_000_000
        while window_blocks(dataset, budget) < wanted:
            budget += 50_000
        yield str(wanted), {"memory": budget}
    yield "all", {"memory": "1GB"}


def window_blocks(dataset: fs.Dataset, budget: int) -> float:
    """Blocks that the window holds with so many bytes; 0 where they are too few for any."""
    try:
        loader = Loader(dataset, batch_size=BATCH, memory=budget)
    except fs.errors.MemoryBudgetError:
        return 0
    return loader.plan.window_rows / loader.blocks.largest


def accuracy(dataset: fs.Dataset, hidden: tuple[int, ...], rate: float, seed: int, **settings: Any) -> float:
    """Of held-out rows, after some epochs."""
    layers = [*(fs.Dense(units, "relu") for units in hidden), fs.Dense(CLASSES, "softmax")]
    model = fs.Sequential(layers, input_dim=COLUMNS, seed=seed)
    trainer = fs.Trainer(model, fs.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    trainer.fit(dataset, epochs=EPOCHS, batch_size=BATCH, seed=seed, progress=False, **settings)
    return float(trainer.evaluate(make_rows(HELD_OUT, 1))["accuracy"])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train all."""
    import warnings

    warnings.filterwarnings("ignore", message=".* is clustered")  # it is what is shown here
    found: dict[str, dict[str, list[float]]] = {name: {} for name in MODELS}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "sorted.h5"
        write_sorted(path, 36 if options.quick else CHUNKS)
        dataset = fs.HDF5Dataset(path, "X", "y")
        for way, settings in ways(dataset):
            for name, (hidden, rate) in MODELS.items():
                seeds = range(1 if options.quick else SEEDS)
                found[name][way] = [accuracy(dataset, hidden, rate, seed, **settings) for seed in seeds]
    return {
        "rows": CHUNK * CHUNKS,
        "chunk_rows": CHUNK,
        "epochs": EPOCHS,
        "accuracy": {
            name: {way: [round(value, 4) for value in values] for way, values in ways_.items()}
            for name, ways_ in found.items()
        },
    }


def show(content: dict[str, Any]) -> None:
    """Print the means over the seeds, and their share of that of a full shuffle."""
    rows = []
    for name, by_way in content["accuracy"].items():
        means = {way: statistics.mean(values) for way, values in by_way.items()}
        rows += [[f"{name}, {way}", f"{mean:.3f}", f"{mean / means['all']:.1%}"] for way, mean in means.items()]
    print_table(["blocks in the window", "accuracy", "of a full shuffle"], rows)


def complaints(content: dict[str, Any]) -> list[str]:
    """Where 20 blocks in the window do not give 99% of the accuracy of a full shuffle."""
    found = {
        name: statistics.mean(by_way["20"]) / statistics.mean(by_way["all"])
        for name, by_way in content["accuracy"].items()
    }
    return [f"{name}: {share:.1%} with 20 blocks" for name, share in found.items() if share < 0.99]
