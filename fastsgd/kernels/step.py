"""A training step in two regions: rows (forward, loss, deltas), then weights (gradient and update in one).

In the rows region a block of rows runs through all layers and back while it is in cache. In the weights region each
task owns some weights, sums their gradient over all rows of the batch in registers and updates them on the spot: no
gradient vector exists. Each element has one writer and each sum one order, whoever runs it.

What computes and stores (products, losses, activations) are functions of their own; what only leads from one to the
next is inlined into the two kernels that are compiled, which halves the time to compile them. No array of a NamedTuple
may be stored to in the body of a prange itself: Numba 0.68 stores into a copy there.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastsgd.kernels.activations import (
    LINEAR,
    RELU,
    activate,
    activate_with_slope,
    activation_grad,
    has_slope,
    scale_rows,
)
from fastsgd.kernels.jit import inlined, parallel, serial, serial_twin
from fastsgd.kernels.losses import loss_rows, takes_raw_outputs
from fastsgd.kernels.matmul import Ending, Matrix, multiply
from fastsgd.kernels.network import (
    ACTIVATION,
    ALL_BIAS,
    BIAS_START,
    KERNEL,
    N_IN,
    N_OUT,
    NO_BIAS,
    TRANSPOSED,
    block_rows,
    kernel_matrix,
)
from fastsgd.kernels.tile import BIAS, BIAS_RELU, RELU_GRAD, STORE, never_inline


@inlined
def _layer_rows(workspace, buffer, layer, first):
    """Rows of a layer in the workspace's outputs, deltas or slopes, from row `first` on."""
    start, leading = workspace.layout[layer]
    return Matrix(buffer, start + first * leading, leading, 1)


@serial
def _standardize(network, x, m, out):
    """out (m, n_in) := (x - shift) * scale."""
    never_inline()
    for i in range(m):
        for j in range(network.shift.size):
            value = x.data[x.start + i * x.row + j]
            out.data[out.start + i * out.row + j] = (value - network.shift[j]) * network.scale[j]


@inlined
def _inputs(network, workspace, x, first):
    """The rows that the first layer sees: x itself, or its standardized copy in the workspace."""
    if network.shift.size == 0:
        return Matrix(x.data, x.start + first * x.row, x.row, x.col)
    width = network.shift.size
    return Matrix(workspace.inputs, first * width, width, 1)


@serial
def _narrow_forward(a, kernel, bias, m, n, k, out):
    """out (m, n) := a (m, k) @ kernel.T + bias, for a kernel stored (n, k): one dot product an output."""
    never_inline()
    for i in range(m):
        # Slices, because an index that may be negative keeps a loop from being vectorised.
        row = a.data[a.start + i * a.row : a.start + i * a.row + k]
        for j in range(n):
            weights = kernel.data[kernel.start + j * k : kernel.start + (j + 1) * k]
            total = kernel.data.dtype.type(0)
            for p in range(k):
                total += row[p] * weights[p]
            if bias.start != NO_BIAS:
                total += bias.data[bias.start + j]
            out.data[out.start + i * out.row + j] = total


@inlined
def layer_forward(network, layer, a, m, raw, out, keep_slope, slope):
    """out (m, n_out) := activation(a @ kernel + bias), without the activation where `raw`; its slope where asked."""
    row = network.layers[layer]
    n, k = row[N_OUT], row[N_IN]
    activation = LINEAR if raw else row[ACTIVATION]
    kernel = kernel_matrix(network, layer)
    bias = Matrix(network.parameters, row[BIAS_START], 0, 1)
    zero = network.parameters.dtype.type(0)
    if row[TRANSPOSED]:
        _narrow_forward(a, kernel, bias, m, n, k, out)
    elif bias.start == NO_BIAS:
        multiply(a, kernel, out, m, n, k, Ending(STORE, out, zero, zero))
    elif activation == RELU:
        multiply(a, kernel, out, m, n, k, Ending(BIAS_RELU, bias, zero, zero))
        return
    else:
        multiply(a, kernel, out, m, n, k, Ending(BIAS, bias, zero, zero))
    if keep_slope and has_slope(activation):
        activate_with_slope(activation, out, slope, m, n)
    else:
        activate(activation, out, m, n)


@inlined
def _forward(network, workspace, x, first, m, raw, keep_slope):
    """Rows first to first + m of x through all layers; returns where the last layer's outputs are."""
    if network.shift.size > 0:
        _standardize(
            network, Matrix(x.data, x.start + first * x.row, x.row, 1), m, _inputs(network, workspace, x, first)
        )
    a = _inputs(network, workspace, x, first)
    last = network.layers.shape[0] - 1
    for layer in range(last + 1):
        out = _layer_rows(workspace, workspace.outputs, layer, first)
        slope = _layer_rows(workspace, workspace.slopes, layer, first)
        layer_forward(network, layer, a, m, raw and layer == last, out, keep_slope, slope)
        a = out
    return a


