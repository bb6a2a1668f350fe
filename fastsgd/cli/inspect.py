"""`fastsgd inspect`: what an HDF5 file holds."""

from __future__ import annotations

import click

from fastsgd.cli.options import common_options, print_json, print_table


@click.command("inspect")
@click.argument("file")
@common_options
def command(file: str, as_json: bool) -> None:
    """List the datasets of FILE: shape, type, chunks, filters, bytes."""
    from fastsgd.data.inspection import inspect_file
    from fastsgd.data.plan import as_bytes

    found = inspect_file(file)
    if as_json:
        print_json(file=file, datasets=[entry.to_dict() for entry in found])
        return
    rows: list[tuple[str, ...]] = [("dataset", "shape", "type", "chunk rows", "filters", "bytes", "stored")]
    for entry in found:
        shape = " x ".join(map(str, entry.shape)) or "scalar"
        chunk = str(entry.chunks[0]) if entry.chunks else "contiguous"
        sizes = (as_bytes(entry.nbytes), as_bytes(entry.stored_bytes))
        rows.append((entry.path, shape, entry.dtype, chunk, ", ".join(entry.filters) or "none", *sizes))
    click.echo(file)
    print_table(rows)
    for entry in found:
        if entry.problem is not None:
            click.echo(f"{entry.path} cannot be trained on: {entry.problem}")
