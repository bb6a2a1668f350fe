"""Record what Keras and PyTorch do on the cases of `tests/parity_cases.py`, for tests that have neither.

Run it in the peers' environment (`benchmarks/peers/make_env`). It trains each case in float32 in both libraries, step
by step, and writes `tests/parity_figures.json`: versions, and for each case and library the loss of every step, taken
before the step's update, and the sum and the sum of squares of each parameter after the last.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402
from parity_cases import CASES, Array, Case, data, start_parameters  # noqa: E402

# The cross-entropies take raw outputs, so the last activation is left to them.
FUSED = {"binary_crossentropy", "focal", "sparse_categorical_crossentropy", "categorical_crossentropy"}

Trained = tuple[list[float], list[tuple[Array, Array]]]


def activations(case: Case) -> list[str]:
    """Activations as the peers' models have them."""
    last = "linear" if case.loss in FUSED else case.activations[-1]
    return [*case.activations[:-1], last]


def keras_loss(case: Case) -> Any:
    """The loss of a case."""
    options: dict[str, Any] = dict(case.loss_options)
    if case.loss == "focal":
        options |= {"apply_class_balancing": "alpha" in options}
    if case.loss in FUSED:
        options |= {"from_logits": True}
    kinds = {
        "mse": keras.losses.MeanSquaredError,
        "mae": keras.losses.MeanAbsoluteError,
        "huber": keras.losses.Huber,
        "log_cosh": keras.losses.LogCosh,
        "poisson": keras.losses.Poisson,
        "squared_hinge": keras.losses.SquaredHinge,
        "binary_crossentropy": keras.losses.BinaryCrossentropy,
        "focal": keras.losses.BinaryFocalCrossentropy,
        "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    }
    return kinds[case.loss](**options)


def keras_train(case: Case) -> Trained:
    """Train a case in Keras; returns the loss of each step and the final (kernel, bias) of each layer."""
    loss_function = keras_loss(case)
    layers = [
        keras.layers.Dense(width, activation=name)
        for width, name in zip(case.layers[1:], activations(case), strict=True)
    ]
    model = keras.Sequential([keras.layers.Input((case.layers[0],)), *layers])
    for layer, parameters in zip(layers, start_parameters(case), strict=True):
        layer.set_weights(parameters)
    optimizer = keras.optimizers.SGD(case.learning_rate, momentum=case.momentum, nesterov=case.nesterov)
    x, y = data(case)
    recorded = []
    for i in range(0, case.rows, case.batch_size):
        with tf.GradientTape() as tape:
            loss = loss_function(y[i : i + case.batch_size], model(x[i : i + case.batch_size]))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        recorded.append(float(loss))
    return recorded, [(layer.kernel.numpy(), layer.bias.numpy()) for layer in layers]


def torch_loss(case: Case) -> Callable[[Any, Any], Any]:
    """The loss of a case; what PyTorch has none of is written out in its functions."""
    functional, options = torch.nn.functional, case.loss_options
    smoothing = options.get("label_smoothing", 0.0)

    def binary(z: Any, y: Any, reduction: str = "mean") -> Any:
        return functional.binary_cross_entropy_with_logits(z, y * (1 - smoothing) + smoothing / 2, reduction=reduction)

    def focal(z: Any, y: Any) -> Any:
        wrong = (y - torch.sigmoid(z)).abs()
        weight = y * options["alpha"] + (1 - y) * (1 - options["alpha"])
        return (weight * wrong ** options["gamma"] * binary(z, y, "none")).mean()

    losses: dict[str, Callable[[Any, Any], Any]] = {
        "mse": torch.nn.MSELoss(),
        "mae": torch.nn.L1Loss(),
        "huber": torch.nn.HuberLoss(delta=options.get("delta", 1.0)),
        "log_cosh": lambda z, y: torch.log(torch.cosh(z - y)).mean(),
        "poisson": torch.nn.PoissonNLLLoss(log_input=False, eps=1e-7),
        "squared_hinge": lambda z, y: (1 - (2 * y - 1) * z).clamp(min=0).square().mean(),
        "binary_crossentropy": binary,
        "focal": focal,
        "sparse_categorical_crossentropy": torch.nn.CrossEntropyLoss(),
        "categorical_crossentropy": torch.nn.CrossEntropyLoss(label_smoothing=smoothing),
    }
    return losses[case.loss]


def torch_train(case: Case) -> Trained:
    """Train a case in PyTorch.

    Its velocity carries no learning rate; with a constant rate its updates are Keras's, Nesterov's form included.
    """
    loss_function = torch_loss(case)
    modules: dict[str, Callable[[], Any]] = {
        "relu": torch.nn.ReLU,
        "tanh": torch.nn.Tanh,
        "linear": torch.nn.Identity,
        "gelu": torch.nn.GELU,
        "silu": torch.nn.SiLU,
        "elu": torch.nn.ELU,
        "selu": torch.nn.SELU,
        "softplus": torch.nn.Softplus,
        "leaky_relu": lambda: torch.nn.LeakyReLU(0.2),  # Keras's slope; PyTorch's own default is 0.01
    }
    linear = []
    sequence: list[Any] = []
    for (kernel, bias), name in zip(start_parameters(case), activations(case), strict=True):
        layer = torch.nn.Linear(*kernel.shape)
        layer.weight.data.copy_(torch.from_numpy(kernel.T.copy()))
        layer.bias.data.copy_(torch.from_numpy(bias))
        linear.append(layer)
        sequence += [layer, modules[name]()]
    model = torch.nn.Sequential(*sequence)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=case.learning_rate, momentum=case.momentum, nesterov=case.nesterov
    )
    x, y = (torch.from_numpy(array) for array in data(case))
    if case.loss == "sparse_categorical_crossentropy":
        y = y[:, 0].long()
    recorded = []
    for i in range(0, case.rows, case.batch_size):
        optimizer.zero_grad()
        loss = loss_function(model(x[i : i + case.batch_size]), y[i : i + case.batch_size])
        loss.backward()
        optimizer.step()
        recorded.append(loss.item())
    return recorded, [(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy()) for layer in linear]


