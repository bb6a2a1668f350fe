"""Rows on their way from files to places in memory: read by compiled code, or brought otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fastsgd.data.blocks import Block, Reader, Rows, Spans, request_block
from fastsgd.data.brought import Brought, Rest
from fastsgd.data.passage import Move, Passage
from fastsgd.data.readers import Straight
from fastsgd.data.team import Team
from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader

_TOGETHER_BYTES = 1 << 24  # of blocks that are read together: of half as many a quarter of the time is for other things


class Incoming(Protocol):
    """Rows that are asked for.

    Attributes
    ----------
    sound : int
        Where some cannot be had, or are unfit: those before them that are in their places, and fit.
    """

    sound: int

    def finish(self, team: Team) -> int:
        """Bring them, by all of a team. When it returns all are fit to be trained on; and it returns how many of them
        were moved on from their places, in which the others are.

        Raises
        ------
        DataError
            If some are unfit or cannot be read, or a file is no longer as it was.
        """


class Read:
    """`Incoming` rows that compiled code reads, and moves on.

    Parameters
    ----------
    loader : Loader
    reader : Reader
        Of its dataset.
    spans : array (k, 2), int64
        Ranges of source rows, each in one file.
    places : Rows
        Where they go, in their storage dtype.
    straight : Straight
        What reads them there.
    move : Move, optional
        What becomes of them then.
    """

    def __init__(
        self, loader: Loader, reader: Reader, spans: Spans, places: Rows, straight: Straight, move: Move | None
    ) -> None:
        self.sound = 0
        self._loader = loader
        self._reader = reader
        self._spans = spans
        self._places = places
        self._straight = straight
        self._move = move

    def finish(self, team: Team) -> int:
        from fastsgd.kernels.reading import SHORT

        passage = Passage(len(self._places.x), self._loader, self._straight, self._move)
        passage.run(team)
        slow = passage.count_seconds()
        if passage.outcome == SHORT:
            self._read_by_block(team, passage.moved)
            return passage.moved
        self._straight.settle(slow=slow)
        if not self._loader.check.passes(self._places, dict.fromkeys(self._places._asdict(), passage.outcome)):
            self._say_what_is_unfit()
        return passage.moved

    def _read_by_block(self, team: Team, first: int) -> None:
        """Read all in Python, which says why where it cannot, and put the rows from `first` on to their places: those
        before have been there, and were not all looked at."""
        at = 0
        for rows in self._rows():
            team.go_on()
            new = rows.cut(max(0, first - at), len(rows.x))
            at += len(rows.x)
            for part, out in zip(new.parts(), self._places.cut(at - len(new.x), at).parts(), strict=True):
                np.copyto(out, part)
            self._reader.give_back(rows)

    def _rows(self) -> Iterator[Rows]:
        """The rows of each range, read to other places and checked."""
        for span in self._spans:
            block = Block(span.reshape(1, 2))
            rows = request_block(self._reader, block, partial(self._loader.check, block))()
            self.sound += len(rows.x)
            yield rows

    def _say_what_is_unfit(self) -> None:
        """Read all again, as the check of a block names the first value that is unfit."""
        for rows in self._rows():
            self._reader.give_back(rows)
        raise DataError(
            f"{self._loader.dataset}: values changed while they were read; make the dataset again, when nothing writes "
            "to its files any more"
        )


def comes_to_places(loader: Loader) -> bool:
    """Whether rows may be brought to places that are known before any is read."""
    dataset = loader.dataset
    return not (loader.blocks.scattered or dataset.lends_views or dataset.nan == "skip")


def comes_in_groups(loader: Loader) -> bool:
    """Whether blocks are read so where nothing else is done. Those that are decoded rather come one after the other:
    threads that wait for the last of each group lose 5 to 15 percent."""
    return comes_to_places(loader) and not loader.dataset.decodes()


def _is_compiled(loader: Loader) -> bool:
    """Whether compiled code may do all that is to be done to read rows that lie in files as in memory: no value needs
    another look that is found to be finite, and rows with others are an error."""
    from numba import config

    dataset, check = loader.dataset, loader.check
    looked_at = all(dtype.kind != "f" or dtype.itemsize > 2 for dtype in check.types)
    return not config.DISABLE_JIT and dataset.nan == "error" and not dataset.decodes() and looked_at and check.is_quick


def ask_for(
    loader: Loader, reader: Reader, spans: Spans, places: Rows, move: Move | None = None, rest: Rest | None = None
) -> Incoming:
    """Ask for source rows of some ranges, each in one file and one block, which come to places one after the other; the
    arguments are those of `Read` and `Brought`."""
    straight = reader.straight(spans, places) if _is_compiled(loader) else None
    if straight is None:
        return Brought(loader, reader, spans, places, rest)
    return Read(loader, reader, spans, places, straight, move)


def read_blocks(
    loader: Loader, reader: Reader, team: Team, blocks: Iterable[Block], whole: Rows | None = None
) -> Iterator[Rows]:
    """The rows of each block, until the next are asked for, or for good in `whole`, one after the other; as many are
    read together as the plan has memory for. Where one cannot be had, those before it come first."""
    size, most = loader.dataset.block_bytes(loader.blocks.widest), 1 + loader.plan.blocks_ahead
    # The first tells how the others lie.
    compiled = _is_compiled(loader) and reader.straight(loader.blocks[0].spans, loader.empty_rows(1)) is not None
    if whole is not None or compiled:  # else other bytes of the plan are for what is read, and decoded
        most = max(1, min(_TOGETHER_BYTES, loader.plan.block_bytes) // max(1, size))
    memory, at, remaining = loader.empty_rows(most * loader.blocks.largest) if whole is None else whole, 0, iter(blocks)
    while some := list(itertools.islice(remaining, most)):
        groups = [some]
        while groups:
            group = groups.pop(0)
            ends = list(itertools.accumulate((block.n_rows for block in group), initial=at))
            try:
                spans = np.concatenate([block.spans for block in group])
                ask_for(loader, reader, spans, memory.cut(at, ends[-1])).finish(team)
            except DataError:
                if len(group) == 1:
                    raise
                groups = [[block] for block in group]
                continue
            for first, last in itertools.pairwise(ends):
                yield memory.cut(first, last)
            at = 0 if whole is None else ends[-1]
