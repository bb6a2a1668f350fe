"""The swap window, whose slots hold the parts of a row (features, targets, weight) one after the other, as bytes.

A row is then in one place of memory: with a window for each part a row of ten features took 1.5 times as long. What is
told of rows outside are addresses: of n blocks the rows and where each part lies. One thread, no Python lock.

`widths` (parts,) int64 are the bytes of each part of a row.
"""

from __future__ import annotations

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import advance, copy_bytes, pointer, pointer_at, prefetch_to_write
from fastsgd.kernels.random import encipher_all, make_cipher, random_below

AHEAD = 64  # rows that memory is asked for before they are needed, at most; a power of two
_AHEAD_BYTES = 1 << 13  # of these; a fourth of it took 1.8 times as long, and twice as much no less
_DRAINED = 512  # rows that are looked up before any is copied
_LINE = 64  # bytes of a line of the cache


@inlined
def _byte_at(address):
    return pointer_at(address, np.uint8(0))


@inlined
def rows_ahead(width):
    """For how many rows of so many bytes memory is asked ahead."""
    return max(2, min(AHEAD, _AHEAD_BYTES // (width + _LINE)))


@inlined
def expect_slot(flat, start, width):
    """Ask memory for a slot that will be written to, or is nobody else's."""
    for offset in range(0, width, _LINE):
        prefetch_to_write(flat, start + offset)
    # The last byte may lie in a line of its own: rows of 28 float32 took a quarter longer without it.
    prefetch_to_write(flat, start + width - 1)


@inlined
def put_row(flat, at, widths, block, row):
    """Copy a row of a block into the slot so many bytes from the window's start."""
    for k in range(widths.size):
        copy_bytes(_byte_at(block[1 + 2 * k] + row * widths[k]), advance(flat, at), widths[k])
        at += widths[k]


@serial
def put_rows(part, parts, window, widths, blocks, first, slots):
    """Part `part` of `parts` of: copy the rows of some blocks, one after the other, into slots: those from `first` on,
    or where there are any those of `slots` (rows,) int64, of which -1 is none. `blocks` (n, 1 + 2 * parts) int64 are
    blocks as `swaps.swap_rows` takes one, from which nothing comes out."""
    width, flat = window.shape[1], pointer(window, 0)
    row = 0
    for number in range(blocks.shape[0]):
        block = pointer(blocks, number * blocks.shape[1])
        n = block[0]
        for i in range(n * part // parts, n * (part + 1) // parts):
            slot = slots[row + i] if slots.size > 0 else first + row + i
            if slot >= 0:
                put_row(flat, slot * width, widths, block, i)
        row += n


@serial
def drain(part, parts, window, widths, places, held, key, start, count):
    """Part `part` of `parts` of: copy `count` rows from the number `start` on, in the random order of the first `held`
    slots that `key` names, to where each part goes: `places` (parts,) int64."""
    width, flat = window.shape[1], pointer(window, 0)
    cipher, order, ahead = make_cipher(key, held), np.empty(_DRAINED, np.int64), rows_ahead(width)
    last = count * (part + 1) // parts
    for first in range(count * part // parts, last, _DRAINED):
        slots = order[: min(_DRAINED, last - first)]
        encipher_all(cipher, start + first, slots)
        for i in range(min(slots.size, ahead)):
            expect_slot(flat, slots[i] * width, width)
        for i in range(slots.size):
            expect_slot(flat, slots[min(i + ahead, slots.size - 1)] * width, width)
            at = slots[i] * width
            for k in range(widths.size):
                copy_bytes(advance(flat, at), _byte_at(places[k] + (first + i) * widths[k]), widths[k])
                at += widths[k]


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
