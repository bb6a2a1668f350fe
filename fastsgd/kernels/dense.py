"""One dense layer forward and backward, as kernels of their own for a user's `@njit` code."""

from __future__ import annotations

import numpy as np
from numba import prange

from fastsgd.kernels.activations import GELU, SILU, activate, activation_grad
from fastsgd.kernels.jit import inlined, parallel, serial_twin
from fastsgd.kernels.machine import keep, pointer
from fastsgd.kernels.matmul import Ending, Matrix, Panel, multiply, strip_width
from fastsgd.kernels.tile import STORE
from fastsgd.kernels.vectors import TILE_ROWS

_BLOCK_ROWS = 4 * TILE_ROWS


@inlined
def _require_rows(weight):
    """Raise ValueError unless the elements of a row lie next to each other."""
    if weight.shape[1] > 1 and weight.strides[1] != weight.itemsize:
        raise ValueError(
            "the weight's rows must each lie in one piece, and this one is stored column by column, as the kernel of a "
            "layer of up to 15 outputs in Sequential.parameters; give np.ascontiguousarray(weight)"
        )


@inlined
def _matrix(array, first):
    """A C-contiguous 2-D array from row `first` on, as a Matrix."""
    return Matrix(pointer(array, 0), first * array.shape[1], array.shape[1], 1)


@inlined
def _panel(array, first):
    """A 2-D array whose rows lie in one piece each, from row `first` on."""
    row = array.strides[0] // array.itemsize
    return Panel(pointer(array, 0), first * row, row, strip_width(array))


@inlined
def _forward_rows(x, weight, bias, activation, out, first, rows):
    n_in, n_out = weight.shape
    zero = out.dtype.type(0)
    result = _panel(out, first)
    ending = Ending(STORE, Panel(pointer(bias, 0), 0, 0, strip_width(bias)), result, zero, zero)
    multiply(_matrix(x, first), _panel(weight, 0), result, rows, n_out, n_in, ending)
    activate(activation, _matrix(out, first), rows, n_out)


def _dense_forward(x, weight, bias, activation, out):
    """out := activation(x @ weight + bias).

    Parameters
    ----------
    x : array (rows, n_in)
    weight : array (n_in, n_out)
        There may be gaps between its rows, as between those of the kernels in `Sequential.parameters`.
    bias : array (n_out,)
    activation : int
        An activation code of `fastsgd.kernels`.
    out : array (rows, n_out)
        Overwritten. All other arrays are C-contiguous, and all of one dtype, float32 or float64.

    Raises
    ------
    ValueError
        For a weight that is stored column by column.
    """
    _require_rows(weight)
    rows = x.shape[0]
    size = _BLOCK_ROWS
    for block in prange((rows + size - 1) // size):
        first = block * size
        _forward_rows(x, weight, bias, activation, out, first, min(size, rows - first))


@inlined
def _input_grad_rows(grad_out, weight, grad_x, first, rows):
    """grad_x := grad_out @ weight.T; one dot product an element, since no transpose of the weight is at hand."""
    n_in, n_out = weight.shape
    for i in range(first, first + rows):
        row = grad_out[i]
        for j in range(n_in):
            column = weight[j]
            total = row[0] * 0
            for k in range(n_out):
                total += row[k] * column[k]
            grad_x[i, j] = total


@inlined
def _weight_grad_rows(x, grad_out, grad_weight, first, rows):
    """grad_weight[first:] := (x.T @ grad_out)[first:]"""
    zero = grad_out.dtype.type(0)
    result = _panel(grad_weight, first)
    columns = Matrix(pointer(x, 0), first, 1, x.shape[1])
    n_rows, n_out = grad_out.shape
    zeros = np.zeros(strip_width(grad_out), grad_out.dtype)
    nothing = Panel(pointer(zeros, 0), 0, 0, 0)
    multiply(columns, _panel(grad_out, 0), result, rows, n_out, n_rows, Ending(STORE, nothing, result, zero, zero))
    keep(zeros)


def _dense_backward(x, weight, out, activation, grad_out, grad_x, grad_weight, grad_bias):
    """Gradients of a dense layer from the gradient of its output.

    Parameters
    ----------
    x : array (rows, n_in)
    weight : array (n_in, n_out)
        There may be gaps between its rows.
    out : array (rows, n_out)
        What `dense_forward` gave.
    activation : int
        The activation code given to `dense_forward`; not GELU or SILU.
    grad_out : array (rows, n_out)
        Gradient with respect to `out`; overwritten with the gradient before the activation.
    grad_x : array (rows, n_in), or (0, 0) where it is not wanted
    grad_weight : array (n_in, n_out)
    grad_bias : array (n_out,)
        The last three are overwritten. All other arrays are C-contiguous, and all of one dtype, float32 or float64.

    Raises
    ------
    ValueError
        For GELU and SILU: one output belongs to two inputs there, with different slopes. In a network, which keeps the
        slopes of its forward pass, both can be trained.
    """
    if activation == GELU or activation == SILU:
        raise ValueError(
            "dense_backward: the slope of GELU and SILU cannot be told from the output; train them in a network with "
            "train_batch, or use another activation"
        )
    rows, n_out = out.shape
    n_in = weight.shape[0]
    size = _BLOCK_ROWS
    for block in prange((rows + size - 1) // size):
        first = block * size
        some = min(size, rows - first)
        activation_grad(activation, _matrix(out, first), _matrix(grad_out, first), some, n_out)
        if grad_x.size > 0:
            _input_grad_rows(grad_out, weight, grad_x, first, some)
    for strip in prange((n_in + TILE_ROWS - 1) // TILE_ROWS):
        start = strip * TILE_ROWS
        _weight_grad_rows(x, grad_out, grad_weight, start, min(TILE_ROWS, n_in - start))
    for j in range(n_out):
        total = grad_out[0, j]
        for i in range(1, rows):
            total += grad_out[i, j]
        grad_bias[j] = total


dense_forward = parallel(_dense_forward)
dense_forward_serial = serial_twin(_dense_forward)
dense_backward = parallel(_dense_backward)
dense_backward_serial = serial_twin(_dense_backward)
