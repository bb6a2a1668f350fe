"""What happened in training, epoch by epoch."""

from __future__ import annotations

import csv
import io
import os
import reprlib
from typing import Any

from fastsgd.atomic import replacing, write_whole
from fastsgd.errors import FastSGDError


class History:
    """Figures of each epoch.

    Attributes
    ----------
    epochs : list of dict
        "epoch" (from 0), "loss" (mean over the rows, each taken before its step), "val_loss" and metrics where there
        is validation data, "skipped" (rows left out by ``nan="skip"``, where there are any), "seconds",
        "rows_per_second", and "waited" (seconds that training waited for rows); of streamed epochs "reading",
        "decoding" and "shuffling" (seconds that these took meanwhile: the longest is what training waited for).
    """

    def __init__(self, epochs: list[dict[str, Any]] | None = None) -> None:
        self.epochs: list[dict[str, Any]] = [] if epochs is None else epochs

    def __repr__(self) -> str:
        last = f", last: {self.epochs[-1]}" if self.epochs else ""
        return f"<History of {len(self.epochs)} epochs{last}>"

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(key for epoch in self.epochs for key in epoch))

    def to_dict(self) -> dict[str, list[Any]]:
        """Each figure as a list over the epochs."""
        return {key: [epoch.get(key) for epoch in self.epochs] for key in self._columns()}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line an epoch, with a header.

        Raises
        ------
        OSError
            If the file cannot be written; it appears whole or not at all.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns() or ["epoch", "loss"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.epochs)
        write_whole(path, text.getvalue().encode())

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> History:
        """Read what `to_csv` wrote.

        Raises
        ------
        FastSGDError
            If the file is missing or holds something else.
        """
        name = os.fsdecode(path)
        try:
            with open(name, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file, strict=True)
                if not {"epoch", "loss"} <= set(reader.fieldnames or ()):
                    raise FastSGDError(f"{name!r} is no history file: its first line does not name 'epoch' and 'loss'")
                return cls([_record(row, f"{name!r} is no history file: line {reader.line_num}") for row in reader])
        except OSError as error:
            raise FastSGDError(f"the history file {name!r} cannot be read: {error.strerror or error}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise FastSGDError(f"{name!r} is no history file ({error})") from error

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the learning curve.

        Parameters
        ----------
        path : path, optional
            Where to write the picture (its ending says the format).

        Returns
        -------
        matplotlib Figure

        Raises
        ------
        FastSGDError
            If matplotlib is not installed, or there is no epoch to draw, or no picture of that format can be made.
        OSError
            If the file cannot be written; it appears whole or not at all.
        """
        if not self.epochs:
            raise FastSGDError("there is no epoch to plot yet")
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise FastSGDError("plots need matplotlib: pip install 'fastsgd[plot]'") from error
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        columns = self.to_dict()
        number = [epoch + 1 for epoch in columns["epoch"]]
        for key, label in (("loss", "training (mean over the epoch)"), ("val_loss", "validation (after the epoch)")):
            if key in columns:
                axes.plot(number, columns[key], marker="o", markersize=3, label=label)
        axes.set(xlabel="epoch", ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        if path is not None:
            ending = os.path.splitext(os.fsdecode(path))[1].lstrip(".").lower() or "png"
            formats = figure.canvas.get_supported_filetypes()
            if ending not in formats:
                raise FastSGDError(
                    f"{os.fsdecode(path)!r} ends in no format of pictures; there are {', '.join(sorted(formats))}"
                )
            with replacing(path) as temporary:
                figure.savefig(temporary, format=ending, dpi=150)
        return figure


def peak_rows_per_second(epochs: list[dict[str, Any]]) -> float:
    """Rows a second of the fastest epoch; the first may have waited for the compiler."""
    return max(float(epoch["rows_per_second"]) for epoch in epochs)


def _record(row: dict[str | Any, Any], where: str) -> dict[str, Any]:
    """The figures of a line of a file, or a FastSGDError that says where they are wrong."""
    record: dict[str, Any] = {}
    for key, text in row.items():
        if key is None or text is None:
            raise FastSGDError(f"{where} has more or fewer fields than the first line")
        if text:
            try:
                record[key] = int(text) if text.isdecimal() else float(text)
            except ValueError:
                raise FastSGDError(f"{where} has {reprlib.repr(text)} in column {key!r}, which is no number") from None
    for key in ("epoch", "loss"):
        if key not in record:
            raise FastSGDError(f"{where} has no {key!r}")
    return record
