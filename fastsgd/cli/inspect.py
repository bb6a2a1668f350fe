"""`fastsgd inspect`: what an HDF5 file holds, and how its columns would be read in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fastsgd.cli.options import (
    allow_external_option,
    common_options,
    memory_option,
    open_dataset,
    print_json,
    print_table,
    threads_option,
)

if TYPE_CHECKING:
    from fastsgd.data.inspection import DatasetReport, TableReport


@click.command(
    "inspect",
    short_help="List what an HDF5 file holds.",
    epilog="\b\nExamples:\n  fastsgd inspect train.h5\n  fastsgd inspect train.h5 -x X -y y --memory 512MB",
)
@click.argument("file", metavar="FILE")
@click.option("-x", "--features", multiple=True, metavar="PATH", help="Describe training on these features too.")
@click.option("-y", "--target", multiple=True, metavar="PATH", help="With these targets.")
@memory_option("1GB")
@threads_option
@allow_external_option
@common_options
def command(
    file: str,
    features: tuple[str, ...],
    target: tuple[str, ...],
    memory: str,
    threads: int | None,
    allow_external: bool,
    as_json: bool,
) -> None:
    """List the datasets of an HDF5 file: shape, type, chunks, filters, bytes, and bytes as stored in the file.

    With --features: how many rows are read at once, how many of such blocks the shuffling window holds, how fast some
    of them came, how long an epoch takes at that rate, and how clustered the targets are.
    """
    from fastsgd.data.inspection import inspect_file, inspect_table

    if target and not features:
        raise click.UsageError("--target goes with --features")
    datasets = inspect_file(file, allow_external=allow_external)
    table = None
    if features:
        dataset = open_dataset((file,), "error", allow_external, features=features, target=target)
        table = inspect_table(dataset, memory=memory, threads=threads)
    if as_json:
        about = {} if table is None else {"table": table.to_dict()}
        print_json(file=file, datasets=[entry.to_dict() for entry in datasets], **about)
        return
    _print_datasets(file, datasets)
    if table is not None:
        _print_training(table)


def _print_datasets(file: str, found: list[DatasetReport]) -> None:
    from fastsgd.data.plan import as_bytes

    rows: list[tuple[str, ...]] = [("dataset", "shape", "type", "chunks", "filters", "bytes", "stored")]
    for entry in found:
        shape, chunks = "x".join(map(str, entry.shape)), "x".join(map(str, entry.chunks or ())) or entry.layout
        kind = "compound" if entry.dtype.startswith(("[", "{")) else entry.dtype
        sizes = as_bytes(entry.nbytes), as_bytes(entry.stored_bytes)
        rows.append((entry.path, shape or "scalar", kind, chunks, " ".join(entry.filters) or "none", *sizes))
    click.echo(f"{file}: {len(found)} dataset{'' if len(found) == 1 else 's'}")
    if found:
        print_table(rows, right=("shape", "chunks", "bytes", "stored"))
    for entry in found:
        if entry.problem:
            click.echo(f"{entry.path!r} cannot be trained on: {entry.problem}")


def _print_training(table: TableReport) -> None:
    from fastsgd.data.plan import as_bytes

    window = "all rows, read once" if table.whole else f"{table.window_rows:,} rows, {table.window_blocks:.1f} blocks"
    rows: list[tuple[str, ...]] = [
        ("training on it", ""),
        ("rows", f"{table.rows:,}, {as_bytes(table.nbytes)}"),
        ("columns", f"features {table.features}, targets {table.targets}"),
        ("read at once", f"{table.block_rows:,} rows, in {table.blocks:,} blocks"),
        ("memory", table.plan.partition(":")[0].removeprefix("memory ")),
        ("held to shuffle", window),
        ("reading", f"{as_bytes(table.bytes_per_second)}/s in a sample, so {table.epoch_seconds:.3g} s an epoch"),
    ]
    if table.clustering is not None:
        rows.append(("clustering", f"{table.clustering:.0%} of the target's variance lies between blocks"))
    click.echo("")
    print_table(rows)
    for name, why in table.through_hdf5.items():
        click.echo(f"{name} is read through HDF5, which is slower: {why}")
    if table.advice:
        click.echo(table.advice)
