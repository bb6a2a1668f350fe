"""Training from one uncompressed HDF5 file in the page cache, each library as its users would.

fastsgd streams it through a shuffling window with a quarter of the file as memory. PyTorch draws rows at random through
a `DataLoader`, or shuffles chunk by chunk. scikit-learn and Vowpal Wabbit train the logistic model, the latter from a
cache file of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import h5py
from contest import FILE_PEERS, command, rows_of
from runner import print_table, run_contestants
from workloads import LOGISTIC, Workload, choose, make_problem

PEERS = FILE_PEERS
SUBJECT = "fastsgd-file"
LINEAR_PEERS = ("sklearn-chunks", "vw")
CHUNK_BYTES = 2**19
SUITE = (
    Workload((10, 64, 64, 1), 256, 8_000 * 256),
    Workload((10, 50, 50, 1), 10_000, 400 * 10_000),
    Workload((28, 1), 256, 10_000 * 256, LOGISTIC, 0.05),
)


def write_file(path: Path, workload: Workload, seed: int) -> None:
    """The workload's rows and start weights, just written and so in the page cache."""
    rows = min(max(CHUNK_BYTES // workload.bytes_per_row, 1), workload.rows)
    with h5py.File(path, "w") as file:
        for name, values in make_problem(workload, seed).items():
            chunks = (rows, values.shape[1]) if name in ("X", "y") else None
            file.create_dataset(name, data=values, chunks=chunks)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Let all that can take turns at each model."""
    found = {}
    for chosen in choose(options.only, SUITE):
        workload = chosen.quick() if options.quick else chosen
        peers = [name for name in options.peers if (name in LINEAR_PEERS) == workload.reads_bound]
        names = [SUBJECT, *peers]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "rows.h5"
            write_file(path, workload, options.seed)
            commands = {name: command(name, workload, path, options, options.threads) for name in names}
            rows = {name: rows_of(name, workload) for name in names}
            measured = run_contestants(commands, rows, rounds=options.rounds, pause=options.pause)
        found[workload.name] = {
            **workload.to_dict(),
            "contestants": {
                name: {
                    **one.to_dict(),
                    "fastsgd_times_faster": round(measured[SUBJECT].ratio_over(one), 3),
                }
                for name, one in measured.items()
            },
        }
    return {"workloads": found}


def show(content: dict[str, Any]) -> None:
    """Print a table."""
    rows = [
        [
            f"{name} {peer}",
            f"{one['median_rows_per_second'] / 1e3:,.1f}",
            f"{one['fastsgd_times_faster']:.2f}",
            f"{one['losses'][0]:.4f}",
            f"{one['losses'][-1]:.4f}",
        ]
        for name, workload in content["workloads"].items()
        for peer, one in workload["contestants"].items()
    ]
    print_table(["from a file", "thousand rows/s", "fastsgd faster", "first loss", "last"], rows)


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here must agree: each sees other rows, or in another order."""
    return []
