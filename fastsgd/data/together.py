"""Blocks that are read several at a time.

Python takes about as long for a block as the system takes to copy it. So where rows lie in the file as they will in
memory, those of several blocks are read into one memory, checked in one go, and go on as one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastsgd.data.blocks import Asked, Block, Reader, Rows, request_block
from fastsgd.data.runs import read_runs
from fastsgd.data.team import Team

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader

_STRAIGHT_BYTES = 1 << 24  # read in one compiled call at most, but for what is larger by itself


class Together:
    """Reads the blocks of a loader's dataset.

    Parameters
    ----------
    loader : Loader
    reader : Reader
        Of its dataset.
    team : Team
    room : callable
        How many blocks to read at a time; asked when these are on their way.
    apart : bool
        Whether the rows of each block are wanted by themselves.
    checks : bool
        Whether values must be fit to be trained on.
    """

    def __init__(
        self,
        loader: Loader,
        reader: Reader,
        team: Team,
        room: Callable[[], int],
        *,
        apart: bool = False,
        checks: bool = True,
    ) -> None:
        self._reader = reader
        self._team = team
        self._room = room
        self._apart = apart
        self._spent = loader.spent
        self._check = loader.check if checks else None
        self._is_quick = loader.check.is_quick
        self._memory = 1 + loader.plan.blocks_ahead  # blocks that there is memory for
        decodes = loader.dataset.decodes()
        # No more than leave as many on their way where these are decoded meanwhile.
        self._most = max(1, self._memory // 2) if decodes else self._memory
        # What is to be decoded is shared out already, among as many threads as there is memory for.
        self._threads = 1 if decodes else loader.threads()

    def read(self, blocks: Iterable[Block]) -> Iterator[list[Rows]]:
        """The rows of some blocks at a time, until the next are asked for. Of several errors that of the first block is
        raised."""
        asked, remaining = deque[Asked](), iter(blocks)
        while True:
            for block in itertools.islice(remaining, self._memory - len(asked)):
                check = None if self._check is None else partial(self._check, block)
                asked.append(request_block(self._reader, block, check))
            if not asked:
                return
            taken = [asked.popleft() for _ in range(min(self._room(), self._most, len(asked)))]
            whole = self._reader.in_one(taken)
            self._read_straight(taken)
            if whole is None or not self._passes(taken, whole):
                found = self._one_by_one(taken)
            elif self._apart:
                ends = list(itertools.accumulate((one.rows for one in taken), initial=0))
                found = [whole.cut(first, last) for first, last in itertools.pairwise(ends)]
            else:
                found = [whole]
            taken.clear()
            yield list(found)
            for rows in found if whole is None else [whole]:
                self._reader.give_back(rows)
            del found, whole, rows

    def _read_straight(self, asked: Sequence[Asked]) -> None:
        """Read what compiled code may read of some rows, so much at a time that an end is soon noticed."""
        runs = [run for one in asked for run in one.runs()]
        while runs:
            self._team.go_on()
            ends = itertools.accumulate(run.nbytes for run in runs)
            count = 1 + sum(end <= _STRAIGHT_BYTES for end in itertools.islice(ends, 1, None))
            self._spent.add(reading=read_runs(runs[:count], self._team.together, self._threads))
            del runs[:count]

    def _passes(self, taken: Sequence[Asked], whole: Rows) -> bool:
        """Whether all rows came, and need no look at those of each block."""
        if not all(one.is_read() for one in taken):
            return False
        self._reader.require_unchanged(taken)
        finite = set.intersection(*(set(one.finite()) for one in taken))
        return self._check is None or self._check.passes(whole, finite)

    def _one_by_one(self, taken: list[Asked]) -> list[Rows]:
        outcomes: list[Rows | Exception | None] = [None] * len(taken)
        # Threads that only run Python wait for one another.
        only_python = self._is_quick and all(one.is_read() for one in taken)
        takers = 1 if only_python else min(len(taken), self._threads)
        self._team.together(_take, takers, taken, self._team.go_on, outcomes)
        error = next((one for one in outcomes if isinstance(one, Exception)), None)
        rows = [one for one in outcomes if isinstance(one, Rows)]
        if error is not None:
            # Whoever keeps the error must not keep rows with it.
            for those in (taken, outcomes, rows):
                those.clear()
            raise error
        return rows


def _take(
    thread: int,
    threads: int,
    asked: Sequence[Asked],
    go_on: Callable[[], None],
    outcomes: list[Rows | Exception | None],
) -> None:
    """A thread's share of rows that were asked for, up to the first that cannot be had."""
    for index in range(thread, len(asked), threads):
        go_on()
        try:
            outcomes[index] = asked[index]()
        except Exception as error:
            outcomes[index] = error
            return
