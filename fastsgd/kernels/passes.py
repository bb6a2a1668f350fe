"""The rows region of a step: a block of rows through all layers and back while it is in cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import config

from fastsgd.kernels.activations import (
    LINEAR,
    RELU,
    activate,
    activate_with_slope,
    has_slope,
    relu_or_softmax_grad,
    scale_rows,
)
from fastsgd.kernels.dots import make_dots
from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.linear import outputs_in_place
from fastsgd.kernels.losses import loss_rows, takes_raw_outputs
from fastsgd.kernels.machine import advance, copy_elements, copy_strip, lanes_of, never_inline, pointer, prefetch, view
from fastsgd.kernels.matmul import (
    Ending,
    Matrix,
    Panel,
    columns_of,
    multiply_rows,
    piece_of,
    strip_width,
)
from fastsgd.kernels.network import (
    ACTIVATION,
    BACKWARD,
    BACKWARD_STRIP,
    BIAS_START,
    DELTAS,
    DOT_OUTPUTS,
    FORWARD,
    FORWARD_STRIP,
    KERNEL,
    KERNEL_ROW,
    LOSS_PARAMETERS,
    N_IN,
    N_LAYERS,
    N_OUT,
    NO_BIAS,
    NOT_PACKED,
    ONE,
    OUTPUTS,
    PACKED,
    ROW_WEIGHTS,
    SCALE,
    SCRATCH,
    SCRATCH_SIZE,
    SETTINGS,
    SHIFT,
    SLOPES,
    TARGETS,
    ZEROS,
    layer_field,
    panel_field,
    panel_of,
    rows_of,
    standardizes,
    zero_panel,
)
from fastsgd.kernels.scalar import like
from fastsgd.kernels.tile import RELU as END_RELU
from fastsgd.kernels.tile import RELU_GRAD, STORE
from fastsgd.kernels.tile import SCALE as SCALE_BY
from fastsgd.kernels.vectors import VECTOR_BYTES

_LINE = 64  # bytes of a line of the cache


class Source(NamedTuple):
    """Where the rows of a slab lie: x (rows, n_in), y (rows, n_targets) and weight (rows, or 0 for none), C-contiguous
    and of the network's dtype, and the order in which they are taken (int64; empty for their own)."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    order: np.ndarray


class Rows(NamedTuple):
    """A `Source` by its pointers."""

    x: Any
    n_in: int
    y: Any
    n_targets: int
    weight: Any
    weighted: bool
    order: Any
    ordered: bool


class Job(NamedTuple):
    """What a worker does with all rows of a task.

    Deltas are those of `scale` * loss. Losses are added to `sums` (float64), one for each `unit` rows of the batch.
    """

    loss: int
    scale: float
    sums: Any
    unit: int
    worker: int
    in_place: bool  # rows are read where they lie


class Part(NamedTuple):
    """m rows of a batch on their way, the first by its number in the batch, in the slab's order and in the workspace.

    On the way memory is asked for `expected` rows that come in the order from `ahead` on; where rows are read in place,
    for m of them.
    """

    row: int
    position: int
    at: int
    m: int
    ahead: int
    expected: int


@inlined
def source_size(source):
    """Rows of a slab."""
    return source.order.size if source.order.size > 0 else source.x.shape[0]


@inlined
def source_rows(source):
    """The rows of a source, which must be kept alive."""
    return Rows(
        pointer(source.x, 0),
        source.x.shape[1],
        pointer(source.y, 0),
        source.y.shape[1],
        pointer(source.weight, 0),
        source.weight.size > 0,
        pointer(source.order, 0),
        source.order.size > 0,
    )


@small
def _one_column():
    """The width of the weights, as an integer like any: for a literal one, kernels would be compiled once more."""
    return np.int64(1)


@serial
def _prefetch_rows(rows, width, order, first, m):
    """Ask memory for rows[order[first:first + m]]."""
    never_inline()
    # So many elements apart there is one in each cache line, of float32; the last may lie in a line of its own.
    for i in range(m):
        at = order[first + i] * width
        for offset in range(0, width, 16):
            prefetch(rows, at + offset)
        prefetch(rows, at + width - 1)


