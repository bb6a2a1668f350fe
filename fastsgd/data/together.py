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
from fastsgd.data.frames import let_go
from fastsgd.data.readers import OPEN_FILES
from fastsgd.data.team import Team, read_straight

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader


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
    ahead : int
        Blocks that are asked for while others are used, where that takes no memory: the system may read them meanwhile.
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
        ahead: int = 0,
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
        self._decodes = decodes = loader.dataset.decodes()
        # No more than leave as many on their way where these are decoded meanwhile.
        self._most = max(1, self._memory // 2) if decodes else self._memory
        self._ahead = 0 if decodes else min(ahead, OPEN_FILES - 1)  # whose files must all be open
        # What is to be decoded is shared out already, among as many threads as there is memory for.
        self._threads = 1 if decodes else loader.threads()

    def read(self, blocks: Iterable[Block]) -> Iterator[list[Rows]]:
        """The rows of some blocks at a time, until the next are asked for. Of several errors that of the first block is
        raised."""
        asked, remaining = deque[Asked](), iter(blocks)
        failed: Exception | None = None
        while True:
            failed = failed or self._ask(remaining, asked, self._memory)
            if not asked:
                if failed is not None:
                    raise failed
                return
            taken = [asked.popleft() for _ in range(min(self._room(), self._most, len(asked)))]
            whole = None if self._decodes else self._reader.in_one(taken)
            try:
                found = self._read(taken, whole)
            except BaseException as error:
                let_go(error)
                del whole
                raise
            finally:
                taken.clear()
            failed = failed or self._ask(remaining, asked, self._ahead)
            yield list(found)
            for rows in found if whole is None else [whole]:
                self._reader.give_back(rows)
            del found, whole, rows

    def _ask(self, blocks: Iterator[Block], asked: deque[Asked], most: int) -> Exception | None:
        """Ask for the next blocks, up to `most` that are on their way; returns what kept it from that: what was asked
        for before comes first."""
        try:
            for block in itertools.islice(blocks, max(0, most - len(asked))):
                check = None if self._check is None else partial(self._check, block)
                asked.append(request_block(self._reader, block, check))
        except Exception as error:
            return error
        return None

    def _read(self, taken: Sequence[Asked], whole: Rows | None) -> list[Rows]:
        """The rows that were asked for; `whole` if they lie in one and nothing else is wanted."""
        read_straight([run for one in taken for run in one.runs()], self._team, self._spent, self._threads)
        if whole is None or not self._passes(taken, whole):
            return self._one_by_one(taken)
        if not self._apart:
            return [whole]
        ends = list(itertools.accumulate((one.rows for one in taken), initial=0))
        return [whole.cut(first, last) for first, last in itertools.pairwise(ends)]

    def _passes(self, taken: Sequence[Asked], whole: Rows) -> bool:
        """Whether all rows came, and need no look at those of each block."""
        if not all(one.is_read() for one in taken):
            return False
        self._reader.settle(taken)
        if self._check is None:
            return True
        each = [one.known() for one in taken]
        names = set.intersection(*map(set, each))
        return self._check.passes(whole, {name: min(known[name] for known in each) for name in names})

    def _one_by_one(self, taken: Sequence[Asked]) -> list[Rows]:
        outcomes: list[Rows | Exception | None] = [None] * len(taken)
        # Threads that only run Python wait for one another.
        only_python = self._is_quick and all(one.is_read() for one in taken)
        takers = 1 if only_python else min(len(taken), self._threads)
        self._team.together(_take, takers, taken, self._team.go_on, outcomes)
        error = next((one for one in outcomes if isinstance(one, Exception)), None)
        rows = [one for one in outcomes if isinstance(one, Rows)]
        outcomes.clear()  # which frames hold that the error's lead back to
        if error is not None:
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
