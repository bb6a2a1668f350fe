"""fastsgd in float64 beside fastsgd in float32."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from contest import SUBJECT, command, problem_file
from runner import print_table, run_contestants
from workloads import choose

PEERS: tuple[str, ...] = ()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both at every workload."""
    found = {}
    for single in choose(options.only):
        base = single.quick() if options.quick else single
        double = replace(base, dtype="float64")
        with problem_file(base, options.seed) as first, problem_file(double, options.seed) as second:
            commands = {
                "float32": command(SUBJECT, base, first, options, options.threads),
                "float64": command(SUBJECT, double, second, options, options.threads),
            }
            rows = dict.fromkeys(commands, base.rows * base.epochs)
            measured = run_contestants(commands, rows, rounds=options.rounds, pause=options.pause)
        found[base.name] = {
            **{name: one.to_dict() for name, one in measured.items()},
            "float64_over_float32": round(measured["float64"].ratio_over(measured["float32"]), 3),
        }
        print(f"{base.name}: {found[base.name]['float64_over_float32']:.2f}", flush=True)
    return {"workloads": found}


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    rows = [
        [
            name,
            *(f"{one[dtype]['median_rows_per_second'] / 1e3:,.1f}" for dtype in ("float32", "float64")),
            f"{one['float64_over_float32']:.2f}",
        ]
        for name, one in content["workloads"].items()
    ]
    print_table(["thousand rows/s", "float32", "float64", "ratio"], rows)


def complaints(content: dict[str, Any]) -> list[str]:
    """Where the losses of both are not alike."""
    return [
        f"{name}: float64 ends at loss {one['float64']['losses'][-1]}, float32 at {one['float32']['losses'][-1]}"
        for name, one in content["workloads"].items()
        if abs(one["float64"]["losses"][-1] / one["float32"]["losses"][-1] - 1) > 0.01
    ]
