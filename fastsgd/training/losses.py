"""Losses by name, and what each asks of the last layer and the targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsgd import losses
from fastsgd.errors import ModelError
from fastsgd.model.layers import named
from fastsgd.model.sequential import Sequential

TargetCheck = Callable[[NDArray[np.generic]], "tuple[int, str] | None"]


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes
    ----------
    name : str
    code : int
        Of `fastsgd.kernels.losses`; not imported from there, since that would load Numba.
    activations : tuple of str
        What the last layer may have; empty for any but softmax.
    merged : bool
        Whether the last activation is merged into the loss, which takes raw outputs.
    parameters : tuple of two floats
        What the kernels are told beside the code.
    """

    name: str
    code: int
    activations: tuple[str, ...] = ()
    merged: bool = False
    parameters: tuple[float, float] = (0.0, 0.0)


_SIGMOID = ("sigmoid", "linear")
_SOFTMAX = ("softmax", "linear")
_MARGIN = ("linear", "tanh")

LOSSES = {
    loss.name: loss
    for loss in (
        Loss("mse", 0),
        Loss("mae", 1),
        Loss("huber", 4, parameters=losses.Huber().parameters),
        Loss("log_cosh", 5),
        Loss("quantile", 6, parameters=losses.Quantile().parameters),
        Loss("epsilon_insensitive", 8, parameters=losses.EpsilonInsensitive().parameters),
        Loss("poisson", 7, ("softplus", "relu", "sigmoid")),
        Loss("binary_crossentropy", 2, _SIGMOID, merged=True),
        Loss("focal", 13, _SIGMOID, merged=True, parameters=losses.Focal().parameters),
        Loss("hinge", 10, _MARGIN),
        Loss("squared_hinge", 11, _MARGIN),
        Loss("modified_huber", 12, _MARGIN),
        Loss("sparse_categorical_crossentropy", 3, _SOFTMAX, merged=True),
        Loss("categorical_crossentropy", 9, _SOFTMAX, merged=True),
    )
}
_ALIASES = {
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "logcosh": "log_cosh",
    "pinball": "quantile",
    "binary_focal_crossentropy": "focal",
}
_CLASSES = ("sparse_categorical_crossentropy", "categorical_crossentropy")
_HINGES = ("hinge", "squared_hinge", "modified_huber")


def find_loss(given: object, model: Sequential) -> Loss:
    """The loss of that name, or that a `fastsgd.losses` object describes, if it goes with the model's last layer.

    Raises
    ------
    ModelError
        If there is no such loss, or the last layer's activation or width does not go with it.
    """
    if isinstance(given, losses.Loss) and given.name in LOSSES:
        found = replace(LOSSES[given.name], parameters=given.parameters)
    else:
        key = named(given, LOSSES.keys() | _ALIASES.keys(), "the loss")
        found = LOSSES[_ALIASES.get(key, key)]
    last = model.dense[-1]
    if found.activations and last.activation not in found.activations:
        allowed = " or ".join(map(repr, found.activations))
        raise ModelError(f"loss {found.name!r} needs {allowed} in the last layer, which has {last.activation!r}")
    if not found.activations and last.activation == "softmax":
        raise ModelError(
            f"loss {found.name!r} does not go with 'softmax'; use 'sparse_categorical_crossentropy', or "
            "'categorical_crossentropy' for one column of targets a class"
        )
    if found.name in _CLASSES and last.units < 2:
        raise ModelError(f"loss {found.name!r} needs one output a class: 2 or more, not 1")
    return found


def target_columns(loss: Loss, model: Sequential) -> int:
    """Columns that the targets must have."""
    return 1 if loss.name == "sparse_categorical_crossentropy" else model.n_outputs


def target_check(loss: Loss, model: Sequential) -> TargetCheck | None:
    """What looks for labels out of range in a block of targets (rows, n_targets), or None where any number will do."""
    if loss.name == "sparse_categorical_crossentropy":
        classes = model.n_outputs

        def check_class(y: NDArray[np.generic]) -> tuple[int, str] | None:
            labels = y[:, 0]
            whole = labels.dtype.kind != "f" or bool((labels == np.floor(labels)).all())
            if whole and _lie_within(labels, 0, classes - 1):
                return None
            wrong = (labels < 0) | (labels >= classes)  # type: ignore[operator]
            if labels.dtype.kind == "f":
                wrong |= labels != np.floor(labels)
            return _first(
                wrong, labels, f"a class is a whole number from 0 to {classes - 1}, as the model has {classes} outputs"
            )

        return check_class
    if loss.name in ("binary_crossentropy", "focal", "categorical_crossentropy"):
        return _range_check(0, 1, f"a target of {loss.name} is from 0 to 1")
    if loss.name == "poisson":
        return _range_check(0, math.inf, "a target of poisson is from 0 on")
    if loss.name in _HINGES:
        allowed = f"a target of {loss.name} is -1 or 1, or instead 0 or 1"
        return lambda y: _first_wrong((y != -1) & (y != 0) & (y != 1), y, allowed)
    return None


def _lie_within(values: NDArray[np.generic], low: float, high: float) -> bool:
    """Whether all of some finite values do: a tenth of the time that to find those takes which do not."""
    return bool(values.min() >= low and values.max() <= high)


def _range_check(low: float, high: float, allowed: str) -> TargetCheck:
    """A check that values lie between two bounds, or on them."""

    def check(y: NDArray[np.generic]) -> tuple[int, str] | None:
        if _lie_within(y, low, high):
            return None
        return _first_wrong((y < low) | (y > high), y, allowed)  # type: ignore[operator]

    return check


def _first_wrong(wrong: NDArray[np.bool_], y: NDArray[np.generic], allowed: str) -> tuple[int, str] | None:
    """Which value of the first wrong row is wrong."""
    columns = wrong.argmax(axis=1)
    return _first(np.asarray(wrong.any(axis=1)), y[np.arange(len(y)), columns], allowed)


def _first(wrong: NDArray[np.bool_], values: NDArray[np.generic], allowed: str) -> tuple[int, str] | None:
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    return row, f"the label is {values[row]}; {allowed}"
