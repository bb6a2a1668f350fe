"""When a step is worth several threads, and the one door to parallel code."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba

# A thread that waits at the end of a parallel region spins first and sleeps later. GNU OpenMP spins for milliseconds,
# which starves the very thread it waits for when something else runs on the cores: with one busy process beside two
# training threads an epoch took up to 200 times as long. With 3000 turns it takes 4 times, and idle cores lose nothing.
# Read when the OpenMP library is loaded, so before the first parallel region; an own setting is left alone.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "3000"

# Floating-point operations in a parallel region below which starting and joining the threads costs more than it gives.
# On two cores the seed network (27.5 thousand a row) was faster on one thread up to batches of about 64 rows.
WORK_WORTH_THREADS = 2_000_000

# Numba's workqueue layer aborts the process when two Python threads run parallel code at once.
_DOOR = threading.Lock()


def worth_threads(work: float, threads: int) -> bool:
    """Whether a step of `work` floating-point operations gains from `threads` threads."""
    return threads > 1 and work >= WORK_WORTH_THREADS


def available_threads(threads: int | None) -> int:
    """The number of threads to use: `threads`, or all that the process may run on."""
    most = int(numba.config.NUMBA_NUM_THREADS)
    if threads is None:
        return most
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads is {threads!r}; it is a whole number from 1 on, or None for all {most}")
    return min(threads, most)


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
