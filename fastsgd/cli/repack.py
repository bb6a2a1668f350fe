"""`fastsgd repack`: an HDF5 file stored for streaming."""

from __future__ import annotations

import click

from fastsgd.cli.options import allow_external_option, common_options, memory_option
from fastsgd.cli.rewriting import report_rewritten, rows_of_option, shown_progress


@click.command(
    "repack",
    short_help="Write a file stored for streaming.",
    epilog="\b\nExamples:\n  fastsgd repack packed.h5 fast.h5\n"
    "  fastsgd repack train.h5 small.h5 --compression gzip --dtype float32",
)
@click.argument("path", metavar="IN")
@click.argument("out", metavar="OUT")
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "lzf"]),
    default="none",
    show_default=True,
    help="Of the chunks, their bytes shuffled first. None is read about six times as fast as gzip.",
)
@click.option(
    "--level", type=click.IntRange(1, 9), metavar="N", default=1, show_default=True, help="Of gzip: 1 is fastest."
)
@click.option(
    "--chunk-rows",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="about 1 MiB; without compression, no chunks",
    help="Rows of a chunk.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="Store wider floating-point rows in this.")
@rows_of_option
@allow_external_option
@memory_option("1GB")
@common_options
def command(
    path: str,
    out: str,
    compression: str,
    level: int,
    chunk_rows: int | None,
    dtype: str | None,
    rows_of: str | None,
    allow_external: bool,
    memory: str,
    as_json: bool,
) -> None:
    """Write the HDF5 file IN to OUT, its rows stored so that training reads them fast: in chunks of whole rows, or
    contiguous and uncompressed, which is fastest.

    The datasets with the most bytes that have one number of rows are stored anew; all else is copied as it is.
    """
    from fastsgd.data import repack_file

    with shown_progress("repacking") as progress:
        found = repack_file(
            path,
            out,
            compression=compression,
            level=level,
            chunk_rows=chunk_rows,
            dtype=dtype,
            memory=memory,
            rows_of=rows_of,
            allow_external=allow_external,
            progress=progress,
        )
    report_rewritten(found, as_json)
