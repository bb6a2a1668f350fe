"""The independent reference: dense networks in plain float64 NumPy, straight from the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

_SELU = (1.0507009873554804934193349852946, 1.6732632423543772848170429916717)  # scale and alpha


def activation(name, z):
    """The activation of z (rows, n)."""
    if name == "relu":
        return np.maximum(z, 0)
    if name == "tanh":
        return np.tanh(z)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-z))
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    if name == "leaky_relu":
        return np.where(z > 0, z, 0.2 * z)
    if name == "elu":
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
    if name == "selu":
        return _SELU[0] * np.where(z > 0, z, _SELU[1] * np.expm1(np.minimum(z, 0)))
    if name == "gelu":
        return z * normal_distribution(z)
    if name == "silu":
        return z / (1 + np.exp(-z))
    if name == "softplus":
        return np.logaddexp(0, z)
    return z


def normal_distribution(z):
    """The standard normal distribution function."""
    return np.vectorize(lambda value: math.erfc(-value / math.sqrt(2)) / 2, otypes=[float])(z)


def activation_grad(name, z, grad):
    """Gradient with respect to z, from the gradient with respect to activation(z)."""
    out = activation(name, z)
    if name == "relu":
        return grad * (z > 0)
    if name == "tanh":
        return grad * (1 - out**2)
    if name == "sigmoid":
        return grad * out * (1 - out)
    if name == "softmax":
        return out * (grad - (grad * out).sum(axis=1, keepdims=True))
    if name == "leaky_relu":
        return grad * np.where(z > 0, 1, 0.2)
    if name == "elu":
        return grad * np.where(z > 0, 1, np.exp(np.minimum(z, 0)))
    if name == "selu":
        return grad * _SELU[0] * np.where(z > 0, 1, _SELU[1] * np.exp(np.minimum(z, 0)))
    if name == "gelu":
        return grad * (normal_distribution(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    if name == "silu":
        share = 1 / (1 + np.exp(-z))
        return grad * (share + z * share * (1 - share))
    if name == "softplus":
        return grad / (1 + np.exp(-z))
    return grad


# What a loss is told where it is given by its name alone, as (name, a, b) otherwise.
DEFAULTS = {"huber": (1, 0), "quantile": (0.5, 0), "epsilon_insensitive": (0.1, 0), "focal": (2, None)}
MERGED = ("binary_crossentropy", "focal", "sparse_categorical_crossentropy", "categorical_crossentropy")


def described(loss):
    """(name, a, b) of a loss that is a name or these three."""
    return loss if isinstance(loss, tuple) else (loss, *DEFAULTS.get(loss, (0, 0)))


def shares(name, z, y, smoothing):
    """The targets of a cross-entropy, label smoothing done, one column an output."""
    if name == "binary_crossentropy":
        return y * (1 - smoothing) + smoothing / 2
    y = np.eye(z.shape[1])[y[:, 0].astype(int)] if name.startswith("sparse") else y
    return y * (1 - smoothing) + smoothing / z.shape[1]


def row_losses(loss, z, y):
    """Loss of each row; z are raw outputs for the cross-entropies, outputs for the others."""
    name, a, _ = described(loss)
    if name.endswith("categorical_crossentropy"):
        largest = z.max(axis=1, keepdims=True)
        logs = z - largest - np.log(np.exp(z - largest).sum(axis=1, keepdims=True))
        return -(shares(name, z, y, a) * logs).sum(axis=1)
    return _losses_apart(loss, z, y).mean(axis=1)


def _losses_apart(loss, z, y):
    """The loss of each output by itself."""
    name, a, b = described(loss)
    error, margin = z - y, z * np.where(y == 0, -1, y)
    if name == "binary_crossentropy":
        return np.logaddexp(0, z) - z * shares(name, z, y, a)
    if name == "focal":
        p = activation("sigmoid", z)
        weight = 1 if b is None else np.where(y == 1, b, 1 - b)
        return weight * np.abs(y - p) ** a * (np.logaddexp(0, z) - z * y)
    return {
        "mse": lambda: error**2,
        "mae": lambda: np.abs(error),
        "huber": lambda: np.where(np.abs(error) <= a, error**2 / 2, a * np.abs(error) - a * a / 2),
        "log_cosh": lambda: np.logaddexp(error, -error) - np.log(2),
        "quantile": lambda: np.maximum(-a * error, (1 - a) * error),
        "poisson": lambda: z - y * np.log(z + 1e-7),
        "epsilon_insensitive": lambda: np.maximum(np.abs(error) - a, 0),
        "hinge": lambda: np.maximum(1 - margin, 0),
        "squared_hinge": lambda: np.maximum(1 - margin, 0) ** 2,
        "modified_huber": lambda: np.where(margin < -1, -4 * margin, np.maximum(1 - margin, 0) ** 2),
    }[name]()


def row_loss_grads(loss, z, y):
    """Gradient of each row's loss with respect to z."""
    name, a, b = described(loss)
    if name.endswith("categorical_crossentropy"):
        t = shares(name, z, y, a)
        return activation("softmax", z) * t.sum(axis=1, keepdims=True) - t
    error, side = z - y, np.where(y == 0, -1, y)
    if name == "binary_crossentropy":
        grad = activation("sigmoid", z) - shares(name, z, y, a)
    elif name == "focal":  # for targets 0 and 1
        p = activation("sigmoid", z)
        wrong, entropy = np.abs(y - p), np.logaddexp(0, z) - z * y
        grad = wrong**a * (p - y) + a * wrong**a * (1 - wrong) * -side * entropy
        grad = grad * (1 if b is None else np.where(y == 1, b, 1 - b))
    else:
        short = np.maximum(1 - z * side, 0)
        grad = {
            "mse": lambda: 2 * error,
            "mae": lambda: np.sign(error),
            "huber": lambda: np.clip(error, -a, a),
            "log_cosh": lambda: np.tanh(error),
            "quantile": lambda: np.where(error < 0, -a, np.where(error > 0, 1 - a, 0)),
            "poisson": lambda: 1 - y / (z + 1e-7),
            "epsilon_insensitive": lambda: np.sign(error) * (np.abs(error) > a),
            "hinge": lambda: -side * (short > 0),
            "squared_hinge": lambda: -2 * side * short,
            "modified_huber": lambda: np.where(z * side < -1, -4 * side, -2 * side * short),
        }[name]()
    return grad / z.shape[1]


