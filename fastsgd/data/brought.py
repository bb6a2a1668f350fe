"""Rows that Python brings to places in memory, several blocks at a time: decoded, cast, put together from columns, or
read by HDF5."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastsgd.data import readers
from fastsgd.data.blocks import Block, Errand, Reader, Rows, Spans
from fastsgd.data.team import Team, copy_shares

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader


class Rest:
    """The block that is decoded whole although only some of its rows were wanted: the others will be.

    Attributes
    ----------
    rows : Rows
        Memory for the largest block.
    first : int
        Its first source row; -1 where there is none.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.first = -1


class _Part(NamedTuple):
    """Rows of a block that are wanted, `first` to `last` of its own: where they go, and whether they are all of it."""

    block: Block
    first: int
    last: int
    out: Rows
    whole: bool


class Brought:
    """`Incoming` rows of which a thread brings one block, or a part of its columns, after the other.

    Parameters
    ----------
    loader : Loader
    reader : Reader
        Of its dataset.
    spans : array (k, 2), int64
        Ranges of source rows, each in one file and one block.
    places : Rows
        Where they go, in their storage dtype.
    rest : Rest, optional
        Where blocks may be decoded of which some rows are not wanted.
    """

    def __init__(self, loader: Loader, reader: Reader, spans: Spans, places: Rows, rest: Rest | None) -> None:
        self.sound = 0
        self._loader = loader
        self._reader = reader
        self._rest = rest
        self._parts = deque(self._cut(spans, places))
        self._asked = self._ask()

    def _cut(self, spans: Spans, places: Rows) -> Iterator[_Part]:
        at, blocks = 0, self._loader.blocks
        for span in spans:
            out, block = places.cut(at, at + int(span[1] - span[0])), Block(span.reshape(1, 2))
            at += len(out.x)
            if self._rest is not None:
                block = blocks[int(np.searchsorted(blocks.first_rows, span[0], side="right")) - 1]
            first = int(span[0]) - block.first_row
            yield _Part(block, first, first + len(out.x), out, len(out.x) == block.n_rows)

    def _ask(self) -> list[tuple[_Part, Errand | None]]:
        """Ask for the next blocks, whose files may all be open; none after one that goes where another is then."""
        asked = list[tuple[_Part, Errand | None]]()
        while self._parts and len(asked) < readers.OPEN_FILES:
            part = self._parts.popleft()
            block, out = part.block, part.out
            if not part.whole:
                assert self._rest is not None
                if self._rest.first == block.first_row:
                    asked.append((part, None))
                    continue
                out = self._rest.rows.cut(0, block.n_rows)
            first, check = block.first_row, partial(self._loader.check, block)
            asked.append((part, self._reader.bring(first, first + block.n_rows, out, check)))
            if not part.whole:
                break
        return asked

    def finish(self, team: Team) -> int:
        while True:
            team.go_on()
            for part, errand in self._asked:
                if errand is None:
                    self._take_from_rest(team, part)
            errands = [errand for _, errand in self._asked if errand is not None]
            jobs = deque(job for errand in errands for job in errand.jobs())
            team.together(_do_some, max(1, min(len(jobs), self._loader.decoders())), jobs)
            for part, errand in self._asked:
                if errand is not None:
                    errand.result()
                    if not part.whole:
                        self._take_from_rest(team, part)
                self.sound += len(part.out.x)
            if not self._parts:
                return 0
            self._asked = self._ask()

    def _take_from_rest(self, team: Team, part: _Part) -> None:
        """Copy what is wanted of a block that is there."""
        assert self._rest is not None
        self._rest.first = part.block.first_row
        some = self._rest.rows.cut(part.first, part.last)
        pairs = list(zip(some.parts(), part.out.parts(), strict=True))
        team.move(sum(out.nbytes for out in part.out.parts()), copy_shares, pairs)


def _do_some(thread: int, threads: int, jobs: deque[Callable[[], None]]) -> None:
    """Do some of the jobs, and leave the others to others; to nobody where an interrupt ends one."""
    try:
        with suppress(IndexError):  # another took the last
            while jobs:
                jobs.popleft()()
    except BaseException:
        jobs.clear()
        raise