def figures(trained: Trained) -> dict[str, Any]:
    """Losses and checksums, with as many digits as float32 needs to be told apart."""
    losses, parameters = trained
    checksums = {}
    for i, layer in enumerate(parameters):
        for name, array in zip(("kernel", "bias"), layer, strict=True):
            values = array.astype(np.float64)
            checksums[f"dense_{i}/{name}"] = {
                "sum": float(f"{values.sum():.9g}"),
                "sum_of_squares": float(f"{(values**2).sum():.9g}"),
            }
    return {"losses": [float(f"{loss:.9g}") for loss in losses], "parameters": checksums}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TESTS / "parity_figures.json")
    options = parser.parse_args()
    recorded: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "torch": torch.__version__,
        },
        "cases": {},
    }
    for case in CASES:
        trained = {"keras": keras_train(case), "torch": torch_train(case)}
        recorded["cases"][case.name] = {
            "case": asdict(case),
            **{library: figures(result) for library, result in trained.items()},
        }
        pair = [np.array(losses) for losses, _ in trained.values()]
        apart = np.max(np.abs(pair[0] - pair[1]) / pair[1])
        weights = [np.concatenate([a.ravel() for layer in layers for a in layer]) for _, layers in trained.values()]
        far = np.max(np.abs(weights[0] - weights[1]))
        print(
            f"{case.name:10s} loss {pair[0][0]:.4f} -> {pair[0][-1]:.4f}; "
            f"Keras and PyTorch differ by at most {apart:.1e} of a loss, {far:.1e} in a weight"
        )
    text = json.dumps(recorded, indent=1)
    # A list of numbers on one line.
    text = re.sub(r"\[([^\[\]{}]*)\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)
    options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
