"""Contestants of a workload: a process for each library, all trained on the same problem in turns."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from runner import Measured, run_contestants
from workloads import Workload, make_problem

LEARN = Path(__file__).parent / "peers" / "learn.py"
SUBJECT = "fastsgd"
PEERS = ("jax-scan", "jax-step", "torch", "torch-compile", "keras-fit", "keras-tuned", "tf-eager", "sklearn")
FILE_PEERS = ("torch-rows", "torch-chunks", "sklearn-chunks", "vw")
# What a step takes in these whatever its size would make a turn last minutes: they get fewer rows.
MOST_STEPS = {
    "jax-step": 20_000,
    "torch": 5_000,
    "torch-compile": 5_000,
    "keras-fit": 2_000,
    "keras-tuned": 2_000,
    "sklearn": 500,
    "tf-eager": 250,
    "torch-rows": 40,
    "vw": 500,
}
MOST_ROWS = {"torch-rows": 20_000}  # read one by one
LOSS_TOLERANCE = 0.05  # fastsgd shuffles and the peers do not


def rows_of(name: str, workload: Workload) -> int:
    """Rows of an epoch that a library gets."""
    most = min(MOST_STEPS.get(name, sys.maxsize), max(1, MOST_ROWS.get(name, sys.maxsize) // workload.batch))
    return min(workload.rows // workload.batch, most) * workload.batch


@contextmanager
def problem_file(workload: Workload, seed: int) -> Iterator[Path]:
    """A file with data and start weights, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, **make_problem(workload, seed))  # type: ignore[arg-type]
        yield path


def command(name: str, workload: Workload, problem: Path, options: argparse.Namespace, threads: int) -> list[str]:
    """What starts a library on a problem."""
    python = sys.executable if name.startswith(SUBJECT) else str(options.peers_env / "bin" / "python")
    settings = {
        "data": problem,
        "batch": workload.batch,
        "rows": rows_of(name, workload),
        "epochs": workload.epochs,
        "threads": threads,
        "loss": workload.loss,
        "learning-rate": workload.learning_rate,
    }
    return [python, str(LEARN), name, *(f"--{key}={value}" for key, value in settings.items())]


def contest(workload: Workload, options: argparse.Namespace) -> dict[str, Measured]:
    """Let fastsgd and the peers take turns at a workload."""
    names = (SUBJECT, *options.peers)
    with problem_file(workload, options.seed) as problem:
        commands = {name: command(name, workload, problem, options, options.threads) for name in names}
        rows = {name: rows_of(name, workload) * workload.epochs for name in names}
        return run_contestants(commands, rows, rounds=options.rounds, pause=options.pause)


def loss_difference(subject: Measured, peer: Measured) -> float | None:
    """Relative difference of the losses at the end; None where the two saw different rows."""
    if subject.rows != peer.rows:
        return None
    return abs(subject.losses[-1] - peer.losses[-1]) / max(abs(peer.losses[-1]), 1e-12)


def summarize(measured: Mapping[str, Measured], workload: Workload, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of one workload by contestant, for tables and for JSON."""
    subject = measured[SUBJECT]
    summary = {}
    for name, one in measured.items():
        difference = loss_difference(subject, one)
        flops, read = one.median_rate * workload.operations_per_row, one.median_rate * workload.bytes_per_row
        summary[name] = {
            **one.to_dict(),
            "fastsgd_times_faster": round(subject.ratio_over(one), 3),
            "gflops": round(flops / 1e9, 2),
            "fraction_of_multiply_add_limit": round(flops / 1e9 / limits["multiply_add_gflops"], 4),
            "fraction_of_read_limit": round(read / 1e9 / limits["read_gbytes"], 4),
            "loss_difference": None if difference is None else round(difference, 5),
        }
    return summary
