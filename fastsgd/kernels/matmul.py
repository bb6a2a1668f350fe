"""Matrix products made of register tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import config

from fastsgd.kernels.jit import serial, small
from fastsgd.kernels.machine import advance, lanes_of, never_inline
from fastsgd.kernels.tile import (
    BY_COLUMNS,
    BY_ROWS,
    MOMENTUM,
    NESTEROV,
    RELU,
    RELU_GRAD,
    ROW_ENDS,
    SCALE,
    STEPS,
    STORE,
    UPDATE,
    WEIGHT_ENDS,
    make_tile,
)
from fastsgd.kernels.vectors import TILE_ROWS, TILE_VECTORS, VECTOR_BYTES


class Matrix(NamedTuple):
    """Where a matrix lies: a pointer, and in elements its start and strides. A transpose swaps two numbers."""

    data: Any
    start: int
    row: int
    col: int


class Panel(NamedTuple):
    """Where a matrix lies whose columns are cut into strips as wide as a tile (`strip_width`).

    Columns of a strip are neighbours; `strip` elements lie from one strip to the next. A matrix stored row by row is a
    panel whose strips lie side by side: `strip` is the width of one. A row stride of 0 is one row for all.
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
    aux: Panel
    alpha: float
    beta: float


@small
def strip_width(data):
    """Columns of a strip: those of a register tile."""
    return TILE_VECTORS * lanes_of(data)


