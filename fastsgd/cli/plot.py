"""`fastsgd plot`: the learning curve of a run."""

from __future__ import annotations

import os

import click

from fastsgd.cli.options import HISTORY_FILE, common_options, print_json


@click.command(
    "plot",
    short_help="Draw the learning curve of a run.",
    epilog="\b\nExamples:\n  fastsgd plot run\n  fastsgd plot run/history.csv --out curve.svg",
)
@click.argument("run", metavar="RUN")
@click.option(
    "--out",
    metavar="FILE",
    show_default="learning_curve.png in the folder of the run",
    help="The picture to write; its ending says the format: .png, .svg, .pdf.",
)
@common_options
def command(run: str, out: str | None, as_json: bool) -> None:
    """Draw the learning curve of RUN, the folder of a run or its history.csv."""
    from fastsgd.training import History

    folder = run if os.path.isdir(run) else os.path.dirname(run)
    history = History.from_csv(os.path.join(run, HISTORY_FILE) if os.path.isdir(run) else run)
    out = out or os.path.join(folder, "learning_curve.png")
    history.plot(out)
    if as_json:
        print_json(out=out, epochs=len(history.epochs))
    else:
        click.echo(f"wrote {out}", err=True)
