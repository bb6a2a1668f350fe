"""Rows on their way from files to places in memory, read by compiled code."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fastsgd.data.blocks import Block, Reader, Rows, Spans, request_block
from fastsgd.data.refill import Refill
from fastsgd.data.runs import bytes_of, calls_of, first_of, is_slow, read_table
from fastsgd.data.team import Team
from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader
    from fastsgd.data.readers import Straight


class Incoming:
    """Rows that are asked for.

    Parameters
    ----------
    loader : Loader
    reader : Reader
        Of its dataset.
    spans : array (k, 2), int64
        Ranges of source rows, each in one file.
    places : Rows
        Where they go, in their storage dtype.

    Attributes
    ----------
    straight : Straight or None
        What compiled code reads; None where it cannot.
    """

    def __init__(self, loader: Loader, reader: Reader, spans: Spans, places: Rows) -> None:
        self._loader = loader
        self._reader = reader
        self._spans = spans
        self._places = places
        self.straight = reader.straight(spans, places)

    def finish(self, team: Team, refill: Refill | None = None) -> bool:
        """Read what a refill has not; returns when all rows are in their places, from where the refill may have moved
        some, and fit to be trained on. Whether they came from memory, where nobody had asked for them before.

        Raises
        ------
        DataError
            If some are unfit or cannot be read, or a file is no longer as it was.
        """
        from fastsgd.kernels.reading import FINITE, SHORT

        outcome, slow = (SHORT, False) if self.straight is None else self._read(self.straight, team, refill)
        if self.straight is None or outcome == SHORT:
            self._read_by_block(team, 0 if refill is None else refill.moved)
            return False
        self.straight.settle(slow=slow)
        finite = self._places._asdict() if outcome == FINITE else ()
        if not self._loader.check.passes(self._places, finite):
            self._say_what_is_unfit()
        return not (slow or self.straight.asked)

    def _read(self, straight: Straight, team: Team, refill: Refill | None) -> tuple[int, bool]:
        """Read what a refill has not; returns the least that became of any row, and whether some came slowly."""
        from fastsgd.kernels.reading import FINITE, SHORT

        outcome, slow, read = (FINITE, False, 0) if refill is None else (refill.outcome, refill.is_slow, refill.read)
        left = straight.after(read)
        while len(left) and outcome != SHORT:
            team.go_on()
            sizes = bytes_of(left)
            count = first_of(sizes)
            outcomes, seconds = read_table(left[:count], team.together, self._loader.threads(), self._places)
            self._loader.spent.add(reading=seconds)
            slow |= is_slow(int(sizes[:count].sum()), calls_of(left[:count]), seconds)
            outcome = min(outcome, *outcomes)
            left = left[count:]
        return outcome, slow

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
            yield request_block(self._reader, block, partial(self._loader.check, block))()

    def _say_what_is_unfit(self) -> None:
        """Read all again, as the check of a block names the first value that is unfit."""
        for rows in self._rows():
            self._reader.give_back(rows)
        raise DataError(
            f"{self._loader.dataset}: values changed while they were read; make the dataset again, when nothing writes "
            "to its files any more"
        )


def lies_straight(loader: Loader, reader: Reader, block: Block) -> bool:
    """Whether the rows of a block lie in files as in memory, and compiled code may do all that is to be done to read
    them: no value needs another look that is found to be finite, and rows with others are an error."""
    from numba import config

    dataset, check = loader.dataset, loader.check
    looked_at = all(dtype.kind != "f" or dtype.itemsize > 2 for dtype in check.types)
    if config.DISABLE_JIT or dataset.nan != "error" or dataset.decodes() or not (looked_at and check.is_quick):
        return False
    return reader.straight(block.spans, loader.empty_rows(1)) is not None


def read_blocks(loader: Loader, reader: Reader, team: Team, blocks: Iterable[Block]) -> Iterator[Rows]:
    """The rows of each block, until the next are asked for; as many are read together as the plan has memory for. Where
    one cannot be had, those before it come first."""
    most, remaining = 1 + loader.plan.blocks_ahead, iter(blocks)
    memory = loader.empty_rows(most * loader.blocks.largest)
    while some := list(itertools.islice(remaining, most)):
        groups = [some]
        while groups:
            group = groups.pop(0)
            ends = list(itertools.accumulate((block.n_rows for block in group), initial=0))
            try:
                spans = np.concatenate([block.spans for block in group])
                Incoming(loader, reader, spans, memory.cut(0, ends[-1])).finish(team)
            except DataError:
                if len(group) == 1:
                    raise
                groups = [[block] for block in group]
                continue
            for first, last in itertools.pairwise(ends):
                yield memory.cut(first, last)
