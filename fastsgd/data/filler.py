"""One epoch of rows on their way into slabs: as they are stored, or through the swap window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Reader, Rows, cut_blocks
from fastsgd.data.order import block_order
from fastsgd.data.slab import Slab
from fastsgd.data.team import Team, copy_shares
from fastsgd.data.together import Together
from fastsgd.data.window import Window

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader

# Brings rows into a slab: those from a position on among the ones that are emitted together, as many as the slab's part
# has room for.
Move = Callable[[int, Rows], None]


class Filler:
    """Fills slabs with the rows of an epoch, from the row `start` of its order on.

    Parameters
    ----------
    loader : Loader
    epoch, start : int
    team : Team
        Reads and moves rows.
    free : callable
        Returns a slab to be filled; it may wait for one.
    """

    def __init__(self, loader: Loader, epoch: int, start: int, team: Team, free: Callable[[], Slab]) -> None:
        self._loader = loader
        self._epoch = epoch
        self._team = team
        self._free = free
        self._slab: Slab | None = None
        self._filled = 0
        # How many rows a block leaves is known only when it is read, where some are left out: then all are read.
        all_are_read = loader.dataset.nan == "skip"
        self._start = 0 if all_are_read else start
        self._passed_over = start if all_are_read else 0
        self._emitted = self._start

    def slabs(self, reader: Reader) -> Iterator[Slab]:
        """Each slab when it is filled, of what the dataset's reader reads."""
        loader = self._loader
        if loader.shuffle:
            yield from self._through_window(reader)
        else:
            for rows in self._read_from(reader, np.arange(len(loader.blocks)), self._start):
                yield from self._emit(_count(rows), partial(self._copy, rows))
                rows.clear()
        loader.require_some(self._emitted)
        if self._slab is not None and self._filled:
            yield self._slab.first(self._filled)

    def _room(self) -> int:
        """The blocks that the slab has room for, where rows are read only while it is waited for."""
        if not self._loader.takes_turns:
            return 1
        room = len(self._free_slab().x) - self._filled
        return max(1, -(-room // self._loader.blocks.largest))

    def _read_from(self, reader: Reader, order: NDArray[np.int64], number: int) -> Iterator[list[Rows]]:
        """Rows of the blocks in some order, of some blocks at a time, from the row of this number on."""
        blocks = self._loader.blocks
        before = blocks.rows_before(order)
        first = int(np.searchsorted(before, number, side="right")) - 1
        skipped = number - int(before[first])
        wanted = (blocks[index] for index in order[first:])
        # In turns nothing else reads while a slab is trained on.
        loader = self._loader
        tells = loader.takes_turns and not loader.dataset.lends_views
        ahead = -(-len(self._free_slab().x) // blocks.largest) if tells else 0
        for rows in Together(loader, reader, self._team, self._room, ahead=ahead).read(wanted):
            rows[0] = rows[0].cut(skipped, len(rows[0].x))
            yield rows
            skipped = 0

    def _through_window(self, reader: Reader) -> Iterator[Slab]:
        loader, epoch = self._loader, self._epoch
        window = Window(loader, epoch, self._team)
        order = block_order(len(loader.blocks), loader.seed, epoch)
        if self._start:
            exchanged = min(self._start, loader.dataset.n_rows - window.slots)
            window.restore(reader, order, exchanged)
        for rows in self._read_from(reader, order, window.admitted):
            rows[:] = window.admit(rows)
            yield from self._emit(_count(rows), partial(_exchange, window, rows))
            rows.clear()  # gone before the next are asked for
        yield from self._emit(window.held, window.drain, max(0, self._start - window.exchanged))

    def _free_slab(self) -> Slab:
        """The slab that is being filled."""
        if self._slab is None:
            self._slab = self._free()
            self._filled = 0
        return self._slab

    def _copy(self, blocks: Sequence[Rows], first: int, outs: Rows) -> None:
        pairs, at = list[tuple[NDArray[Any], NDArray[Any]]](), 0
        for rows in cut_blocks(blocks, first, len(outs.x)):
            n = len(rows.x)
            pairs += zip(rows.parts(), outs.cut(at, at + n).parts(), strict=True)
            at += n
        self._team.move(at * self._loader.dataset.row_bytes, copy_shares, pairs)

    def _emit(self, n: int, move: Move, at: int = 0) -> Iterator[Slab]:
        """Append n rows to the slabs, from the row `at` on."""
        while at < n:
            self._team.go_on()
            slab = self._free_slab()
            count = min(n - at, len(slab.x) - self._filled, self._passed_over or n)
            begin = time.perf_counter()
            move(at, slab.parts(self._filled, self._filled + count))
            self._loader.spent.add(shuffling=time.perf_counter() - begin)
            at += count
            self._emitted += count
            if self._passed_over:
                self._passed_over -= count
                continue
            self._filled += count
            if self._filled == len(slab.x):
                self._slab = None
                yield slab


def _count(blocks: Sequence[Rows]) -> int:
    return sum(len(rows.x) for rows in blocks)


def _exchange(window: Window, blocks: Sequence[Rows], first: int, outs: Rows) -> None:
    window.exchange(list(cut_blocks(blocks, first, len(outs.x))), outs)
