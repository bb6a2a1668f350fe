"""Threads that decode what is read, of which one is that which waits for it."""

from __future__ import annotations

import queue
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from fastsgd.kernels.sharing import Job

_Queue: TypeAlias = "queue.SimpleQueue[Job | None]"  # None ends a thread


def may_wait() -> bool:
    """Whether the caller may wait for other threads: not inside of HDF5 or of the compiler, which no other thread may
    then enter. The garbage collector may call from anywhere."""
    from fastsgd.kernels.jit import compiles

    h5py = sys.modules.get("h5py._objects")
    return not compiles() and (h5py is None or not h5py.phil._is_owned())


class Helpers:
    """Does jobs in the order in which they were handed over, on threads of its own and on those that wait for one.

    A thread that waited idly would be one more than there are cores, or a core less: two that decoded beside one that
    waited were as fast as one alone.

    Parameters
    ----------
    threads : int
        That do jobs at a time, one that waits among them.
    give_way : bool
        Whether those of its own have a lower priority than others, which compute beside them.
    """

    def __init__(self, threads: int, *, give_way: bool = False) -> None:
        self._queue: _Queue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._wanted = threads - 1
        self._gives_way = give_way
        # Also at the end of the interpreter.
        self.close = weakref.finalize(self, _close, self._queue, self._threads)

    def __bool__(self) -> bool:
        """Whether jobs may be handed over."""
        return self._wanted > 0

    def hand_over(self, work: Callable[[], None]) -> Job:
        """Let some thread do a job, in the caller's context."""
        from fastsgd.kernels.sharing import Job

        self._start_threads()
        context = copy_context()
        job = Job(lambda: context.run(work))
        self._queue.put(job)
        return job

    def finish(self, job: Job) -> None:
        """Wait for a job, doing others meanwhile; raises what it raised."""
        while not job.done() and _do_next(self._queue):
            pass
        job.result()

    def _start_threads(self) -> None:
        """As many as are wanted, and as the system has."""
        from fastsgd.kernels.aside import started

        while len(self._threads) < self._wanted:
            work = partial(_help, self._queue, gives_way=self._gives_way)
            thread = threading.Thread(target=work, name="fastsgd-decoder", daemon=True)
            self._threads.append(thread)  # first, as an interrupt may come while it starts
            if not started(thread):
                self._threads.pop()
                self._wanted = max(1, len(self._threads))
                return


def _do_next(jobs: _Queue) -> bool:
    """Do the job that was handed over first, if any is left."""
    try:
        job = jobs.get_nowait()
    except queue.Empty:
        return False
    if job is None:  # for a thread that helps
        jobs.put(None)
        return False
    try:
        job.do()
    finally:
        job.drop()  # where an interrupt came before it began
        del job  # as in `Job.do`
    return True


def _help(jobs: _Queue, *, gives_way: bool) -> None:
    from fastsgd.kernels.sharing import yield_to_others

    if gives_way:
        yield_to_others()
    while (job := jobs.get()) is not None:
        with suppress(BaseException):  # what interrupted it is told to whoever asks for the result
            job.do()
        del job  # while it waits for the next, what this one worked on is let go


def _close(jobs: _Queue, threads: list[threading.Thread]) -> None:
    """Drop what nobody has begun, and end the threads."""
    try:
        with suppress(queue.Empty):
            while (job := jobs.get_nowait()) is not None:
                job.drop()
    finally:
        for _ in threads:
            jobs.put(None)
    for thread in threads:
        if thread.is_alive() and thread is not threading.current_thread() and may_wait():
            thread.join()
