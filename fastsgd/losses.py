"""Losses that can be told something: `fs.Trainer(model, optimizer, fs.losses.Huber(delta=0.5))`.

A loss by its name alone, like "huber", has the values that are the defaults here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastsgd.errors import ModelError

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "EpsilonInsensitive",
    "Focal",
    "Huber",
    "Loss",
    "Quantile",
    "SparseCategoricalCrossentropy",
]


@dataclass(frozen=True)
class Loss:
    """Base of the losses with parameters."""

    name: ClassVar[str] = ""

    @property
    def parameters(self) -> tuple[float, float]:
        """The two numbers that the kernels take."""
        return 0.0, 0.0


def _checked(given: object, what: str, allowed: str, *, above: float = -math.inf, least: float, most: float) -> float:
    """A finite number from `least` to `most` and above `above`, or a ModelError that says what is allowed."""
    try:
        value = math.nan if isinstance(given, bool) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not (least <= value <= most and above < value < math.inf):
        raise ModelError(f"{what} is {given!r}; it is a number {allowed}")
    return value


@dataclass(frozen=True)
class Huber(Loss):
    """Half the squared error up to `delta`, and a line of slope `delta` beyond: Huber 1964."""

    delta: float = 1.0
    name: ClassVar[str] = "huber"

    def __post_init__(self) -> None:
        delta = _checked(self.delta, "Huber: delta", "above 0", above=0, least=0, most=math.inf)
        object.__setattr__(self, "delta", delta)

    @property
    def parameters(self) -> tuple[float, float]:
        return self.delta, 0.0


@dataclass(frozen=True)
class Quantile(Loss):
    """The pinball loss, least at the q-quantile of the target: Koenker and Bassett 1978. 0.5 is the median."""

    q: float = 0.5
    name: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        q = _checked(self.q, "Quantile: q", "between 0 and 1", above=0, least=0, most=math.nextafter(1, 0))
        object.__setattr__(self, "q", q)

    @property
    def parameters(self) -> tuple[float, float]:
        return self.q, 0.0


@dataclass(frozen=True)
class EpsilonInsensitive(Loss):
    """What of the absolute error goes beyond `epsilon`, as in support vector regression: Vapnik 1995."""

    epsilon: float = 0.1
    name: ClassVar[str] = "epsilon_insensitive"

    def __post_init__(self) -> None:
        epsilon = _checked(self.epsilon, "EpsilonInsensitive: epsilon", "from 0 on", least=0, most=math.inf)
        object.__setattr__(self, "epsilon", epsilon)

    @property
    def parameters(self) -> tuple[float, float]:
        return self.epsilon, 0.0


@dataclass(frozen=True)
class _Smoothed(Loss):
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        what = f"{type(self).__name__}: label_smoothing"
        smoothing = _checked(self.label_smoothing, what, "from 0 to 1", least=0, most=1)
        object.__setattr__(self, "label_smoothing", smoothing)

    @property
    def parameters(self) -> tuple[float, float]:
        return self.label_smoothing, 0.0


@dataclass(frozen=True)
class BinaryCrossentropy(_Smoothed):
    """Cross-entropy of a sigmoid; label smoothing s makes t (1 - s) + s / 2 of a target t."""

    name: ClassVar[str] = "binary_crossentropy"


@dataclass(frozen=True)
class CategoricalCrossentropy(_Smoothed):
    """Cross-entropy of a softmax with one column of targets a class: one-hot, or the classes' shares.

    Label smoothing s makes t (1 - s) + s / n of a target t of n classes.
    """

    name: ClassVar[str] = "categorical_crossentropy"


@dataclass(frozen=True)
class SparseCategoricalCrossentropy(_Smoothed):
    """Cross-entropy of a softmax with the class numbers in one column; label smoothing as if these were one-hot."""

    name: ClassVar[str] = "sparse_categorical_crossentropy"


@dataclass(frozen=True)
class Focal(Loss):
    """Binary cross-entropy times ``(1 - p_t)**gamma``, which lets easy rows count less: Lin et al. 2017.

    Parameters
    ----------
    gamma : float
        0 is the cross-entropy itself.
    alpha : float, optional
        Rows of target 1 count alpha times, those of target 0 ``1 - alpha`` times; if not given, both count once.
    """

    gamma: float = 2.0
    alpha: float | None = None
    name: ClassVar[str] = "focal"

    def __post_init__(self) -> None:
        gamma = _checked(self.gamma, "Focal: gamma", "from 0 on", least=0, most=math.inf)
        object.__setattr__(self, "gamma", gamma)
        if self.alpha is not None:
            alpha = _checked(self.alpha, "Focal: alpha", "from 0 to 1, or None", least=0, most=1)
            object.__setattr__(self, "alpha", alpha)

    @property
    def parameters(self) -> tuple[float, float]:
        return self.gamma, -1.0 if self.alpha is None else self.alpha
