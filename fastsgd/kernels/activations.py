"""Activation functions by integer code, applied in place to the rows of a matrix."""

from __future__ import annotations

from fastsgd.kernels.elementwise import (
    exp,
    expm1,
    gelu,
    gelu_and_slope,
    sigmoid,
    silu_and_slope,
    softplus,
    softplus_and_slope,
    tanh,
)
from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.machine import maximum, never_inline, view
from fastsgd.kernels.scalar import like

LINEAR = 0
RELU = 1
TANH = 2
SIGMOID = 3
SOFTMAX = 4
LEAKY_RELU = 5
ELU = 6
SELU = 7
GELU = 8
SILU = 9
SOFTPLUS = 10

LEAK = 0.2  # slope of the leaky ReLU below 0: Keras's function `leaky_relu`; its layer LeakyReLU has 0.3
# Klambauer, Unterthiner, Mayr and Hochreiter, Self-Normalizing Neural Networks, 2017.
SELU_SCALE = 1.0507009873554804934193349852946
SELU_BELOW = 1.7580993408473768599402175208123  # the scale times alpha


@small
def has_slope(activation):
    """Whether `activate_with_slope` fills in the slope. Of the others, linear needs none, ReLU's is told from its
    output, and softmax has no slope that is one number an output."""
    return activation != LINEAR and activation != RELU and activation != SOFTMAX


@inlined
def _softmax(z):
    largest = z[0]
    for j in range(z.size):
        largest = maximum(largest, z[j])
    total = like(z[0], 0.0)
    for j in range(z.size):
        z[j] = exp(z[j] - largest)
        total += z[j]
    for j in range(z.size):
        z[j] /= total


@inlined
def _at_most_zero(x):
    """x where it is below 0 or NaN, else 0."""
    zero = like(x, 0.0)
    return zero if x > zero else x


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
                row[j] = like(row[j], 0.0) if row[j] <= 0 else row[j]
        elif activation == TANH:
            for j in range(n):
                row[j] = tanh(row[j])
        elif activation == SIGMOID:
            for j in range(n):
                row[j] = sigmoid(row[j])
        elif activation == SOFTMAX:
            _softmax(row)
        elif activation == LEAKY_RELU:
            for j in range(n):
                row[j] = row[j] * like(row[j], LEAK) if row[j] <= 0 else row[j]
        elif activation == ELU:
            for j in range(n):
                row[j] = row[j] if row[j] > 0 else expm1(_at_most_zero(row[j]))
        elif activation == SELU:
            for j in range(n):
                below = like(row[j], SELU_BELOW) * expm1(_at_most_zero(row[j]))
                row[j] = like(row[j], SELU_SCALE) * row[j] if row[j] > 0 else below
        elif activation == GELU:
            for j in range(n):
                row[j] = gelu(row[j])
        elif activation == SILU:
            for j in range(n):
                row[j] = silu_and_slope(row[j])[0]
        elif activation == SOFTPLUS:
            for j in range(n):
                row[j] = softplus(row[j])


@inlined
def _units_with_slope(activation, row, slope):
    """The pieces that are straight on one side: row := activation(row), and its slope. A NaN has the slope NaN."""
    one, zero = like(row[0], 1.0), like(row[0], 0.0)
    if activation == RELU:
        for j in range(row.size):
            x = row[j]
            row[j] = zero if x <= zero else x
            slope[j] = zero if x <= zero else (one if x > zero else x)
    elif activation == LEAKY_RELU:
        leak = like(row[0], LEAK)
        for j in range(row.size):
            x = row[j]
            row[j] = x * leak if x <= zero else x
            slope[j] = leak if x <= zero else (one if x > zero else x)
    else:
        scale = one if activation == ELU else like(row[0], SELU_SCALE)
        below = one if activation == ELU else like(row[0], SELU_BELOW)
        for j in range(row.size):
            x = row[j]
            value = below * expm1(_at_most_zero(x))
            row[j] = scale * x if x > zero else value
            slope[j] = scale if x > zero else value + below


@serial
def activate_with_slope(activation, z, slope, m, n):
    """z (m, n) := activation(z), and slope (m, n) := its derivative, which softmax and linear leave as it is."""
    never_inline()
    if activation == LINEAR:
        return
    for i in range(m):
        row = view(z.data, z.start + i * z.row, n)
        down = view(slope.data, slope.start + i * slope.row, n)
        if activation == TANH:
            for j in range(n):
                row[j] = tanh(row[j])
                down[j] = like(row[j], 1.0) - row[j] * row[j]
        elif activation == SIGMOID:
            for j in range(n):
                row[j] = sigmoid(row[j])
                down[j] = row[j] * (like(row[j], 1.0) - row[j])
        elif activation == GELU:
            for j in range(n):
                row[j], down[j] = gelu_and_slope(row[j])
        elif activation == SILU:
            for j in range(n):
                row[j], down[j] = silu_and_slope(row[j])
        elif activation == SOFTPLUS:
            for j in range(n):
                row[j], down[j] = softplus_and_slope(row[j])
        elif activation == SOFTMAX:
            _softmax(row)
        else:
            _units_with_slope(activation, row, down)


@serial
def scale_rows(grad, slope, m, n):
    """grad (m, n) *= slope."""
    never_inline()
    for i in range(m):
        row = view(grad.data, grad.start + i * grad.row, n)
        down = view(slope.data, slope.start + i * slope.row, n)
        for j in range(n):
            row[j] *= down[j]


@inlined
def _softmax_grad(out, grad):
    inner = like(grad[0], 0.0)
    for j in range(grad.size):
        inner += grad[j] * out[j]
    for j in range(grad.size):
        grad[j] = out[j] * (grad[j] - inner)


@serial
def relu_or_softmax_grad(activation, out, grad, m, n):
    """`activation_grad` of the two that have no slope besides linear."""
    never_inline()
    for i in range(m):
        o = view(out.data, out.start + i * out.row, n)
        g = view(grad.data, grad.start + i * grad.row, n)
        if activation == RELU:
            for j in range(n):
                g[j] = like(g[j], 0.0) if o[j] <= 0 else g[j]
        elif activation == SOFTMAX:
            _softmax_grad(o, g)


@serial
def activation_grad(activation, out, grad, m, n):
    """grad (m, n) := grad * d activation / dz, from the layer's output `out` = activation(z).

    For all but GELU and SiLU, whose output belongs to two inputs: see `activate_with_slope`.
    """
    never_inline()
    if activation == LINEAR or activation == RELU or activation == SOFTMAX:
        relu_or_softmax_grad(activation, out, grad, m, n)
        return
    one = like(grad.data[grad.start], 1.0)
    for i in range(m):
        o = view(out.data, out.start + i * out.row, n)
        g = view(grad.data, grad.start + i * grad.row, n)
        if activation == TANH:
            for j in range(n):
                g[j] *= one - o[j] * o[j]
        elif activation == SIGMOID:
            for j in range(n):
                g[j] *= o[j] * (one - o[j])
        elif activation == LEAKY_RELU:
            for j in range(n):
                g[j] *= like(one, LEAK) if o[j] <= 0 else one
        elif activation == ELU:
            for j in range(n):
                g[j] *= o[j] + one if o[j] <= 0 else one
        elif activation == SELU:
            for j in range(n):
                g[j] *= o[j] + like(one, SELU_BELOW) if o[j] <= 0 else like(one, SELU_SCALE)
        elif activation == SOFTPLUS:
            for j in range(n):
                g[j] *= -expm1(-o[j])
