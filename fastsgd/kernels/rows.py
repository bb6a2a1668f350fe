"""Rows on their way to a batch: the finite check, the swap window and the gather. One thread, no Python lock."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastsgd.kernels.jit import parallel, serial, serial_twin
from fastsgd.kernels.machine import pointer, prefetch
from fastsgd.kernels.random import encipher, make_cipher, random_below

_AHEAD = 12  # rows; 8 to 16 halved the time of an exchange, fewer came too late


@serial
def first_nonfinite(block):
    """Position of the first NaN or infinity in a 1-D array, or -1."""
    # A sum that is finite has only finite terms; x * 0 is 0 for a finite x and NaN for any other.
    for start in range(0, block.size, 4096):
        part = block[start : start + 4096]
        total = part[0] * 0
        for value in part:
            total += value * 0
        if total != 0:
            for i in range(part.size):
                if not math.isfinite(part[i]):
                    return start + i
    return -1


@serial
def exchange(window, incoming, out, key, position):
    """Swap each incoming row with a random row of the window; what was there comes out.

    window (slots, width), incoming (rows, width) and out (rows, width) are C-contiguous; `out` may be of another dtype.
    The slot of a row depends on `key` and on `position` + its index alone.
    """
    slots, width = window.shape
    flat = pointer(window, 0)
    per_line = max(1, 64 // window.itemsize)
    for i in range(incoming.shape[0]):
        ahead = random_below(key, position + i + _AHEAD, slots) * width
        for offset in range(0, width, per_line):
            prefetch(flat, ahead + offset)
        slot = window[random_below(key, position + i, slots)]
        row = incoming[i]
        result = out[i]
        for k in range(width):
            result[k] = slot[k]
            slot[k] = row[k]


@serial
def _gather_part(source, key, start, first, last, out):
    """Rows first to last of a gather: all are asked for before any is read, so that memory answers them together."""
    rows, width = source.shape
    flat = pointer(source, 0)
    per_line = max(1, 64 // source.itemsize)
    cipher = make_cipher(key, rows)
    places = np.empty(last - first, np.int64)
    for i in range(places.size):
        places[i] = encipher(cipher, start + first + i)
        for offset in range(0, width, per_line):
            prefetch(flat, places[i] * width + offset)
    for i in range(places.size):
        row = source[places[i]]
        result = out[first + i]
        for k in range(width):
            result[k] = row[k]


def _gather(source, key, start, out):
    """out[i] := source[permuted(key, start + i)], rows of 2-D arrays, cast to the dtype of `out`."""
    chunk = 64
    for part in prange((out.shape[0] + chunk - 1) // chunk):
        _gather_part(source, key, start, part * chunk, min(out.shape[0], (part + 1) * chunk), out)


gather = parallel(_gather)
gather_serial = serial_twin(_gather)
