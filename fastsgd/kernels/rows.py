"""Rows on their way to a batch: the finite check, orders, and the gather. One thread, no Python lock."""

from __future__ import annotations

import math

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import pointer, prefetch
from fastsgd.kernels.random import decipher, encipher_all, make_cipher
from fastsgd.kernels.scalar import like

_TOGETHER = 64  # rows of a gather
SUMMED = 4096  # values that are looked at together


@inlined
def all_finite(part):
    """Whether a 1-D array has neither NaN nor infinity; it has a value."""
    # A sum that is finite has only finite terms; x * 0 is 0 for a finite x and NaN for any other.
    zero = like(part[0], 0.0)  # a literal would make float64 of each value, at half the speed
    total = zero
    # By index: `for value in part` takes ten times as long, as it is no vector code.
    for i in range(part.size):
        total += part[i] * zero
    return total == 0


@inlined
def all_finite_single(part):
    """Whether a 1-D array has values alone that are finite as float32."""
    zero = np.float32(0)
    total = zero
    for i in range(part.size):
        total += np.float32(part[i]) * zero
    return total == 0


@serial
def first_nonfinite(block):
    """Position of the first NaN or infinity in a 1-D array, or -1."""
    for start in range(0, block.size, SUMMED):
        part = block[start : start + SUMMED]
        if not all_finite(part):
            for i in range(part.size):
                if not math.isfinite(part[i]):
                    return start + i
    return -1


@serial
def fill_order(part, parts, key, size, start, out):
    """Part `part` of `parts` of: out[i] := permuted(key, start + i, size)."""
    cipher = make_cipher(key, size)
    first = out.size * part // parts
    encipher_all(cipher, start + first, out[first : out.size * (part + 1) // parts])


@serial
def group_by_region(key, size, start, region_rows, regions, counts, order):
    """Sort rows, of which `start` is the first, by where a permutation of all `size` rows takes them.

    Row p(i) goes to place i, p being the permutation that `key` names; regions have `region_rows` places each.
    regions (rows,) and counts (regions,) are the region of each row and the rows of each region; order (rows,) lists
    the rows by region, those of one in their own order.
    """
    cipher = make_cipher(key, size)
    counts[:] = 0
    for i in range(regions.size):
        regions[i] = decipher(cipher, start + i) // region_rows
        counts[regions[i]] += 1
    free = np.empty(counts.size, np.int64)
    total = 0
    for region in range(counts.size):
        free[region] = total
        total += counts[region]
    for i in range(regions.size):
        order[free[regions[i]]] = i
        free[regions[i]] += 1


@serial
def gather(part, parts, source, order, out):
    """Part `part` of `parts` of: out[i] := source[order[i]], rows of 2-D arrays, cast to the dtype of `out`."""
    width = source.shape[1]
    flat = pointer(source, 0)
    per_line = max(1, 64 // source.itemsize)
    last = out.shape[0] * (part + 1) // parts
    for first in range(out.shape[0] * part // parts, last, _TOGETHER):
        # All are asked for before any is read, so that memory answers them together.
        end = min(first + _TOGETHER, last)
        for i in range(first, end):
            for offset in range(0, width, per_line):
                prefetch(flat, order[i] * width + offset)
        for i in range(first, end):
            row = source[order[i]]
            result = out[i]
            for k in range(width):
                result[k] = row[k]
