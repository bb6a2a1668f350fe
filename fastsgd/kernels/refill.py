"""A slab that is filled by the threads of a training step, while they train on the slab before it.

In each turn some rows are read from files to their places in the slab, and those read in the turn before are swapped
there with rows of the window, by the thread in whose cache they are; memory is asked for their slots in between. Or
rows are drained from a window that no more come into, those whose slots were asked for in the turn before. What is not
done when the slab is wanted is left to whoever wants it.
"""

from __future__ import annotations

import numpy as np

from fastsgd.kernels.errands import ASKED, LISTED, PLACES
from fastsgd.kernels.jit import callback, inlined, serial
from fastsgd.kernels.machine import advance, fetch_add, nanoseconds, pointer, pointer_at, view
from fastsgd.kernels.random import make_cipher
from fastsgd.kernels.reading import END_ROW, FIRST_ROW, RUN_NUMBERS, SHORT, read_run
from fastsgd.kernels.slots import AHEAD, copy_listed, list_drained, list_slots, swap_listed

MOST_TASKS = 16  # in a turn: one that reads and one that swaps for each share of the rows, or of the slots
# A refill in int64 numbers. How many they are; rows in all, and of a turn, and bytes of a row; shares, and of how many
# of `WHOLE` rows those read the last that swap; the first turn in which rows did not come; nanoseconds that reading
# took, of all threads, and that with moving; and the least that became of rows that were read, by task.
SIZE, ROWS, TURN_ROWS, ROW_BYTES, SHARES, READ_LATER, FAILED, READING, MOVING, OUTCOMES = range(10)
# The window: where it lies, its slots (0 for none), what names them, the number of the first row among those that are
# swapped or drained, whether they are drained. By task, lists of slots as an errand has them, and of rows. Parts of a
# row; where the runs start, and how many they are.
WINDOW, SLOTS, KEY, POSITION, DRAINS, LISTS, LIST_SIZE, PARTS, RUNS, N_RUNS = range(
    OUTCOMES + MOST_TASKS, OUTCOMES + MOST_TASKS + 10
)
# After these come the bytes of each part, and where it comes from (unless it is drained) and goes to; and at `RUNS` the
# runs, each as `read_run` takes it, and the row that it begins with.
HEADER = N_RUNS + 1
_RUN_NUMBERS = RUN_NUMBERS + 1
WHOLE = 1024  # of READ_LATER


def list_size(rows: int) -> int:
    """Numbers of a list of so many slots and rows."""
    return PLACES + rows + AHEAD + rows + 1


@inlined
def _turn_rows(table, turn):
    return min(table[ROWS], turn * table[TURN_ROWS]), min(table[ROWS], (turn + 1) * table[TURN_ROWS])


@inlined
def _part_of(first, last, part, parts):
    return first + (last - first) * part // parts, first + (last - first) * (part + 1) // parts


@serial
def _read(table, first, last, turn, task):
    """Read rows first to last."""
    begin_time, least = nanoseconds(), table[OUTCOMES + task]
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
def _list(table, number):
    """A list: its head, its slots, and its rows."""
    found = pointer_at(table[LISTS] + 8 * number * table[LIST_SIZE], np.int64(0))
    slots = advance(found, PLACES)
    return found, slots, advance(slots, (table[LIST_SIZE] - PLACES - AHEAD) // 2 + AHEAD)


@inlined
def _list_to_swap(table, turn, task):
    """List the slots that a share of the swap of a turn's rows will write to."""
    first, last = _turn_rows(table, turn)
    head, slots, rows = _list(table, task)
    key, width = np.uint64(table[KEY]), table[ROW_BYTES]
    head[LISTED] = list_slots(
        task // 2, table[SHARES], table[SLOTS], width, key, table[POSITION], first, last, rows, slots
    )
    head[ASKED] = 0


@inlined
def _swap(table, task):
    """Swap what was listed by the task that read in the turn before."""
    n = table[PARTS]
    head, slots, rows = _list(table, task)
    window, widths = pointer_at(table[WINDOW], np.uint8(0)), table[HEADER : HEADER + n]
    # As an exchange has it: the rows of a block, which nobody asks for, then where each part comes from and goes to.
    swap_listed(window, table[ROW_BYTES], widths, pointer(table, HEADER + n - 1), rows, slots, head[LISTED])
    head[ASKED] = head[LISTED]


@inlined
def _drain(table, turn, task):
    """Copy what was listed in the turn before, and list what will be copied in the next."""
    n, parts = table[PARTS], 2 * table[SHARES]
    head, slots, _ = _list(table, task)
    if turn > 0:
        first, last = _turn_rows(table, turn - 1)
        first, last = _part_of(first, last, task, parts)
        window, widths = pointer_at(table[WINDOW], np.uint8(0)), table[HEADER : HEADER + n]
        copy_listed(window, widths, table[HEADER + n : HEADER + 2 * n], first, view(slots, 0, last - first))
    first, last = _turn_rows(table, turn)
    first, last = _part_of(first, last, task, parts)
    cipher = make_cipher(np.uint64(table[KEY]), table[SLOTS])
    list_drained(cipher, table[POSITION] + first, table[ROW_BYTES], view(slots, 0, last - first))
    head[LISTED], head[ASKED] = last - first, 0


@serial
def _refill(table, turn, task):
    """Task `task` of a turn."""
    first, last = _turn_rows(table, turn)
    if table[DRAINS]:
        _drain(table, turn, task)
    elif table[SLOTS] == 0:
        if table[FAILED] >= turn:
            first, last = _part_of(first, last, task, 2 * table[SHARES])
            _read(table, first, last, turn, task)
    else:
        first, last = _part_of(first, last, task // 2, table[SHARES])
        later = last - (last - first) * table[READ_LATER] // WHOLE
        if (task + turn) % 2 > 0:
            if turn > 0 and table[FAILED] >= turn:
                _swap(table, task)
            first = later
        else:
            _list_to_swap(table, turn, task)
            last = later
        if table[FAILED] >= turn:
            _read(table, first, last, turn, task)


@callback
def refill(address, turn, task):
    """Do task `task` of a turn of the refill whose numbers are at an address."""
    numbers = pointer_at(address, np.int64(0))
    if task < 2 * numbers[SHARES]:
        begin = nanoseconds()
        _refill(view(numbers, 0, numbers[SIZE]), turn, task)
        fetch_add(numbers, MOVING, nanoseconds() - begin)
