"""`fastsgd evaluate`: loss and metrics of a model on HDF5 files."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from fastsgd.cli.options import (
    LOSSES,
    RUN_FILE,
    common_options,
    data_options,
    loss_option,
    memory_option,
    metric_option,
    open_dataset,
    open_model,
    print_json,
    print_table,
    threads_option,
)

_USUAL = {"sigmoid": "binary_crossentropy", "softmax": "sparse_categorical_crossentropy"}


@click.command(
    "evaluate",
    short_help="Compute the loss and metrics of a model.",
    epilog="\b\nExample:\n  fastsgd evaluate run test.h5 -x X -y y --metric rmse --metric mae",
)
@click.argument("model", metavar="MODEL")
@data_options(target=True)
@loss_option(show_default="that of the run, or what goes with the model's last layer")
@metric_option
@memory_option("1GB")
@threads_option
@common_options
def command(
    model: str,
    data: tuple[str, ...],
    features: tuple[str, ...],
    nan: str,
    allow_external: bool,
    target: tuple[str, ...],
    weight: str | None,
    loss: str | None,
    metrics: tuple[str, ...],
    memory: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compute the loss and metrics of MODEL over the rows of DATA.

    MODEL is a model file or the folder of a run; DATA is one or more HDF5 files, or a quoted pattern like "part*.h5".
    """
    from fastsgd.training import SGD, Trainer

    network = open_model(model)
    dataset = open_dataset(data, nan, allow_external, features=features, target=target, weight=weight)
    loss = loss or _loss_of_run(model) or _USUAL.get(network.dense[-1].activation, "mse")
    trainer = Trainer(network, SGD(), loss, metrics=metrics, threads=threads)
    found = trainer.evaluate(dataset, memory=memory)
    count = dataset.n_rows - int(found.get("skipped", 0))
    if as_json:
        print_json(rows=count, loss_name=trainer.loss.name, **found)
    else:
        rows: list[tuple[str, ...]] = [("figure", "value"), ("rows", f"{count:,}")]
        rows += [
            (f"loss ({trainer.loss.name})" if name == "loss" else name, f"{value:.6g}") for name, value in found.items()
        ]
        print_table(rows, right=("value",))


def _loss_of_run(folder: str) -> str | None:
    """The loss that the model in the folder of a run was trained with, where that is known."""
    try:
        with open(os.path.join(folder, RUN_FILE), encoding="utf-8") as file:
            loss: Any = json.load(file)["settings"]["loss"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return loss if loss in LOSSES else None
