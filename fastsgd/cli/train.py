"""`fastsgd train`: from an HDF5 file to a folder with the model, its history and what the run was."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import click

from fastsgd.cli.options import (
    HISTORY_FILE,
    MODEL_FILE,
    RUN_FILE,
    common_options,
    data_options,
    open_dataset,
    print_json,
)

_LOSSES = ("mse", "mae", "binary_crossentropy", "sparse_categorical_crossentropy")
_LAST = {"binary_crossentropy": "sigmoid", "sparse_categorical_crossentropy": "softmax"}


@click.command("train")
@data_options(target=True)
@click.option("--out", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Folder for the results.")
@click.option("--overwrite", is_flag=True, help="Replace the results of an earlier run in DIR.")
@click.option("--layers", default="", metavar="64,64", help="Units of the hidden layers; none is a linear model.")
@click.option("--activation", default="relu", show_default=True, help="Of the hidden layers.")
@click.option("--loss", type=click.Choice(_LOSSES), default="mse", show_default=True)
@click.option("--classes", type=click.IntRange(min=2), help="Classes of the labels; counted if not given.")
@click.option("--metric", "metrics", multiple=True, help="mse, mae, rmse or accuracy, on the validation rows.")
@click.option("--standardize", is_flag=True, help="Shift and scale the inputs; learned in one pass.")
@click.option("--learning-rate", type=float, default=0.01, show_default=True)
@click.option("--momentum", type=float, default=0.0, show_default=True)
@click.option("--nesterov", is_flag=True)
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--validation", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Share of rows held out.")
@click.option("--memory", metavar="SIZE", help='Budget for data, like "512MB".  [default: 1GB]')
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="[default: all]")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@common_options
def command(data: tuple[str, ...], out: str, as_json: bool, quiet: bool, overwrite: bool, **settings: Any) -> None:
    """Train a model on HDF5 files and write it to a folder.

    DIR gets model.safetensors, history.csv and run.json.
    """
    model_path = os.path.join(out, MODEL_FILE)
    if os.path.exists(model_path) and not overwrite:
        raise click.UsageError(f"{model_path} exists; choose another --out, or give --overwrite")
    trainer, train, held_out = _prepared(data, settings)
    os.makedirs(out, exist_ok=True)
    report = _Report(as_json, quiet)
    try:
        trainer.fit(
            train,
            validation=held_out,
            progress=report,
            **{name: settings[name] for name in ("epochs", "batch_size", "seed", "memory")},
        )
    except KeyboardInterrupt:
        if report.epochs:
            _write(out, trainer, report, settings, finished=False)
            click.echo(
                f"fastsgd: stopped; the model so far, {len(report.epochs)} whole epochs and a part, is in {model_path}",
                err=True,
            )
        else:
            click.echo("fastsgd: stopped in the first epoch; nothing was written", err=True)
        raise
    _write(out, trainer, report, settings, finished=True)
    if as_json:
        print_json(event="done", model=model_path, **_results(report))
    elif not quiet:
        peak = _results(report)["peak_memory_bytes"] / 1e6
        click.echo(f"wrote {model_path}, {HISTORY_FILE} and {RUN_FILE}; peak memory {peak:.0f} MB", err=True)


def _prepared(data: tuple[str, ...], settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The trainer, the rows to train on, and those held out, or None."""
    from fastsgd.model import Dense, Sequential, Standardize
    from fastsgd.training import SGD, Trainer

    whole = open_dataset(data, features=settings["features"], target=settings["target"], weight=settings["weight"])
    train, held_out = (
        whole.split(settings["validation"], seed=settings["seed"]) if settings["validation"] else (whole, None)
    )
    outputs = whole.n_targets
    if settings["loss"] == "sparse_categorical_crossentropy":
        outputs = settings["classes"] or _count_classes(whole)
    layers: list[Any] = [Standardize()] if settings["standardize"] else []
    layers += [Dense(units, settings["activation"]) for units in _units(settings["layers"])]
    layers.append(Dense(outputs, _LAST.get(settings["loss"], "linear")))
    model = Sequential(layers, input_dim=whole.n_features, seed=settings["seed"], dtype=settings["dtype"])
    optimizer = SGD(settings["learning_rate"], momentum=settings["momentum"], nesterov=settings["nesterov"])
    trainer = Trainer(model, optimizer, settings["loss"], metrics=settings["metrics"], threads=settings["threads"])
    return trainer, train, held_out


def _units(layers: str) -> list[int]:
    try:
        return [int(units) for units in layers.split(",") if layers.strip()]
    except ValueError:
        raise click.BadParameter(f"{layers!r} is no list of numbers like 64,64", param_hint="--layers") from None


def _count_classes(dataset: Any) -> int:
    largest = max(float(batch[1].max()) for batch in dataset.batches(65536, shuffle=False, dtype="float64"))
    return max(2, int(largest) + 1)


class _Report:
    """Shows progress as the options ask, and keeps the epochs, which an interrupted run still writes."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        from fastsgd.training.progress import make_progress

        self.epochs: list[dict[str, Any]] = []
        self._json = as_json
        self._display = make_progress(not (as_json or quiet))

    def plan(self, text: str) -> None:
        self._display.plan(text)
        if self._json:
            print_json(event="plan", plan=text)

    def start_epoch(self, epoch: int, epochs: int, rows: int) -> None:
        self._display.start_epoch(epoch, epochs, rows)

    def advance(self, rows: int, loss: float) -> None:
        self._display.advance(rows, loss)

    def end_epoch(self, record: dict[str, Any]) -> None:
        self.epochs.append(record)
        self._display.end_epoch(record)
        if self._json:
            print_json(event="epoch", **record)

    def close(self) -> None:
        self._display.close()


def _results(report: _Report) -> dict[str, Any]:
    from fastsgd.training.history import peak_rows_per_second

    return {
        "epochs": len(report.epochs),
        "last": report.epochs[-1],
        "rows_per_second": peak_rows_per_second(report.epochs),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _write(out: str, trainer: Any, report: _Report, settings: dict[str, Any], *, finished: bool) -> None:
    from fastsgd import __version__
    from fastsgd.atomic import write_whole
    from fastsgd.training import History

    trainer.model.save(os.path.join(out, MODEL_FILE))
    History(report.epochs).to_csv(os.path.join(out, HISTORY_FILE))
    about = {"fastsgd": __version__, "finished": finished, "settings": settings, **_results(report)}
    write_whole(os.path.join(out, RUN_FILE), json.dumps(about, indent=1).encode())
