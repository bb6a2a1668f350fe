"""What the threads of a training step do for others: tasks that are none of the step's, in some of its rows regions.

Nobody waits for them but the end of the region, and where the step's own tasks do not share out evenly they cost less
than they take. What they do is compiled by itself: a step knows its address alone, and need not be compiled for it.

Memory is asked for what an errand will write to while rows are trained on, as a step asks for its own rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsgd.kernels.jit import serial, small
from fastsgd.kernels.machine import call_at, never_inline, pointer_at, prefetch

# An errand in int64 numbers; see `tell_errand`.
_FUNCTION, _ARGUMENT, _EVERY, _TASKS, _BEFORE, _MEMORY, _PLACE_BYTES, _LISTS, _N_LISTS, _LIST_SIZE, _PORTION = range(11)
ERRAND_SIZE = 11
NO_ERRAND = np.empty(0, np.int64)
LISTED, ASKED, PLACES = range(3)  # of a list
_LINE = 64  # bytes of a line of the cache


def tell_errand(
    function: int,
    argument: int,
    *,
    every: int,
    tasks: int,
    before: int,
    memory: int,
    place_bytes: int,
    lists: NDArray[np.int64],
    portion: int,
) -> NDArray[np.int64]:
    """An errand in numbers.

    Parameters
    ----------
    function, argument : int
        The address of a C function ``f(argument, turn, task)`` of int64 numbers.
    every, tasks, before : int
        Every how many steps there is a turn, how many tasks it has, and how many steps came before those of the slab.
    memory, place_bytes : int
        What it will use: the address of some memory, and bytes of a place there.
    lists : array (n, size), int64
        By task the places that one of the next turns will use: how many they are (`LISTED`), how many of them memory
        was asked for (`ASKED`), and from `PLACES` on how many bytes each is from the start of the memory.
    portion : int
        Places that memory is to be asked for with each row that a thread trains on.
    """
    about_lists = lists.__array_interface__["data"][0], *lists.shape, portion
    return np.array([function, argument, every, tasks, before, memory, place_bytes, *about_lists], np.int64)


@small
def errand_tasks(errand, step):
    """How many tasks an errand, by its pointer, has in a step."""
    if errand[_FUNCTION] == 0 or (errand[_BEFORE] + step) % errand[_EVERY] > 0:
        return 0
    return errand[_TASKS]


@small
def run_errand(errand, step, task):
    """Do a task of an errand in a step that has it."""
    call_at(errand[_FUNCTION], errand[_ARGUMENT], (errand[_BEFORE] + step) // errand[_EVERY], task)


@small
def next_places(errand, thread, threads, rows):
    """(address, number) of places in the lists of a thread's own tasks that memory is to be asked for while so many
    rows are trained on."""
    if errand[_FUNCTION] != 0:
        for number in range(thread % threads, errand[_N_LISTS], threads):
            start = errand[_LISTS] + 8 * number * errand[_LIST_SIZE]
            found = pointer_at(start, np.int64(0))
            asked = found[ASKED]
            count = min(found[LISTED] - asked, rows * errand[_PORTION])
            if count > 0:
                found[ASKED] = asked + count
                return start + 8 * (PLACES + asked), count
    return np.int64(0), np.int64(0)


@serial
def expect_places(errand, places, first, last):
    """Ask memory for the places first to last of those that are listed at an address."""
    never_inline()
    memory, size = pointer_at(errand[_MEMORY], np.uint8(0)), errand[_PLACE_BYTES]
    listed = pointer_at(places, np.int64(0))
    for i in range(first, last):
        for offset in range(0, size, _LINE):
            prefetch(memory, listed[i] + offset)
        prefetch(memory, listed[i] + size - 1)
