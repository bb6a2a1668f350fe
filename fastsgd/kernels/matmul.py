"""Matrix products made of register tiles, over flat arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from fastsgd.kernels.jit import serial
from fastsgd.kernels.tile import (
    BIAS,
    BIAS_RELU,
    MOMENTUM,
    NESTEROV,
    RELU_GRAD,
    TILE_ROWS,
    TILE_VECTORS,
    UPDATE,
    VECTOR_BYTES,
    make_tile,
    never_inline,
    pointer,
)


class Matrix(NamedTuple):
    """Where a matrix lies in a flat array; strides are in elements, so a transpose is a swap of two numbers."""

    data: np.ndarray
    start: int
    row: int
    col: int


class Ending(NamedTuple):
    """What a product starts from and ends in: a mode of `fastsgd.kernels.tile` and what that mode reads.

    `aux` is the bias (strides 0, 1), the layer's output under RELU_GRAD, or the velocity; `alpha` the learning rate and
    `beta` the momentum, both of the matrix's dtype.
    """

    mode: int
    aux: Matrix
    alpha: float
    beta: float


def _multiply_plain(a, b, c, m, n, k, ending):
    """c (m, n) = a (m, k) @ b (k, n) ended as `ending` says, one element at a time. Needs nothing of the host."""
    mode, aux, alpha, beta = ending
    for i in range(m):
        for j in range(n):
            at = c.start + i * c.row + j * c.col
            side = aux.start + i * aux.row + j * aux.col
            total = c.data.dtype.type(0)
            if mode == BIAS or mode == BIAS_RELU:
                total = aux.data[side]
            for p in range(k):
                total += a.data[a.start + i * a.row + p * a.col] * b.data[b.start + p * b.row + j * b.col]
            if mode == BIAS_RELU:
                c.data[at] = 0 if total <= 0 else total
            elif mode == RELU_GRAD:
                c.data[at] = 0 if aux.data[side] <= 0 else total
            elif mode == UPDATE:
                c.data[at] -= alpha * total
            elif mode == MOMENTUM:
                aux.data[side] = beta * aux.data[side] - alpha * total
                c.data[at] += aux.data[side]
            elif mode == NESTEROV:
                aux.data[side] = beta * aux.data[side] - alpha * total
                c.data[at] += beta * aux.data[side] - alpha * total
            else:
                c.data[at] = total


_full = make_tile(TILE_ROWS, TILE_VECTORS)
_four = make_tile(4, TILE_VECTORS)
_two = make_tile(2, TILE_VECTORS)
_one = make_tile(1, TILE_VECTORS)
_wide = make_tile(1, 8)  # one row alone would wait for its own multiply-adds: eight chains hide their latency
_full_edge = make_tile(TILE_ROWS, 1, masked=True)
_four_edge = make_tile(4, 1, masked=True)
_two_edge = make_tile(2, 1, masked=True)
_one_edge = make_tile(1, 1, masked=True)


@intrinsic
def _lanes(typing, data):
    """Elements of `data` in one vector, known when compiling."""
    lanes = VECTOR_BYTES // (data.dtype.bitwidth // 8)

    def codegen(context, builder, signature, arguments):
        return context.get_constant(types.intp, lanes)

    return types.intp(data), codegen


def _multiply_tiles(a, b, c, m, n, k, ending):
    """c (m, n) = a (m, k) @ b (k, n), ended as `ending` says; b, c and aux have unit column strides, k >= 1."""
    never_inline()
    mode, aux, alpha, beta = ending
    lanes = _lanes(c.data)
    j = 0
    if m == 1:
        while n - j >= 8 * lanes:
            pa = pointer(a.data, a.start)
            pb = pointer(b.data, b.start + j)
            pc = pointer(c.data, c.start + j)
            px = pointer(aux.data, aux.start + j)
            _wide(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, lanes)
            j += 8 * lanes
    while j < n:
        whole = n - j >= TILE_VECTORS * lanes
        width = TILE_VECTORS * lanes if whole else min(lanes, n - j)
        pb = pointer(b.data, b.start + j)
        i = 0
        while i < m:
            pa = pointer(a.data, a.start + i * a.row)
            pc = pointer(c.data, c.start + i * c.row + j)
            px = pointer(aux.data, aux.start + i * aux.row + j)
            left = m - i
            if whole:
                if left >= TILE_ROWS:
                    _full(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                    i += TILE_ROWS
                elif left >= 4:
                    _four(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                    i += 4
                elif left >= 2:
                    _two(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                    i += 2
                else:
                    _one(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                    i += 1
            elif left >= TILE_ROWS:
                _full_edge(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                i += TILE_ROWS
            elif left >= 4:
                _four_edge(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                i += 4
            elif left >= 2:
                _two_edge(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                i += 2
            else:
                _one_edge(mode, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, width)
                i += 1
        j += width


multiply = serial(_multiply_plain if config.DISABLE_JIT else _multiply_tiles)
multiply_plain = serial(_multiply_plain)
