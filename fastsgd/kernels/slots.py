"""The swap window, whose slots hold the parts of a row (features, targets, weight) one after the other, as bytes.

A row is then in one place of memory: with a window for each part a row of ten features took 1.5 times as long. What is
told of rows outside are addresses: of n blocks the rows and where each part lies. One thread, no Python lock.

`widths` (parts,) int64 are the bytes of each part of a row.
"""

from __future__ import annotations

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import advance, copy_bytes, pointer, pointer_at, prefetch, prefetch_to_write, swap_bytes
from fastsgd.kernels.random import encipher_all, make_cipher, random_below

_AHEAD = 12  # rows; 8 to 16 halved the time of an exchange, fewer came too late
_LISTED = 2048  # rows of an exchange whose slots are looked up before any is exchanged
_DRAINED = 64  # rows that are looked up, and asked for, before any is copied
_LINE = 64  # bytes of a line of the cache


@inlined
def _byte_at(address):
    return pointer_at(address, np.uint8(0))


@inlined
def _expect_slot(flat, start, width):
    """Ask memory for a slot that will be written to."""
    for offset in range(0, width, _LINE):
        prefetch_to_write(flat, start + offset)
    # The last byte may lie in a line of its own: rows of 28 float32 took a quarter longer without it.
    prefetch_to_write(flat, start + width - 1)


@serial
def exchange(part, parts, window, widths, blocks, key, position):
    """Part `part` of `parts` of: swap each row of some blocks with a random slot; what was there comes out.

    Parameters
    ----------
    window : array (slots, bytes of a row), uint8
    widths : array (parts,), int64
    blocks : array (n, 1 + 2 * parts), int64
        Of each block its rows; then for each part where the rows lie, and where those go that come out, which may be
        the same place.
    key, position : int
        The slot of a row depends on `key` and on `position` + its number alone.

    A part has the rows of some of the slots, so that those of one slot come one after the other.
    """
    size, width = window.shape
    flat = pointer(window, 0)
    first, last = size * part // parts, size * (part + 1) // parts
    rows, slots = np.empty(_LISTED + 1, np.int64), np.empty(_LISTED + _AHEAD, np.int64)
    for block in range(blocks.shape[0]):
        n = blocks[block, 0]
        for start in range(0, n, _LISTED):
            count = 0
            for i in range(start, min(start + _LISTED, n)):
                slot = random_below(key, position + i, size)
                rows[count], slots[count] = i, slot * width
                # No branch, which would be mispredicted every other time.
                count += (slot >= first) & (slot < last)
            for j in range(count, count + _AHEAD):
                slots[j] = slots[0]
            for j in range(min(count, _AHEAD)):
                _expect_slot(flat, slots[j], width)
            for j in range(count):
                _expect_slot(flat, slots[j + _AHEAD], width)
                at = slots[j]
                for k in range(widths.size):
                    offset = rows[j] * widths[k]
                    incoming, out = blocks[block, 1 + 2 * k] + offset, blocks[block, 2 + 2 * k] + offset
                    swap_bytes(advance(flat, at), _byte_at(incoming), _byte_at(out), widths[k])
                    at += widths[k]
        position += n


@serial
def put_rows(part, parts, window, widths, blocks, first, slots):
    """Part `part` of `parts` of: copy the rows of some blocks, one after the other, into slots: those from `first` on,
    or where there are any those of `slots` (rows,) int64, of which -1 is none. `blocks` is that of an exchange, from
    which nothing comes out."""
    width, flat = window.shape[1], pointer(window, 0)
    row = 0
    for block in range(blocks.shape[0]):
        n = blocks[block, 0]
        for i in range(n * part // parts, n * (part + 1) // parts):
            slot = slots[row + i] if slots.size > 0 else first + row + i
            if slot >= 0:
                at = slot * width
                for k in range(widths.size):
                    copy_bytes(_byte_at(blocks[block, 1 + 2 * k] + i * widths[k]), advance(flat, at), widths[k])
                    at += widths[k]
        row += n


@serial
def drain(part, parts, window, widths, places, held, key, start, count):
    """Part `part` of `parts` of: copy `count` rows from the number `start` on, in the random order of the first `held`
    slots that `key` names, to where each part goes: `places` (parts,) int64."""
    width, flat = window.shape[1], pointer(window, 0)
    cipher, order = make_cipher(key, held), np.empty(_DRAINED, np.int64)
    last = count * (part + 1) // parts
    for first in range(count * part // parts, last, _DRAINED):
        # All are asked for before any is read, so that memory answers them together.
        some = order[: min(_DRAINED, last - first)]
        encipher_all(cipher, start + first, some)
        for i in range(some.size):
            for offset in range(0, width, _LINE):
                prefetch(flat, some[i] * width + offset)
            prefetch(flat, some[i] * width + width - 1)
        for i in range(some.size):
            at = some[i] * width
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
