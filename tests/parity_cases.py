"""Cases that fastsgd trains and that Keras and PyTorch trained once, for the record: weights and data by formula.

The numbers come from an integer hash in exact arithmetic, so they are the same bits with any NumPy on any machine.
`scripts/record_parity.py` trains the peers on them and writes `parity_figures.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

N_CLASSES = 5

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A network, a loss and an optimizer.

    Attributes
    ----------
    name : str
    layers : tuple of int, widths from the inputs to the outputs
    activations : tuple of str, one a layer; a cross-entropy follows the sigmoid or softmax it belongs to
    loss : str
    loss_options : dict, what the loss is told: as Keras calls it, and `fastsgd.losses`
    momentum : float
    nesterov : bool
    learning_rate : float
    batch_size : int
    steps : int, batches in the order of the rows, each row once
    """

    name: str
    layers: tuple[int, ...]
    activations: tuple[str, ...]
    loss: str
    loss_options: dict[str, float] = field(default_factory=dict)
    momentum: float = 0.0
    nesterov: bool = False
    learning_rate: float = 0.01
    batch_size: int = 32
    steps: int = 200

    @property
    def rows(self) -> int:
        """Rows of the data."""
        return self.batch_size * self.steps


_SEED_LAYERS = (10, 64, 64, 1)
_SEED_ACTIVATIONS = ("relu", "relu", "linear")

CASES = [
    Case("seed", _SEED_LAYERS, _SEED_ACTIVATIONS, "mse"),
    Case("momentum", _SEED_LAYERS, _SEED_ACTIVATIONS, "mse", momentum=0.9),
    Case("nesterov", _SEED_LAYERS, _SEED_ACTIVATIONS, "mse", momentum=0.9, nesterov=True),
    Case("binary", (7, 33, 1), ("tanh", "sigmoid"), "binary_crossentropy", learning_rate=0.2),
    Case(
        "classes",
        (12, 40, N_CLASSES),
        ("relu", "softmax"),
        "sparse_categorical_crossentropy",
        learning_rate=0.1,
        batch_size=50,
    ),
    Case("absolute", (9, 24, 17, 3), ("relu", "tanh", "linear"), "mae", learning_rate=0.05, batch_size=20),
    Case("gelu_huber", (10, 31, 20, 1), ("gelu", "gelu", "linear"), "huber", {"delta": 0.7}, learning_rate=0.05),
    Case("silu_log_cosh", (8, 24, 3), ("silu", "linear"), "log_cosh", learning_rate=0.05),
    Case("elu_poisson", (6, 30, 9, 2), ("elu", "selu", "softplus"), "poisson", learning_rate=0.02),
    Case(
        "leaky_focal", (7, 33, 1), ("leaky_relu", "sigmoid"), "focal", {"gamma": 2.5, "alpha": 0.3}, learning_rate=0.2
    ),
    Case(
        "softplus_smooth",
        (12, 26, N_CLASSES),
        ("softplus", "softmax"),
        "categorical_crossentropy",
        {"label_smoothing": 0.1},
        learning_rate=0.1,
    ),
    Case("smooth_binary", (7, 16, 1), ("elu", "sigmoid"), "binary_crossentropy", {"label_smoothing": 0.2}),
    Case("hinge", (7, 24, 1), ("gelu", "linear"), "squared_hinge", learning_rate=0.02),
]


def start_parameters(case: Case) -> list[tuple[Array, Array]]:
    """Weights to start from.

    Returns
    -------
    list of (kernel (n_in, n_out), bias (n_out,)), float32
        Kernels spread as in Glorot's uniform initialisation, biases over [-0.1, 0.1).
    """
    parameters = []
    for layer, (n_in, n_out) in enumerate(pairwise(case.layers)):
        limit = np.sqrt(6.0 / (n_in + n_out))
        kernel = limit * _spread(n_in * n_out, stream=2 * layer + 2).reshape(n_in, n_out)
        bias = 0.1 * _spread(n_out, stream=2 * layer + 3)
        parameters.append((kernel.astype(np.float32), bias.astype(np.float32)))
    return parameters


def data(case: Case) -> tuple[Array, Array]:
    """Rows for all steps of a case.

    Returns
    -------
    x : float32 (rows, n_in), in [-2, 2)
    y : float32 (rows, n_targets)
        A smooth function of x for each output, as counts for Poisson; 0 or 1 under binary losses; under sparse
        categorical cross-entropy one column of class numbers, under the categorical one a column a class.
    """
    x = 2.0 * _spread(case.rows * case.layers[0], stream=1).reshape(case.rows, case.layers[0])
    score = x[:, 0] + 0.5 * x[:, 1] * x[:, 2]
    y: npt.NDArray[Any]
    if case.loss in ("binary_crossentropy", "focal", "squared_hinge"):
        y = (score > 0)[:, None]
    elif case.loss.endswith("categorical_crossentropy"):
        y = np.digitize(score, [-1.2, -0.4, 0.4, 1.2])[:, None]
        y = y if case.loss.startswith("sparse") else y == np.arange(N_CLASSES)
    elif case.loss == "poisson":
        y = np.stack([np.abs(np.round(score - 0.5 * x[:, 3 + j])) for j in range(case.layers[-1])], axis=1)
    else:
        y = np.stack([score - 0.5 * x[:, 3 + j] for j in range(case.layers[-1])], axis=1)
    return x.astype(np.float32), y.astype(np.float32)


def _spread(count: int, *, stream: int) -> npt.NDArray[np.float64]:
    """Numbers spread evenly over [-1, 1), 24 bits each, so that float32 holds them exactly.

    The last steps of MurmurHash3 (Austin Appleby, public domain) on the index, with a start of its own for each stream.
    """
    mask = np.uint64(0xFFFFFFFF)
    hashed = np.arange(count, dtype=np.uint64) + np.uint64(stream * 0x9E3779B9 & 0xFFFFFFFF) & mask
    hashed ^= hashed >> np.uint64(16)
    hashed = hashed * np.uint64(0x85EBCA6B) & mask
    hashed ^= hashed >> np.uint64(13)
    hashed = hashed * np.uint64(0xC2B2AE35) & mask
    hashed ^= hashed >> np.uint64(16)
    return (hashed >> np.uint64(8)).astype(np.float64) / 2.0**23 - 1.0
