"""Threads that read and move rows at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.runs import Run, first_of, read_runs
from fastsgd.data.spent import Spent

_BYTES_A_THREAD = 1 << 16  # that are moved in about the time that a thread takes to wake


def _go_on() -> None:
    """Nobody stops who works for himself."""


class Team:
    """A thread that wants rows, and those that work for it.

    Parameters
    ----------
    threads : int
        How many they are.
    spent : Spent
        What they do is counted there.
    at_hand : callable, optional
        How many of them may work now; all, if not given.
    go_on : callable, optional
        Called before each block; may raise.
    """

    def __init__(
        self,
        threads: int,
        spent: Spent,
        at_hand: Callable[[], int] | None = None,
        go_on: Callable[[], None] = _go_on,
    ) -> None:
        self.threads = threads
        self.go_on = go_on
        self._spent = spent
        self._at_hand = at_hand

    def together(self, work: Callable[..., None], threads: int, *arguments: Any) -> None:
        """``work(i, n, *arguments)`` for each i below an n of at most `threads`."""
        from fastsgd.kernels.sharing import share

        threads = min(threads, self.threads)
        if threads > 1 and self._at_hand is not None:
            threads = min(threads, self._at_hand())
        if threads == 1:
            work(0, 1, *arguments)
            return
        with self._spent.side_by_side(threads):
            share(work, threads, threads, *arguments)

    def move(self, nbytes: int, work: Callable[..., None], *arguments: Any) -> None:
        """`together`, with as many threads as so many bytes to be moved are worth."""
        self.together(work, 1 + nbytes // _BYTES_A_THREAD, *arguments)


def copy_shares(thread: int, threads: int, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """A thread's share of copying rows, each array to its partner, maybe of another dtype."""
    for source, out in pairs:
        share = slice(len(out) * thread // threads, len(out) * (thread + 1) // threads)
        np.copyto(out[share], source[share], casting="unsafe")


def read_straight(runs: Sequence[Run], team: Team, spent: Spent, threads: int) -> None:
    """Read what compiled code may read, so much at a time that an end is soon noticed."""
    while runs:
        team.go_on()
        count = first_of(np.array([run.nbytes for run in runs], np.int64))
        spent.add(reading=read_runs(runs[:count], team.together, threads))
        runs = runs[count:]
