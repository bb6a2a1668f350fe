"""Streamed epochs beside the same epochs in memory, from an uncompressed file in the page cache, with a quarter of the
file as memory; some streamed in the order of the file; and how long training waited.

Several epochs are fitted in turns. Those after the first count: that one opens the file and takes the window's memory
from the system, as data in memory were loaded before the clock starts. How long it took is told beside them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
from limits import Limits
from runner import print_table, take_turns
from workloads import Workload, choose, make_problem

import fastsgd as fs

PEERS: tuple[str, ...] = ()
# The second to last has the rows of keras#6298, where Keras took twelve times as long from a file as in memory.
SUITE = (
    *choose(["10-64-64-1/256"]),
    Workload((28, 64, 64, 1), 256, 8_000 * 256),
    Workload((10, 50, 50, 1), 10_000, 2_000 * 10_000),
    *choose(["784-1/256"]),
)
LEAST_MEMORY = 8_000_000
EPOCHS = 3  # of a fit
CHUNK_BYTES = 2**19


def write_file(path: Path, workload: Workload, seed: int) -> None:
    """An uncompressed file of the workload's rows, just written and so in the page cache."""
    problem = make_problem(workload, seed)
    rows = min(max(CHUNK_BYTES // workload.bytes_per_row, 1), workload.rows)
    with h5py.File(path, "w") as file:
        for name in ("X", "y"):
            file.create_dataset(name, data=problem[name], chunks=(rows, problem[name].shape[1]))


def turns_of(
    workload: Workload, path: Path, streamed: list[list[dict[str, Any]]], threads: int
) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Epochs in memory and streamed; the figures of the latter's epochs are added to `streamed`."""
    dataset = fs.HDF5Dataset(path, "X", "y")

    def turn(data: fs.Dataset, memory: int | None, shuffle: bool = True) -> Callable[[], Mapping[str, float]]:
        hidden: list[fs.model.Layer] = [fs.Dense(units, "relu") for units in workload.layers[1:-1]]
        model = fs.Sequential([*hidden, fs.Dense(workload.layers[-1])])
        trainer = fs.Trainer(model, fs.SGD(workload.learning_rate), workload.loss, threads=threads)

        def fit() -> Mapping[str, float]:
            epochs = trainer.fit(
                data, epochs=EPOCHS, batch_size=workload.batch, memory=memory, shuffle=shuffle, progress=False
            ).epochs
            if memory is not None and shuffle:
                streamed.append(epochs)
            return {"seconds": sum(one["seconds"] for one in epochs[1:]), "loss": epochs[-1]["loss"]}

        fit()
        return fit

    memory = max(dataset.nbytes // 4, LEAST_MEMORY)
    return {
        "memory": turn(dataset.take(workload.rows), None),
        "streamed": turn(dataset, memory),
        "unshuffled": turn(dataset, memory, False),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both at every shape."""
    limits = Limits(options.threads, options.repeats).to_dict()
    found = {}
    for chosen in choose(options.only, SUITE):
        workload = chosen.quick() if options.quick else chosen
        streamed: list[list[dict[str, Any]]] = []
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "rows.h5"
            write_file(path, workload, options.seed)
            turns = turns_of(workload, path, streamed, options.threads)
            rows = dict.fromkeys(turns, (EPOCHS - 1) * workload.rows)
            measured = take_turns(turns, rows, rounds=options.rounds, pause=options.pause)
        in_memory = measured["memory"].median_rate / workload.rows  # epochs a second
        later = [one for epochs in streamed[1:] for one in epochs[1:]]
        gbytes = measured["streamed"].median_rate * workload.bytes_per_row / 1e9
        found[workload.name] = {
            **workload.to_dict(),
            "contestants": {name: one.to_dict() for name, one in measured.items()},
            "streamed_over_memory": round(measured["memory"].ratio_over(measured["streamed"]), 3),
            "streamed_over_unshuffled": round(measured["unshuffled"].ratio_over(measured["streamed"]), 3),
            "first_streamed_over_memory": round(_seconds(epochs[0] for epochs in streamed[1:]) * in_memory, 3),
            "share_waited": round(statistics.median(one["waited"] / one["seconds"] for one in later), 3),
            "streamed_gbytes": round(gbytes, 2),
            "fraction_of_page_cache_limit": round(gbytes / limits["page_cache_gbytes"], 4),
        }
    return {"limits": limits, "workloads": found}


def _seconds(epochs: Iterable[dict[str, Any]]) -> float:
    return statistics.median(float(one["seconds"]) for one in epochs)


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    rows = [
        [
            name,
            *(f"{one['contestants'][way]['median_rows_per_second'] / 1e3:,.1f}" for way in ("memory", "streamed")),
            f"{one['streamed_over_memory']:.2f}",
            f"{one['first_streamed_over_memory']:.2f}",
            f"{one['streamed_over_unshuffled']:.2f}",
            f"{one['share_waited']:.0%}",
            f"{one['fraction_of_page_cache_limit']:.0%}",
        ]
        for name, one in content["workloads"].items()
    ]
    print_table(
        [
            *("thousand rows/s", "memory", "streamed", "times as long", "the first epoch", "as unshuffled", "waited"),
            "of the page cache",
        ],
        rows,
    )


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here can disagree."""
    return []
