"""Work that several threads do at the same time.

Plain threads, which unlike Numba's may be many callers' at once, whatever the threading layer.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from fastsgd.kernels.aside import started, stop_with

_NICENESS = 10


def yield_to_others() -> None:
    """Lower the priority of this thread and of those that it starts, where a thread has one of its own.

    Threads that read have slabs to spare, while those that compute wait for each other at the end of each region: on
    two cores a streamed epoch of the seed network took 1.4 times the epoch in memory without this, and 1.1 times with
    it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class Job:
    """What was handed over, and what became of it.

    Not a Future: an interrupt may leave its lock, which is taken in Python, taken for ever.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._error: BaseException | None = None
        self._unfinished = threading.Lock()
        self._unfinished.acquire()

    def done(self) -> bool:
        """Whether it has ended, or will never begin."""
        return not self._unfinished.locked()

    def wait(self) -> None:
        """Wait until it is done."""
        with self._unfinished:
            pass

    def result(self) -> None:
        """Wait until it is done, and raise what it raised."""
        self.wait()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # whose traceback has this frame

    def do(self) -> None:
        """Do it. Raises what interrupts the thread; errors are for whoever asks for the result."""
        assert self._work is not None
        try:
            self._work()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._end()
            del self  # else the error's traceback would have this frame, and so the job, and so the error

    def drop(self) -> None:
        """Let it be done without having begun, which whoever asks for the result is told; nothing if it is done."""
        if self._work is not None:
            self._error = CancelledError()
            self._end()

    def _end(self) -> None:
        if self._work is not None:
            self._work = None  # whoever keeps the job, or its error, must not keep what it worked on
            self._unfinished.release()


class _Worker:
    """A thread that does what it is given, one job after the other.

    The first job is there before it starts, so that an interrupt leaves no thread that waits for one for ever.
    """

    def __init__(self, job: Job, *, kept: bool) -> None:
        self._given: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # A daemon: an interrupt of the wait for its start may leave a lock taken that it waits for, for ever.
        self._thread = threading.Thread(target=_work, args=(self._given, kept), name="fastsgd-worker", daemon=True)
        self._job = job
        self.give(job)

    def start(self) -> bool:
        """False where the system has no thread for it."""
        return started(self._thread)

    def idle(self) -> bool:
        """Whether it has done all that it was given."""
        return self._job.done()

    def give(self, job: Job) -> None:
        self._job = job
        self._given.put(job)

    def end(self) -> None:
        """Give it nothing more."""
        self._given.put(None)

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join()


def _work(given: queue.SimpleQueue[Job | None], kept: bool) -> None:
    while (job := given.get()) is not None:
        job.do()
        del job  # while it waits for the next, what this one worked on is let go
        if not kept:
            return


class _Kept(threading.local):
    """The workers that a thread keeps for its next call of `share`; None where they end with each call. Those of one
    thread are no other's, as they have the priority of the one that started them."""

    workers: list[_Worker] | None = None


_kept = _Kept()


def _after_fork() -> None:
    """In a process that was forked, there are no other threads."""
    if _kept.workers is not None:
        _kept.workers = []


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def keep_threads() -> Iterator[None]:
    """Let the threads that share this one's work wait for its next.

    To start one takes a tenth of a millisecond, and for the first milliseconds the system may have it on the same core:
    of slabs of 9 milliseconds, 8% of the time.
    """
    if _kept.workers is not None:
        yield
        return
    _kept.workers = []
    try:
        yield
    finally:
        workers, _kept.workers = _kept.workers, None
        try:
            _end(workers)
        finally:
            _end(workers)  # where an interrupt came between


def keeps_threads() -> bool:
    """Whether threads that share this one's work are kept."""
    return _kept.workers is not None


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.join()


def _found_worker(job: Job) -> _Worker | None:
    """Who does a job: one that is kept, or a new one; None where the system has no thread for it."""
    for worker in _kept.workers or ():
        if worker.idle():
            worker.give(job)
            return worker
    worker, workers = _Worker(job, kept=_kept.workers is not None), _kept.workers
    if workers is not None:
        workers.append(worker)  # first, as an interrupt may come while it starts
    if worker.start():
        return worker
    if workers is not None:
        workers.remove(worker)
    return None


def share(work: Callable[..., None], threads: int, *arguments: Any) -> None:
    """Call ``work(i, *arguments)`` for each i below `threads`, all at the same time; the first on this thread, as are
    those, one after the other, for which the system has no thread.

    What of the work takes long is compiled, or NumPy's, and holds no Python lock.
    """
    failures: list[BaseException] = []
    stop = threading.Event()
    begun: list[Job] = []

    def run(index: int) -> None:
        try:
            work(np.int64(index), *arguments)
        except BaseException as error:
            failures.append(error)
            stop.set()

    def run_beside(index: int) -> None:
        begun.append(jobs[index])  # before the look at `stop`: of the two, whoever comes second sees the first
        if not stop.is_set():
            stop_with(stop)
            run(index)

    jobs = {index: Job(partial(run_beside, index)) for index in range(1, threads)}
    workers: list[_Worker] = []
    try:
        for job in jobs.values():
            worker = _found_worker(job)
            if worker is None:
                break
            workers.append(worker)
        for index in (0, *range(1 + len(workers), threads)):
            run(index)
        for index, job in jobs.items():
            if index <= len(workers):
                job.result()
            else:
                job.drop()
        if _kept.workers is None:
            for worker in workers:
                worker.join()
    finally:
        # An interrupt ends the wait, or the starting, but nothing may go on while others still write.
        stop.set()
        for job in begun:
            job.wait()
    if failures:
        raise failures[0]
