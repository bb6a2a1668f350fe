"""Threads that share one list of numbered tasks, from the first step of a slab to its last.

Starting and joining threads for every step costs more than a small step itself, so they start once a slab. Each takes
the next number, waits until all tasks of the phases before it are done, does it, and counts it as done. A thread waits
only for tasks with smaller numbers, which threads that run have taken: however few of the threads asked for really
run, or how late they start, the list is worked through. Who does a task never changes what it computes.
"""

from __future__ import annotations

from fastsgd.kernels.jit import inlined, serial
from fastsgd.kernels.machine import fetch_add, give_way, never_inline, pause, read_counter

COUNTERS = 32  # two counters, on cache lines of their own
TASKS_TAKEN, TASKS_DONE = 0, 16
# Of 10 to 20 nanoseconds each. A wait is mostly for the end of another thread's task of some microseconds; to offer the
# core to others costs more than that, and a thread that waits for a core itself does not get this one sooner.
_PAUSES = 20_000


@inlined
def take_task(counters):
    """The number of a task that is now the caller's."""
    return fetch_add(counters, TASKS_TAKEN, 1)


@inlined
def finish_task(counters):
    """Count a task as done, and show others what it wrote."""
    fetch_add(counters, TASKS_DONE, 1)


@serial
def wait_for_tasks(counters, count):
    """Wait until `count` tasks are done."""
    never_inline()
    turns = 0
    while read_counter(counters, TASKS_DONE) < count:
        turns += 1
        pause()
        if turns % _PAUSES == 0:
            give_way()
