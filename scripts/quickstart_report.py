"""The end of the quick start: the trained network beside two baselines, on the rows that were held out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import fastsgd as fs


def least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of the linear model with an intercept that fits best, the intercept last."""
    with_one = np.column_stack([x, np.ones(len(x))])
    return np.linalg.lstsq(with_one, y, rcond=None)[0]


def column_names(path: str) -> list[str]:
    """Names of the columns of X, from its attribute."""
    with h5py.File(path) as file:
        return [str(name) for name in file["X"].attrs["columns"]]


def main() -> None:
    """Print the report for the run folder and the data file given on the command line."""
    run, path = Path(sys.argv[1]), sys.argv[2]
    about = json.loads((run / "run.json").read_text())
    settings = about["settings"]
    # The same share and seed hold out the same rows as the training did.
    train, held_out = fs.HDF5Dataset(path, "X", "y").split(settings["validation"], seed=settings["seed"])
    model = fs.load_model(run / "model.safetensors")

    seen, unseen = train.take(train.n_rows), held_out.take(held_out.n_rows)
    y = unseen.y.astype(float)
    weights = least_squares(seen.x.astype(float), seen.y.astype(float))
    predictions = {
        "predict the mean": np.broadcast_to(seen.y.mean(), y.shape),
        "linear least squares": np.column_stack([unseen.x, np.ones(len(y))]) @ weights,
        "this network": model.predict(held_out).astype(float),
    }

    console = Console()
    table = Table(title=f"Arrival delay of {len(y):,} flights held out", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("model")
    table.add_column("root mean squared error, minutes", justify="right")
    for name, prediction in predictions.items():
        table.add_row(name, f"{np.sqrt(np.mean((prediction - y) ** 2)):.2f}")
    console.print(table)

    table = Table(title="A few of them", box=SIMPLE_HEAD, title_justify="left")
    for name in ("late at departure", "miles", "late on arrival", "predicted"):
        table.add_column(name, justify="right")
    columns = column_names(path)
    for row in range(0, len(y), len(y) // 6):
        delay, miles = (unseen.x[row, columns.index(name)] for name in ("dep_delay", "distance"))
        table.add_row(f"{delay:.0f}", f"{miles:.0f}", f"{y[row, 0]:.0f}", f"{predictions['this network'][row, 0]:.0f}")
    console.print(table)

    print(f"{about['rows_per_second']:,.0f} rows a second, peak memory {about['peak_memory_bytes'] / 1e6:.0f} MB")
    print(f"Written: {run}/model.safetensors, {run}/history.csv, {run}/learning_curve.png")


if __name__ == "__main__":
    main()
