"""What training shows while it runs."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, Protocol, runtime_checkable

from fastsgd.errors import ModelError


@runtime_checkable
class Progress(Protocol):
    """Told what happens; shows it or not."""

    def plan(self, text: str) -> None: ...
    def start_epoch(self, epoch: int, epochs: int, rows: int) -> None: ...
    def advance(self, rows: int, loss: float) -> None: ...
    def end_epoch(self, record: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Shows nothing."""

    def plan(self, text: str) -> None:
        pass

    def start_epoch(self, epoch: int, epochs: int, rows: int) -> None:
        pass

    def advance(self, rows: int, loss: float) -> None:
        pass

    def end_epoch(self, record: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def summary_line(record: dict[str, Any]) -> str:
    """The figures of an epoch in one line."""
    parts = [f"{key} {value:.5g}" for key, value in record.items() if key not in _NOT_SHOWN]
    parts += [f"{_short(record['rows_per_second'])} rows/s", f"{record['seconds']:.1f} s"]
    busy = {name: record[name] for name in BUSY if name in record}
    if busy and record["waited"] > _MUCH_WAITING * record["seconds"]:
        parts.append(f"waited {record['waited']:.1f} s for {BUSY[max(busy, key=busy.__getitem__)]}")
    return "  ".join(parts)


# What a loader is busy with, and how to call it where training waits for that.
BUSY = {"reading": "the file to be read", "decoding": "rows to be decoded", "shuffling": "rows to be shuffled"}
_NOT_SHOWN = {"epoch", "seconds", "rows_per_second", "waited", *BUSY}
_MUCH_WAITING = 0.05  # of an epoch


def _short(count: float) -> str:
    """A number in three digits: "211 k"."""
    for unit in ("", " k", " M"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} G"


class Lines(Silent):
    """One line an epoch on stderr, for logs."""

    def __init__(self) -> None:
        self._epochs = 0

    def plan(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start_epoch(self, epoch: int, epochs: int, rows: int) -> None:
        self._epochs = epochs

    def end_epoch(self, record: dict[str, Any]) -> None:
        print(f"epoch {record['epoch'] + 1}/{self._epochs}  {summary_line(record)}", file=sys.stderr, flush=True)


class Bar:
    """A live bar on the terminal, and a line for each epoch that is over.

    Before the first rows come, a clock runs: standardizing, reading and, once on a machine, compiling take a while.
    """

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._console = Console(stderr=True)
        clock = progress.SpinnerColumn(), progress.TextColumn("{task.description}"), progress.TimeElapsedColumn()
        self._wait = progress.Progress(*clock, console=self._console, transient=True)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("rows  loss {task.fields[loss]}"),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._epochs = 0
        self._loss_sum = 0.0
        self._rows = 0

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def plan(self, text: str) -> None:
        self._line(text)
        if not self._wait.tasks:
            self._wait.add_task("getting ready", total=None)
            self._wait.start()

    def start_epoch(self, epoch: int, epochs: int, rows: int) -> None:
        self._epochs, self._loss_sum, self._rows = epochs, 0.0, 0
        self._task = self._bar.add_task(f"epoch {epoch + 1}/{epochs}", total=rows, loss="...")

    def advance(self, rows: int, loss: float) -> None:
        if self._rows == 0:
            self._wait.stop()
            self._bar.start()
        self._loss_sum += loss * rows
        self._rows += rows
        self._bar.update(self._task, advance=rows, loss=f"{self._loss_sum / self._rows:.5g}")

    def end_epoch(self, record: dict[str, Any]) -> None:
        self._bar.remove_task(self._task)
        self._bar.stop()
        self._line(f"epoch {record['epoch'] + 1}/{self._epochs}  {summary_line(record)}")

    def close(self) -> None:
        self._wait.stop()
        self._bar.stop()


def make_progress(progress: bool | Literal["auto"] | Progress) -> Progress:
    """The display for `progress=`: "auto" shows a bar on a terminal and nothing elsewhere; True, lines elsewhere.

    Raises
    ------
    ModelError
        If it is neither True, False, "auto" nor a `Progress`.
    """
    # A process without a console has no stderr at all.
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if progress is False or (progress == "auto" and not terminal):
        return Silent()
    if progress is True or progress == "auto":
        return Bar() if terminal and os.environ.get("TERM") != "dumb" else Lines()
    if not isinstance(progress, Progress):
        raise ModelError(f"fit: progress is {progress!r}; it is True, False, 'auto' or an object that shows progress")
    return progress
