"""What training shows while it runs."""

from __future__ import annotations

import sys
from typing import Any, Literal, Protocol


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
    return "  ".join([*parts, f"{record['rows_per_second']:,.0f} rows/s", f"{record['seconds']:.1f} s"])


_NOT_SHOWN = {"epoch", "seconds", "rows_per_second", "waited"}


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
    """A live bar on the terminal, and a line for each epoch that is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows  loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._epochs = 0
        self._loss_sum = 0.0
        self._rows = 0

    def plan(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def start_epoch(self, epoch: int, epochs: int, rows: int) -> None:
        self._epochs, self._loss_sum, self._rows = epochs, 0.0, 0
        self._task = self._bar.add_task(f"epoch {epoch + 1}/{epochs}", total=rows, loss="...")
        self._bar.start()

    def advance(self, rows: int, loss: float) -> None:
        self._loss_sum += loss * rows
        self._rows += rows
        self._bar.update(self._task, advance=rows, loss=f"{self._loss_sum / self._rows:.5g}")

    def end_epoch(self, record: dict[str, Any]) -> None:
        self._bar.remove_task(self._task)
        self._bar.stop()
        self._console.print(f"epoch {record['epoch'] + 1}/{self._epochs}  {summary_line(record)}", highlight=False)

    def close(self) -> None:
        self._bar.stop()


def make_progress(progress: bool | Literal["auto"] | Progress) -> Progress:
    """The display for `progress=`: "auto" shows a bar on a terminal and nothing elsewhere; True, lines elsewhere."""
    if progress is False or (progress == "auto" and not sys.stderr.isatty()):
        return Silent()
    if progress is True or progress == "auto":
        return Bar() if sys.stderr.isatty() else Lines()
    return progress
