"""`fastsgd evaluate`: loss and metrics of a model on HDF5 files."""

from __future__ import annotations

import click

from fastsgd.cli.options import common_options, data_options, open_dataset, open_model, print_json, print_table

_USUAL = {"sigmoid": "binary_crossentropy", "softmax": "sparse_categorical_crossentropy"}


@click.command("evaluate")
@click.argument("model")
@data_options(target=True)
@click.option("--loss", help="[default: what goes with the model's last layer]")
@click.option("--metric", "metrics", multiple=True, help="mse, mae, rmse or accuracy; may be repeated.")
@click.option("--memory", metavar="SIZE", help='Budget for data, like "512MB".  [default: 1GB]')
@click.option("--threads", type=click.IntRange(min=1), help="[default: all]")
@common_options
def command(
    model: str,
    data: tuple[str, ...],
    features: tuple[str, ...],
    target: tuple[str, ...],
    weight: tuple[str, ...],
    loss: str | None,
    metrics: tuple[str, ...],
    memory: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compute the loss and metrics of MODEL, a file or the folder of a run, over DATA."""
    from fastsgd.training import SGD, Trainer

    network = open_model(model)
    dataset = open_dataset(data, features=features, target=target, weight=weight)
    trainer = Trainer(
        network, SGD(), loss or _USUAL.get(network.dense[-1].activation, "mse"), metrics=metrics, threads=threads
    )
    found = trainer.evaluate(dataset, memory=memory)
    if as_json:
        print_json(rows=dataset.n_rows, loss_name=trainer.loss.name, **found)
    else:
        rows: list[tuple[str, ...]] = [("figure", "value"), ("rows", f"{dataset.n_rows:,}")]
        rows += [
            (f"loss ({trainer.loss.name})" if name == "loss" else name, f"{value:.6g}") for name, value in found.items()
        ]
        print_table(rows)
