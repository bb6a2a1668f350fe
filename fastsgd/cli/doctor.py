"""`fastsgd doctor`: what fastsgd finds on this machine, what that is worth, and what would be better."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

from fastsgd.cli.options import common_options, print_json


@click.command(
    "doctor",
    short_help="Tell what fastsgd finds on this machine.",
    epilog="\b\nExamples:\n  fastsgd doctor\n  fastsgd doctor --json > machine.json",
)
@common_options
def command(as_json: bool) -> None:
    """Tell what fastsgd finds on this machine, how fast it can be here, and what to change for better.

    Measures for about a second; what else runs on the machine lowers the figures.
    """
    from fastsgd.cli.findings import advice, findings

    with _shown_while_measuring(as_json):
        found = findings()
    hints = advice(found)
    if as_json:
        print_json(**found, advice=hints)
    else:
        _print(found, hints)


def _shown_while_measuring(as_json: bool) -> AbstractContextManager[Any]:
    if as_json or sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("measuring")


def _print(found: dict[str, Any], hints: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # only a terminal has a width to fit
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for section, rows in _sections(found).items():
        table.add_row(Text(section, style="bold"), "")
        for name, value in rows.items():
            table.add_row(Text(f"  {name}"), Text(value))
    table.add_row(Text("advice", style="bold"), "" if hints else Text("none; all is well", style="green"))
    with console.capture() as capture:
        console.print(table)
        for hint in hints:
            line = Table.grid(padding=(0, 1))
            line.add_row(Text("  !", style="bold yellow"), Text(hint))
            console.print(line)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _sections(found: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What is found, in words: sections of a name and a value a line."""
    from fastsgd.data.plan import as_bytes

    processor, threads, kernels, memory = (found[name] for name in ("processor", "threads", "kernels", "memory"))
    limits = ", ".join(f"{name} {count}" for name, count in threads["limits"].items())
    tile = f"{processor['tile_rows']} rows of {processor['tile_vectors']} vectors of {processor['vector_bytes']} bytes"
    sections = {
        "versions": {name: version or "not there" for name, version in found["versions"].items()},
        "processor": {
            "name": processor["name"],
            "instructions used": ", ".join(processor["instruction_sets"]) or "the common ones alone",
            "register tile": tile if kernels["compiled"] else "none",
        },
        "threads": {
            "threads": f"{threads['default']}, by {threads['set_by']}",
            "limits": limits,
            "threading layer": threads["layer"] or "none",
            "waiting": ", ".join(f"{name}={value}" for name, value in threads["waiting"].items())
            or "as OpenMP does by default",
        },
    }
    if found["speed"]:
        gflops, gbytes = found["speed"]["multiply_add_gflops"], found["speed"]["read_gbytes"]
        sections["speed at most"] = {
            "float32 multiply-adds": "; ".join(f"{_threads(n)}: {rate} Gflop/s" for n, rate in gflops.items()),
            "reading memory": "; ".join(f"{_threads(n)}: {rate} GB/s" for n, rate in gbytes.items()),
        }
    ready = [f"{name} {'ready' if is_ready else 'not yet'}" for name, is_ready in kernels["training_ready"].items()]
    sections["compiled kernels"] = {
        "kept in": kernels["folder"] or "nowhere",
        "training, float32": ", ".join(ready) or "not compiled",
    }
    limit = memory["cgroup_limit"]
    sections["memory"] = {
        "available": "unknown" if memory["available"] is None else as_bytes(memory["available"]),
        "cgroup limit": "none" if limit is None else as_bytes(limit),
    }
    return sections


def _threads(count: str) -> str:
    return "1 thread" if count == "1" else f"{count} threads"
