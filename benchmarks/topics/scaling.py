"""Training in memory on one thread and more: rows a second by threads, each number in a process of its own."""

from __future__ import annotations

import argparse
from typing import Any

from contest import SUBJECT, command, problem_file, rows_of
from limits import Limits
from runner import print_table, run_contestants
from workloads import choose

PEERS: tuple[str, ...] = ()
SHAPES = ("10-64-64-1/256", "784-512-512-10/1024", "256-2048-2048-256/512", "784-1/256")


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and the most."""
    return sorted({most, *(1 << i for i in range(most.bit_length()) if 1 << i <= most)})


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run every number of threads at every shape."""
    counts = thread_counts(options.threads)
    limits = {str(count): Limits(count, options.repeats).to_dict() for count in counts}
    found = {}
    for chosen in choose(options.only or SHAPES):
        workload = chosen.quick() if options.quick else chosen
        names = [(name, count) for name in (SUBJECT, *options.peers) for count in counts]
        with problem_file(workload, options.seed) as problem:
            commands = {f"{name} {count}": command(name, workload, problem, options, count) for name, count in names}
            rows = {f"{name} {count}": rows_of(name, workload) * workload.epochs for name, count in names}
            measured = run_contestants(commands, rows, rounds=options.rounds, pause=options.pause)
        found[workload.name] = {
            **workload.to_dict(),
            "contestants": {
                name: {
                    str(count): {
                        **measured[f"{name} {count}"].to_dict(),
                        "times_one_thread": round(measured[f"{name} {count}"].ratio_over(measured[f"{name} 1"]), 3),
                    }
                    for count in counts
                }
                for name in (SUBJECT, *options.peers)
            },
        }
    return {"limits": limits, "workloads": found}


def show(content: dict[str, Any]) -> None:
    """Print a table a workload."""
    for name, one in content["workloads"].items():
        rows = [
            [
                f"{contestant}, threads: {count}",
                f"{figures['median_rows_per_second'] / 1e3:,.1f}",
                f"{figures['times_one_thread']:.2f} x",
            ]
            for contestant, by_count in one["contestants"].items()
            for count, figures in by_count.items()
        ]
        print_table([name, "thousand rows/s", "of one thread"], rows)
        print()


def complaints(content: dict[str, Any]) -> list[str]:
    """Where fastsgd's losses are not the same bits for every number of threads."""
    return [
        f"{name}: losses differ between numbers of threads"
        for name, one in content["workloads"].items()
        if len({tuple(figures["losses"]) for figures in one["contestants"][SUBJECT].values()}) > 1
    ]
