"""Metrics by name: sums over rows, computed from predictions after the last activation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import ModelError
from fastsgd.model.layers import named
from fastsgd.training.losses import Loss

# Takes predictions (rows, n_outputs) and targets (rows, n_targets); returns one value a row.
RowMetric = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.floating]]


def _squared_error(prediction: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    error: NDArray[np.floating] = np.square(prediction - y, dtype=np.float64).mean(axis=1)
    return error


def _absolute_error(prediction: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    error: NDArray[np.floating] = np.abs(prediction - y).mean(axis=1, dtype=np.float64)
    return error


def _binary_hit(prediction: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    hit: NDArray[np.floating] = ((prediction > 0.5) == (y > 0.5)).mean(axis=1)
    return hit


def _class_hit(prediction: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    hit: NDArray[np.floating] = (prediction.argmax(axis=1) == y[:, 0]).astype(np.float64)
    return hit


def _likeliest_hit(prediction: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    hit: NDArray[np.floating] = (prediction.argmax(axis=1) == y.argmax(axis=1)).astype(np.float64)
    return hit


def _side_hit(prediction: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    hit: NDArray[np.floating] = ((prediction > 0) == (y > 0)).mean(axis=1)
    return hit


# What "accuracy" is under each loss.
_HITS: dict[str, RowMetric] = {
    "binary_crossentropy": _binary_hit,
    "focal": _binary_hit,
    "sparse_categorical_crossentropy": _class_hit,
    "categorical_crossentropy": _likeliest_hit,
    "hinge": _side_hit,
    "squared_hinge": _side_hit,
    "modified_huber": _side_hit,
}


def find_metrics(names: tuple[str, ...] | list[str] | str, loss: Loss) -> dict[str, RowMetric]:
    """The metrics of these names: "mse", "mae", "rmse", "accuracy".

    Raises
    ------
    ModelError
        If there is no such metric, or "accuracy" is asked for beside a loss that is not for classes.
    """
    found: dict[str, RowMetric] = {}
    for name in [names] if isinstance(names, str) else names:
        key = named(name, ("mse", "mae", "rmse", "accuracy"), "the metric")
        if key == "accuracy":
            if loss.name not in _HITS:
                raise ModelError(f"the metric 'accuracy' goes with a cross-entropy or a hinge, not with {loss.name!r}")
            found[key] = _HITS[loss.name]
        elif loss.name == "sparse_categorical_crossentropy":
            raise ModelError(f"the metric {key!r} does not go with {loss.name!r}; 'accuracy' does")
        else:
            found[key] = _absolute_error if key == "mae" else _squared_error
    return found


def finished(name: str, mean: float) -> float:
    """The value of a metric from the mean of its rows."""
    return float(np.sqrt(mean)) if name == "rmse" else mean
