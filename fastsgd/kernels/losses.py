"""Loss functions by integer code: value and gradient in one pass over the rows.

The cross-entropies take raw outputs (logits), with sigmoid or softmax merged in for stability.
"""

from __future__ import annotations

import math

import numpy as np

from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.machine import never_inline, pointer, view
from fastsgd.kernels.matmul import Matrix

MSE = 0
MAE = 1
BINARY_CROSSENTROPY = 2
SPARSE_CATEGORICAL_CROSSENTROPY = 3


@small
def takes_raw_outputs(loss):
    """Whether the loss merges the last activation in."""
    return loss == BINARY_CROSSENTROPY or loss == SPARSE_CATEGORICAL_CROSSENTROPY


@inlined
def _mse(z, target, scale, grad):
    """mean_j (z_j - t_j)^2"""
    total = 0.0
    for j in range(z.size):
        error = z[j] - target[j]
        total += error * error
        grad[j] = 2 * scale / z.size * error
    return total / z.size


@inlined
def _mae(z, target, scale, grad):
    """mean_j |z_j - t_j|, with gradient 0 at a tie"""
    total = 0.0
    for j in range(z.size):
        error = z[j] - target[j]
        total += abs(error)
        # error * 0 keeps a NaN
        grad[j] = scale / z.size * (1 if error > 0 else (-1 if error < 0 else error * 0))
    return total / z.size


@inlined
def _binary_crossentropy(z, target, scale, grad):
    """mean_j max(z, 0) - z t + log(1 + exp(-|z|)), the cross-entropy of sigmoid(z) with t"""
    total = 0.0
    for j in range(z.size):
        value = z[j]
        e = math.exp(-abs(value))
        p = 1 / (1 + e) if value >= 0 else e / (1 + e)
        total += max(value, value * 0) - value * target[j] + math.log1p(e)
        grad[j] = scale / z.size * (p - target[j])
    return total / z.size


@inlined
def _sparse_categorical_crossentropy(z, target, scale, grad):
    """log sum_j exp(z_j) - z_label; NaN where the label is no class"""
    label = target[0]
    if not (label >= 0 and label < z.size):
        for j in range(z.size):
            grad[j] = math.nan
        return math.nan
    largest = z[0]
    for value in z:
        largest = max(largest, value)
    total = z[0] * 0
    for j in range(z.size):
        grad[j] = math.exp(z[j] - largest)
        total += grad[j]
    for j in range(z.size):
        grad[j] *= scale / total
    grad[int(label)] -= scale
    return math.log(total) + largest - z[int(label)]


@serial
def loss_rows(loss, z, target, weight, m, n, scale, grad):
    """Sum over m rows of weight * loss(z, target); grad (m, n) := scale * weight * d loss / dz.

    `weight` is a Matrix of one column; one of stride 0 holds a single weight for all rows.
    """
    never_inline()
    total = 0.0
    for i in range(m):
        w = weight.data[weight.start + i * weight.row]
        row = view(z.data, z.start + i * z.row, n)
        truth = view(target.data, target.start + i * target.row, target.row)
        out = view(grad.data, grad.start + i * grad.row, n)
        if loss == MSE:
            value = _mse(row, truth, w * scale, out)
        elif loss == MAE:
            value = _mae(row, truth, w * scale, out)
        elif loss == BINARY_CROSSENTROPY:
            value = _binary_crossentropy(row, truth, w * scale, out)
        else:
            value = _sparse_categorical_crossentropy(row, truth, w * scale, out)
        total += w * value
    return total


@serial
def loss_and_grad(loss, prediction, target, grad):
    """Mean loss over the rows, and its gradient.

    Parameters
    ----------
    loss : int
        One of the loss codes of `fastsgd.kernels`.
    prediction : array (rows, n_outputs), C-contiguous
        Raw outputs: logits for the cross-entropies.
    target : array (rows, n_targets), C-contiguous
        Of the same dtype. Class numbers in one column for the sparse categorical cross-entropy.
    grad : array (rows, n_outputs), C-contiguous
        Overwritten with the gradient of the mean with respect to `prediction`.

    Returns
    -------
    float
        The mean over the rows; NaN where a class label is out of range.
    """
    m, n = prediction.shape
    one = prediction.dtype.type(1)
    z = Matrix(pointer(prediction, 0), 0, n, 1)
    t = Matrix(pointer(target, 0), 0, target.shape[1], 1)
    g = Matrix(pointer(grad, 0), 0, n, 1)
    single = np.full(1, one)
    weight = Matrix(pointer(single, 0), 0, 0, 1)
    return loss_rows(loss, z, t, weight, m, n, one / prediction.dtype.type(m), g) / m


@serial
def loss_sum(loss, prediction, target, weight, grad):
    """Sum of the losses over the rows of 2-D arrays, weighted where `weight` (rows,) is not empty.

    `grad`, of at least one row of `prediction`, is scratch.
    """
    m, n = prediction.shape
    one = prediction.dtype.type(1)
    z = Matrix(pointer(prediction, 0), 0, n, 1)
    t = Matrix(pointer(target, 0), 0, target.shape[1], 1)
    g = Matrix(pointer(grad, 0), 0, 0, 1)
    single = np.full(1, one)
    if weight.size > 0:
        w = Matrix(pointer(weight, 0), 0, 1, 1)
    else:
        w = Matrix(pointer(single, 0), 0, 0, 1)
    return loss_rows(loss, z, t, w, m, n, one, g)
