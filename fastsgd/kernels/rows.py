"""Rows on their way to a batch: the finite check, the swap window and the gather. One thread, no Python lock."""

from __future__ import annotations

import math

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import pointer, prefetch, prefetch_to_write, view
from fastsgd.kernels.random import decipher, encipher_all, make_cipher, random_below
from fastsgd.kernels.scalar import like

_TOGETHER = 64  # rows of a gather
_AHEAD = 12  # rows; 8 to 16 halved the time of an exchange, fewer came too late
SUMMED = 4096  # values that are looked at together
_LISTED = 2048  # rows of an exchange whose slots are looked up before any is exchanged


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


@inlined
def _expect_slot(flat, slot, width, per_line):
    """Ask memory for a row of the window."""
    for offset in range(0, width, per_line):
        prefetch_to_write(flat, slot * width + offset)
    # The last may lie in a line of its own: rows of 28 float32 took a quarter longer without it.
    prefetch_to_write(flat, slot * width + width - 1)


@inlined
def _swap(slot, row, result):
    """A row takes a slot; what was there goes into the result."""
    for k in range(row.size):
        result[k] = slot[k]
        slot[k] = row[k]


@serial
def exchange(part, parts, window, incoming, out, key, position):
    """Part `part` of `parts` of: swap each incoming row with a random row of the window; what was there comes out.

    window (slots, width), incoming (rows, width) and out (rows, width) are C-contiguous; `out` may be of another dtype.
    The slot of a row depends on `key` and on `position` + its index alone. A part has the rows of some of the slots, so
    that those of one slot come one after the other.
    """
    size, width = window.shape
    n = incoming.shape[0]
    flat, source, target = pointer(window, 0), pointer(incoming, 0), pointer(out, 0)
    per_line = max(1, 64 // window.itemsize)
    if parts == 1:
        # All rows are its own: lists of them would cost a fifth of the time of narrow ones.
        for i in range(n):
            _expect_slot(flat, random_below(key, position + i + _AHEAD, size), width, per_line)
            slot = random_below(key, position + i, size)
            _swap(view(flat, slot * width, width), view(source, i * width, width), view(target, i * width, width))
        return
    first, last = size * part // parts, size * (part + 1) // parts
    rows, slots = np.empty(_LISTED + 1, np.int64), np.empty(_LISTED + _AHEAD, np.int64)
    for start in range(0, n, _LISTED):
        count = 0
        for i in range(start, min(start + _LISTED, n)):
            slot = random_below(key, position + i, size)
            rows[count], slots[count] = i, slot
            # No branch, which would be mispredicted every other time.
            count += (slot >= first) & (slot < last)
        for j in range(count, count + _AHEAD):
            slots[j] = slots[0]
        for j in range(_AHEAD):
            _expect_slot(flat, slots[j], width, per_line)
        for j in range(count):
            _expect_slot(flat, slots[j + _AHEAD], width, per_line)
            _swap(window[slots[j]], incoming[rows[j]], out[rows[j]])


@serial
def find_places(key, first, slots, taken, places):
    """Where rows of a window are after all exchanges: places[i] := the slot of row `first` + i of those that came in,
    or -1 where a later row has pushed it out.

    The first rows filled the window, slot by slot; the others were exchanged. `taken`, a bit for each slot in uint8,
    has those of later rows, and then those of these rows too.
    """
    for i in range(places.size - 1, -1, -1):
        slot = first + i if first + i < slots else random_below(key, first + i - slots, slots)
        bit = np.uint8(1 << (slot & 7))
        places[i] = -1 if taken[slot >> 3] & bit else slot
        taken[slot >> 3] |= bit


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
