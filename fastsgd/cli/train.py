"""`fastsgd train`: from an HDF5 file to a folder with the model, its history and what the run was."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from fastsgd.cli.options import (
    CHECKPOINTS,
    HISTORY_FILE,
    MODEL_FILE,
    RUN_FILE,
    as_json_line,
    common_options,
    data_options,
    loss_option,
    memory_option,
    metric_option,
    open_dataset,
    print_json,
    threads_option,
)
from fastsgd.cli.signals import is_pressing, undisturbed
from fastsgd.errors import DataError

_HIDDEN = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid", "linear")
_LAST = {
    "binary_crossentropy": "sigmoid",
    "focal": "sigmoid",
    "poisson": "softplus",
    "sparse_categorical_crossentropy": "softmax",
    "categorical_crossentropy": "softmax",
}
_MOST_CLASSES = 100_000
_COUNT = click.IntRange(min=1)


@click.command(
    "train",
    short_help="Train a model and write it to a folder.",
    epilog="""\b
Examples:
  fastsgd train train.h5 -x X -y y --standardize --layers 64,64 --out run
  fastsgd train 'part*.h5' -x X -y label --layers 128 --out run \\
    --loss sparse_categorical_crossentropy --validation 0.1 --metric accuracy""",
)
@data_options(target=True)
@click.option("--out", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Folder for the results.")
@click.option("--overwrite", is_flag=True, help="Replace the results of an earlier run in DIR, and its checkpoints.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the newest checkpoint in DIR, to the same bits; start where there is none.",
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    default=300,
    show_default=True,
    help="Time from one checkpoint to the next.",
)
@click.option("--checkpoint-steps", type=_COUNT, metavar="N", help="Batches from one checkpoint to the next.")
@click.option("--layers", default="", metavar="64,64", help="Units of the hidden layers.  [default: none, so linear]")
@click.option(
    "--activation",
    type=click.Choice(_HIDDEN),
    metavar="NAME",
    default="relu",
    show_default=True,
    help=f"Of the hidden layers: {', '.join(_HIDDEN)}.",
)
@loss_option(default="mse", show_default=True)
@click.option(
    "--classes",
    type=click.IntRange(min=2),
    metavar="N",
    show_default="the largest label and one",
    help="Classes, for sparse_categorical_crossentropy; labels go from 0 on.",
)
@click.option("--standardize", is_flag=True, help="Shift and scale the inputs; learned in one pass before training.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="RATE",
    default=0.01,
    show_default=True,
    help="How far a step goes.",
)
@click.option(
    "--momentum",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    default=0.0,
    show_default=True,
    help="How much of a step the next one keeps; often 0.9.",
)
@click.option("--nesterov", is_flag=True, help="Nesterov's form of momentum.")
@click.option("--epochs", type=_COUNT, metavar="N", default=1, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=_COUNT, metavar="N", default=32, show_default=True, help="Rows of a step.")
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    default=0.0,
    help="Share of the rows that is held out and evaluated after each epoch.",
)
@metric_option
@memory_option("1GB")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Draws start parameters, order of rows and held-out rows.",
)
@threads_option
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True, help="To compute in."
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@common_options
def command(data: tuple[str, ...], out: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Train a network on the rows of DATA and write it to a folder.

    DATA is one or more HDF5 files, or a quoted pattern like "part*.h5". The folder gets model.safetensors, history.csv
    (a line an epoch), run.json (settings and results) and checkpoints. Ctrl-C stops the run and writes the model so
    far; --resume goes on with it.
    """
    how = {name: settings.pop(name) for name in ("overwrite", "resume", "checkpoint_seconds", "checkpoint_steps")}
    _check_folder(out, how)
    _check_usage(settings)
    model_path = os.path.join(out, MODEL_FILE)
    report, trainer = _Report(as_json, quiet), None
    about = {"data": list(data), **settings}
    with _folder(out):
        try:
            trainer, train, held_out = _prepared(data, settings)
            trainer.fit(
                train,
                validation=held_out,
                progress=report,
                checkpoint=_checkpoint(out, how),
                resume="auto" if how["resume"] else False,
                **{name: settings[name] for name in ("epochs", "batch_size", "seed", "memory")},
            )
        except (KeyboardInterrupt, BrokenPipeError) as stop:
            if not is_pressing():
                _stopped(out, trainer, report, about, as_json and isinstance(stop, KeyboardInterrupt))
            raise
        _write(out, trainer, about, finished=True)
    if as_json:
        print_json(event="done", model=model_path, **_results(trainer))
    elif not quiet:
        peak = _results(trainer)["peak_memory_bytes"] / 1e6
        click.echo(f"wrote {model_path}, {HISTORY_FILE} and {RUN_FILE}; peak memory {peak:.0f} MB", err=True)


