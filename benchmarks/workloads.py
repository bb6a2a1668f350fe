"""The networks that every topic measures, and what a row of each costs at least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

QUICK_ROWS = 2048
MSE = "mse"
LOGISTIC = "binary_crossentropy"
CLASSES = "sparse_categorical_crossentropy"


def useful_operations(layers: Sequence[int]) -> int:
    """Floating-point operations that one row of a training step needs.

    Two for each weight forward, two for its gradient, and two for the gradient of its layer's input, which the first
    layer does not need.
    """
    weights = [m * n for m, n in pairwise(layers)]
    return 4 * sum(weights) + 2 * sum(weights[1:])


def forward_operations(layers: Sequence[int]) -> int:
    """Floating-point operations that one row of a prediction needs: two for each weight."""
    return 2 * sum(m * n for m, n in pairwise(layers))


@dataclass(frozen=True)
class Workload:
    """A network, its batches, and how much of them makes one turn.

    Attributes
    ----------
    layers : tuple of int
        Widths from the inputs to the outputs; relu between, raw outputs last.
    batch : int
        Rows of a training step.
    rows : int
        Rows of an epoch, a multiple of the batch.
    loss : str
        As fastsgd calls it; of raw outputs.
    learning_rate : float
        One with which the loss falls, and does not hang on the order of the rows.
    epochs : int
        Epochs of one turn, so that the clock has something to measure.
    dtype : str
        "float32" or "float64"
    """

    layers: tuple[int, ...]
    batch: int
    rows: int
    loss: str = MSE
    learning_rate: float = 0.01
    epochs: int = 1
    dtype: str = "float32"

    @property
    def network(self) -> str:
        """Widths with dashes, as in 10-64-64-1."""
        return "-".join(map(str, self.layers))

    @property
    def name(self) -> str:
        """Network and batch, as in 10-64-64-1/256."""
        return f"{self.network}/{self.batch}"

    @property
    def operations_per_row(self) -> int:
        """Useful operations of a training step, a row."""
        return useful_operations(self.layers)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row and its target: what has to come from memory."""
        targets = 1 if self.loss == CLASSES else self.layers[-1]
        return np.dtype(self.dtype).itemsize * (self.layers[0] + targets)

    @property
    def intensity(self) -> float:
        """Useful operations a byte of a step: its rows are read once, its weights read twice and written once."""
        weights = sum((m + 1) * n for m, n in pairwise(self.layers))
        step_bytes = self.bytes_per_row * self.batch + 3 * weights * np.dtype(self.dtype).itemsize
        return self.operations_per_row * self.batch / step_bytes

    @property
    def reads_bound(self) -> bool:
        """Whether reading the rows, not arithmetic, is what limits: a linear model."""
        return len(self.layers) == 2

    def quick(self) -> Workload:
        """The same in a few steps, to see that it works."""
        batches = max(QUICK_ROWS // self.batch, 2)
        return replace(self, rows=min(batches * self.batch, self.rows), epochs=1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "layers": list(self.layers),
            "batch": self.batch,
            "rows": self.rows,
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "dtype": self.dtype,
            "useful_operations_per_row": self.operations_per_row,
            "bytes_per_row": self.bytes_per_row,
            "operations_per_byte": round(self.intensity, 3),
            "reads_bound": self.reads_bound,
        }


# Rows such that fastsgd takes about a second for a turn on two cores, and data well past the caches where they can be.
WORKLOADS = (
    Workload((10, 64, 64, 1), 32, 64_000 * 32),
    Workload((10, 64, 64, 1), 256, 8_000 * 256),
    Workload((10, 64, 64, 1), 1024, 2_000 * 1024),
    Workload((10, 50, 50, 1), 10_000, 400 * 10_000),
    Workload((28, 300, 300, 2), 100, 1_500 * 100, CLASSES, 0.05),
    Workload((54, 128, 128, 7), 64, 8_000 * 64, CLASSES, 0.05),
    Workload((784, 512, 512, 10), 128, 400 * 128, CLASSES, 0.05),
    Workload((784, 512, 512, 10), 1024, 50 * 1024, CLASSES, 0.05),
    Workload((256, 2048, 2048, 256), 512, 10 * 512, MSE, 0.1),
    Workload((784, 1), 256, 500 * 256, LOGISTIC, 0.05, epochs=8),
)


def choose(wanted: Sequence[str], suite: Sequence[Workload] = WORKLOADS) -> list[Workload]:
    """The workloads whose name or network is one of `wanted`; all of them if nothing is.

    Raises
    ------
    ValueError
        If a name fits none.
    """
    for name in wanted:
        if not any(name in (one.name, one.network) for one in suite):
            raise ValueError(f"no workload {name!r}; there are {', '.join(one.name for one in suite)}")
    return [one for one in suite if not wanted or {one.name, one.network} & set(wanted)]


def make_problem(workload: Workload, seed: int) -> dict[str, npt.NDArray[np.floating]]:
    """Data with something to learn and noise that stays, and Glorot-uniform weights: the content of a problem file.

    Returns
    -------
    dict
        ``X`` (rows, n_in), ``y`` (rows, n_targets), ``kernel_0`` (n_in, n_out), ``bias_0`` (n_out,), ...
    """
    rng = np.random.default_rng(seed)
    n_in, n_out, rows = workload.layers[0], workload.layers[-1], workload.rows
    x = rng.standard_normal((rows, n_in), dtype=np.float32)
    if workload.loss == MSE:
        columns = np.arange(n_out)
        y = 0.5 * x[:, columns % n_in] + 0.25 * x[:, (columns + 1) % n_in] * x[:, (columns + 2) % n_in]
        y += 0.5 * rng.standard_normal((rows, n_out), dtype=np.float32)
    else:
        # Labels that a linear teacher gives, noise and all.
        scores = x @ (rng.standard_normal((n_in, n_out), dtype=np.float32) / n_in**0.5)
        scores += 0.5 * rng.standard_normal((rows, n_out), dtype=np.float32)
        y = scores > 0 if workload.loss == LOGISTIC else scores.argmax(axis=1, keepdims=True)
    problem = {"X": x, "y": y}
    for i, (m, n) in enumerate(pairwise(workload.layers)):
        limit = (6 / (m + n)) ** 0.5
        problem[f"kernel_{i}"] = rng.uniform(-limit, limit, (m, n))
        problem[f"bias_{i}"] = np.zeros(n)
    return {name: array.astype(workload.dtype, copy=False) for name, array in problem.items()}
