"""`fastsgd inspect`: what an HDF5 file holds."""

from __future__ import annotations

import click

from fastsgd.cli.options import common_options, print_json, print_table


@click.command(
    "inspect",
    short_help="List what an HDF5 file holds.",
    epilog="\b\nExample:\n  fastsgd inspect train.h5",
)
@click.argument("file", metavar="FILE")
@common_options
def command(file: str, as_json: bool) -> None:
    """List the datasets of an HDF5 file: shape, type, chunks, filters, bytes, and bytes as stored in the file."""
    from fastsgd.data.inspection import inspect_file
    from fastsgd.data.plan import as_bytes

    found = inspect_file(file)
    if as_json:
        print_json(file=file, datasets=[entry.to_dict() for entry in found])
        return
    rows: list[tuple[str, ...]] = [("dataset", "shape", "type", "chunks", "filters", "bytes", "stored")]
    for entry in found:
        shape, chunks = "x".join(map(str, entry.shape)), "x".join(map(str, entry.chunks or ())) or "contiguous"
        kind = "compound" if entry.dtype.startswith(("[", "{")) else entry.dtype
        sizes = as_bytes(entry.nbytes), as_bytes(entry.stored_bytes)
        rows.append((entry.path, shape or "scalar", kind, chunks, " ".join(entry.filters) or "none", *sizes))
    click.echo(f"{file}: {len(found)} dataset{'' if len(found) == 1 else 's'}")
    if found:
        print_table(rows, right=("shape", "chunks", "bytes", "stored"))
    for entry in found:
        if entry.problem:
            click.echo(f"{entry.path!r} cannot be trained on: {entry.problem}")
