"""Loss functions by integer code: value and gradient in one pass over the rows.

The cross-entropies take raw outputs (logits), with sigmoid or softmax merged in for stability. What a loss can be told
(a width, a quantile, label smoothing) are two numbers of the network's dtype, `default_parameters` unless others are
given.
"""

from __future__ import annotations

import math

import numpy as np

from fastsgd.kernels import loss_formulas as formulas
from fastsgd.kernels.elementwise import exp, log
from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.machine import keep, maximum, never_inline, pointer, view
from fastsgd.kernels.matmul import Matrix
from fastsgd.kernels.scalar import like

MSE = 0
MAE = 1
BINARY_CROSSENTROPY = 2
SPARSE_CATEGORICAL_CROSSENTROPY = 3
HUBER = 4
LOG_COSH = 5
QUANTILE = 6
POISSON = 7
EPSILON_INSENSITIVE = 8
CATEGORICAL_CROSSENTROPY = 9
HINGE = 10
SQUARED_HINGE = 11
MODIFIED_HUBER = 12
FOCAL = 13

_CHUNK = 128  # elements taken at a time
LOSS_SCRATCH = 4 * _CHUNK
_STRETCH = 32  # of which whole stretches are computed: vector code then has no remainder, to compile or to run


@small
def takes_raw_outputs(loss):
    """Whether the loss merges the last activation in."""
    return (
        loss == BINARY_CROSSENTROPY
        or loss == SPARSE_CATEGORICAL_CROSSENTROPY
        or loss == CATEGORICAL_CROSSENTROPY
        or loss == FOCAL
    )


@serial
def default_parameters(loss, data):
    """The two parameters of a loss, of the dtype of `data`: Huber's delta 1, the median, an insensitive width of 0.1,
    focal gamma 2 without alpha (-1), no label smoothing."""
    parameters = np.zeros(2, data.dtype)
    if loss == HUBER:
        parameters[0] = 1
    elif loss == QUANTILE:
        parameters[0] = 0.5
    elif loss == EPSILON_INSENSITIVE:
        parameters[0] = 0.1
    elif loss == FOCAL:
        parameters[0] = 2
        parameters[1] = -1
    return parameters


@serial
def _each(loss, parameters, z, t, value, slope, stretches):
    """value, slope := loss of each output, and its derivative, over some stretches."""
    never_inline()
    a, b = parameters[0], parameters[1]
    if loss == MSE:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.mse(z[j], t[j])
    elif loss == MAE:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.mae(z[j], t[j])
    elif loss == BINARY_CROSSENTROPY:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.binary_crossentropy(z[j], t[j], a)
    elif loss == HUBER:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.huber(z[j], t[j], a)
    elif loss == LOG_COSH:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.log_cosh(z[j], t[j])
    elif loss == QUANTILE:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.quantile(z[j], t[j], a)
    elif loss == POISSON:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.poisson(z[j], t[j])
    elif loss == EPSILON_INSENSITIVE:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.epsilon_insensitive(z[j], t[j], a)
    elif loss == HINGE:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.hinge(z[j], t[j])
    elif loss == SQUARED_HINGE:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.squared_hinge(z[j], t[j])
    elif loss == MODIFIED_HUBER:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.modified_huber(z[j], t[j])
    elif loss == FOCAL:
        for j in range(_STRETCH * stretches):
            value[j], slope[j] = formulas.focal(z[j], t[j], a, b)


@inlined
def _gather(matrix, top, left, rows, columns, out):
    """out := a block of a matrix, row after row without gaps."""
    start = matrix.start + top * matrix.row + left
    if columns == 1:
        for i in range(rows):
            out[i] = matrix.data[start + i * matrix.row]
    else:
        for i in range(rows):
            row = view(matrix.data, start + i * matrix.row, columns)
            place = out[i * columns : (i + 1) * columns]
            for j in range(columns):
                place[j] = row[j]


@inlined
def _scatter(value, slope, weight, scale, grad, top, left, rows, columns):
    """A block of grad := scale * weight * slope; returns the sum of weight * value."""
    start = grad.start + top * grad.row + left
    heavy = weight.start + top * weight.row
    total = 0.0
    if columns == 1:
        for i in range(rows):
            w = weight.data[heavy + i * weight.row]
            grad.data[start + i * grad.row] = w * scale * slope[i]
            total += w * value[i]
        return total
    for i in range(rows):
        w = weight.data[heavy + i * weight.row]
        row = view(grad.data, start + i * grad.row, columns)
        down = slope[i * columns : (i + 1) * columns]
        here = value[i * columns : (i + 1) * columns]
        one_row = 0.0
        for j in range(columns):
            row[j] = w * scale * down[j]
            one_row += here[j]
        total += w * one_row
    return total


