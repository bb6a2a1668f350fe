"""`fastsgd shuffle`: the rows of an HDF5 file in random order."""

from __future__ import annotations

import click

from fastsgd.cli.options import allow_external_option, common_options, memory_option
from fastsgd.cli.rewriting import report_rewritten, rows_of_option, shown_progress


@click.command(
    "shuffle",
    short_help="Write a file with its rows in random order.",
    epilog="\b\nExamples:\n  fastsgd shuffle sorted.h5 shuffled.h5\n"
    "  fastsgd shuffle sorted.h5 shuffled.h5 --memory 8GB --seed 1",
)
@click.argument("path", metavar="IN")
@click.argument("out", metavar="OUT")
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Draws the order of the rows."
)
@rows_of_option
@allow_external_option
@memory_option("1GB")
@common_options
def command(
    path: str, out: str, seed: int, rows_of: str | None, allow_external: bool, memory: str, as_json: bool
) -> None:
    """Write the HDF5 file IN with its rows in random order to OUT.

    Each row is as likely at each place. The datasets with the most bytes that have one number of rows are shuffled, all
    alike, and stored uncompressed; all else is copied as it is. Data that fit in the budget take one pass, others two.
    For a file that is sorted, or has few chunks, this is better than what shuffling in training can do.
    """
    from fastsgd.data import shuffle_file

    with shown_progress("shuffling") as progress:
        found = shuffle_file(
            path, out, seed=seed, memory=memory, rows_of=rows_of, allow_external=allow_external, progress=progress
        )
    report_rewritten(found, as_json)
