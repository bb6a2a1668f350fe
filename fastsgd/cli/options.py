"""Options that several commands share, and how they report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fastsgd.errors import ModelFileError

F = TypeVar("F", bound=Callable[..., Any])

MODEL_FILE = "model.safetensors"
HISTORY_FILE = "history.csv"
RUN_FILE = "run.json"


def data_options(*, target: bool) -> Callable[[F], F]:
    """DATA, --features, and, where there is a target, --target and --weight."""

    def decorate(function: F) -> F:
        if target:
            function = click.option("--weight", multiple=True, metavar="PATH", help="Dataset of row weights.")(function)
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
            help="Dataset of features, or table::field; may be repeated, the columns are joined.",
        )(function)
        return click.argument("data", nargs=-1, required=True, metavar="DATA...")(function)

    return decorate


def common_options(function: F) -> F:
    """--json and --debug."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(function)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show where an error came from.")(function)


def open_dataset(data: tuple[str, ...], **columns: tuple[str, ...]) -> Any:
    """The dataset that the data options name."""
    from fastsgd.data import HDF5Dataset

    named = {name: list(paths) if len(paths) > 1 else paths[0] for name, paths in columns.items() if paths}
    return HDF5Dataset(list(data) if len(data) > 1 else data[0], **named)


def open_model(path: str) -> Any:
    """The model in a file, or in the folder of a run."""
    from fastsgd.model import load_model

    inside = os.path.join(path, MODEL_FILE)
    if os.path.isdir(path) and not os.path.exists(inside):
        raise ModelFileError(f"the folder {path!r} holds no {MODEL_FILE}; give a model file or the folder of a run")
    return load_model(inside if os.path.isdir(path) else path)


def print_json(**fields: Any) -> None:
    """One JSON object on a line of its own."""
    click.echo(json.dumps(fields, allow_nan=False))


def print_table(rows: list[tuple[str, ...]]) -> None:
    """A table; the first row is its header."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table, highlight=False)
