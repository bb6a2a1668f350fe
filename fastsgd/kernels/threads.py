"""When a step is worth several threads, and the one door to parallel code."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba.core.registry import CPUDispatcher

from fastsgd.kernels.host import cpu_limits

# A thread that waits at the end of a parallel region spins first and sleeps later. GNU OpenMP spins for milliseconds,
# which starves the very thread it waits for when something else runs on the cores: with one busy process beside two
# training threads an epoch took up to 200 times as long. With 3000 turns it takes 4 times, and idle cores lose nothing.
# Read when the OpenMP library is loaded, so before the first parallel region; an own setting is left alone.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "3000"

# Floating-point operations in a parallel region below which starting and joining the threads costs more than it gives.
# On two cores the seed network (27.5 thousand a row) was faster on one thread up to batches of about 64 rows.
WORK_WORTH_THREADS = 2_000_000

# Numba's workqueue layer aborts the process when two Python threads run parallel code at once. Reentrant, so that no
# thread waits for itself where a kernel is called from within a region.
_DOOR = threading.RLock()


def worth_threads(work: float, threads: int) -> bool:
    """Whether a step of `work` floating-point operations gains from `threads` threads."""
    return threads > 1 and work >= WORK_WORTH_THREADS


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
    with _DOOR:
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


class _OneAtATime(CPUDispatcher):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _DOOR:
            return super().__call__(*args, **kwargs)
