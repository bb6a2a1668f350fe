"""What happened in training, epoch by epoch."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

from fastsgd.atomic import replacing, write_whole
from fastsgd.errors import FastSGDError


class History:
    """Figures of each epoch.

    Attributes
    ----------
    epochs : list of dict
        "epoch" (from 0), "loss" (mean over the rows, each taken before its step), "val_loss" and metrics where there
        is validation data, "seconds", "rows_per_second", and "waited" (seconds that training waited for rows).
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
        """Write a line an epoch, with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns(), lineterminator="\n")
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
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            epochs = [{key: _number(value) for key, value in row.items() if value} for row in rows]
        except (OSError, ValueError, AttributeError) as error:
            raise FastSGDError(f"{os.fspath(path)!r} is no history file ({error})") from error
        if not epochs or "loss" not in epochs[0]:
            raise FastSGDError(f"{os.fspath(path)!r} is no history file: it has no column 'loss'")
        return cls(epochs)

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
            If matplotlib is not installed, or there is no epoch to draw.
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
            ending = os.path.splitext(os.fspath(path))[1].lstrip(".") or "png"
            with replacing(path) as temporary:
                figure.savefig(temporary, format=ending, dpi=150)
        return figure


def peak_rows_per_second(epochs: list[dict[str, Any]]) -> float:
    """Rows a second of the fastest epoch; the first may have waited for the compiler."""
    return max(float(epoch["rows_per_second"]) for epoch in epochs)


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() and "." not in text and "e" not in text.lower() else value
