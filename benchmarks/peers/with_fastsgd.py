"""fastsgd: whole calls of `fit`, shuffling included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

from protocol import Problem

import fastsgd as fs

LEAST_MEMORY = 8_000_000


class FastSGD:
    """A `Sequential` under a `Trainer`, fitted a turn at a time in new orders each."""

    def __init__(self, problem: Problem) -> None:
        self.version = fs.__version__
        self.problem = problem
        n_in, *hidden, last = problem.layers
        layers: list[fs.model.Layer] = [fs.Dense(width, activation="relu") for width in hidden]
        dtype = problem.x.dtype
        self.model = fs.Sequential([*layers, fs.Dense(last)], input_dim=n_in, dtype=dtype)
        optimizer = fs.SGD(learning_rate=problem.learning_rate)
        self.trainer = fs.Trainer(self.model, optimizer, loss=problem.loss, threads=problem.threads)
        self.epochs_done = 0
        self.reset()

    def reset(self) -> None:
        for i, (kernel, bias) in enumerate(self.problem.start):
            self.model.parameters[f"dense_{i}/kernel"][...] = kernel
            self.model.parameters[f"dense_{i}/bias"][...] = bias

    def data(self) -> dict[str, Any]:
        """What `fit` takes as data."""
        return {"dataset": (self.problem.x, self.problem.y)}

    def train(self) -> Sequence[SupportsFloat]:
        history = self.trainer.fit(
            **self.data(),
            epochs=self.problem.epochs,
            batch_size=self.problem.batch,
            initial_epoch=self.epochs_done,
            progress=False,
        )
        self.epochs_done += self.problem.epochs
        return [history.epochs[-1]["loss"]]


class FastSGDFile(FastSGD):
    """Streamed from the file, opened anew each time, with a quarter of its size as memory."""

    def data(self) -> dict[str, Any]:
        dataset = fs.HDF5Dataset(self.problem.path, "X", "y")
        return {"dataset": dataset, "memory": max(dataset.nbytes // 4, LEAST_MEMORY)}
