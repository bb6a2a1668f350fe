"""Threads that share the numbered tasks of one phase after the other, from the first step of a slab to its last.

Starting and joining threads for every step costs more than a small step itself, so they start once a slab. The tasks of
a phase are dealt out in lanes, one a thread: who did a task in the last step does it again, with what it needs still in
its cache, and takes it from a counter that others seldom look at. A thread whose lane is empty waits for the end of the
phase, and takes what is left in other lanes meanwhile: however few of the threads asked for really run, or how late
they start, all is done. Who does a task never changes what it computes.
"""

from __future__ import annotations

from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.machine import compare_exchange, fetch_add, give_way, never_inline, pause, read_counter

MAX_THREADS = 64  # that work on one step; more would find nothing to do
# Counters, on pairs of cache lines of their own, as processors fetch them in pairs: the tasks that are done; then for
# each thread the tasks taken from its lane, those that it did and has not yet counted as done, and how far from its own
# the lane is that it last took from.
TASKS_DONE = 0
_LINE = 16
_TAKEN, _UNCOUNTED, _AWAY = 0, 1, 2
COUNTERS = _LINE * (1 + MAX_THREADS)
_PHASE = 2**32  # a lane's counter holds the number of the phase, times this, and the tasks taken in it

# Of 10 to 20 nanoseconds each. A wait is mostly for the end of another thread's task of some microseconds; to offer the
# core to others costs more than that, and a thread that waits for a core itself does not get this one sooner.
_PAUSES = 20_000
_LOOKS = 32  # pauses from one look into another's lane to the next: each look costs its owner time


@small
def _line_of(thread):
    return _LINE * (1 + thread)


@inlined
def start_tasks(counters):
    """Begin the first phase, before any thread does."""
    counters[TASKS_DONE] = 0
    for thread in range(MAX_THREADS):
        for counter in (_TAKEN, _UNCOUNTED, _AWAY):
            counters[_line_of(thread) + counter] = 0


@small
def _taken_from(counters, lane, lanes, phase, tasks):
    """The number of a task of this phase, which has so many in all lanes, that is now the caller's; -1 where a lane has
    none left."""
    at = _line_of(lane) + _TAKEN
    while True:
        taken = read_counter(counters, at)
        index = max(0, taken - phase * _PHASE)
        task = index * lanes + lane
        if index >= tasks or task >= tasks:  # that of a later phase is so large that the product would overflow
            return -1
        if compare_exchange(counters, at, taken, phase * _PHASE + index + 1):
            return task


@serial
def next_task(counters, worker, lanes, phase, tasks, end):
    """The number of a task of a phase that is now the caller's, who has done all that it got before; -1 when all tasks
    of the phase are done, and what others wrote in them can be seen.

    Parameters
    ----------
    counters : pointer to int64
        `COUNTERS` of them.
    worker : int
        A number of its own for each thread.
    lanes : int
        Lanes that the tasks are dealt out in.
    phase, tasks : int
        The number of the phase, which grows, and how many tasks it has.
    end : int
        Tasks of this phase and all before it.
    """
    never_inline()
    own, uncounted, away = worker % lanes, _line_of(worker) + _UNCOUNTED, _line_of(worker) + _AWAY
    task = _taken_from(counters, own, lanes, phase, tasks)
    if task < 0 and counters[uncounted] > 0:
        fetch_add(counters, TASKS_DONE, counters[uncounted])
        counters[uncounted] = 0
    turns = 0
    while task < 0 and read_counter(counters, TASKS_DONE) < end:
        turns += 1
        if turns % _LOOKS == 0:
            task = _taken_from(counters, (own + counters[away]) % lanes, lanes, phase, tasks)
            counters[away] += 1 if task < 0 else 0
        else:
            pause()
        if task < 0 and turns % _PAUSES == 0:
            give_way()
    if task >= 0:
        counters[uncounted] += 1
    return task
