"""`fastsgd convert`: tables of other formats as an HDF5 file."""

from __future__ import annotations

import os

import click

from fastsgd.cli.options import common_options, memory_option, print_json
from fastsgd.cli.rewriting import shown_progress


@click.command(
    "convert",
    short_help="Write CSV, Parquet, NPY or NPZ as HDF5.",
    epilog="\b\nExamples:\n  fastsgd convert table.csv train.h5 -y price --drop id\n"
    "  fastsgd convert 'part*.parquet' train.h5 -y label --categories label",
)
@click.argument("paths", nargs=-1, required=True, metavar="IN...")
@click.argument("out", metavar="OUT.h5")
@click.option("-y", "--target", multiple=True, metavar="COLUMN", help='Goes to dataset "y"; may be repeated.')
@click.option("--weight", metavar="COLUMN", help='Goes to dataset "weight".')
@click.option("--drop", multiple=True, metavar="COLUMN", help="Is left out; may be repeated.")
@click.option(
    "--categories",
    multiple=True,
    metavar="COLUMN",
    help="Text or other values that become numbers, in the order they first come; may be repeated.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "float16"]),
    default="float32",
    show_default=True,
    help="Of all datasets.",
)
@click.option("--no-header", is_flag=True, help="The first row of CSV holds values; columns are named 0, 1, ...")
@click.option("--delimiter", metavar="CHARACTER", help="Of CSV.  [default: a comma; in .tsv, a tab]")
@memory_option("1GB")
@common_options
def command(
    paths: tuple[str, ...],
    out: str,
    target: tuple[str, ...],
    weight: str | None,
    drop: tuple[str, ...],
    categories: tuple[str, ...],
    dtype: str,
    no_header: bool,
    delimiter: str | None,
    memory: str,
    as_json: bool,
) -> None:
    """Write the tables in IN, one after the other, as the HDF5 file OUT.h5.

    IN are files of the same columns, or quoted patterns: .csv, .csv.gz, .tsv, .parquet, .npy or .npz. The columns
    become one dataset "X", but for those that are named otherwise. Missing values become NaN.
    """
    from fastsgd.data import convert_files

    # Else `convert a.csv b.csv`, the output forgotten, would replace a file of data.
    if os.path.splitext(out)[1].lower() not in (".h5", ".hdf5"):
        raise click.BadParameter(f"{out!r} ends in neither .h5 nor .hdf5", param_hint="OUT.h5")
    with shown_progress("converting") as progress:
        found = convert_files(
            list(paths),
            out,
            target=target,
            weight=weight,
            drop=drop,
            categories=categories,
            dtype=dtype,
            header=not no_header,
            delimiter=delimiter,
            memory=memory,
            progress=progress,
        )
    if as_json:
        print_json(**found.to_dict())
        return
    parts = ", ".join(f"{name} ({len(columns)})" for name, columns in found.datasets.items())
    click.echo(f"wrote {found.rows:,} rows of {parts} to {out}", err=True)
    for column, names in found.categories.items():
        click.echo(f"column {column!r}: {len(names):,} categories", err=True)
    for column, count in found.missing.items():
        click.echo(f"column {column!r}: {count:,} missing values are NaN now", err=True)
