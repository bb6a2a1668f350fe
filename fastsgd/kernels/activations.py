"""Activation functions by integer code, applied in place to the rows of a matrix."""

from __future__ import annotations

import math

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import never_inline, view

LINEAR = 0
RELU = 1
TANH = 2
SIGMOID = 3
SOFTMAX = 4


@inlined
def sigmoid(z):
    """1 / (1 + exp(-z)), without overflow on either side."""
    e = math.exp(-abs(z))
    return 1 / (1 + e) if z >= 0 else e / (1 + e)


@inlined
def _softmax(z):
    largest = z[0]
    for value in z:
        largest = max(largest, value)
    total = z[0] * 0
    for j in range(z.size):
        z[j] = math.exp(z[j] - largest)
        total += z[j]
    for j in range(z.size):
        z[j] /= total


@serial
def activate(activation, z, m, n):
    """z (m, n) := activation(z)."""
    never_inline()
    if activation == LINEAR:
        return
    for i in range(m):
        row = view(z.data, z.start + i * z.row, n)
        if activation == RELU:
            for j in range(n):
                row[j] = row[j] * 0 if row[j] <= 0 else row[j]
        elif activation == TANH:
            for j in range(n):
                row[j] = math.tanh(row[j])
        elif activation == SIGMOID:
            for j in range(n):
                row[j] = sigmoid(row[j])
        elif activation == SOFTMAX:
            _softmax(row)


@serial
def activation_grad(activation, out, grad, m, n):
    """grad (m, n) := grad * d activation / dz, from the layer's output `out` = activation(z)."""
    never_inline()
    if activation == LINEAR:
        return
    for i in range(m):
        o = view(out.data, out.start + i * out.row, n)
        g = view(grad.data, grad.start + i * grad.row, n)
        if activation == RELU:
            for j in range(n):
                g[j] = g[j] * 0 if o[j] <= 0 else g[j]
        elif activation == TANH:
            for j in range(n):
                g[j] *= 1 - o[j] * o[j]
        elif activation == SIGMOID:
            for j in range(n):
                g[j] *= o[j] * (1 - o[j])
        elif activation == SOFTMAX:
            inner = g[0] * 0
            for j in range(n):
                inner += g[j] * o[j]
            for j in range(n):
                g[j] = o[j] * (g[j] - inner)
