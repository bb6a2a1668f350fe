"""fastsgd in one process, under the protocol of `step.py`. Each epoch is a whole call of `fit`, shuffling included."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import SupportsFloat

# A file beside this one: the peers' environment has no fastsgd to import it from.
from step import LEARNING_RATE, Problem, add_arguments, serve

import fastsgd as fs


class FastSGD:
    """A `Sequential` under a `Trainer`, fitted an epoch at a time in a new order each."""

    def __init__(self, problem: Problem) -> None:
        try:
            self.version = version("fastsgd")
        except PackageNotFoundError:
            self.version = "not installed"
        self.problem = problem
        n_in, *hidden, last = problem.layers
        layers = [fs.Dense(width, activation="relu") for width in hidden]
        self.model = fs.Sequential([*layers, fs.Dense(last)], input_dim=n_in)
        self.trainer = fs.Trainer(self.model, fs.SGD(learning_rate=LEARNING_RATE), loss="mse", threads=problem.threads)
        self.epochs_done = 0
        self.reset()

    def reset(self) -> None:
        for i, (kernel, bias) in enumerate(self.problem.start):
            self.model.parameters[f"dense_{i}/kernel"][...] = kernel
            self.model.parameters[f"dense_{i}/bias"][...] = bias

    def epoch(self) -> Sequence[SupportsFloat]:
        history = self.trainer.fit(
            (self.problem.x, self.problem.y),
            epochs=1,
            batch_size=self.problem.batch,
            seed=self.epochs_done,
            progress=False,
        )
        self.epochs_done += 1
        return [history.epochs[-1]["loss"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    serve(FastSGD, parser.parse_args())


if __name__ == "__main__":
    main()
