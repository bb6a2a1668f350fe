"""Training in memory: fastsgd beside the peer libraries, and beside what the machine could do at most.

Every library trains one network from the same weights on the same rows, an epoch a round, all taking turns.
`peers/make_env` makes the environment of the peers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from limits import multiply_add_rate
from peers.step import PEERS, make_problem
from runner import Measured, print_table, run_contestants, write_results

FOLDER = Path(__file__).parent
SUBJECT = "fastsgd"
# Slow libraries get fewer rows, so that a round does not last minutes.
ROWS_DIVISOR = {"keras-fit": 4, "tf-eager": 20}
QUIET = 0.1  # share of the cores that may be busy with something else
LOSS_TOLERANCE = 0.05  # fastsgd shuffles and the peers do not


def useful_operations(layers: Sequence[int]) -> int:
    """Floating-point operations that one row of a training step needs.

    Two for each weight forward, two for its gradient, and two for the gradient of its layer's input, which the first
    layer does not need.
    """
    weights = [m * n for m, n in pairwise(layers)]
    return 4 * sum(weights) + 2 * sum(weights[1:])


def loss_difference(subject: Measured, peer: Measured) -> float | None:
    """Largest relative difference of mean losses over the rounds; None where the two saw different rows."""
    if subject.rows != peer.rows:
        return None
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(subject.losses, peer.losses, strict=True))


def measure(options: argparse.Namespace, layers: Sequence[int], batch: int) -> dict[str, Measured]:
    """Run all contestants at one batch size."""
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder) / "problem.npz"
        np.savez(problem, **make_problem(layers, options.rows, options.seed))
        rows: dict[str, int] = {}
        commands: dict[str, list[str]] = {}
        for name in (SUBJECT, *options.peers):
            rows[name] = max(options.rows // ROWS_DIVISOR.get(name, 1) // batch, 1) * batch
            if name == SUBJECT:
                command = [sys.executable, str(FOLDER / "peers" / "fastsgd_step.py")]
            else:
                command = [str(options.peers_env / "bin" / "python"), str(FOLDER / "peers" / "step.py"), name]
            shape = ["--layers", ",".join(map(str, layers)), "--batch", str(batch), "--rows", str(rows[name])]
            commands[name] = [*command, *shape, "--threads", str(options.threads), "--data", str(problem)]
        return run_contestants(commands, rows, rounds=options.rounds)


def summarize(measured: dict[str, Measured], layers: Sequence[int], limit: float) -> dict[str, Any]:
    """Figures of one batch size by contestant, for the table and for JSON."""
    subject = measured[SUBJECT]
    summary = {}
    for name, one in measured.items():
        difference = loss_difference(subject, one)
        summary[name] = {
            **one.to_dict(),
            "fastsgd_times_faster": round(subject.ratio_over(one), 3),
            "fraction_of_multiply_add_limit": round(one.median_rate * useful_operations(layers) / limit, 4),
            "loss_difference": None if difference is None else round(difference, 5),
        }
    return summary


def print_summary(batch: int, summary: dict[str, Any]) -> None:
    """Print the table of one batch size."""
    rows = []
    for name, figures in summary.items():
        difference = figures["loss_difference"]
        rows.append(
            [
                name,
                f"{figures['median_rows_per_second'] / 1e3:,.1f}",
                "" if name == SUBJECT else f"{figures['fastsgd_times_faster']:.2f} x",
                f"{figures['fraction_of_multiply_add_limit']:.1%}",
                f"{figures['losses'][-1]:.4f}",
                "" if name == SUBJECT or difference is None else f"{difference:.2%}",
            ]
        )
    header = [f"batch {batch}", "thousand rows/s", "fastsgd is faster", "of the limit", "last loss", "loss differs"]
    print_table(header, rows)
    background = statistics.median(share for figures in summary.values() for share in figures["background"])
    if background > QUIET:
        # Not even the ratios hold then: threads that spin at a barrier lose far more than others.
        print(f"Something else kept {background:.0%} of the cores busy: measure again when it has ended.")
    print(flush=True)


def numbers(text: str) -> list[int]:
    """Integers apart by commas."""
    return [int(part) for part in text.split(",")]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-env", type=Path, default=FOLDER.parent / ".venv-peers", help="the peers' environment")
    parser.add_argument("--peers", default=",".join(PEERS), help="apart by commas (default: %(default)s)")
    parser.add_argument("--batch", type=numbers, default=[32, 256, 1024], help="sizes (default: 32,256,1024)")
    parser.add_argument("--layers", type=numbers, default=[10, 64, 64, 1], help="widths (default: 10,64,64,1)")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of an epoch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="for every library (default: all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of data and weights (default: %(default)s)")
    parser.add_argument("--topic", default="step", help="name of the result (default: %(default)s)")
    options = parser.parse_args()
    options.peers = [name for name in options.peers.split(",") if name]
    unknown = sorted(set(options.peers) - set(PEERS))
    if unknown:
        parser.error(f"unknown peers {', '.join(unknown)}; known are {', '.join(PEERS)}")
    if options.peers and not (options.peers_env / "bin" / "python").exists():
        parser.error(f"no environment at {options.peers_env}; make it with peers/make_env, or name it with --peers-env")
    cores = len(os.sched_getaffinity(0))
    options.threads = min(options.threads or cores, cores)
    return options


def main() -> int:
    options = parse_options()
    operations = useful_operations(options.layers)
    # The best of several: a shared machine may be busy at any of these times.
    limit = multiply_add_rate(options.threads)
    measured = {}
    for batch in options.batch:
        measured[batch] = measure(options, options.layers, batch)
        limit = max(limit, multiply_add_rate(options.threads))
    print(f"{options.threads} threads, at most {limit / 1e9:.0f} GFLOP/s; a row takes {operations:,} operations\n")
    results = {}
    for batch in options.batch:
        results[str(batch)] = summarize(measured[batch], options.layers, limit)
        print_summary(batch, results[str(batch)])
    settings = {
        "layers": options.layers,
        "rows": options.rows,
        "rounds": options.rounds,
        "threads": options.threads,
        "seed": options.seed,
    }
    path = write_results(
        options.topic,
        {
            "settings": settings,
            "multiply_add_gflops": round(limit / 1e9, 1),
            "useful_operations_per_row": operations,
            "by_batch": results,
        },
    )
    print(f"written: {path.name}")
    apart = [
        f"{name} at batch {batch}: {figures['loss_difference']:.1%}"
        for batch, summary in results.items()
        for name, figures in summary.items()
        if figures["loss_difference"] is not None and not figures["loss_difference"] <= LOSS_TOLERANCE
    ]
    if apart:
        print(f"losses differ from fastsgd's by more than {LOSS_TOLERANCE:.0%}: {'; '.join(apart)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