@inlined
def _through_activation(network, workspace, layer, first, out, delta, m, n):
    """delta (m, n), the gradient of a layer's output `out`, to the gradient before its activation."""
    activation = network.layers[layer, ACTIVATION]
    if has_slope(activation):
        scale_rows(delta, _layer_rows(workspace, workspace.slopes, layer, first), m, n)
    else:
        activation_grad(activation, out, delta, m, n)


@inlined
def _backward(network, workspace, first, m):
    """Deltas of the last layer back to the first, whose input gradient nobody needs."""
    zero = network.parameters.dtype.type(0)
    for layer in range(network.layers.shape[0] - 1, 0, -1):
        row = network.layers[layer]
        n, k = row[N_IN], row[N_OUT]
        transposed = Matrix(workspace.transposed, row[KERNEL], n, 1)
        if row[TRANSPOSED]:
            transposed = kernel_matrix(network, layer)
        activation = network.layers[layer - 1, ACTIVATION]
        delta = _layer_rows(workspace, workspace.deltas, layer, first)
        out = _layer_rows(workspace, workspace.outputs, layer - 1, first)
        below = _layer_rows(workspace, workspace.deltas, layer - 1, first)
        if activation == RELU:
            multiply(delta, transposed, below, m, n, k, Ending(RELU_GRAD, out, zero, zero))
        else:
            multiply(delta, transposed, below, m, n, k, Ending(STORE, out, zero, zero))
            _through_activation(network, workspace, layer - 1, first, out, below, m, n)


@inlined
def _rows_of(array, start):
    """The rows of a C-contiguous 2-D array from row `start` on, as a Matrix."""
    width = array.shape[1]
    return Matrix(array.reshape(-1), start * width, width, 1)


@serial
def _put(array, index, value):
    """array[index] := value"""
    never_inline()
    array[index] = value


@inlined
def _rows_block(network, state, workspace, x, y, weight, start, m, block):
    """Forward, loss and deltas of one block of the batch of m rows at row `start`; its losses go to block_loss."""
    size = block_rows(m)
    first = block * size
    rows = min(size, m - first)
    last = network.layers.shape[0] - 1
    n = network.layers[last, N_OUT]
    raw = takes_raw_outputs(state.loss)
    out = _forward(network, workspace, _rows_of(x, start), first, rows, raw, True)
    delta = _layer_rows(workspace, workspace.deltas, last, first)
    target = _rows_of(y, start + first)
    weights = Matrix(weight, start + first, 1, 1) if weight.size > 0 else Matrix(workspace.one, 0, 0, 0)
    one = network.parameters.dtype.type(1)
    scale = one / network.parameters.dtype.type(m)
    value = loss_rows(state.loss, state.loss_parameters, out, target, weights, rows, n, scale, delta)
    _put(workspace.block_loss, block, value)
    if not raw:
        _through_activation(network, workspace, last, first, out, delta, rows, n)
    _backward(network, workspace, first, rows)


@serial
def _refresh_transposed(network, workspace, layer, start, stop):
    """Copy rows start to stop of a layer's kernel into the columns of its transpose."""
    never_inline()
    row = network.layers[layer]
    n_in, n_out, at = row[N_IN], row[N_OUT], row[KERNEL]
    if layer > 0 and not row[TRANSPOSED]:
        rows = network.parameters[at + start * n_out : at + stop * n_out]
        columns = workspace.transposed[at : at + n_in * n_out]
        for j in range(n_out):
            column = columns[j * n_in + start : j * n_in + stop]
            for i in range(column.size):
                column[i] = rows[i * n_out + j]


@inlined
def _update(network, state, position, stride):
    """How a product over the batch ends in the parameters at `position`: as their gradient, at once applied."""
    velocity = state.velocity if state.velocity.size > 0 else network.parameters
    return Ending(state.mode, Matrix(velocity, position, stride, 1), state.rates[0], state.rates[1])


@inlined
def _weight_task(network, state, workspace, x, first, m, task):
    """Gradient over m rows of x from `first` on, and update, of the weights of some inputs of a layer or its bias."""
    layer, start, stop = workspace.tasks[task]
    row = network.layers[layer]
    delta = _layer_rows(workspace, workspace.deltas, layer, 0)
    if start == ALL_BIAS:
        ones = Matrix(workspace.one, 0, 0, 0)
        at = row[BIAS_START]
        bias = Matrix(network.parameters, at, 0, 1)
        multiply(ones, delta, bias, workspace.one.size, row[N_OUT], m, _update(network, state, at, 0))
        return
    a = (
        _inputs(network, workspace, _rows_of(x, first), 0)
        if layer == 0
        else _layer_rows(workspace, workspace.outputs, layer - 1, 0)
    )
    kernel = kernel_matrix(network, layer)
    width = stop - start
    if row[TRANSPOSED]:
        at = kernel.start + start
        part = Matrix(a.data, a.start + start, a.row, 1)
        columns = Matrix(delta.data, delta.start, 1, delta.row)
        target = Matrix(kernel.data, at, kernel.row, 1)
        multiply(columns, part, target, row[N_OUT], width, m, _update(network, state, at, kernel.row))
    else:
        at = kernel.start + start * kernel.row
        columns = Matrix(a.data, a.start + start, 1, a.row)
        target = Matrix(kernel.data, at, kernel.row, 1)
        multiply(columns, delta, target, width, row[N_OUT], m, _update(network, state, at, kernel.row))
        _refresh_transposed(network, workspace, layer, start, stop)


