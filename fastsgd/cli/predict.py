"""`fastsgd predict`: a model's outputs for HDF5 files, to HDF5 or CSV, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

import click

from fastsgd.cli.options import (
    common_options,
    data_options,
    memory_option,
    model_file,
    open_dataset,
    open_model,
    print_json,
    threads_option,
)


@click.command(
    "predict",
    short_help="Write the outputs of a model.",
    epilog="\b\nExamples:\n  fastsgd predict run new.h5 -x X --out predictions.h5\n"
    "  fastsgd predict run new.h5 -x X --out predictions.csv",
)
@click.argument("model", metavar="MODEL")
@data_options(target=False)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help='Where to write: .h5 gets a dataset "prediction" (rows, outputs), .csv a header and a line a row.',
)
@click.option("--raw", is_flag=True, help="Leave out the last activation: logits instead of probabilities.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", default=8192, show_default=True, help="Rows at a time."
)
@memory_option("256MB")
@threads_option
@common_options
def command(
    model: str,
    data: tuple[str, ...],
    features: tuple[str, ...],
    nan: str,
    allow_external: bool,
    out: str,
    raw: bool,
    batch_size: int,
    memory: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Write the outputs of MODEL for the rows of DATA, in their order.

    MODEL is a model file or the folder of a run; DATA is one or more HDF5 files, or a quoted pattern like "part*.h5".
    """
    from rich.console import Console
    from rich.progress import Progress

    writer = _WRITERS.get(os.path.splitext(out)[1].lower())
    if writer is None:
        raise click.BadParameter(f"{out!r} ends in neither .h5, .hdf5 nor .csv", param_hint="--out")
    network = open_model(model)
    dataset = open_dataset(data, nan, allow_external, features=features)
    if os.path.realpath(out) in map(os.path.realpath, [*dataset.paths, model_file(model)]):
        raise click.UsageError(f"--out {out} would replace a file that is read; choose another")
    network._require_features(dataset.n_features)
    batches = dataset.batches(batch_size, shuffle=False, memory=memory, dtype=network.dtype)
    console = Console(stderr=True)
    display = Progress(console=console, transient=True, disable=not console.is_interactive)
    try:
        with closing(batches), writer(out, dataset.n_rows, network.n_outputs, network.dtype) as sink, display:
            task = display.add_task("predicting", total=dataset.n_rows)
            for batch in batches:
                sink.write(network.predict(batch[0], batch_size=batch_size, raw=raw, threads=threads))
                display.advance(task, len(batch[0]))
    except KeyboardInterrupt:
        click.echo("fastsgd: stopped; nothing was written", err=True)
        raise
    if as_json:
        print_json(rows=dataset.n_rows, outputs=network.n_outputs, out=out)
    else:
        click.echo(f"wrote {dataset.n_rows:,} rows to {out}", err=True)


class _Sink(Protocol):
    def write(self, rows: Any) -> None: ...


class _HDF5Sink:
    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._at = 0

    def write(self, rows: Any) -> None:
        self._dataset[self._at : self._at + len(rows)] = rows
        self._at += len(rows)


@contextmanager
def _to_hdf5(path: str, rows: int, outputs: int, dtype: Any) -> Iterator[_Sink]:
    """Dataset "prediction" (rows, outputs)."""
    import h5py

    from fastsgd.atomic import replacing

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        yield _HDF5Sink(file.create_dataset("prediction", (rows, outputs), dtype))


class _CSVSink:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, rows: Any) -> None:
        import numpy as np

        # Nine digits give a float32 back exactly, seventeen a float64.
        np.savetxt(self._file, rows, fmt="%.9g" if rows.dtype == np.float32 else "%.17g", delimiter=",")


@contextmanager
def _to_csv(path: str, rows: int, outputs: int, dtype: Any) -> Iterator[_Sink]:
    """A header and a line a row."""
    from fastsgd.atomic import replacing

    header = ["prediction"] if outputs == 1 else [f"prediction_{index}" for index in range(outputs)]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(",".join(header) + "\n")
        yield _CSVSink(file)


_WRITERS: dict[str, Any] = {".h5": _to_hdf5, ".hdf5": _to_hdf5, ".csv": _to_csv}