@dataclass
class Network:
    """A dense network: kernels (n_in, n_out), biases (n_out,) or None, and the name of each layer's activation."""

    kernels: list
    biases: list
    activations: list
    velocity: list = field(default_factory=list)

    def __post_init__(self):
        self.kernels = [np.array(kernel, float) for kernel in self.kernels]
        self.biases = [None if bias is None else np.array(bias, float) for bias in self.biases]

    def forward(self, x):
        """Values before and after the activation of each layer."""
        befores, afters = [], [np.asarray(x, float)]
        for kernel, bias, name in zip(self.kernels, self.biases, self.activations, strict=True):
            befores.append(afters[-1] @ kernel + (0 if bias is None else bias))
            afters.append(activation(name, befores[-1]))
        return befores, afters

    def loss(self, loss, x, y, weight=None):
        """Mean over the rows of weight * loss."""
        befores, afters = self.forward(x)
        z = befores[-1] if described(loss)[0] in MERGED else afters[-1]
        rows = row_losses(loss, z, np.asarray(y, float))
        return (rows if weight is None else rows * weight).mean()

    def gradients(self, loss, x, y, weight=None):
        """Gradients of the mean loss: for the kernels, and for the biases."""
        befores, afters = self.forward(x)
        y = np.asarray(y, float)
        merged = described(loss)[0] in MERGED
        delta = row_loss_grads(loss, befores[-1] if merged else afters[-1], y) / len(y)
        if weight is not None:
            delta = delta * np.asarray(weight, float)[:, None]
        if not merged:
            delta = activation_grad(self.activations[-1], befores[-1], delta)
        kernels, biases = [], []
        for layer in range(len(self.kernels) - 1, -1, -1):
            kernels.insert(0, afters[layer].T @ delta)
            biases.insert(0, delta.sum(axis=0))
            if layer:
                delta = activation_grad(self.activations[layer - 1], befores[layer - 1], delta @ self.kernels[layer].T)
        return kernels, biases

    def step(self, loss, x, y, learning_rate, momentum=0.0, nesterov=False, weight=None):
        """One step of SGD, velocity as in Keras; returns the loss before it."""
        before = self.loss(loss, x, y, weight)
        kernels, biases = self.gradients(loss, x, y, weight)
        params = [*self.kernels, *(bias for bias in self.biases if bias is not None)]
        grads = [*kernels, *(grad for grad, bias in zip(biases, self.biases, strict=True) if bias is not None)]
        self.velocity = self.velocity or [np.zeros_like(param) for param in params]
        for param, grad, velocity in zip(params, grads, self.velocity, strict=True):
            velocity[...] = momentum * velocity - learning_rate * grad
            param[...] += momentum * velocity - learning_rate * grad if nesterov else velocity
        return before


def copy_of(model):
    """The reference network with the parameters of a `fastsgd.Sequential`."""
    parameters = model.parameters
    return Network(
        [parameters[f"dense_{i}/kernel"] for i in range(len(model.dense))],
        [parameters.get(f"dense_{i}/bias") for i in range(len(model.dense))],
        [layer.activation for layer in model.dense],
    )
