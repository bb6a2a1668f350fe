"""Optimizers: what a user asks for; the arrays a kernel needs of it are made by the trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fastsgd.errors import ModelError


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent.

    Parameters
    ----------
    learning_rate : float
    momentum : float
        From 0 to below 1. Velocity as in Keras: ``v = momentum * v - learning_rate * g; w += v``.
    nesterov : bool
        ``w += momentum * v - learning_rate * g`` instead.

    Raises
    ------
    ModelError
        If a number is out of its range, or `nesterov` is asked for without momentum.
    """

    learning_rate: float = 0.01
    momentum: float = field(default=0.0, kw_only=True)
    nesterov: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "momentum"):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, float(value))
            except (TypeError, ValueError):
                raise ModelError(f"SGD: {name} is {value!r}; it is a number") from None
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ModelError(f"SGD: learning_rate is {self.learning_rate}; it is a number above 0")
        if not 0 <= self.momentum < 1:
            raise ModelError(f"SGD: momentum is {self.momentum}; it is from 0 to below 1")
        if self.nesterov and self.momentum == 0:
            raise ModelError("SGD: nesterov=True needs momentum above 0")
