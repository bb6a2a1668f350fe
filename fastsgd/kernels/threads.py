"""When work is worth several threads, how many there are, and the one door to Numba's parallel code."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numba

from fastsgd.kernels.host import cpu_limits
from fastsgd.kernels.jit import Kernel

# A thread that waits at the end of a parallel region spins first and sleeps later. GNU OpenMP spins for milliseconds,
# which starves the very thread it waits for when something else runs on the cores: with one busy process beside two
# training threads an epoch took up to 200 times as long. With 3000 turns it takes 4 times, and idle cores lose nothing.
# Read when the OpenMP library is loaded, so before the first parallel region; an own setting is left alone.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "3000"

# Floating-point operations of a step below which a second thread costs more than it gives, and those of a whole call
# that pay for starting a thread.
WORK_WORTH_THREADS = 400_000
_WORK_WORTH_STARTING = 20_000_000
_RETRY_CALLS = 16

# Numba's workqueue layer aborts the process when two Python threads run parallel code at once. Reentrant, so that no
# thread waits for itself where a kernel is called from within a region.
_DOOR = threading.RLock()
_layer_is_lost = False


def _after_fork() -> None:
    """In a process that was forked, nobody comes out of the door, and GNU OpenMP, where it has run, ends it at once."""
    global _DOOR, _layer_is_lost  # noqa: PLW0603
    _DOOR = threading.RLock()
    with suppress(ValueError):  # no parallel code has run yet
        _layer_is_lost = numba.threading_layer() == "omp"


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _through_the_door() -> Iterator[None]:
    if _layer_is_lost:
        raise RuntimeError(
            "parallel kernels ran on GNU OpenMP before this process was forked, after which they cannot run in it: "
            "start it with multiprocessing's 'spawn' or 'forkserver', set NUMBA_THREADING_LAYER=workqueue, or call the "
            "kernel's serial twin. Trainer, Sequential and datasets work"
        )
    with _DOOR:
        yield


def worth_threads(work: float, steps: float, threads: int) -> int:
    """How many of `threads` threads to use for `steps` steps of `work` floating-point operations each."""
    if work < WORK_WORTH_THREADS:
        return 1
    return max(1, min(threads, int(work * steps / _WORK_WORTH_STARTING)))


class Pace:
    """How many threads to use, by what they did so far.

    Threads that meet at the end of every region of every step wait for the slowest, and where something else runs on
    the cores, fewer may be faster. The results are the same bits for any number, so it may change from call to call.

    Parameters
    ----------
    most : int
        Threads at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._rates: dict[int, float] = {}
        self._calls_with_fewer = 0
        self._last: int | None = None

    def threads(self) -> int:
        """The number for the next call."""
        untried = self._untried()
        if untried is not None:
            return untried
        best = max(self._rates, key=self._rates.__getitem__)
        if best < self.most and self._calls_with_fewer >= _RETRY_CALLS:
            # What disturbed more threads may be over.
            self._calls_with_fewer = 0
            return min(self.most, 2 * best)
        return best

    def _untried(self) -> int | None:
        """Half of the least number that was tried, as long as fewer threads turned out faster."""
        if not self._rates:
            return self.most
        least = min(self._rates)
        more = [count for count in self._rates if count > least]
        if least == 1 or (more and self._rates[min(more)] > self._rates[least]):
            return None
        return least // 2

    def did(self, threads: int, work: float, seconds: float) -> None:
        """What a call on so many threads did: operations, and their time."""
        rate = work / max(seconds, 1e-9)
        if self._last is not None:  # the first call of all finds its memory cold
            # What was seen a while ago no longer counts.
            self._rates[threads] = (
                (self._rates[threads] + rate) / 2 if threads == self._last and threads in self._rates else rate
            )
        self._last = threads
        self._calls_with_fewer += threads < self.most


def thread_limits() -> dict[str, int]:
    """The limits on the number of threads, by name; the least is the default."""
    return cpu_limits() | {"NUMBA_NUM_THREADS": int(numba.config.NUMBA_NUM_THREADS)}


def available_threads(threads: int | None) -> int:
    """The number of threads to use: `threads`, as far as Numba has so many, or all that the host grants."""
    if threads is None:
        return min(thread_limits().values())
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        granted = min(thread_limits().values())
        raise ValueError(f"threads is {threads!r}; it is a whole number from 1 on, or None for all {granted}")
    return min(threads, int(numba.config.NUMBA_NUM_THREADS))


@contextmanager
def parallel_region(threads: int) -> Iterator[None]:
    """Run parallel kernels on `threads` threads, one caller at a time, and leave the setting as it was."""
    with _through_the_door():
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            yield
        finally:
            numba.set_num_threads(before)


def one_at_a_time(dispatcher: Any) -> Any:
    """Let calls from Python of a parallel kernel wait for each other and for `parallel_region`.

    Calls from compiled code are as before: they do not pass here.
    """
    if not numba.config.DISABLE_JIT:
        dispatcher.__class__ = _OneAtATime
    return dispatcher


class _OneAtATime(Kernel):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _through_the_door():
            return super().__call__(*args, **kwargs)
