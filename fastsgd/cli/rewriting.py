"""What the commands that rewrite files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastsgd.cli.options import print_json

if TYPE_CHECKING:
    from fastsgd.data.rewriting import Rewritten

F = TypeVar("F", bound=Callable[..., Any])


def rows_of_option(function: F) -> F:
    """--rows-of."""
    return click.option(
        "--rows-of",
        metavar="PATH",
        show_default="the largest table",
        help="A dataset: it and those with as many rows are the rows.",
    )(function)


@contextmanager
def shown_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal, where there is one, and a line if it all comes to a stop."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    display = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_interactive,
    )
    finished = False
    try:
        with display:
            task = display.add_task(what, total=None)
            yield lambda done, total: display.update(task, completed=done, total=total)
            finished = True
    except KeyboardInterrupt:
        if not finished:
            click.echo("fastsgd: stopped; nothing was written", err=True)
        raise


def report_rewritten(found: Rewritten, as_json: bool) -> None:
    """Say what was done."""
    from fastsgd.data.plan import as_bytes

    if as_json:
        print_json(**found.to_dict())
        return
    sizes = f"{as_bytes(found.bytes_before)} before, {as_bytes(found.bytes_after)} now"
    click.echo(f"wrote {found.rows:,} rows of {', '.join(found.datasets)} to {found.out}: {sizes}", err=True)
    if found.copied:
        click.echo(f"copied as they are, without as many rows: {', '.join(found.copied)}", err=True)
