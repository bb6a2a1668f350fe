"""Matrix products made of register tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import config

from fastsgd.kernels.jit import serial, small
from fastsgd.kernels.machine import advance, lanes_of, never_inline
from fastsgd.kernels.tile import (
    MOMENTUM,
    NESTEROV,
    RELU,
    RELU_GRAD,
    ROW_ENDS,
    SCALE,
    UPDATE,
    WEIGHT_ENDS,
    make_tile,
)
from fastsgd.kernels.vectors import TILE_ROWS, TILE_VECTORS


class Matrix(NamedTuple):
    """Where a matrix lies: a pointer, and in elements its start and strides. A transpose swaps two numbers."""

    data: Any
    start: int
    row: int
    col: int


class Panel(NamedTuple):
    """Where a matrix lies whose columns are cut into strips as wide as a tile (`strip_width`).

    Columns of a strip are neighbours; `strip` elements lie from one strip to the next. A matrix stored row by row is a
    panel whose strips lie side by side. A row stride of 0 is one row for all.
    """

    data: Any
    start: int
    row: int
    strip: int


class Ending(NamedTuple):
    """What a product starts from and ends in: a mode of `fastsgd.kernels.tile` and what that mode reads.

    `init` is what the sums start from; `aux` the layer's output under RELU_GRAD, its slope under SCALE, or the
    velocity; `alpha` the learning rate and `beta` the momentum, both of the matrix's dtype.
    """

    mode: int
    init: Panel
    aux: Matrix
    alpha: float
    beta: float


@small
def strip_width(data):
    """Columns of a strip: those of a register tile."""
    return TILE_VECTORS * lanes_of(data)


def _multiply_plain(a, b, c, m, n, k, ending):
    """c (m, n) := init + a (m, k) @ b (k, n), ended as `ending` says, element by element. Needs nothing of the host."""
    mode, init, aux, alpha, beta = ending
    width = strip_width(c.data)
    for i in range(m):
        for j in range(n):
            at = c.start + i * c.row + j
            side = aux.start + i * aux.row + j
            total = init.data[init.start + i * init.row + j // width * init.strip + j % width]
            column = b.start + j // width * b.strip + j % width
            for p in range(k):
                total += a.data[a.start + i * a.row + p * a.col] * b.data[column + p * b.row]
            if mode == RELU:
                c.data[at] = 0 if total <= 0 else total
            elif mode == RELU_GRAD:
                c.data[at] = 0 if aux.data[side] <= 0 else total
            elif mode == SCALE:
                c.data[at] = total * aux.data[side]
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


# Rows on their way through the layers. A tile of half the columns has twice the rows, as its chains of multiply-adds
# would otherwise be too few to hide their latency.
_rows_full = make_tile(TILE_ROWS, TILE_VECTORS, ROW_ENDS)
_rows_five = make_tile(5, TILE_VECTORS, ROW_ENDS)
_rows_four = make_tile(4, TILE_VECTORS, ROW_ENDS)
_rows_two = make_tile(2, TILE_VECTORS, ROW_ENDS)
_rows_one = make_tile(1, TILE_VECTORS, ROW_ENDS)
_half_full = make_tile(2 * TILE_ROWS, TILE_VECTORS // 2, ROW_ENDS)
_half_four = make_tile(4, TILE_VECTORS // 2, ROW_ENDS)
_half_one = make_tile(1, TILE_VECTORS // 2, ROW_ENDS)
# Gradients.
_full = make_tile(TILE_ROWS, TILE_VECTORS, WEIGHT_ENDS)
_four = make_tile(4, TILE_VECTORS, WEIGHT_ENDS)
_two = make_tile(2, TILE_VECTORS, WEIGHT_ENDS)
_one = make_tile(1, TILE_VECTORS, WEIGHT_ENDS)
_full_edge = make_tile(TILE_ROWS, TILE_VECTORS, WEIGHT_ENDS, masked=True)
_two_edge = make_tile(2, TILE_VECTORS, WEIGHT_ENDS, masked=True)
_one_edge = make_tile(1, TILE_VECTORS, WEIGHT_ENDS, masked=True)
_wide = make_tile(1, 8, WEIGHT_ENDS)  # one row alone would wait for its own multiply-adds: eight chains hide it


def _multiply_rows_tiles(a, b, c, m, n, k, ending):
    """c (m, n) := init + a (m, k) @ b (k, n), ended as `ending` says. Writes, and reads, whole strips: every row of b,
    c, init and aux is as long as a multiple of `strip_width`. The modes are ROW_ENDS, k >= 1."""
    never_inline()
    mode, init, aux, alpha, beta = ending
    width = strip_width(c.data)
    for j in range(0, n, width):
        half = n - j <= width // 2
        pb = advance(b.data, b.start + j // width * b.strip)
        first = init.start + j // width * init.strip
        i = 0
        while i < m:
            pi = advance(init.data, first + i * init.row)
            pa = advance(a.data, a.start + i * a.row)
            pc = advance(c.data, c.start + i * c.row + j)
            px = advance(aux.data, aux.start + i * aux.row + j)
            left = m - i
            if not half:
                # No tile of fewer than eight chains where tiles of four and five rows do without.
                if left >= TILE_ROWS and not TILE_ROWS < left <= TILE_ROWS + 4:
                    _rows_full(
                        mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n
                    )
                    i += TILE_ROWS
                elif left >= 5 and left != 8:
                    _rows_five(
                        mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n
                    )
                    i += 5
                elif left >= 4:
                    _rows_four(
                        mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n
                    )
                    i += 4
                elif left >= 2:
                    _rows_two(
                        mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n
                    )
                    i += 2
                else:
                    _rows_one(
                        mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n
                    )
                    i += 1
            elif left >= 2 * TILE_ROWS:
                _half_full(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
                i += 2 * TILE_ROWS
            elif left >= 4:
                _half_four(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
                i += 4
            else:
                _half_one(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
                i += 1


def _multiply_tiles(a, b, c, m, n, k, ending):
    """c (m, n) := init + a (m, k) @ b (k, n), ended as `ending` says. Touches no column beyond the n-th. The modes are
    WEIGHT_ENDS, k >= 1."""
    never_inline()
    mode, init, aux, alpha, beta = ending
    width = strip_width(c.data)
    lanes = lanes_of(c.data)
    j = 0
    # Eight vectors at once, where the strips lie side by side; what the sums start from may be one strip for all.
    if m == 1 and b.strip == width and (init.strip == width or init.strip == 0):
        while n - j >= 8 * lanes:
            pi = advance(init.data, init.start + j // width * init.strip)
            pa = advance(a.data, a.start)
            pb = advance(b.data, b.start + j)
            pc = advance(c.data, c.start + j)
            px = advance(aux.data, aux.start + j)
            _wide(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
            j += 8 * lanes
    while j < n:
        columns = min(width, n - j)
        pb = advance(b.data, b.start + j // width * b.strip)
        first = init.start + j // width * init.strip
        i = 0
        while i < m:
            pi = advance(init.data, first + i * init.row)
            pa = advance(a.data, a.start + i * a.row)
            pc = advance(c.data, c.start + i * c.row + j)
            px = advance(aux.data, aux.start + i * aux.row + j)
            left = m - i
            if columns == width:
                if left >= TILE_ROWS:
                    _full(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
                    i += TILE_ROWS
                elif left >= 4:
                    _four(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
                    i += 4
                elif left >= 2:
                    _two(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
                    i += 2
                else:
                    _one(mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n)
                    i += 1
            elif left >= TILE_ROWS:
                _full_edge(
                    mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, columns
                )
                i += TILE_ROWS
            elif left >= 2:
                _two_edge(
                    mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, columns
                )
                i += 2
            else:
                _one_edge(
                    mode, pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, columns
                )
                i += 1
        j += columns


multiply = serial(_multiply_plain if config.DISABLE_JIT else _multiply_tiles)
multiply_rows = serial(_multiply_plain if config.DISABLE_JIT else _multiply_rows_tiles)
multiply_plain = serial(_multiply_plain)
