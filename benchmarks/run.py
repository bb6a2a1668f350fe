"""Measure topics: `run.py step predict`, or `run.py all`. Each topic's figures go to `results/<topic>.json`.

Runs of all workloads at full size are kept; those that are `--quick`, or of some workloads `--only`, go to
`results/local`, which Git ignores. `report.py` then writes the README's section and draws the plots.
`peers/make_env` makes the environment of the peers.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from contest import FILE_PEERS, PEERS
from limits import REPEATS
from runner import MIN_ROUNDS, PAUSE_SECONDS, RESULTS, write_results
from workloads import WORKLOADS, choose

TOPICS = (
    "step", "read", "cold", "stream", "size", "file", "shuffle", "scaling", "start", "predict", "dtype", "checkpoint",
)  # fmt: skip


def names(text: str) -> list[str]:
    """Names apart by commas."""
    return [part for part in text.split(",") if part]


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "topics", nargs="+", choices=[*TOPICS, "all"], metavar="TOPIC", help=", ".join(TOPICS) + ", all"
    )
    parser.add_argument("--only", type=names, default=[], help="workloads like 10-64-64-1/256, or networks; by commas")
    parser.add_argument("--quick", action="store_true", help="few rows: to see that all works and losses agree")
    parser.add_argument("--peers", type=names, help="by commas, '' for none (default: the topic's own)")
    default = Path(__file__).parents[1] / ".venv-peers"
    parser.add_argument("--peers-env", type=Path, default=default, help="the peers' environment (default: .venv-peers)")
    parser.add_argument("--threads", type=int, help="for every library (default: all cores)")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help="at least 5 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data and weights (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="for the files of the topics read, stream and file (default: the temporary one)"
    )
    parser.add_argument("--out", type=Path, help="for the results")
    options = parser.parse_args(arguments)
    known = (*PEERS, *FILE_PEERS)
    if unknown := sorted(set(options.peers or ()) - set(known)):
        parser.error(f"unknown peers {', '.join(unknown)}; known are {', '.join(known)}")
    options.topics = list(TOPICS) if "all" in options.topics else options.topics
    try:
        for topic in options.topics:
            choose(options.only, getattr(importlib.import_module(f"topics.{topic}"), "SUITE", WORKLOADS))
    except ValueError as error:
        parser.error(str(error))
    if options.rounds < MIN_ROUNDS:
        parser.error(f"--rounds is {options.rounds}; a median needs at least {MIN_ROUNDS}")
    cores = len(os.sched_getaffinity(0))
    options.all_cores = options.threads is None or options.threads >= cores
    options.threads = cores if options.all_cores else options.threads
    options.repeats = 1 if options.quick else REPEATS
    options.pause = 0.02 if options.quick else PAUSE_SECONDS
    if options.out is None:
        options.out = RESULTS / "local" if options.quick or options.only else RESULTS
    return options


def touch_memory() -> None:
    """Touch memory that the contestants will be given.

    A virtual machine may get memory from its host only when that is first touched: 8 microseconds a page where we
    measured, and 50 times less from then on. Whoever happens to be given such pages would pay for it.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    free = np.empty(os.sysconf("SC_AVPHYS_PAGES") * page // 2, np.uint8)
    free[::page] = 1


def run_topic(topic: str, options: argparse.Namespace) -> list[str]:
    """Measure, show and write one topic; returns what is wrong with it."""
    module = importlib.import_module(f"topics.{topic}")
    options = argparse.Namespace(**vars(options))
    options.peers = list(module.PEERS) if options.peers is None else options.peers
    if options.peers and not (options.peers_env / "bin" / "python").exists():
        raise SystemExit(
            f"run.py: no environment at {options.peers_env}; make it with peers/make_env, name it with --peers-env, "
            "or go without: --peers ''"
        )
    content = module.measure(options)
    module.show(content)
    settings = {key: getattr(options, key) for key in ("threads", "rounds", "seed", "quick", "only", "peers")}
    name = topic if options.all_cores else f"{topic}_threads_{options.threads}"
    path = write_results(name, {"settings": settings, **content}, options.out)
    print(f"written: {path.name}\n", flush=True)
    return [f"{topic}: {complaint}" for complaint in module.complaints(content)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the topics; 1 if something disagrees that should not."""
    options = parse_options(arguments)
    if not options.quick:
        touch_memory()
    wrong = [complaint for topic in options.topics for complaint in run_topic(topic, options)]
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
