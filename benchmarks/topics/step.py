"""Training in memory: fastsgd beside the peer libraries, and beside what the machine could do at most."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import contest
from contest import LOSS_TOLERANCE, SUBJECT, summarize
from contest import contest as run_contest
from limits import Limits
from runner import print_table
from workloads import choose

PEERS = contest.PEERS
QUIET = 0.1  # share of the cores that may be busy with something else


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all contestants at every workload."""
    workloads = choose(options.only)
    if options.quick:
        workloads = [workload.quick() for workload in workloads]
    limits = Limits(options.threads, options.repeats)
    measured = {}
    for workload in workloads:
        measured[workload] = run_contest(workload, options)
        limits.measure()
        # At once, so that a long run that breaks off has shown something; the limits may yet rise a little.
        show_workload(workload.name, summarize(measured[workload], workload, limits.to_dict()))
    found = limits.to_dict()
    return {
        "limits": found,
        "workloads": {
            workload.name: {**workload.to_dict(), "contestants": summarize(turns, workload, found)}
            for workload, turns in measured.items()
        },
    }


def show(content: dict[str, Any]) -> None:
    """Print how near to the limits fastsgd comes; the tables were printed as they were made."""
    limits = content["limits"]
    print(
        f"{limits['threads']} threads: at most {limits['multiply_add_gflops']} GFLOP/s, "
        f"{limits['read_gbytes']} GB/s from memory, {limits['page_cache_gbytes']} GB/s from the page cache"
    )
    for name, one in content["workloads"].items():
        figures = one["contestants"][SUBJECT]
        kind = "read" if one["reads_bound"] else "multiply_add"
        print(f"  {name}: {figures[f'fraction_of_{kind}_limit']:.1%} of the {kind.replace('_', '-')} limit")


def show_workload(name: str, summary: dict[str, Any]) -> None:
    """Print the table of one workload."""
    rows = []
    for contestant, figures in summary.items():
        difference = figures["loss_difference"]
        rows.append(
            [
                contestant,
                f"{figures['median_rows_per_second'] / 1e3:,.1f}",
                "" if contestant == SUBJECT else f"{figures['fastsgd_times_faster']:.2f} x",
                f"{figures['fraction_of_multiply_add_limit']:.1%}",
                f"{figures['fraction_of_read_limit']:.1%}",
                f"{figures['losses'][0]:.4f}",
                f"{figures['losses'][-1]:.4f}",
                "" if contestant == SUBJECT or difference is None else f"{difference:.2%}",
            ]
        )
    header = [name, "thousand rows/s", "fastsgd faster", "of arithmetic", "of reading", "first loss", "last", "differs"]
    print_table(header, rows)
    background = statistics.median(share for figures in summary.values() for share in figures["background"])
    if background > QUIET:
        # Not even the ratios hold then: threads that spin at a barrier lose far more than others.
        print(f"Something else kept {background:.0%} of the cores busy: measure again when it has ended.")
    print(flush=True)


def complaints(content: dict[str, Any]) -> list[str]:
    """The contestants whose losses are not fastsgd's."""
    return [
        f"{contestant} at {name}: its loss differs from fastsgd's by {figures['loss_difference']:.1%}"
        for name, one in content["workloads"].items()
        for contestant, figures in one["contestants"].items()
        if figures["loss_difference"] is not None and not figures["loss_difference"] <= LOSS_TOLERANCE
    ]