@inlined
def _outputs_apart(loss, parameters, z, target, weight, m, n, scale, grad, scratch):
    """The mean over the outputs of a loss that each output has for itself, summed over the rows.

    Narrow rows are packed into one stretch, so that one output a row is vector code too.
    """
    outputs, truth = view(scratch, 0, _CHUNK), view(scratch, _CHUNK, _CHUNK)
    value, slope = view(scratch, 2 * _CHUNK, _CHUNK), view(scratch, 3 * _CHUNK, _CHUNK)
    width = min(n, _CHUNK)
    height = _CHUNK // width
    share = scale / like(scale, n)
    total = 0.0
    for top in range(0, m, height):
        rows = min(height, m - top)
        for left in range(0, n, width):
            columns = min(width, n - left)
            stretches = (rows * columns + _STRETCH - 1) // _STRETCH
            _gather(z, top, left, rows, columns, outputs)
            _gather(target, top, left, rows, columns, truth)
            _each(loss, parameters, outputs, truth, value, slope, stretches)
            total += _scatter(value, slope, weight, share, grad, top, left, rows, columns)
    return total / n


@inlined
def _exponentials(z, out):
    """out := exp(z - max z); returns their sum, and the maximum."""
    largest = z[0]
    for j in range(z.size):
        largest = maximum(largest, z[j])
    total = like(z[0], 0.0)
    for j in range(z.size):
        out[j] = exp(z[j] - largest)
        total += out[j]
    return total, largest


@inlined
def _sparse_categorical_crossentropy(z, target, smoothing, scale, grad):
    """log sum_j exp(z_j) - z_label; NaN where the label is no class.

    Of label smoothing s, every class has the share s / n of the label's one.
    """
    label = target[0]
    if not (label >= 0 and label < z.size):
        for j in range(z.size):
            grad[j] = math.nan
        return math.nan
    total, largest = _exponentials(z, grad)
    share = smoothing / like(smoothing, z.size)
    factor = scale / total
    for j in range(z.size):
        grad[j] = grad[j] * factor - share * scale
    kept = like(smoothing, 1.0) - smoothing
    at = int(label)
    grad[at] -= kept * scale
    value = log(total) - kept * (z[at] - largest)
    if smoothing > 0:
        rest = like(z[0], 0.0)
        for j in range(z.size):
            rest += z[j] - largest
        value -= share * rest
    return value


@inlined
def _categorical_crossentropy(z, target, smoothing, scale, grad):
    """sum_j t_j (log sum_k exp(z_k) - z_j), the targets first drawn to 1 / n by label smoothing."""
    total, largest = _exponentials(z, grad)
    kept, share = like(smoothing, 1.0) - smoothing, smoothing / like(smoothing, z.size)
    mass = like(z[0], 0.0)
    inner = like(z[0], 0.0)
    for j in range(z.size):
        t = target[j] * kept + share
        mass += t
        inner += t * (z[j] - largest)
    factor = mass * scale / total
    for j in range(z.size):
        grad[j] = grad[j] * factor - (target[j] * kept + share) * scale
    return mass * log(total) - inner


@inlined
def _outputs_together(loss, parameters, z, target, weight, m, n, scale, grad):
    """Sum over the rows of a loss of all outputs of a row at once."""
    total = 0.0
    for i in range(m):
        w = weight.data[weight.start + i * weight.row]
        row = view(z.data, z.start + i * z.row, n)
        truth = view(target.data, target.start + i * target.row, target.row)
        out = view(grad.data, grad.start + i * grad.row, n)
        if loss == CATEGORICAL_CROSSENTROPY:
            total += w * _categorical_crossentropy(row, truth, parameters[0], w * scale, out)
        else:
            total += w * _sparse_categorical_crossentropy(row, truth, parameters[0], w * scale, out)
    return total


@serial
def loss_rows(loss, parameters, z, target, weight, m, n, scale, grad, scratch):
    """Sum over m rows of weight * loss(z, target); grad (m, n) := scale * weight * d loss / dz.

    `weight` is a Matrix of one column; one of stride 0 holds a single weight for all rows. `parameters` and `scratch`,
    of LOSS_SCRATCH elements, are pointers.
    """
    never_inline()
    if loss == CATEGORICAL_CROSSENTROPY or loss == SPARSE_CATEGORICAL_CROSSENTROPY:
        return _outputs_together(loss, parameters, z, target, weight, m, n, scale, grad)
    return _outputs_apart(loss, parameters, z, target, weight, m, n, scale, grad, scratch)


@serial
def loss_and_grad(loss, prediction, target, grad):
    """Mean loss over the rows, and its gradient.

    Parameters
    ----------
    loss : int
        One of the loss codes of `fastsgd.kernels`, with its default parameters: delta 1 of the Huber loss, the median
        of the quantile loss, a width of 0.1 of the epsilon-insensitive one, gamma 2 of the focal one, no smoothing.
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
    parameters, scratch = default_parameters(loss, prediction), np.zeros(LOSS_SCRATCH, prediction.dtype)
    scale = one / prediction.dtype.type(m)
    total = loss_rows(loss, pointer(parameters, 0), z, t, weight, m, n, scale, g, pointer(scratch, 0))
    keep(single)
    keep(parameters)
    keep(scratch)
    return total / m


@serial
def loss_sum(loss, parameters, prediction, target, weight, grad):
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
    scratch = np.zeros(LOSS_SCRATCH, prediction.dtype)
    total = loss_rows(loss, pointer(parameters, 0), z, t, w, m, n, one, g, pointer(scratch, 0))
    keep(single)
    keep(scratch)
    return total