def _stopped(out: str, trainer: Any, report: _Report, about: dict[str, Any], as_json: bool) -> None:
    """Write the model so far, if there is one, and say how to go on."""
    from fastsgd.training.checkpoint_folder import has_checkpoints

    begun = has_checkpoints(os.path.join(out, CHECKPOINTS))
    model_path = None
    if report.rows:
        try:
            _write(out, trainer, about, finished=False)
            model_path = os.path.join(out, MODEL_FILE)
            outcome = f"is in {model_path}"
        except OSError as error:  # there are the checkpoints
            outcome = f"could not be written: {error.strerror or error}"
        click.echo(f"fastsgd: stopped in epoch {report.epoch}; the model so far {outcome}", err=True)
    else:
        click.echo(f"fastsgd: stopped before the first step{'' if begun else '; nothing was written'}", err=True)
    resume = _command_to_go_on(begun)
    click.echo(f"fastsgd: to go on: {resume}", err=True)
    if as_json:
        print_json(event="stopped", model=model_path, resume=resume, **_results(trainer))


def _check_folder(out: str, how: dict[str, Any]) -> None:
    """Refuse to lose what is in the folder already."""
    from fastsgd.training.checkpoint_folder import has_checkpoints

    if how["overwrite"] and how["resume"]:
        raise click.UsageError("--overwrite starts anew, --resume goes on with what is there; give one of them")
    model = os.path.join(out, MODEL_FILE)
    begun, trained = has_checkpoints(os.path.join(out, CHECKPOINTS)), os.path.exists(model)
    if begun and not (how["overwrite"] or how["resume"]):
        raise click.UsageError(
            f"{out} has the checkpoints of a run; --resume goes on with it, --overwrite starts anew; or choose another "
            "--out"
        )
    if trained and not begun and not how["overwrite"]:
        without = " and there is no checkpoint to go on from" if how["resume"] else ""
        raise click.UsageError(f"{model} exists{without}; choose another --out, or give --overwrite")


def _checkpoint(out: str, how: dict[str, Any]) -> Any:
    from fastsgd.training import Checkpoint

    return Checkpoint(
        os.path.join(out, CHECKPOINTS), every_steps=how["checkpoint_steps"], every_seconds=how["checkpoint_seconds"]
    )


def _command_to_go_on(begun: bool) -> str:
    """What to type to go on with this run, or to begin it again where it kept nothing."""
    given = list(click.get_current_context().obj)
    if begun:
        given = [word for word in given if word not in ("--overwrite", "--resume")]
        given.insert(given.index("--") if "--" in given else len(given), "--resume")  # what follows "--" are files
    return shlex.join(["fastsgd", *given])


def _check_usage(settings: dict[str, Any]) -> None:
    """Refuse options that do not go together, before any file is opened."""
    settings["layers"] = _units(settings["layers"])
    if settings["nesterov"] and not settings["momentum"]:
        raise click.UsageError("--nesterov needs --momentum above 0")
    if settings["classes"] and settings["loss"] != "sparse_categorical_crossentropy":
        raise click.UsageError("--classes goes with --loss sparse_categorical_crossentropy")
    if settings["metrics"] and not settings["validation"]:
        raise click.UsageError("--metric is of held-out rows, and needs --validation above 0")


def _units(layers: str) -> list[int]:
    try:
        units = [int(part) for part in layers.split(",")] if layers.strip() else []
    except ValueError:
        units = [0]
    if any(count < 1 for count in units):
        raise click.BadParameter(f"{layers!r} is no list of whole numbers from 1 on, like 64,64", param_hint="--layers")
    return units


@contextmanager
def _folder(path: str) -> Iterator[None]:
    """A folder to write to; what of it was made here goes again if it is left empty."""
    made: list[str] = []
    above = os.path.abspath(path)
    while not os.path.exists(above):
        made.append(above)
        above = os.path.dirname(above)
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        yield
    finally:
        with suppress(OSError):
            for folder in made:
                os.rmdir(folder)


