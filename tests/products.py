"""Drivers of the products for the tests: a Matrix holds a pointer, which does not cross to Python."""

import numpy as np
from numba import njit

from fastsgd.kernels import tile
from fastsgd.kernels.machine import pointer
from fastsgd.kernels.matmul import (
    Ending,
    Matrix,
    Panel,
    multiply,
    multiply_columns,
    multiply_plain,
    multiply_rows,
    strip_width,
)

# Arrays as [flat memory, start, stride from row to row, stride from column to column or from strip to strip].


@njit
def make_matrix(memory, place):
    return Matrix(pointer(memory, 0), place[0], place[1], place[2])


@njit
def make_panel(memory, place):
    return Panel(pointer(memory, 0), place[0], place[1], place[2])


def _driver(kernel, make_left):
    @njit
    def run(mode, memories, places, shape, rates):
        a, b, init, c, aux = memories
        m, n, k = shape
        ending = Ending(mode, make_panel(init, places[2]), make_panel(aux, places[4]), rates[0], rates[1])
        kernel(make_left(a, places[0]), make_panel(b, places[1]), make_panel(c, places[3]), m, n, k, ending)

    return run


KERNELS = {
    "multiply": _driver(multiply, make_matrix),
    "multiply_rows": _driver(multiply_rows, make_panel),
    "multiply_columns": _driver(multiply_columns, make_panel),
    "multiply_plain": _driver(multiply_plain, make_matrix),
}


@njit
def _width(like):
    return strip_width(pointer(like, 0))


def width_of(dtype):
    """Columns of a strip."""
    return int(_width(np.zeros(1, dtype)))


def rows_stored(array, spare, *, whole_strips=False):
    """(memory, place): the array row by row in a larger one, with `spare` elements between rows; around it is NaN.

    With `whole_strips`, the rows are filled up to whole strips with sevens.
    """
    rows, columns = array.shape
    unit = width_of(array.dtype) if whole_strips else 1
    long = -(-columns // unit) * unit
    memory = np.full((rows + 2) * (long + spare) + 3, np.nan, array.dtype)
    inside = memory[3 : 3 + rows * (long + spare)].reshape(rows, long + spare)
    inside[:, columns:long] = 7
    inside[:, :columns] = array
    return memory, (3, long + spare, 1)


def panel_stored(array, spare):
    """(memory, place): what `rows_stored` gives, with whole strips that lie side by side."""
    memory, (first, row, _) = rows_stored(array, spare, whole_strips=True)
    return memory, (first, row, width_of(array.dtype))


def columns_stored(array, spare):
    """(memory, place): the array column by column in a larger one, with `spare` elements between columns."""
    memory, (first, column, _) = rows_stored(array.T, spare)
    return memory, (first, 1, column)


def strips_stored(array, *, spare=0):
    """(memory, place): the array strip after strip, the last filled up with zeros; around it is NaN."""
    rows, columns = array.shape
    width = width_of(array.dtype)
    strips = -(-columns // width)
    memory = np.full(5 + strips * (rows * width + spare), np.nan, array.dtype)
    filled = np.zeros((rows, strips * width), array.dtype)
    filled[:, :columns] = array
    for strip in range(strips):
        start = 5 + strip * (rows * width + spare)
        memory[start : start + rows * width] = filled[:, strip * width : (strip + 1) * width].reshape(-1)
    return memory, (5, width, rows * width + spare)


def view_of(stored, rows, columns):
    """The array in what `rows_stored`, `panel_stored` or `strips_stored` gave."""
    memory, (start, row, strip) = stored
    width = width_of(memory.dtype)
    if strip <= width:
        return memory[start : start + rows * row].reshape(rows, row)[:, :columns]
    starts = range(start, start + -(-columns // width) * strip, strip)
    return np.concatenate([memory[at : at + rows * row].reshape(rows, row) for at in starts], axis=1)[:, :columns]


def expected(mode, a, b, init, c, aux, alpha, beta):
    """(c, aux) after the product, in float64."""
    total = a.astype(float) @ b.astype(float) + init
    c, aux = c.astype(float), aux.astype(float)
    velocity = beta * aux - alpha * total
    return {
        tile.STORE: lambda: (total, aux),
        tile.RELU: lambda: (np.maximum(total, 0), aux),
        tile.RELU_GRAD: lambda: (np.where(aux > 0, total, 0), aux),
        tile.SCALE: lambda: (total * aux, aux),
        tile.UPDATE: lambda: (c - alpha * total, aux),
        tile.MOMENTUM: lambda: (c + velocity, velocity),
        tile.NESTEROV: lambda: (c + beta * velocity - alpha * total, velocity),
    }[mode]()
