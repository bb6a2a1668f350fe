"""`fastsgd predict`: a model's outputs for HDF5 files, to HDF5 or CSV, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click
import numpy as np

from fastsgd.cli.options import common_options, data_options, open_dataset, open_model, print_json


@click.command("predict")
@click.argument("model")
@data_options(target=False)
@click.option("--out", required=True, metavar="FILE", help="predictions.h5, or predictions.csv.")
@click.option("--raw", is_flag=True, help="Leave out the last activation: logits instead of probabilities.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8192, show_default=True)
@click.option("--memory", metavar="SIZE", default="256MB", show_default=True, help="Budget for data.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: all]")
@common_options
def command(
    model: str,
    data: tuple[str, ...],
    features: tuple[str, ...],
    out: str,
    raw: bool,
    batch_size: int,
    memory: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Write the outputs of MODEL, a file or the folder of a run, for the rows of DATA, in their order."""
    from rich.console import Console
    from rich.progress import track

    network = open_model(model)
    dataset = open_dataset(data, features=features)
    network._require_features(dataset.n_features)
    writer = _writers().get(os.path.splitext(out)[1].lower())
    if writer is None:
        raise click.BadParameter(f"{out!r} ends in neither .h5, .hdf5 nor .csv", param_hint="--out")
    batches = dataset.batches(batch_size, shuffle=False, memory=memory, dtype=network.dtype)
    console = Console(stderr=True)
    steps = -(-dataset.n_rows // batch_size)
    with writer(out, dataset.n_rows, network.n_outputs, network.dtype) as sink:
        shown = track(
            batches, "predicting", total=steps, console=console, transient=True, disable=not console.is_terminal
        )
        for batch in shown:
            sink.write(network.predict(batch[0], batch_size=batch_size, raw=raw, threads=threads))
    if as_json:
        print_json(rows=dataset.n_rows, outputs=network.n_outputs, out=out)
    else:
        click.echo(f"wrote {dataset.n_rows:,} rows to {out}", err=True)


class _Sink(Protocol):
    def write(self, rows: np.ndarray[Any, Any]) -> None: ...


class _HDF5Sink:
    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._at = 0

    def write(self, rows: np.ndarray[Any, Any]) -> None:
        self._dataset[self._at : self._at + len(rows)] = rows
        self._at += len(rows)


@contextmanager
def _to_hdf5(path: str, rows: int, outputs: int, dtype: np.dtype[Any]) -> Iterator[_Sink]:
    """Dataset "prediction" (rows, outputs)."""
    import h5py

    from fastsgd.atomic import replacing

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        yield _HDF5Sink(file.create_dataset("prediction", (rows, outputs), dtype))


class _CSVSink:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, rows: np.ndarray[Any, Any]) -> None:
        # Nine digits give a float32 back exactly, seventeen a float64.
        np.savetxt(self._file, rows, fmt="%.9g" if rows.dtype == np.float32 else "%.17g", delimiter=",")


@contextmanager
def _to_csv(path: str, rows: int, outputs: int, dtype: np.dtype[Any]) -> Iterator[_Sink]:
    """A header and a line a row."""
    from fastsgd.atomic import replacing

    header = ["prediction"] if outputs == 1 else [f"prediction_{index}" for index in range(outputs)]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(",".join(header) + "\n")
        yield _CSVSink(file)


def _writers() -> dict[str, Any]:
    return {".h5": _to_hdf5, ".hdf5": _to_hdf5, ".csv": _to_csv}