def _prepared(data: tuple[str, ...], settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The trainer, the rows to train on, and those held out, or None."""
    from fastsgd.model import Dense, Sequential, Standardize
    from fastsgd.training import SGD, Trainer

    columns = {name: settings[name] for name in ("features", "target", "weight")}
    whole = open_dataset(data, settings["nan"], settings["allow_external"], **columns)
    train, held_out = (
        whole.split(settings["validation"], seed=settings["seed"]) if settings["validation"] else (whole, None)
    )
    outputs = whole.n_targets
    if settings["loss"] == "sparse_categorical_crossentropy":
        outputs = settings["classes"] or _count_classes(data, settings)
    layers: list[Any] = [Standardize()] if settings["standardize"] else []
    layers += [Dense(units, settings["activation"]) for units in settings["layers"]]
    layers.append(Dense(outputs, _LAST.get(settings["loss"], "linear")))
    model = Sequential(layers, input_dim=whole.n_features, seed=settings["seed"], dtype=settings["dtype"])
    optimizer = SGD(settings["learning_rate"], momentum=settings["momentum"], nesterov=settings["nesterov"])
    trainer = Trainer(model, optimizer, settings["loss"], metrics=settings["metrics"], threads=settings["threads"])
    return trainer, train, held_out


def _count_classes(data: tuple[str, ...], settings: dict[str, Any]) -> int:
    """One more than the largest label; reads the labels alone."""
    target = settings["target"]
    nan = "skip" if settings["nan"] == "skip" else "error"
    labels = open_dataset(data, nan, settings["allow_external"], features=target)
    batches = labels.batches(65536, shuffle=False, memory=settings["memory"], dtype="float64")
    largest = max(float(batch[0].max()) for batch in batches)
    if largest >= _MOST_CLASSES:
        raise DataError(
            f"the largest label in {', '.join(map(repr, target))} is {largest:g}; a class is a whole number from 0 on. "
            f"If there are more than {_MOST_CLASSES:,} classes, give --classes"
        )
    return max(2, int(largest) + 1)


class _Report:
    """Shows progress as the options ask, and keeps what an interrupted run still writes.

    Attributes
    ----------
    epoch : int
        The number of the current epoch, from 1.
    rows : int
        Rows that have been trained on.
    """

    def __init__(self, as_json: bool, quiet: bool) -> None:
        from fastsgd.training.progress import make_progress

        self.epoch = 0
        self.rows = 0
        self._json = as_json
        self._planned = False
        self._display = make_progress(not (as_json or quiet))

    def plan(self, text: str) -> None:
        self._display.plan(text)
        if self._json:
            # What follows the memory plan is for people: that a first run compiles.
            print_json(**{"event": "note", "note": text} if self._planned else {"event": "plan", "plan": text})
        self._planned = True

    def start_epoch(self, epoch: int, epochs: int, rows: int) -> None:
        self.epoch = epoch + 1
        self._display.start_epoch(epoch, epochs, rows)

    def advance(self, rows: int, loss: float) -> None:
        self.rows += rows
        self._display.advance(rows, loss)

    def end_epoch(self, record: dict[str, Any]) -> None:
        self._display.end_epoch(record)
        if self._json:
            print_json(event="epoch", **record)

    def close(self) -> None:
        self._display.close()


def _results(trainer: Any) -> dict[str, Any]:
    from fastsgd.kernels.host import peak_memory
    from fastsgd.training.history import peak_rows_per_second

    epochs = trainer.history.epochs if trainer is not None else []
    return {
        "epochs": len(epochs),
        "last": epochs[-1] if epochs else None,
        "rows_per_second": peak_rows_per_second(epochs) if epochs else None,
        "peak_memory_bytes": peak_memory(),
    }


def _write(out: str, trainer: Any, settings: dict[str, Any], *, finished: bool) -> None:
    from fastsgd import __version__
    from fastsgd.atomic import write_whole

    about = {"fastsgd": __version__, "finished": finished, "settings": settings, **_results(trainer)}
    with undisturbed():
        trainer.model.save(os.path.join(out, MODEL_FILE))
        trainer.history.to_csv(os.path.join(out, HISTORY_FILE))
        write_whole(os.path.join(out, RUN_FILE), as_json_line(about, indent=1).encode())
