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


def row_losses(name, z, y):
    """Loss of each row; z are raw outputs for the cross-entropies, outputs for the others."""
    if name == "mse":
        return ((z - y) ** 2).mean(axis=1)
    if name == "mae":
        return np.abs(z - y).mean(axis=1)
    if name == "binary_crossentropy":
        return (np.logaddexp(0, z) - z * y).mean(axis=1)
    rows = np.arange(len(z))
    largest = z.max(axis=1)
    return np.log(np.exp(z - largest[:, None]).sum(axis=1)) + largest - z[rows, y[:, 0].astype(int)]


def row_loss_grads(name, z, y):
    """Gradient of each row's loss with respect to z."""
    n = z.shape[1]
    if name == "mse":
        return 2 * (z - y) / n
    if name == "mae":
        return np.sign(z - y) / n
    if name == "binary_crossentropy":
        return (activation("sigmoid", z) - y) / n
    grad = activation("softmax", z)
    grad[np.arange(len(z)), y[:, 0].astype(int)] -= 1
    return grad


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
        z = befores[-1] if "crossentropy" in loss else afters[-1]
        rows = row_losses(loss, z, np.asarray(y, float))
        return (rows if weight is None else rows * weight).mean()

    def gradients(self, loss, x, y, weight=None):
        """Gradients of the mean loss: for the kernels, and for the biases."""
        befores, afters = self.forward(x)
        y = np.asarray(y, float)
        merged = "crossentropy" in loss
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
