"""Rows that are swapped with random slots of a window, by several tasks at once, as one would swap them in their order.

Rows go by turns, and those of a turn in parts that follow each other, one a task. Before it swaps its part, a task
marks the slots of all parts before its own, and of rows that were put off in the last turn: where one of its rows has a
mark, it is put off too. The first task swaps such rows in the next turn, in their order and before its own part. Each
task looks up the slots of others for itself: to see them in another's memory takes longer, where cores are far from
each other.

Tasks of a turn may run at the same time, and must all have ended before any of the next begins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import advance, never_inline, pointer_at, swap_bytes
from fastsgd.kernels.random import random_below
from fastsgd.kernels.slots import AHEAD, expect_slot, rows_ahead

LAG = 1  # turns from the one in which rows are swapped to when those that were put off are
_MARKS_A_ROW = 64  # of which a few are the same for different slots
_WORD = 64  # marks of a number
_TOGETHER = 16  # rows that were put off, of which memory is asked for all before any is swapped
_PAGE = 512  # numbers; what different threads write lies in different pages


class Board(NamedTuple):
    """Where tasks take notes.

    Of a task lie one after the other: the slots that it will need next, its marks, and what it puts off in even turns
    and in odd ones: how many rows, and their numbers.

    Attributes
    ----------
    memory : int
        Address of `board_size` numbers, int64, which are 0 before the first turn.
    tasks : int
    rows : int
        Of a task's part at most.
    words : int
        Numbers that hold the marks: a power of two.
    stride : int
        Numbers from one task's to the next one's.
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
    stride = 2 * AHEAD + words + 2 * (1 + rows)
    return Board(memory, tasks, rows, words, (stride + _PAGE - 1) // _PAGE * _PAGE)


@serial
def board_size(board):
    """Numbers of the memory of a board."""
    return board.tasks * board.stride


@inlined
def _next_slots(board, task):
    return pointer_at(board.memory + 8 * task * board.stride, np.int64(0))


@inlined
def _marks(board, task):
    return advance(_next_slots(board, task), 2 * AHEAD)


@inlined
def _put_off(board, task, turn):
    return advance(_marks(board, task), board.words + (turn & 1) * (1 + board.rows))


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
def _slot(window, row):
    return random_below(window.key, window.position + row, window.slots)


@inlined
def _look_up(window, slots, first, last):
    """slots := those of rows first to last; apart from all else, so that it is vector code."""
    for i in range(last - first):
        slots[i] = _slot(window, first + i)


@inlined
def _mark(marks, words, slot):
    at = slot & (words * _WORD - 1)
    marks[at // _WORD] |= np.int64(1) << (at & (_WORD - 1))


@inlined
def _is_marked(marks, words, slot):
    at = slot & (words * _WORD - 1)
    return (marks[at // _WORD] >> (at & (_WORD - 1))) & 1 > 0


@inlined
def _mark_others(board, turn, task, window, first, last):
    """Mark the slots of rows first to last, and of those that were put off in the turn before."""
    marks, words, slots = _marks(board, task), board.words, _next_slots(board, task)
    for i in range(words):
        marks[i] = 0
    for some in range(first, last, AHEAD):
        _look_up(window, slots, some, min(last, some + AHEAD))
        for i in range(min(last - some, AHEAD)):
            _mark(marks, words, slots[i])
    for other in range(1, board.tasks):
        late = _put_off(board, other, turn - 1)
        for i in range(1, late[0] + 1):
            _mark(marks, words, _slot(window, late[i]))


@inlined
def _swap(window, slot, widths, block, row):
    """Swap a row of a block with a slot."""
    flat, place = pointer_at(window.memory, np.uint8(0)), slot * window.width
    for k in range(widths.size):
        offset = row * widths[k]
        incoming, out = block[1 + 2 * k] + offset, block[2 + 2 * k] + offset
        swap_bytes(advance(flat, place), pointer_at(incoming, np.uint8(0)), pointer_at(out, np.uint8(0)), widths[k])
        place += widths[k]


@inlined
def _expect(window, slot):
    expect_slot(pointer_at(window.memory, np.uint8(0)), slot * window.width, window.width)


@inlined
def _expect_row(widths, block, row):
    """Ask memory for a row of a block, which may be in another core's cache, and for where it goes."""
    for k in range(1, 2 * widths.size + 1):
        width = widths[(k - 1) // 2]
        expect_slot(pointer_at(block[k], np.uint8(0)), row * width, width)


@inlined
def _swap_late(board, turn, window, widths, block):
    """Swap what was put off in the turn before."""
    for task in range(1, board.tasks):
        late = _put_off(board, task, turn - 1)
        for first in range(1, late[0] + 1, _TOGETHER):
            last = min(late[0] + 1, first + _TOGETHER)
            for i in range(first, last):
                _expect_row(widths, block, late[i])
                _expect(window, _slot(window, late[i]))
            for i in range(first, last):
                _swap(window, _slot(window, late[i]), widths, block, late[i])


@inlined
def _swap_part(board, turn, task, window, widths, block, first, last):
    """Swap the rows of a task's own part, but for those with marks."""
    marks, slots, put_off = _marks(board, task), _next_slots(board, task), _put_off(board, task, turn)
    ahead, late, place = rows_ahead(window.width), 0, 2 * AHEAD - 1
    _look_up(window, slots, first, min(last, first + AHEAD))
    for i in range(min(last - first, ahead)):
        _expect(window, slots[i])
    for some in range(0, last - first, AHEAD):
        # Slots of this many rows, and of as many more, lie in two halves that take turns.
        following = first + some + AHEAD
        _look_up(window, advance(slots, (some + AHEAD) & place), following, min(last, following + AHEAD))
        for i in range(some, min(last - first, some + AHEAD)):
            if i + ahead < last - first:
                _expect(window, slots[(i + ahead) & place])
            if task > 0 and _is_marked(marks, board.words, slots[i & place]):
                late += 1
                put_off[late] = first + i
            else:
                _swap(window, slots[i & place], widths, block, first + i)
    put_off[0] = late


@serial
def swap_rows(board, turn, task, window, widths, block, bounds):
    """A task of a turn.

    Parameters
    ----------
    board : Board
    turn, task : int
    window : Window
    widths : array (parts,), int64
        Bytes of each part of a row.
    block : pointer to int64
        How many rows a block has; then for each part where they lie, and where those go that come out, maybe there.
    bounds : (int, int, int)
        The first row of the turn, the first of the task's part, and the end of it.
    """
    never_inline()
    turn_first, first, last = bounds
    if task == 0:
        _swap_late(board, turn, window, widths, block)
    else:
        _mark_others(board, turn, task, window, turn_first, first)
    _swap_part(board, turn, task, window, widths, block, first, last)
