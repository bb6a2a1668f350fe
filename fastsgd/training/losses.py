"""Losses by name, and what each asks of the last layer and the targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """

    name: str
    code: int
    activations: tuple[str, ...] = ()
    merged: bool = False


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("mse", 0),
        Loss("mae", 1),
        Loss("binary_crossentropy", 2, ("sigmoid", "linear"), merged=True),
        Loss("sparse_categorical_crossentropy", 3, ("softmax", "linear"), merged=True),
    )
}
_ALIASES = {"mean_squared_error": "mse", "mean_absolute_error": "mae"}


def find_loss(name: object, model: Sequential) -> Loss:
    """The loss of that name, if it goes with the model's last layer.

    Raises
    ------
    ModelError
        If there is no such loss, or the last layer's activation or width does not go with it.
    """
    found = LOSSES[_ALIASES.get(key := named(name, LOSSES.keys() | _ALIASES.keys(), "the loss"), key)]
    last = model.dense[-1]
    if found.activations and last.activation not in found.activations:
        allowed = " or ".join(map(repr, found.activations))
        raise ModelError(f"loss {found.name!r} needs {allowed} in the last layer, which has {last.activation!r}")
    if not found.activations and last.activation == "softmax":
        raise ModelError(f"loss {found.name!r} does not go with 'softmax'; use 'sparse_categorical_crossentropy'")
    if found.name == "sparse_categorical_crossentropy" and last.units < 2:
        raise ModelError("loss 'sparse_categorical_crossentropy' needs one output a class: 2 or more, not 1")
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
            wrong = (labels < 0) | (labels >= classes)  # type: ignore[operator]
            if labels.dtype.kind == "f":
                wrong |= labels != np.floor(labels)
            return _first(
                wrong, labels, f"a class is a whole number from 0 to {classes - 1}, as the model has {classes} outputs"
            )

        return check_class
    if loss.name == "binary_crossentropy":

        def check_share(y: NDArray[np.generic]) -> tuple[int, str] | None:
            wrong = ((y < 0) | (y > 1)).any(axis=1)  # type: ignore[operator]
            return _first(wrong, y[:, 0], "a target of binary_crossentropy is from 0 to 1")

        return check_share
    return None


def _first(wrong: NDArray[np.bool_], values: NDArray[np.generic], allowed: str) -> tuple[int, str] | None:
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    return row, f"the label is {values[row]}; {allowed}"
