"""The passage of rows from files through the window, in turns whose tasks several threads share.

In each turn a task reads its part of some rows from files to their places, and swaps the part that it read in the turn
before, still in its cache, with rows of the window. Or what it reads goes into the window at once, or stays where it
is; or nothing is read, as the rows that are swapped lie in their places already.
"""

from __future__ import annotations

import numpy as np

from fastsgd.kernels.crew import next_task
from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import fetch_add, nanoseconds, pointer, pointer_at, view
from fastsgd.kernels.reading import END_ROW, FIRST_ROW, RUN_NUMBERS, SHORT, read_run
from fastsgd.kernels.slots import put_row
from fastsgd.kernels.swaps import LAG, Window, make_board, swap_rows

MOST_TASKS = 16  # of a turn
# A passage in int64 numbers. How many they are; rows in all, and of a turn, and bytes of a row; tasks of a turn; the
# first turn in which rows did not come; nanoseconds that reading took, of all threads, and that with moving; and the
# least that became of rows that were read, by task.
SIZE, ROWS, TURN_ROWS, ROW_BYTES, TASKS, FAILED, READING, MOVING, OUTCOMES = range(9)
# What is done with rows, and the window: where it lies, its slots, what names them, and the number of the first row
# among those that are put or swapped; the memory of a board. Parts of a row; where the runs start, and how
# many they are.
MOVE, WINDOW, SLOTS, KEY, POSITION, BOARD, PARTS, RUNS, N_RUNS = range(OUTCOMES + MOST_TASKS, OUTCOMES + MOST_TASKS + 9)
# After these come the bytes of each part; the rows and, for each part, where it comes from and goes to; and at `RUNS`
# the runs, each as `read_run` takes it, and the row that it begins with.
HEADER = N_RUNS + 1
_RUN_NUMBERS = RUN_NUMBERS + 1
# What is done with rows: they stay where they are read, go into slots of the window one after the other, or are swapped
# with some.
STAY, PUT, SWAP = range(3)
LAGS = 0, 0, 1 + LAG  # turns from the one in which rows are read to when all of them are moved


@inlined
def _part(table, turn, task):
    """The rows of a task."""
    begin, end = min(table[ROWS], turn * table[TURN_ROWS]), min(table[ROWS], (turn + 1) * table[TURN_ROWS])
    return begin + (end - begin) * task // table[TASKS], begin + (end - begin) * (task + 1) // table[TASKS]


@serial
def _read(table, turn, task):
    """Read the rows of a task."""
    begin_time, least = nanoseconds(), table[OUTCOMES + task]
    first, last = _part(table, turn, task)
    for at in range(table[RUNS], table[RUNS] + table[N_RUNS] * _RUN_NUMBERS, _RUN_NUMBERS):
        run = pointer(table, at)
        begin, end = max(first, run[RUN_NUMBERS]), min(last, run[RUN_NUMBERS] + run[END_ROW] - run[FIRST_ROW])
        if begin < end:
            row = run[FIRST_ROW] + begin - run[RUN_NUMBERS]
            least = min(least, read_run(run, row, row + end - begin))
    table[OUTCOMES + task] = least
    if least == SHORT:
        table[FAILED] = turn
    fetch_add(pointer(table, 0), READING, nanoseconds() - begin_time)


@inlined
def _window(table):
    return Window(table[WINDOW], table[SLOTS], table[ROW_BYTES], np.uint64(table[KEY]), table[POSITION])


@inlined
def _widths(table):
    return table[HEADER : HEADER + table[PARTS]]


@inlined
def _block(table):
    """The rows, as `swap_rows` takes a block."""
    return pointer(table, HEADER + table[PARTS])


@inlined
def _swap(table, turn, task):
    """Swap what was read in the turn before, where all of it came."""
    board = make_board(table[BOARD], table[TASKS], (table[TURN_ROWS] + table[TASKS] - 1) // table[TASKS])
    turn_first, (first, last) = _part(table, turn - 1, 0)[0], _part(table, turn - 1, task)
    if table[FAILED] < turn:
        last = first
    bounds = turn_first, first, last
    swap_rows(board, turn, task, _window(table), _widths(table), _block(table), bounds)


@inlined
def _put(table, turn, task):
    """Copy rows into the window."""
    flat, width, widths, block = pointer_at(table[WINDOW], np.uint8(0)), table[ROW_BYTES], _widths(table), _block(table)
    first, last = _part(table, turn, task)
    for row in range(first, last):
        put_row(flat, (table[POSITION] + row) * width, widths, block, row)


@serial
def _do(table, turn, task):
    """Task `task` of a turn."""
    if table[MOVE] == SWAP and turn > 0:
        _swap(table, turn, task)
    if table[FAILED] >= turn:
        _read(table, turn, task)
        if table[MOVE] == PUT:
            _put(table, turn, task)


@serial
def run_passages(worker, threads, pieces, counters):
    """Do some turns of some passages, one after the other, as one of several threads.

    Parameters
    ----------
    worker, threads : int
    pieces : array (n, 3), int64
        Where the numbers of a passage are; the first turn to be done, and the end.
    counters : array (COUNTERS,), int64
        Which are 0.
    """
    phase, end = 0, 0
    for i in range(pieces.shape[0]):
        numbers = pointer_at(pieces[i, 0], np.int64(0))
        table = view(numbers, 0, numbers[SIZE])
        for turn in range(pieces[i, 1], pieces[i, 2]):
            end += table[TASKS]
            while True:
                task = next_task(pointer(counters, 0), worker, threads, phase, table[TASKS], end)
                if task < 0:
                    break
                begin = nanoseconds()
                _do(table, turn, task)
                fetch_add(numbers, MOVING, nanoseconds() - begin)
            phase += 1
