"""Rows that are swapped with random slots of a window, by several tasks at once, as one would swap them in their order.

Rows go by turns, and those of a turn in parts that follow each other, one a task. A task lists the slots of its part,
and marks them where others can see it. In the next turn it swaps its rows, but not those whose marks are also of a part
before its own, or of a row that was put off: it puts these off, and in the turn after that the first task swaps them in
their order, before any of its own. Of 8 marks a row few are the same; with more of them, threads whose cores are far
apart waited longer for each other's marks than it takes to swap rows later.

Tasks of a turn may run at the same time, and must all have ended before any of the next begins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import (
    advance,
    compare_exchange,
    never_inline,
    pointer_at,
    prefetch,
    read_counter,
    swap_bytes,
)
from fastsgd.kernels.random import random_below
from fastsgd.kernels.slots import AHEAD, expect_slot, rows_ahead

LAG = 2  # turns from listing rows to when all of them are swapped
_MARKS_A_ROW = 8
_WORD = 64  # marks of a number
_LINE = 8  # numbers of a line of the cache
_PAGE = 512  # numbers; what different threads write lies in different pages
_LOW, _GOLDEN = 2**31 - 1, 0x9E3779B1  # whose product is below 2**63


class Board(NamedTuple):
    """Where tasks have their lists and see each other's marks.

    Of a task lie one after the other: how many places its list has, and these, with room for `AHEAD` more; its marks,
    for even turns and for odd ones; and what it puts off in even turns and in odd ones: how many rows, and their
    numbers. After all tasks' come the marks of what is put off, in one turn of three each.

    Attributes
    ----------
    memory : int
        Address of `board_size` numbers, int64, which are 0 before the first turn.
    tasks : int
    rows : int
        Of a task's part at most.
    words : int
        Numbers that hold the marks of a part: a power of two.
    stride : int
        Numbers from one task's list to the next one's.
    """

    memory: int
    tasks: int
    rows: int
    words: int
    stride: int


@serial
def make_board(memory, tasks, rows):
    """A board for parts of so many rows."""
    words = 1
    while words * _WORD < rows * _MARKS_A_ROW:
        words *= 2
    stride = 1 + rows + AHEAD + 2 * words + 2 * (1 + rows)
    return Board(memory, tasks, rows, words, (stride + _PAGE - 1) // _PAGE * _PAGE)


@serial
def board_size(board):
    """Numbers of the memory of a board."""
    return board.tasks * board.stride + 3 * board.words


@inlined
def places_of(board, task):
    """The list of a task: how many places, and these."""
    return pointer_at(board.memory + 8 * task * board.stride, np.int64(0))


@inlined
def _marks(board, task, turn):
    return advance(places_of(board, task), 1 + board.rows + AHEAD + (turn & 1) * board.words)


@inlined
def _put_off(board, task, turn):
    return advance(_marks(board, task, 2), 2 * board.words + (turn & 1) * (1 + board.rows))


@inlined
def _marks_put_off(board, turn):
    return advance(places_of(board, board.tasks), (turn + 3) % 3 * board.words)


@inlined
def _clear(marks, words):
    for i in range(words):
        marks[i] = 0


@inlined
def _mark_of(place, words):
    """The number of a place's mark."""
    return (((place & _LOW) * _GOLDEN) >> 16) & (words * _WORD - 1)


@inlined
def _bit(mark):
    return np.int64(1) << (mark & (_WORD - 1))


@inlined
def _mark_for_all(marks, mark):
    """Mark where several tasks do."""
    at, bit = mark // _WORD, _bit(mark)
    while True:
        old = read_counter(marks, at)
        if compare_exchange(marks, at, old, old | bit):
            return


@inlined
def _is_marked(board, turn, task, mark):
    """Whether a part before a task's own, of the turn before, has a mark, or a row that was put off in that turn."""
    at, bit = mark // _WORD, _bit(mark)
    found = _marks_put_off(board, turn - 1)[at] & bit
    for other in range(task):
        found |= _marks(board, other, turn - 1)[at] & bit
    return found != 0


class Window(NamedTuple):
    """The window, and what names its slots.

    Attributes
    ----------
    memory : int
        Address of the slots, which have the parts of a row one after the other.
    slots, width : int
        How many they are, and the bytes of each.
    key, position : int
        The slot of a row depends on `key` and on `position` + its number alone.
    """

    memory: int
    slots: int
    width: int
    key: np.uint64
    position: int


@inlined
def _place(window, row):
    """The slot of a row, as bytes from the window's start to it."""
    return random_below(window.key, window.position + row, window.slots) * window.width


@serial
def list_to_swap(board, turn, task, window, first, last):
    """List the places in a window of rows first to last."""
    never_inline()
    count, places = last - first, advance(places_of(board, task), 1)
    places_of(board, task)[0] = count
    for i in range(count):
        places[i] = _place(window, first + i)
    for i in range(AHEAD):
        places[count + i] = places[0]
    if task < board.tasks - 1:  # nobody comes after the last one
        marks = _marks(board, task, turn)
        _clear(marks, board.words)
        for i in range(count):
            mark = _mark_of(places[i], board.words)
            marks[mark // _WORD] |= _bit(mark)


@inlined
def _swap(flat, place, widths, block, row):
    """Swap a row of a block with a place in the window."""
    for k in range(widths.size):
        offset = row * widths[k]
        incoming, out = block[1 + 2 * k] + offset, block[2 + 2 * k] + offset
        swap_bytes(advance(flat, place), pointer_at(incoming, np.uint8(0)), pointer_at(out, np.uint8(0)), widths[k])
        place += widths[k]


@inlined
def _swap_late(board, turn, window, widths, block):
    """Swap what was put off in the turn before."""
    flat = pointer_at(window.memory, np.uint8(0))
    for task in range(1, board.tasks):
        late = _put_off(board, task, turn - 1)
        for i in range(late[0]):
            expect_slot(flat, _place(window, late[1 + i]), window.width)
        for i in range(late[0]):
            _swap(flat, _place(window, late[1 + i]), widths, block, late[1 + i])


@serial
def swap_listed(board, turn, task, window, widths, block, first):
    """Swap what a task listed in the turn before.

    Parameters
    ----------
    board : Board
    turn, task : int
    window : Window
    widths : array (parts,), int64
        Bytes of each part of a row.
    block : pointer to int64
        How many rows a block has; then for each part where they lie, and where those go that come out, maybe there.
    first : int
        The number of the first of the rows that were listed.
    """
    never_inline()
    words, put_off, flat = board.words, _put_off(board, task, turn), pointer_at(window.memory, np.uint8(0))
    count, places, late = places_of(board, task)[0], advance(places_of(board, task), 1), 0
    if task == 0:
        _clear(_marks_put_off(board, turn + 1), words)
        _swap_late(board, turn, window, widths, block)
    for other in range(task):
        for i in range(0, words, _LINE):
            prefetch(_marks(board, other, turn - 1), i)
    ahead = rows_ahead(window.width)
    for i in range(min(count, ahead)):
        expect_slot(flat, places[i], window.width)
    for i in range(count):
        expect_slot(flat, places[i + ahead], window.width)
        if task > 0:
            mark = _mark_of(places[i], words)
            if _is_marked(board, turn, task, mark):
                late += 1
                put_off[late] = first + i
                _mark_for_all(_marks_put_off(board, turn), mark)
                continue
        _swap(flat, places[i], widths, block, first + i)
    put_off[0] = late
