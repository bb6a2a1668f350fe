"""Rows from an open file straight into memory, each looked at while it is in cache. No Python lock."""

from __future__ import annotations

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import advance, pointer_at, read_at, view
from fastsgd.kernels.rows import SUMMED, all_finite

SHORT, READ, FINITE = range(3)  # what became of rows: they did not all come, they came, and all are finite
_AT_ONCE = 2**15  # values, few enough to be still in cache when they are looked at


@inlined
def _read_rows(descriptor, offsets, height, first, last, out, width, size):
    """Read rows first to last, `width` values of `size` bytes each, in chunks of `height` rows that start at `offsets`
    of the file. Values of one byte are not looked at."""
    outcome, done, row = FINITE, 0, first
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
                for start in range(done, done + values, SUMMED):
                    if not all_finite(view(out, start, min(SUMMED, done + values - start))):
                        outcome = READ
            done += values
            left -= values
            at += values * size
        row = end
    return outcome


@serial
def read_shares(thread, threads, table, outcomes):
    """A thread's share of some rows of each of several datasets.

    Rows of `table` (n, 8) int64: descriptor of the open file; address of the offsets of the chunks, int64; rows of a
    chunk; values of a row; bytes of a value, 4 and 8 of which are floats; first row and end of the rows; address of
    where they go. outcomes[i, thread] := what became of the share of row i.
    """
    for i in range(table.shape[0]):
        descriptor, height, width, size = np.int32(table[i, 0]), table[i, 2], table[i, 3], table[i, 4]
        offsets = pointer_at(table[i, 1], np.int64(0))
        begin, count = table[i, 5], table[i, 6] - table[i, 5]
        first, last = begin + count * thread // threads, begin + count * (thread + 1) // threads
        out = table[i, 7] + (first - begin) * width * size
        if size == 4:
            values = pointer_at(out, np.float32(0))
            outcomes[i, thread] = _read_rows(descriptor, offsets, height, first, last, values, width, size)
        elif size == 8:
            doubles = pointer_at(out, np.float64(0))
            outcomes[i, thread] = _read_rows(descriptor, offsets, height, first, last, doubles, width, size)
        else:
            raw = pointer_at(out, np.uint8(0))
            outcomes[i, thread] = _read_rows(descriptor, offsets, height, first, last, raw, width, size)