@small
def from_column(panel, column):
    """The same from a column on: the first of a strip, unless the strips lie side by side."""
    width = strip_width(panel.data)
    return Panel(panel.data, panel.start + column // width * panel.strip + column % width, panel.row, panel.strip)


@small
def columns_of(panel, column):
    """A panel from a column on, as far as the elements of a row lie next to each other."""
    part = from_column(panel, column)
    return Matrix(part.data, part.start, part.row, 1)


@small
def piece_of(panel, n):
    """How many of n elements of a row lie next to each other: all, or those of a strip."""
    width = strip_width(panel.data)
    return n if panel.strip == width else width


def _multiply_plain(a, b, c, m, n, k, ending):
    """c (m, n) := init + a (m, k) @ b (k, n), ended as `ending` says, element by element. Needs nothing of the host."""
    mode, init, aux, alpha, beta = ending
    width = strip_width(c.data)
    for i in range(m):
        for j in range(n):
            strip, column = j // width, j % width
            at = c.start + i * c.row + strip * c.strip + column
            side = aux.start + i * aux.row + strip * aux.strip + column
            total = init.data[init.start + i * init.row + strip * init.strip + column]
            right = b.start + strip * b.strip + column
            for p in range(k):
                total += a.data[a.start + i * a.row + p * a.col] * b.data[right + p * b.row]
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


def _multiply_rows_plain(a, b, c, m, n, k, ending):
    """`_multiply_plain` of a panel: the sums over a strip of it are what those over the next start from."""
    width = strip_width(c.data)
    for first in range(0, k, width):
        strip = Matrix(a.data, a.start + first // width * a.strip, a.row, 1)
        rest = b._replace(start=b.start + first * b.row)
        some = min(width, k - first)
        _multiply_plain(strip, rest, c, m, n, some, ending if first + some == k else ending._replace(mode=STORE))
        ending = ending._replace(init=c)


def _multiply_columns_plain(a, b, c, m, n, k, ending):
    """`_multiply_plain` of the transpose of a panel, whose columns are those of strips."""
    width = strip_width(c.data)
    for first in range(0, m, width):
        strip = Matrix(a.data, a.start + first // width * a.strip, 1, a.row)
        init, aux, out = (part._replace(start=part.start + first * part.row) for part in (ending.init, ending.aux, c))
        _multiply_plain(strip, b, out, min(width, m - first), n, k, ending._replace(init=init, aux=aux))


_CHAINS = 8  # of multiply-adds: fewer in a tile wait for one another
_MIDDLE_ROWS = 2 * TILE_ROWS // 3  # 8 of tiles of twelve rows; 4, which there are anyway, of those of six
_HEIGHTS = (TILE_ROWS, _MIDDLE_ROWS, 5, 4, 2, 1)
_COLUMNS_HALF_ROWS = 12


def _best_heights(most: int) -> np.ndarray:
    """The height of the next tile where so many rows are left, up to `most`: of those that take them all in the least
    time the tallest. A tile takes as long as its chains, but no less than `_CHAINS` do."""
    least, best = [0], [0]
    for left in range(1, most + 1):
        costs = {
            height: max(height * TILE_VECTORS, _CHAINS) + least[left - height] for height in _HEIGHTS if height <= left
        }
        best.append(max(costs, key=lambda height: (-costs[height], height)))
        least.append(costs[best[-1]])
    return np.array(best)


# A strip of which at most half is wanted has tiles of half the columns and more rows, for as many chains.
_rows_full = make_tile(TILE_ROWS, TILE_VECTORS, ROW_ENDS, BY_ROWS)
_rows_fetching = make_tile(TILE_ROWS, TILE_VECTORS, ROW_ENDS, BY_ROWS, fetches=True)
_rows_fetching_packed = make_tile(TILE_ROWS, TILE_VECTORS, ROW_ENDS, BY_ROWS, fetches=True, packed=True)
_rows_middle = make_tile(_MIDDLE_ROWS, TILE_VECTORS, ROW_ENDS, BY_ROWS)
_rows_five = make_tile(5, TILE_VECTORS, ROW_ENDS, BY_ROWS)
_rows_four = make_tile(4, TILE_VECTORS, ROW_ENDS, BY_ROWS)
_rows_two = make_tile(2, TILE_VECTORS, ROW_ENDS, BY_ROWS)
_rows_one = make_tile(1, TILE_VECTORS, ROW_ENDS, BY_ROWS)
_rows_half = make_tile(8, TILE_VECTORS // 2, ROW_ENDS, BY_ROWS)
_rows_half_four = make_tile(4, TILE_VECTORS // 2, ROW_ENDS, BY_ROWS)
_rows_half_one = make_tile(1, TILE_VECTORS // 2, ROW_ENDS, BY_ROWS)
_columns_full = make_tile(TILE_ROWS, TILE_VECTORS, WEIGHT_ENDS, BY_COLUMNS)
_columns_fetching = make_tile(TILE_ROWS, TILE_VECTORS, WEIGHT_ENDS, BY_COLUMNS, fetches=True)
_columns_middle = make_tile(_MIDDLE_ROWS, TILE_VECTORS, WEIGHT_ENDS, BY_COLUMNS)
_columns_five = make_tile(5, TILE_VECTORS, WEIGHT_ENDS, BY_COLUMNS)
_columns_four = make_tile(4, TILE_VECTORS, WEIGHT_ENDS, BY_COLUMNS)
_columns_two = make_tile(2, TILE_VECTORS, WEIGHT_ENDS, BY_COLUMNS)
_columns_one = make_tile(1, TILE_VECTORS, WEIGHT_ENDS, BY_COLUMNS)
_columns_half = make_tile(_COLUMNS_HALF_ROWS, TILE_VECTORS // 2, WEIGHT_ENDS, BY_COLUMNS)
_columns_half_four = make_tile(4, TILE_VECTORS // 2, WEIGHT_ENDS, BY_COLUMNS)
_columns_half_one = make_tile(1, TILE_VECTORS // 2, WEIGHT_ENDS, BY_COLUMNS)
_columns_wide = make_tile(1, 8, WEIGHT_ENDS, BY_COLUMNS)
_any_full = make_tile(TILE_ROWS, TILE_VECTORS, (STORE,))
_any_two = make_tile(2, TILE_VECTORS, (STORE,))
_any_one = make_tile(1, TILE_VECTORS, (STORE,))
_any_full_edge = make_tile(TILE_ROWS, TILE_VECTORS, (STORE,), masked=True)
_any_two_edge = make_tile(2, TILE_VECTORS, (STORE,), masked=True)
_any_one_edge = make_tile(1, TILE_VECTORS, (STORE,), masked=True)

_NEXT_HEIGHT = _best_heights(3 * TILE_ROWS)
# Of a strip, from which it is asked for: half of the first cache, or more than is in it where another core wrote it.
# 54-128-128-7 at batch 64 takes 0.91 of the time of 2**15; 10-64-64-1, whose strips have 2**14, 1.02 where they are
# asked for.
_FAR_BYTES = 3 * 2**13


@small
def _height(left):
    """Rows of the next tile where so many are left."""
    return _NEXT_HEIGHT[left] if left < _NEXT_HEIGHT.size else TILE_ROWS


@small
def _is_far(b, k):
    """Whether the k rows of a strip of b have to come from beyond the first cache."""
    return k * b.row * VECTOR_BYTES // lanes_of(b.data) >= _FAR_BYTES


@small
def _later(strip, b, i, k):
    """What of the next strip of b, of k rows, a tile of the rows from i on asks for as it goes through this one: each
    of `STEPS` tiles of the largest kind one part."""
    return advance(strip, b.strip + i // TILE_ROWS % STEPS * (k // STEPS) * b.row)


def _multiply_rows_tiles(a, b, c, m, n, k, ending):
    """c (m, n) := init + a (m, k) @ b (k, n), ended as `ending` says, for rows on their way through the layers: the
    modes are ROW_ENDS, and all are Panels. Writes, and reads, whole strips: every row of b, c, init and aux reaches as
    far as its last strip."""
    never_inline()
    mode, init, aux, alpha, beta = ending
    width = strip_width(c.data)
    far, piece = _is_far(b, k), piece_of(a, k)
    gap = a.strip - width if piece < k else 0
    for j in range(0, n, width):
        half = n - j <= width // 2
        init_j, b_j, c_j, aux_j = from_column(init, j), from_column(b, j), from_column(c, j), from_column(aux, j)
        pb = advance(b.data, b_j.start)
        i = 0
        while i < m:
            pi = advance(init.data, init_j.start + i * init.row)
            pa = advance(a.data, a.start + i * a.row)
            pc = advance(c.data, c_j.start + i * c.row)
            px = advance(aux.data, aux_j.start + i * aux.row)
            later = _later(pb, b, i, k)
            tile = pi, init.row, pa, a.row, 1, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n, later, piece, gap
            left = m - i
            if half and left >= 8:
                _rows_half(mode, *tile)
                i += 8
            elif half and left >= 4:
                _rows_half_four(mode, *tile)
                i += 4
            elif half:
                _rows_half_one(mode, *tile)
                i += 1
            else:
                height = _height(left)
                if height == TILE_ROWS and far and b.row == width:
                    _rows_fetching_packed(mode, *tile)
                elif height == TILE_ROWS and far:
                    _rows_fetching(mode, *tile)
                elif height == TILE_ROWS:
                    _rows_full(mode, *tile)
                elif height == _MIDDLE_ROWS:
                    _rows_middle(mode, *tile)
                elif height == 5:
                    _rows_five(mode, *tile)
                elif height == 4:
                    _rows_four(mode, *tile)
                elif height == 2:
                    _rows_two(mode, *tile)
                else:
                    _rows_one(mode, *tile)
                i += height


def _multiply_columns_tiles(a, b, c, m, n, k, ending):
    """c (m, n) := init + a (k, m).T @ b (k, n), ended as `ending` says, for gradients: as `_multiply_rows_tiles`, but
    the modes are WEIGHT_ENDS."""
    never_inline()
    mode, init, aux, alpha, beta = ending
    width, lanes = strip_width(c.data), lanes_of(c.data)
    far, in_strips = k >= STEPS * TILE_ROWS and _is_far(b, k), a.strip > width
    j = 0
    # Eight vectors at once, where the strips lie side by side; what the sums start from may be one strip for all.
    if m == 1 and b.strip == width and (init.strip == width or init.strip == 0):
        while n - j >= 8 * lanes:
            pi = advance(init.data, init.start + j // width * init.strip)
            pa = advance(a.data, a.start)
            pb = advance(b.data, b.start + j)
            pc = advance(c.data, c.start + j)
            px = advance(aux.data, aux.start + j)
            _columns_wide(
                mode, pi, init.row, pa, 1, a.row, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n, pb, 0, 0
            )
            j += 8 * lanes
    while j < n:
        half = n - j <= width // 2
        init_j, b_j, c_j, aux_j = from_column(init, j), from_column(b, j), from_column(c, j), from_column(aux, j)
        pb = advance(b.data, b_j.start)
        i = 0
        while i < m:
            pi = advance(init.data, init_j.start + i * init.row)
            pa = advance(a.data, from_column(a, i).start)
            pc = advance(c.data, c_j.start + i * c.row)
            px = advance(aux.data, aux_j.start + i * aux.row)
            later = _later(pb, b, i, k)
            tile = pi, init.row, pa, 1, a.row, pb, b.row, pc, c.row, k, px, aux.row, alpha, beta, n, later, 0, 0
            left = min(m - i, width - i % width) if in_strips else m - i
            if half and left >= _COLUMNS_HALF_ROWS:
                _columns_half(mode, *tile)
                i += _COLUMNS_HALF_ROWS
            elif half and left >= 4:
                _columns_half_four(mode, *tile)
                i += 4
            elif half:
                _columns_half_one(mode, *tile)
                i += 1
            else:
                height = _height(left)
                if height == TILE_ROWS and far:
                    _columns_fetching(mode, *tile)
                elif height == TILE_ROWS:
                    _columns_full(mode, *tile)
                elif height == _MIDDLE_ROWS:
                    _columns_middle(mode, *tile)
                elif height == 5:
                    _columns_five(mode, *tile)
                elif height == 4:
                    _columns_four(mode, *tile)
                elif height == 2:
                    _columns_two(mode, *tile)
                else:
                    _columns_one(mode, *tile)
                i += height
        j += width


def _multiply_tiles(a, b, c, m, n, k, ending):
    """c (m, n) := init + a (m, k) @ b (k, n), for matrices stored anyhow: touches no column beyond the n-th. The mode
    is STORE."""
    never_inline()
    mode, init, _, alpha, beta = ending
    width = strip_width(c.data)
    for j in range(0, n, width):
        columns = min(width, n - j)
        pb = advance(b.data, b.start + j // width * b.strip)
        first = init.start + j // width * init.strip
        i = 0
        while i < m:
            pi = advance(init.data, first + i * init.row)
            pa = advance(a.data, a.start + i * a.row)
            pc = advance(c.data, c.start + i * c.row + j // width * c.strip)
            tile = pi, init.row, pa, a.row, a.col, pb, b.row, pc, c.row, k, pc, c.row, alpha, beta, columns, pb, 0, 0
            height = TILE_ROWS if m - i >= TILE_ROWS else 2 if m - i >= 2 else 1
            if height == TILE_ROWS and columns == width:
                _any_full(mode, *tile)
            elif height == TILE_ROWS:
                _any_full_edge(mode, *tile)
            elif height == 2 and columns == width:
                _any_two(mode, *tile)
            elif height == 2:
                _any_two_edge(mode, *tile)
            elif columns == width:
                _any_one(mode, *tile)
            else:
                _any_one_edge(mode, *tile)
            i += height


multiply = serial(_multiply_plain if config.DISABLE_JIT else _multiply_tiles)
multiply_rows = serial(_multiply_rows_plain if config.DISABLE_JIT else _multiply_rows_tiles)
multiply_columns = serial(_multiply_columns_plain if config.DISABLE_JIT else _multiply_columns_tiles)
multiply_plain = serial(_multiply_plain)
