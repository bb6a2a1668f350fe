"""The swap window, whose slots hold the parts of a row (features, targets, weight) one after the other, as bytes.

A row is then in one place of memory: with a window for each part a row of ten features took 1.5 times as long. What is
told of rows outside are addresses: of n blocks the rows and where each part lies. One thread, no Python lock.

`widths` (parts,) int64 are the bytes of each part of a row.
"""

from __future__ import annotations

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import (
    advance,
    copy_bytes,
    never_inline,
    pointer,
    pointer_at,
    prefetch,
    prefetch_to_write,
    swap_bytes,
)
from fastsgd.kernels.random import encipher_all, make_cipher, random_below

AHEAD = 12  # rows; 8 to 16 halved the time of an exchange, fewer came too late
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
def list_slots(part, parts, size, width, key, position, first, last, rows, slots):
    """List the slots of rows first to last that are among those of a part, as many bytes from the window's start, and
    the rows; returns how many they are. There must be room for one row more, and for `AHEAD` slots more."""
    never_inline()
    begin, end = size * part // parts, size * (part + 1) // parts
    count = 0
    for i in range(first, last):
        slot = random_below(key, position + i, size)
        rows[count], slots[count] = i, slot * width
        # No branch, which would be mispredicted every other time.
        count += (slot >= begin) & (slot < end)
    for j in range(count, count + AHEAD):
        slots[j] = slots[0]
    return count


@serial
def swap_listed(flat, width, widths, block, rows, slots, count):
    """Swap listed rows of a block, one after the other, with those of their slots."""
    never_inline()
    for j in range(min(count, AHEAD)):
        _expect_slot(flat, slots[j], width)
    for j in range(count):
        _expect_slot(flat, slots[j + AHEAD], width)
        at = slots[j]
        for k in range(widths.size):
            offset = rows[j] * widths[k]
            incoming, out = block[1 + 2 * k] + offset, block[2 + 2 * k] + offset
            swap_bytes(advance(flat, at), _byte_at(incoming), _byte_at(out), widths[k])
            at += widths[k]


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
    rows, slots = np.empty(_LISTED + 1, np.int64), np.empty(_LISTED + AHEAD, np.int64)
    for block in range(blocks.shape[0]):
        n = blocks[block, 0]
        for start in range(0, n, _LISTED):
            some, end = pointer(rows, 0), min(start + _LISTED, n)
            count = list_slots(part, parts, size, width, key, position, start, end, some, pointer(slots, 0))
            swap_listed(flat, width, widths, pointer(blocks, block * blocks.shape[1]), some, pointer(slots, 0), count)
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


@inlined
def list_drained(cipher, start, width, slots):
    """List the slots of rows from number `start` of a cipher on, as many bytes from the window's start."""
    encipher_all(cipher, start, slots)
    for i in range(slots.size):
        slots[i] *= width


@serial
def copy_listed(flat, widths, places, first, slots):
    """Copy the rows of listed slots to where each part of them goes, from row `first` there on."""
    never_inline()
    for i in range(slots.size):
        at = slots[i]
        for k in range(widths.size):
            copy_bytes(advance(flat, at), _byte_at(places[k] + (first + i) * widths[k]), widths[k])
            at += widths[k]


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
        list_drained(cipher, start + first, width, some)
        for i in range(some.size):
            for offset in range(0, width, _LINE):
                prefetch(flat, some[i] + offset)
            prefetch(flat, some[i] + width - 1)
        copy_listed(flat, widths, places, first, some)


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
