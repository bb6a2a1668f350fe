"""What a network is made of. Layers are plain descriptions: they hold no parameters."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import ModelError

# Numbers of `fastsgd.kernels.activations`, by name; not imported from there, since that would load Numba.
ACTIVATIONS = {
    "linear": 0,
    "relu": 1,
    "tanh": 2,
    "sigmoid": 3,
    "softmax": 4,
    "leaky_relu": 5,
    "elu": 6,
    "selu": 7,
    "gelu": 8,
    "silu": 9,
    "softplus": 10,
}


def named(given: object, allowed: Iterable[str], what: str) -> str:
    """The name among `allowed` that was given, or a ModelError that lists them.

    Raises
    ------
    ModelError
        If there is no such name; the message has the nearest.
    """
    names = sorted(allowed)
    if isinstance(given, str) and given.lower() in names:
        return given.lower()
    near = difflib.get_close_matches(given.lower(), names, n=1) if isinstance(given, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ModelError(f"{what} {given!r} is unknown; {hint}there are {', '.join(names)}")


def whole_number(given: object, what: str, least: int = 1) -> int:
    """`given` as an int, if it is a whole number from `least` on, else a ModelError."""
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < least:
        raise ModelError(f"{what} is {given!r}; it is a whole number from {least} on")
    return int(given)


def _uniform(rng: _Uniforms, shape: tuple[int, int], limit: float) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = (2 * rng.draw(shape[0] * shape[1]) - 1).reshape(shape) * limit
    return kernel


def _normal(rng: _Uniforms, shape: tuple[int, int], deviation: float) -> NDArray[np.float64]:
    """Box and Muller's transform of uniform numbers."""
    count = shape[0] * shape[1]
    radius = np.sqrt(-2 * np.log(1 - rng.draw(count)))
    kernel: NDArray[np.float64] = (radius * np.cos(2 * np.pi * rng.draw(count))).reshape(shape) * deviation
    return kernel


class _Uniforms:
    """Uniform numbers in [0, 1) from SplitMix64: the same on every machine and NumPy version."""

    def __init__(self, seed: int, layer: int) -> None:
        with np.errstate(over="ignore"):
            self._state = _mix(np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF) + _mix(np.uint64(layer + 1)))

    def draw(self, count: int) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            counters = self._state + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            self._state = self._state + np.uint64(count) * np.uint64(0x9E3779B97F4A7C15)
            bits = _mix(counters)
        numbers: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return numbers


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


# Glorot and Bengio 2010; He et al. 2015; LeCun et al. 1998. Each takes (rng, (n_in, n_out)).
INITIALIZERS: dict[str, Callable[[_Uniforms, tuple[int, int]], NDArray[np.float64]]] = {
    "glorot_uniform": lambda rng, shape: _uniform(rng, shape, np.sqrt(6 / (shape[0] + shape[1]))),
    "glorot_normal": lambda rng, shape: _normal(rng, shape, np.sqrt(2 / (shape[0] + shape[1]))),
    "he_uniform": lambda rng, shape: _uniform(rng, shape, np.sqrt(6 / shape[0])),
    "he_normal": lambda rng, shape: _normal(rng, shape, np.sqrt(2 / shape[0])),
    "lecun_uniform": lambda rng, shape: _uniform(rng, shape, np.sqrt(3 / shape[0])),
    "lecun_normal": lambda rng, shape: _normal(rng, shape, np.sqrt(1 / shape[0])),
    "zeros": lambda rng, shape: np.zeros(shape),
}


class Layer:
    """Base of the layers."""


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer: ``activation(x @ kernel + bias)``.

    Parameters
    ----------
    units : int
        Outputs.
    activation : str
        "linear", "relu", "leaky_relu" (slope 0.2 below 0), "elu", "selu", "gelu" (exact, with the error function),
        "silu", "softplus", "tanh", "sigmoid", or, in the last layer, "softmax".
    init : str
        How the kernel starts: "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform",
        "lecun_normal" or "zeros". The bias starts at 0.
    use_bias : bool

    Raises
    ------
    ModelError
        If an argument is none of these.
    """

    units: int
    activation: str = "linear"
    init: str = field(default="glorot_uniform", kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", whole_number(self.units, "Dense: units"))
        object.__setattr__(self, "activation", named(self.activation, ACTIVATIONS, "Dense: the activation"))
        object.__setattr__(self, "init", named(self.init, INITIALIZERS, "Dense: the initializer"))
        if not isinstance(self.use_bias, (bool, np.bool_)):
            raise ModelError(f"Dense: use_bias is {self.use_bias!r}; it is True or False")
        object.__setattr__(self, "use_bias", bool(self.use_bias))

    def start_kernel(self, n_in: int, seed: int, layer: int) -> NDArray[np.float64]:
        """The kernel (n_in, units) to start from."""
        return INITIALIZERS[self.init](_Uniforms(seed, layer), (n_in, self.units))


@dataclass(frozen=True)
class Standardize(Layer):
    """Shift and scale each input column to mean 0 and standard deviation 1. The first layer, if there is one.

    Mean and deviation are learned in one pass over the training data before the first epoch, and saved with the model.
    A column that does not vary is only shifted.
    """