def _train_slab(network, state, workspace, x, y, weight, batch_size, losses):
    """One step for each `batch_size` rows of x, the last on what is left; losses[i] := mean loss of batch i.

    x (rows, n_in), y (rows, n_targets) and weight (rows, or 0 for none) are C-contiguous, of the network's dtype.
    """
    for layer in range(network.layers.shape[0]):
        _refresh_transposed(network, workspace, layer, 0, network.layers[layer, N_IN])
    n_rows = x.shape[0]
    for step in range((n_rows + batch_size - 1) // batch_size):
        start = step * batch_size
        m = min(batch_size, n_rows - start)
        blocks = (m + block_rows(m) - 1) // block_rows(m)
        for block in prange(blocks):
            _rows_block(network, state, workspace, x, y, weight, start, m, block)
        total = 0.0
        for i in range(blocks):
            total += workspace.block_loss[i]
        losses[step] = total / m
        for task in prange(workspace.tasks.shape[0]):
            _weight_task(network, state, workspace, x, start, m, task)


@inlined
def _forward_block(network, workspace, x, start, m, block, raw, out):
    """Outputs of one block of the m rows of x from `start` on."""
    size = block_rows(m)
    first = block * size
    rows = min(size, m - first)
    result = _forward(network, workspace, _rows_of(x, start), first, rows, raw, False)
    for i in range(rows):
        for j in range(out.shape[1]):
            out[start + first + i, j] = result.data[result.start + i * result.row + j]


def _forward_slab(network, workspace, x, raw, out):
    """out (rows, n_outputs) := the network's outputs for x (rows, n_in), without the last activation where `raw`."""
    n_rows = x.shape[0]
    for start in range(0, n_rows, workspace.max_rows):
        m = min(workspace.max_rows, n_rows - start)
        for block in prange((m + block_rows(m) - 1) // block_rows(m)):
            _forward_block(network, workspace, x, start, m, block, raw, out)


train_slab = parallel(_train_slab)
train_slab_serial = serial_twin(_train_slab)
forward_slab = parallel(_forward_slab)
forward_slab_serial = serial_twin(_forward_slab)


@serial
def predict(network, x, workspace, out):
    """Outputs of a network, on all threads.

    Parameters
    ----------
    network : Network
        As `Sequential.network` gives it.
    x : array (rows, n_inputs), C-contiguous, of the network's dtype
    workspace : Workspace
        From `make_workspace`; its `max_rows` bounds the rows taken at a time, not those of x.
    out : array (rows, n_outputs), C-contiguous
        Overwritten.
    """
    forward_slab(network, workspace, x, False, out)


@serial
def predict_serial(network, x, workspace, out):
    """The one-thread twin of `predict`, for use inside your own `prange`."""
    forward_slab_serial(network, workspace, x, False, out)


@inlined
def _train(slab, network, optimizer_state, workspace, x, y, batch_size):
    n_rows = x.shape[0]
    losses = np.empty((n_rows + batch_size - 1) // batch_size, np.float64)
    slab(network, optimizer_state, workspace, x, y, workspace.one[:0], batch_size, losses)
    total = 0.0
    for step in range(losses.size):
        total += losses[step] * min(batch_size, n_rows - step * batch_size)
    return total / n_rows


@serial
def train_batches(network, optimizer_state, workspace, x, y, batch_size):
    """Take one step of gradient descent for every `batch_size` rows, with no Python in between.

    Parameters
    ----------
    network : Network
        Its parameters are updated in place.
    optimizer_state : OptimizerState
        From `make_optimizer_state`; names the loss. The velocity is updated in place.
    workspace : Workspace
        From `make_workspace`, for at least `batch_size` rows.
    x : array (rows, n_inputs), C-contiguous, of the network's dtype
    y : array (rows, n_targets), C-contiguous, of the network's dtype
        Class numbers in one column for the sparse categorical cross-entropy.
    batch_size : int
        The last step takes what is left.

    Returns
    -------
    float
        Mean loss over all rows, each row's taken before its own step.
    """
    return _train(train_slab, network, optimizer_state, workspace, x, y, batch_size)


@serial
def train_batches_serial(network, optimizer_state, workspace, x, y, batch_size):
    """The one-thread twin of `train_batches`, for use inside your own `prange`."""
    return _train(train_slab_serial, network, optimizer_state, workspace, x, y, batch_size)


@serial
def train_batch(network, optimizer_state, workspace, x, y):
    """One step of gradient descent on all rows of x: `train_batches` with a single batch."""
    return _train(train_slab, network, optimizer_state, workspace, x, y, x.shape[0])


@serial
def train_batch_serial(network, optimizer_state, workspace, x, y):
    """The one-thread twin of `train_batch`, for use inside your own `prange`."""
    return _train(train_slab_serial, network, optimizer_state, workspace, x, y, x.shape[0])
