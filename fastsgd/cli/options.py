"""Options that several commands share, and how they report."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import click

from fastsgd.errors import ModelFileError

F = TypeVar("F", bound=Callable[..., Any])

MODEL_FILE = "model.safetensors"
HISTORY_FILE = "history.csv"
RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"  # a folder of them

# Names that fastsgd.training knows, which is not imported for a help text.
LOSSES = (
    "mse",
    "mae",
    "huber",
    "log_cosh",
    "quantile",
    "epsilon_insensitive",
    "poisson",
    "binary_crossentropy",
    "focal",
    "hinge",
    "squared_hinge",
    "modified_huber",
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
)
METRICS = ("mse", "mae", "rmse", "accuracy")


def allow_external_option(function: F) -> F:
    """--allow-external."""
    return click.option(
        "--allow-external",
        is_flag=True,
        help="Let values lie in files outside the HDF5 file's folder, if it says so: trust it.",
    )(function)


def data_options(*, target: bool) -> Callable[[F], F]:
    """DATA, --features, --nan, --allow-external, and, where there is a target, --target and --weight."""
    skip = "skip leaves the row out, " if target else ""

    def decorate(function: F) -> F:
        function = allow_external_option(function)
        function = click.option(
            "--nan",
            type=click.Choice(["error", "skip", "zero"] if target else ["error", "zero"]),
            default="error",
            show_default=True,
            help=f"What becomes of a value that is not finite: {skip}zero puts 0 in the place of a feature.",
        )(function)
        if target:
            function = click.option("--weight", metavar="PATH", help="Dataset of row weights.")(function)
            function = click.option(
                "-y",
                "--target",
                multiple=True,
                required=True,
                metavar="PATH",
                help="Dataset of targets; may be repeated.",
            )(function)
        function = click.option(
            "-x",
            "--features",
            multiple=True,
            required=True,
            metavar="PATH",
            help="Dataset of features in the file, or table::field; may be repeated, the columns are joined.",
        )(function)
        return click.argument("data", nargs=-1, required=True, metavar="DATA...")(function)

    return decorate


def loss_option(**settings: Any) -> Callable[[F], F]:
    """--loss."""
    return click.option(
        "--loss",
        type=click.Choice(LOSSES),
        metavar="NAME",
        **settings | {"help": f"{', '.join(LOSSES)}.{settings.get('help', '')}"},
    )


def metric_option(function: F) -> F:
    """--metric."""
    return click.option(
        "--metric",
        "metrics",
        multiple=True,
        type=click.Choice(METRICS),
        metavar="NAME",
        help=f"Beside the loss: {', '.join(METRICS)}; may be repeated.",
    )(function)


def memory_option(default: str) -> Callable[[F], F]:
    """--memory."""
    return click.option(
        "--memory", metavar="SIZE", default=default, show_default=True, help='Budget for data, like "512MB" or "2GB".'
    )


def threads_option(function: F) -> F:
    """--threads."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="all that the host grants",
        help="Threads to compute with.",
    )(function)


def common_options(function: F) -> F:
    """--json and --debug."""
    function = click.option(
        "--debug", is_flag=True, expose_value=False, help="Show where in fastsgd an error came from."
    )(function)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines, one object a line.")(function)


def open_dataset(data: tuple[str, ...], nan: Any, allow_external: bool, **columns: tuple[str, ...] | str | None) -> Any:
    """The dataset that the data options name."""
    from fastsgd.data import HDF5Dataset

    named = {name: list(paths) if isinstance(paths, tuple) else paths for name, paths in columns.items()}
    given = {name: paths for name, paths in named.items() if paths}
    return HDF5Dataset(list(data), nan=nan, allow_external=allow_external, **given)


def model_file(path: str) -> str:
    """The file of a model that is given by its file or the folder of its run."""
    inside = os.path.join(path, MODEL_FILE)
    if os.path.isdir(path) and not os.path.exists(inside):
        raise ModelFileError(f"the folder {path!r} holds no {MODEL_FILE}; give a model file or the folder of a run")
    return inside if os.path.isdir(path) else path


def open_model(path: str) -> Any:
    """The model in a file, or in the folder of a run."""
    from fastsgd.model import load_model

    return load_model(model_file(path))


def as_json_line(fields: dict[str, Any], **options: Any) -> str:
    """The fields as JSON, which has no NaN and no infinity: they are null."""
    return json.dumps(_finite(fields), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_json(**fields: Any) -> None:
    """One JSON object on a line of its own."""
    click.echo(as_json_line(fields))


def print_table(rows: list[tuple[str, ...]], right: tuple[str, ...] = ()) -> None:
    """A table; the first row is its header. Columns named in `right` are flush right; only the first is ever folded."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0]:
        side: Literal["right", "left"] = "right" if name in right else "left"
        table.add_column(Text(name), overflow="fold", justify=side, no_wrap=name != rows[0][0])
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console = Console(no_color=True)
    if not console.is_terminal:
        console.width = 10_000  # only a terminal has a width to fit
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
