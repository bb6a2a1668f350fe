"""Rows from an open file straight into memory, each looked at while it is in cache; and rows that lie in memory, looked
at. No Python lock."""

from __future__ import annotations

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import advance, never_inline, pointer, pointer_at, read_at, view
from fastsgd.kernels.rows import SUMMED, all_finite, all_finite_single

# What became of rows: they did not all come; they came; and all are finite; and as float32, too, if they are floats.
SHORT, READ, FINITE, SINGLE = range(4)
# A run of rows of a dataset without filters, in int64 numbers: descriptor of the open file; address of the offsets of
# the chunks, int64; rows of a chunk; values of a row; bytes of a value, 4 and 8 of which are floats; first row and end
# of the rows; address of where they go.
RUN_NUMBERS = 8
WIDTH, VALUE_BYTES, FIRST_ROW, END_ROW, OUT = range(3, 8)
_AT_ONCE = 2**15  # values, few enough to be still in cache when they are looked at


@inlined
def _look(values):
    """What is known of the values of a 1-D array: that they came, or more."""
    outcome = SINGLE
    for start in range(0, values.size, SUMMED):
        some = values[start : start + SUMMED]
        if not all_finite_single(some):
            outcome = min(outcome, FINITE if all_finite(some) else READ)
    return outcome


@serial
def look_at_share(thread, threads, values, outcomes):
    """outcomes[thread] := what is known of a thread's share of a 1-D array of floats."""
    first, last = values.size * thread // threads, values.size * (thread + 1) // threads
    outcomes[thread] = _look(values[first:last])


@inlined
def _read_rows(descriptor, offsets, height, first, last, out, width, size):
    """Read rows first to last, `width` values of `size` bytes each, in chunks of `height` rows that start at `offsets`
    of the file. Values of one byte are not looked at."""
    outcome, done, row = SINGLE, 0, first
    while row < last:
        chunk = row // height
        end = min(last, (chunk + 1) * height)
        left = (end - row) * width
        at = offsets[chunk] + (row - chunk * height) * width * size
        while left > 0:
            values = read_at(descriptor, advance(out, done), min(left, _AT_ONCE) * size, at) // size
            if values <= 0:
                return SHORT
            if size > 1:
                outcome = min(outcome, _look(view(out, done, values)))
            done += values
            left -= values
            at += values * size
        row = end
    return outcome


@serial
def read_run(run, first, last):
    """Read rows first to last of a run, by the pointer to its numbers; returns what became of them."""
    never_inline()
    descriptor, height, width, size = np.int32(run[0]), run[2], run[WIDTH], run[VALUE_BYTES]
    offsets, out = pointer_at(run[1], np.int64(0)), run[OUT] + (first - run[FIRST_ROW]) * width * size
    if size == 4:
        return _read_rows(descriptor, offsets, height, first, last, pointer_at(out, np.float32(0)), width, size)
    if size == 8:
        return _read_rows(descriptor, offsets, height, first, last, pointer_at(out, np.float64(0)), width, size)
    return _read_rows(descriptor, offsets, height, first, last, pointer_at(out, np.uint8(0)), width, size)


@serial
def read_shares(thread, threads, table, outcomes):
    """A thread's share of some runs, rows of `table` (n, 8) int64; outcomes[i, thread] := what became of that of
    run i."""
    for i in range(table.shape[0]):
        run = pointer(table, i * RUN_NUMBERS)
        begin, count = run[FIRST_ROW], run[END_ROW] - run[FIRST_ROW]
        first, last = begin + count * thread // threads, begin + count * (thread + 1) // threads
        outcomes[i, thread] = read_run(run, first, last)
