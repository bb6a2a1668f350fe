"""A single layer of one or two outputs: rows are read where they lie, since to copy them would cost as much again.

The rows of a part are read twice, for their outputs from memory and for the gradient from the cache; on both ways
memory is asked for the rows of a part to come.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import config

from fastsgd.kernels.dots import make_scattered_dots, make_scattered_sums
from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.machine import advance, never_inline
from fastsgd.kernels.matmul import Matrix
from fastsgd.kernels.network import (
    BIAS_START,
    COUNT_UP,
    COUNT_UP_SIZE,
    DELTAS,
    DOT_OUTPUTS,
    KERNEL,
    KERNEL_ROW,
    N_LAYERS,
    N_OUT,
    NO_BIAS,
    OUTPUTS,
    SCALE,
    SHIFT,
    layer_field,
    rows_of,
    standardizes,
)
from fastsgd.kernels.scalar import like

_eight_dots = make_scattered_dots(8, standardized=False)
_one_dot = make_scattered_dots(1, standardized=False)
_eight_standard_dots = make_scattered_dots(8, standardized=True)
_one_standard_dot = make_scattered_dots(1, standardized=True)
_eight_sums = make_scattered_sums(8, standardized=False)
_one_sum = make_scattered_sums(1, standardized=False)
_eight_standard_sums = make_scattered_sums(8, standardized=True)
_one_standard_sum = make_scattered_sums(1, standardized=True)


@small
def predicts_in_place(arena):
    """Whether the rows of a prediction are not copied."""
    return arena.numbers[N_LAYERS] == 1 and layer_field(arena, 0, N_OUT) <= DOT_OUTPUTS


@small
def trains_in_place(arena, group):
    """Whether the rows of a batch in groups of so many rows are not copied."""
    return group > 0 and predicts_in_place(arena)


class InPlace(NamedTuple):
    """m rows of x by their numbers, those that memory is asked for on the way, and what standardizes them: pointers."""

    x: Any
    width: int
    order: Any
    ahead: Any
    m: int
    shift: Any
    scale: Any
    standardized: bool


@inlined
def _in_place(arena, rows, part):
    """Where rows lie. Those in their own order have that of numbers that count up; where these do not reach as far as
    `ahead`, no others are asked for."""
    if rows.ordered:
        x, order, ahead = rows.x, advance(rows.order, part.position), advance(rows.order, part.ahead)
    else:
        x = advance(rows.x, part.position * rows.n_in)
        order = advance(arena.numbers, arena.numbers[COUNT_UP])
        distance = part.ahead - part.position
        ahead = advance(order, distance if distance <= COUNT_UP_SIZE // 2 else 0)
    shift, scale = advance(arena.memory, arena.numbers[SHIFT]), advance(arena.memory, arena.numbers[SCALE])
    return InPlace(x, rows.n_in, order, ahead, part.m, shift, scale, standardizes(arena))


def _value(a, i, k):
    value = a.x[a.order[i] * a.width + k]
    return (value - a.shift[k]) * a.scale[k] if a.standardized else value


def _dots_plain(a, weights, out, start):
    """out (m, 1) := start + a (m, width) @ weights"""
    for i in range(a.m):
        total = start
        for k in range(a.width):
            total += _value(a, i, k) * weights[k]
        out.data[out.start + i * out.row] = total


def _dots_vectors(a, weights, out, start):
    never_inline()
    x, width, order, ahead, m, shift, scale, standardized = a
    i = 0
    while i < m:
        here, there, result = advance(order, i), advance(ahead, i), advance(out.data, out.start + i * out.row)
        if m - i >= 8 and standardized:
            _eight_standard_dots(x, width, here, there, shift, scale, weights, result, out.row, start)
        elif m - i >= 8:
            _eight_dots(x, width, here, there, shift, scale, weights, result, out.row, start)
        elif standardized:
            _one_standard_dot(x, width, here, there, shift, scale, weights, result, out.row, start)
        else:
            _one_dot(x, width, here, there, shift, scale, weights, result, out.row, start)
        i += 8 if m - i >= 8 else 1


dots_in_place = serial(_dots_plain if config.DISABLE_JIT else _dots_vectors)


def _sums_plain(a, factor, out, fresh):
    """out := a (m, width).T @ factor (m, 1), added to what is there unless `fresh`."""
    for k in range(a.width):
        total = out[k] * 0 if fresh else out[k]
        for i in range(a.m):
            total += _value(a, i, k) * factor.data[factor.start + i * factor.row]
        out[k] = total


def _sums_vectors(a, factor, out, fresh):
    never_inline()
    x, width, order, ahead, m, shift, scale, standardized = a
    i = 0
    while i < m:
        here, there = advance(order, i), advance(ahead, i)
        d, empty = advance(factor.data, factor.start + i * factor.row), fresh and i == 0
        if m - i >= 8 and standardized:
            _eight_standard_sums(x, width, here, there, shift, scale, d, factor.row, out, empty)
        elif m - i >= 8:
            _eight_sums(x, width, here, there, shift, scale, d, factor.row, out, empty)
        elif standardized:
            _one_standard_sum(x, width, here, there, shift, scale, d, factor.row, out, empty)
        else:
            _one_sum(x, width, here, there, shift, scale, d, factor.row, out, empty)
        i += 8 if m - i >= 8 else 1


sums_in_place = serial(_sums_plain if config.DISABLE_JIT else _sums_vectors)


@inlined
def outputs_in_place(arena, rows, part):
    """The layer's outputs of some rows, without its activation."""
    a, out = _in_place(arena, rows, part), rows_of(arena, OUTPUTS, 1, part.at)
    bias = layer_field(arena, 0, BIAS_START)
    for j in range(layer_field(arena, 0, N_OUT)):
        weights = advance(arena.parameters, layer_field(arena, 0, KERNEL) + j * layer_field(arena, 0, KERNEL_ROW))
        start = arena.parameters[bias + j] if bias != NO_BIAS else like(weights[0], 0.0)
        dots_in_place(a, weights, Matrix(out.data, out.start + j, out.row, 1), start)


@inlined
def gradient_in_place(arena, rows, part, gradient, is_first):
    """Add the kernel's gradient over some rows to the gradient that starts there in memory, or set it where
    `is_first`."""
    a, delta = _in_place(arena, rows, part), rows_of(arena, DELTAS, 1, part.at)
    base = gradient + layer_field(arena, 0, KERNEL)
    for j in range(layer_field(arena, 0, N_OUT)):
        factor = Matrix(delta.data, delta.start + j, delta.row, 1)
        sums_in_place(a, factor, advance(arena.memory, base + j * layer_field(arena, 0, KERNEL_ROW)), is_first)