@serial
def _prefetch_run(rows, first, last):
    """Ask memory for the elements first to last, which lie one after the other."""
    never_inline()
    for offset in range(first, last, _LINE * lanes_of(rows) // VECTOR_BYTES):
        prefetch(rows, offset)


@inlined
def expect_rows(rows, position, m, with_inputs):
    """Ask memory for the m rows from `position` in the order on, where one is given: those in their own order come by
    themselves."""
    if rows.ordered:
        if with_inputs:
            _prefetch_rows(rows.x, rows.n_in, rows.order, position, m)
        _prefetch_rows(rows.y, rows.n_targets, rows.order, position, m)
        if rows.weighted:
            _prefetch_rows(rows.weight, _one_column(), rows.order, position, m)


@small
def _expect_part(rows, part, turn, turns):
    """Ask memory for the rows of turn `turn` of `turns` among those that a part expects: all of them at once would wait
    for one another, and the products for them."""
    first, last = part.expected * turn // turns, part.expected * (turn + 1) // turns
    if last > first and rows.ordered:
        expect_rows(rows, part.ahead + first, last - first, True)
    elif last > first:
        _prefetch_run(rows.x, (part.ahead + first) * rows.n_in, (part.ahead + last) * rows.n_in)


@serial
def _copy_rows(rows, width, order, ordered, first, m, out):
    """out (m, width) := rows[order[first:first + m]], or rows[first:first + m] where they are not ordered; a Panel."""
    never_inline()
    piece = piece_of(out, width)
    for i in range(m):
        at = order[first + i] if ordered else first + i
        row, result = advance(rows, at * width), advance(out.data, out.start + i * out.row)
        # No range, which would divide by its step for each row.
        j, strip = 0, 0
        while width - j > piece:
            copy_strip(advance(row, j), advance(result, strip))
            j, strip = j + piece, strip + out.strip
        copy_elements(advance(row, j), advance(result, strip), width - j)


@serial
def _standardize(memory, shift, scale, m, n, rows):
    """rows (m, n) := (rows - shift) * scale."""
    never_inline()
    shift, scale = view(memory, shift, n), view(memory, scale, n)
    for i in range(m):
        row = view(rows.data, rows.start + i * rows.row, n)
        for j in range(n):
            row[j] = (row[j] - shift[j]) * scale[j]


@inlined
def _take_inputs(arena, rows, part):
    """Some rows become the workspace's inputs, standardized where the network does so."""
    inputs, n = panel_of(arena, OUTPUTS, 0, part.at), rows.n_in
    _copy_rows(rows.x, n, rows.order, rows.ordered, part.position, part.m, inputs)
    if standardizes(arena):
        shift, scale, piece = arena.numbers[SHIFT], arena.numbers[SCALE], piece_of(inputs, n)
        for j in range(0, n, piece):
            some = columns_of(inputs, j)
            _standardize(arena.memory, shift + j, scale + j, part.m, min(piece, n - j), some)


def _dot_forward_plain(a, parameters, kernel, bias, m, n, k, out):
    """out (m, n) := a (m, k) @ kernel.T + bias, for a kernel (start, row stride) stored (n, k): one dot product an
    output."""
    start, stored = kernel
    for i in range(m):
        for j in range(n):
            total = parameters[bias + j] if bias != NO_BIAS else parameters[start] * 0
            for p in range(k):
                total += a.data[a.start + i * a.row + p] * parameters[start + j * stored + p]
            out.data[out.start + i * out.row + j] = total


_eight_dots = make_dots(8)
_two_dots = make_dots(2)
_one_dot = make_dots(1)


def _dot_forward_vectors(a, parameters, kernel, bias, m, n, k, out):
    """`_dot_forward_plain` with vectors along k, eight rows at a time."""
    never_inline()
    for j in range(n):
        weights = advance(parameters, kernel[0] + j * kernel[1])
        start = parameters[bias + j] if bias != NO_BIAS else like(weights[0], 0.0)
        i = 0
        while i < m:
            rows, result = advance(a.data, a.start + i * a.row), advance(out.data, out.start + i * out.row + j)
            if m - i >= 8:
                _eight_dots(rows, a.row, weights, k, result, out.row, start)
                i += 8
            elif m - i >= 2:
                _two_dots(rows, a.row, weights, k, result, out.row, start)
                i += 2
            else:
                _one_dot(rows, a.row, weights, k, result, out.row, start)
                i += 1


_dot_forward = serial(_dot_forward_plain if config.DISABLE_JIT else _dot_forward_vectors)


@inlined
def _layer_sums(arena, rows, part, in_place, layer, activation):
    """A layer's outputs of some rows from those of the one before, or from the rows themselves where they are read in
    place. Returns the activation that is still to be done: none where it was done in the tile."""
    if in_place:
        outputs_in_place(arena, rows, part)
        return activation
    at, m = part.at, part.m
    n, k = layer_field(arena, layer, N_OUT), layer_field(arena, layer, N_IN)
    stored = layer_field(arena, layer, KERNEL_ROW)
    if n <= DOT_OUTPUTS:
        a, out = rows_of(arena, OUTPUTS, layer, at), rows_of(arena, OUTPUTS, layer + 1, at)
        place = layer_field(arena, layer, KERNEL), stored
        _dot_forward(a, arena.parameters, place, layer_field(arena, layer, BIAS_START), m, n, k, out)
        return activation
    out = panel_of(arena, OUTPUTS, layer + 1, at)
    width = strip_width(arena.memory)
    zero = arena.memory[arena.numbers[ZEROS]]
    strip = panel_field(arena, layer, FORWARD_STRIP)
    if strip == NOT_PACKED:
        kernel = Panel(arena.parameters, layer_field(arena, layer, KERNEL), stored, width)
        bias = zero_panel(arena)
        if layer_field(arena, layer, BIAS_START) != NO_BIAS:
            bias = Panel(arena.parameters, layer_field(arena, layer, BIAS_START), 0, width)
    else:
        start = arena.numbers[PACKED] + panel_field(arena, layer, FORWARD)
        kernel = Panel(arena.memory, start + width, width, strip)
        bias = Panel(arena.memory, start, 0, strip)
    mode = END_RELU if activation == RELU else STORE
    inputs = panel_of(arena, OUTPUTS, layer, at)
    multiply_rows(inputs, kernel, out, m, n, k, Ending(mode, bias, out, zero, zero))
    return LINEAR if activation == RELU else activation


@inlined
def forward(arena, rows, part, in_place, raw):
    """Some rows through all layers, the last without its activation where `raw`."""
    if not in_place:
        _take_inputs(arena, rows, part)
    last = arena.numbers[N_LAYERS] - 1
    for layer in range(last + 1):
        activation = LINEAR if raw and layer == last else layer_field(arena, layer, ACTIVATION)
        left = _layer_sums(arena, rows, part, in_place, layer, activation)
        outputs, n = panel_of(arena, OUTPUTS, layer + 1, part.at), layer_field(arena, layer, N_OUT)
        piece = piece_of(outputs, n)
        for j in range(0, n, piece):
            activate(left, columns_of(outputs, j), part.m, min(piece, n - j))


@inlined
def _forward_with_slopes(arena, rows, part, in_place, raw):
    """`forward`, keeping the slopes of the activations for the way back."""
    if not in_place:
        _take_inputs(arena, rows, part)
    last = arena.numbers[N_LAYERS] - 1
    for layer in range(last + 1):
        if not in_place:
            _expect_part(rows, part, layer, 2 * last + 1)
        activation = LINEAR if raw and layer == last else layer_field(arena, layer, ACTIVATION)
        left = _layer_sums(arena, rows, part, in_place, layer, activation)
        # A slope that nobody needs, of ReLU, goes where the deltas will be.
        slopes = panel_of(arena, SLOPES if has_slope(left) else DELTAS, layer + 1, part.at)
        outputs, n = panel_of(arena, OUTPUTS, layer + 1, part.at), layer_field(arena, layer, N_OUT)
        piece = piece_of(outputs, n)
        for j in range(0, n, piece):
            activate_with_slope(left, columns_of(outputs, j), columns_of(slopes, j), part.m, min(piece, n - j))


@inlined
def _backward(arena, rows, part):
    """Deltas of the last layer back to the first, whose input gradient nobody needs."""
    at, m = part.at, part.m
    last = arena.numbers[N_LAYERS] - 1
    width = strip_width(arena.memory)
    zero = arena.memory[arena.numbers[ZEROS]]
    for layer in range(arena.numbers[N_LAYERS] - 1, 0, -1):
        _expect_part(rows, part, 2 * last + 1 - layer, 2 * last + 1)
        n, k = layer_field(arena, layer, N_IN), layer_field(arena, layer, N_OUT)
        activation = layer_field(arena, layer - 1, ACTIVATION)
        start = arena.numbers[PACKED] + panel_field(arena, layer, BACKWARD)
        kernel = Panel(arena.memory, start, width, panel_field(arena, layer, BACKWARD_STRIP))
        delta = panel_of(arena, DELTAS, layer + 1, at)
        below = panel_of(arena, DELTAS, layer, at)
        mode, aux = STORE, below
        if activation == RELU:
            mode, aux = RELU_GRAD, panel_of(arena, OUTPUTS, layer, at)
        elif has_slope(activation):
            mode, aux = SCALE_BY, panel_of(arena, SLOPES, layer, at)
        multiply_rows(delta, kernel, below, m, n, k, Ending(mode, zero_panel(arena), aux, zero, zero))


@inlined
def _take_targets(arena, rows, part):
    """Targets and weights of some rows, as Matrices."""
    position, at, m = part.position, part.at, part.m
    width = strip_width(arena.rows)
    target = Panel(arena.rows, arena.numbers[TARGETS] + at * rows.n_targets, rows.n_targets, width)
    _copy_rows(rows.y, rows.n_targets, rows.order, rows.ordered, position, m, target)
    weight = Matrix(arena.memory, arena.numbers[ONE], 0, 0)
    if rows.weighted:
        weights = Panel(arena.rows, arena.numbers[ROW_WEIGHTS] + at, 1, width)
        _copy_rows(rows.weight, _one_column(), rows.order, rows.ordered, position, m, weights)
        weight = columns_of(weights, 0)
    return columns_of(target, 0), weight


@small
def _from_row(matrix, row):
    return Matrix(matrix.data, matrix.start + row * matrix.row, matrix.row, matrix.col)


@inlined
def rows_pass(arena, rows, job, part):
    """Some rows of a batch through all layers, the loss, and back."""
    last, at, m = arena.numbers[N_LAYERS], part.at, part.m
    n = layer_field(arena, last - 1, N_OUT)
    raw = takes_raw_outputs(job.loss)
    _forward_with_slopes(arena, rows, part, job.in_place, raw)
    target, weight = _take_targets(arena, rows, part)
    out = rows_of(arena, OUTPUTS, last, at)
    delta = rows_of(arena, DELTAS, last, at)
    parameters = advance(arena.memory, arena.numbers[SETTINGS] + LOSS_PARAMETERS)
    scratch = advance(arena.memory, arena.numbers[SCRATCH] + job.worker * SCRATCH_SIZE)
    for first in range(0, m, job.unit):
        job.sums[(part.row + first) // job.unit] += loss_rows(
            job.loss, parameters, _from_row(out, first), _from_row(target, first), _from_row(weight, first),
            min(job.unit, m - first), n, job.scale, _from_row(delta, first), scratch,
        )  # fmt: skip
    activation = layer_field(arena, last - 1, ACTIVATION)
    if not raw and has_slope(activation):
        scale_rows(delta, rows_of(arena, SLOPES, last, at), m, n)
    elif not raw and activation != LINEAR:
        relu_or_softmax_grad(activation, out, delta, m, n)
    _backward(arena, rows, part)
