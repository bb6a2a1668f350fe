"""`model.predict` on arrays beside whole training epochs of the same model, each as a share of the arithmetic limit."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

from limits import Limits
from runner import print_table, take_turns
from workloads import Workload, choose, forward_operations, make_problem

import fastsgd as fs

PEERS: tuple[str, ...] = ()


def turns_of(workload: Workload, options: argparse.Namespace) -> dict[str, Callable[[], Mapping[str, float]]]:
    """One call of `predict` and one of `fit`, over the same rows, both warm."""
    problem = make_problem(workload, options.seed)
    x, y = problem["X"], problem["y"]
    hidden: list[fs.model.Layer] = [fs.Dense(width, "relu") for width in workload.layers[1:-1]]
    model = fs.Sequential([*hidden, fs.Dense(workload.layers[-1])], input_dim=workload.layers[0])
    trainer = fs.Trainer(model, fs.SGD(workload.learning_rate), workload.loss, threads=options.threads)

    def predict() -> Mapping[str, float]:
        begin = time.perf_counter()
        model.predict(x, threads=options.threads)
        return {"seconds": time.perf_counter() - begin}

    def fit() -> Mapping[str, float]:
        begin = time.perf_counter()
        history = trainer.fit((x, y), batch_size=workload.batch, progress=False)
        return {"seconds": time.perf_counter() - begin, "loss": history.epochs[-1]["loss"]}

    predict(), fit()
    return {"predict": predict, "fit": fit}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both at every workload."""
    limits = Limits(options.threads, options.repeats)
    measured = {}
    for chosen in choose(options.only):
        workload = chosen.quick() if options.quick else chosen
        turns = turns_of(workload, options)
        measured[workload] = take_turns(
            turns, dict.fromkeys(turns, workload.rows), rounds=options.rounds, pause=options.pause
        )
        limits.measure()
    found = limits.to_dict()
    rows = {}
    for workload, both in measured.items():
        operations = {"predict": forward_operations(workload.layers), "fit": workload.operations_per_row}
        rows[workload.name] = {
            name: {
                **one.to_dict(),
                "operations_per_row": operations[name],
                "fraction_of_multiply_add_limit": round(
                    one.median_rate * operations[name] / 1e9 / found["multiply_add_gflops"], 4
                ),
                "fraction_of_read_limit": round(
                    one.median_rate * workload.bytes_per_row / 1e9 / found["read_gbytes"], 4
                ),
            }
            for name, one in both.items()
        }
    return {"limits": found, "workloads": rows}


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    rows = [
        [
            workload,
            *(
                cell
                for name in ("predict", "fit")
                for cell in (
                    f"{both[name]['median_rows_per_second'] / 1e3:,.1f}",
                    f"{both[name]['fraction_of_multiply_add_limit']:.1%}",
                )
            ),
        ]
        for workload, both in content["workloads"].items()
    ]
    print_table(["thousand rows/s", "predict", "of the limit", "fit", "of the limit"], rows)


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here can disagree."""
    return []
