"""The arrays that a network, its optimizer and its scratch memory are made of.

All parameters are one flat vector. A layer is a row of integers: its sizes, its activation, and where its parameters
lie. A kernel (n_in, n_out) lies row by row, except that a layer of at most `NARROW` outputs lies column by column
(`TRANSPOSED`): its rows would be too short for the vector registers, its columns are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.kernels.activations import has_slope
from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.losses import default_parameters
from fastsgd.kernels.matmul import Matrix
from fastsgd.kernels.tile import MOMENTUM, NESTEROV, TILE_ROWS, UPDATE

# Columns of the layer table.
N_IN, N_OUT, ACTIVATION, KERNEL, BIAS_START, TRANSPOSED = range(6)
NO_BIAS = -1
NARROW = 4
_LINE = 16  # parameters start on multiples of this many elements, so on cache lines

# Columns of the task table: which layer, and from which to which of its inputs (ALL_BIAS: its bias).
_LAYER, _FROM, _TO = range(3)
ALL_BIAS = -1


class Network(NamedTuple):
    """What every kernel takes: parameters (1-D), layers (n_layers, 6) int64, and the input's shift and scale.

    Inputs enter as ``(x - shift) * scale``; both are empty where nothing is standardized.
    """

    parameters: np.ndarray
    layers: np.ndarray
    shift: np.ndarray
    scale: np.ndarray


class OptimizerState(NamedTuple):
    """Loss code and the loss's two parameters, kind of update, rates = [learning rate, momentum], and the velocity
    (empty for plain SGD)."""

    loss: int
    loss_parameters: np.ndarray
    mode: int
    rates: np.ndarray
    velocity: np.ndarray


class Workspace(NamedTuple):
    """Scratch memory of one caller for batches of up to `max_rows` rows; no two threads may share one."""

    max_rows: int
    layout: np.ndarray  # (n_layers, 2): where a layer's outputs start, elements from row to row
    outputs: np.ndarray
    deltas: np.ndarray
    transposed: np.ndarray  # the kernels' transposes, where the kernels lie in the parameters
    inputs: np.ndarray  # standardized rows, where the network standardizes
    block_loss: np.ndarray
    tasks: np.ndarray
    one: np.ndarray
    slopes: np.ndarray  # of the activations, laid out like the outputs; empty where no layer needs them


def layer_table(
    sizes: Sequence[int], activations: Sequence[int], use_bias: Sequence[bool]
) -> tuple[NDArray[np.int64], int]:
    """Layer table of a dense network (int64), and the length of its parameter vector.

    Parameters
    ----------
    sizes : sequence of int
        Inputs of the first layer, then the outputs of each.
    activations : sequence of int
        Activation code of each layer.
    use_bias : sequence of bool
        Whether each layer has a bias.
    """
    table = np.zeros((len(activations), 6), np.int64)
    end = 0
    for row, n_in, n_out, activation, bias in zip(table, sizes[:-1], sizes[1:], activations, use_bias, strict=True):
        end += -end % _LINE
        row[N_IN], row[N_OUT], row[ACTIVATION], row[KERNEL] = n_in, n_out, activation, end
        row[TRANSPOSED] = n_out <= NARROW
        end += n_in * n_out
        end += -end % _LINE
        row[BIAS_START] = end if bias else NO_BIAS
        end += n_out if bias else 0
    return table, end


@serial
def aligned_zeros(size, like):
    """1-D array of zeros of the dtype of `like`, on a cache line: vectors across two lines cost half the speed."""
    spare = 64 // like.itemsize
    memory = np.zeros(size + spare, like.dtype)
    skip = (-memory.ctypes.data % 64) // like.itemsize
    return memory[skip : skip + size]


@inlined
def kernel_matrix(network, layer):
    """The kernel of a layer as it is stored: (n_out, n_in) where it is transposed, else (n_in, n_out)."""
    row = network.layers[layer]
    return Matrix(network.parameters, row[KERNEL], row[N_IN] if row[TRANSPOSED] else row[N_OUT], 1)


@inlined
def _leading(n):
    """Elements from row to row for rows of n: whole cache lines, and no multiple of 512 bytes that would make
    neighbouring rows meet in the same cache set."""
    lines = (n + 15) // 16
    return 16 * (lines + (lines % 8 == 0))


@inlined
def block_rows(rows):
    """Rows that go through all layers together while they are in cache. A function of the batch alone: sums over
    blocks must not depend on threads."""
    share = (rows + 7) // 8
    return min(4 * TILE_ROWS, TILE_ROWS * ((share + TILE_ROWS - 1) // TILE_ROWS))


@inlined
def _task_width(n_in, transposed):
    """Inputs of a layer whose weights one task updates: at most about 32 tasks a layer."""
    unit = 64 if transposed else TILE_ROWS
    return unit * ((n_in + 32 * unit - 1) // (32 * unit))


@inlined
def _weight_tasks(layers):
    count = 0
    for row in layers:
        width = _task_width(row[N_IN], row[TRANSPOSED])
        count += (row[N_IN] + width - 1) // width + (row[BIAS_START] != NO_BIAS)
    tasks = np.empty((count, 3), np.int64)
    t = 0
    for layer in range(layers.shape[0]):
        row = layers[layer]
        width = _task_width(row[N_IN], row[TRANSPOSED])
        for start in range(0, row[N_IN], width):
            tasks[t, _LAYER], tasks[t, _FROM], tasks[t, _TO] = layer, start, min(row[N_IN], start + width)
            t += 1
        if row[BIAS_START] != NO_BIAS:
            tasks[t, _LAYER], tasks[t, _FROM], tasks[t, _TO] = layer, ALL_BIAS, ALL_BIAS
            t += 1
    return tasks


@serial
def make_workspace(network, max_rows):
    """Scratch memory for `train_batch`, `train_batches` and `predict` with batches of up to `max_rows` rows."""
    layers = network.layers
    layout = np.empty((layers.shape[0], 2), np.int64)
    end = 0
    sloped = False
    for layer in range(layers.shape[0]):
        sloped = sloped or has_slope(layers[layer, ACTIVATION])
        layout[layer, 0] = end
        layout[layer, 1] = _leading(layers[layer, N_OUT])
        end += max_rows * layout[layer, 1]
    like = network.parameters
    return Workspace(
        max_rows,
        layout,
        aligned_zeros(end, like),
        aligned_zeros(end, like),
        aligned_zeros(like.size, like),
        aligned_zeros(max_rows * network.shift.size, like),
        np.zeros(max_rows // block_rows(1) + 8, np.float64),
        _weight_tasks(layers),
        np.ones(1, like.dtype),
        aligned_zeros(end if sloped else 0, like),
    )


@serial
def make_optimizer_state(network, loss, learning_rate, momentum, nesterov):
    """State of stochastic gradient descent: plain where `momentum` is 0, else with a velocity of zeros.

    The loss has its default parameters: put others into the array `loss_parameters`.
    """
    like = network.parameters
    rates = np.empty(2, like.dtype)
    rates[0] = learning_rate
    rates[1] = momentum
    mode = UPDATE if momentum == 0 else (NESTEROV if nesterov else MOMENTUM)
    velocity = aligned_zeros(0 if momentum == 0 else like.size, like)
    return OptimizerState(loss, default_parameters(loss, like), mode, rates, velocity)
