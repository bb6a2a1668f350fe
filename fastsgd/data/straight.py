"""An epoch of which no row is left out: how many go which way is known from the start.

Each row is read or decoded to its place in a slab, and swapped there with one of the window, or goes on as it came;
parts of another dtype than they are trained in go beside the slab, and into it when they are swapped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastsgd.data.blocks import Reader, Rows
from fastsgd.data.brought import Rest
from fastsgd.data.incoming import Incoming, ask_for, comes_to_places
from fastsgd.data.order import block_order
from fastsgd.data.passage import Move
from fastsgd.data.readers import OPEN_FILES
from fastsgd.data.slab import Slab
from fastsgd.data.team import Team, copy_shares
from fastsgd.data.window import Window
from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader


def goes_straight(loader: Loader) -> bool:
    """Whether the rows of an epoch may come so."""
    # Rows of a slab that lie in more files than may be open would come one file after the other.
    files, rows = len(loader.dataset._files()) - 1, loader.plan.slab_rows * loader.plan.slabs
    if files > OPEN_FILES and rows * len(loader.blocks) > OPEN_FILES * loader.dataset.n_rows:
        return False
    return comes_to_places(loader)


class _Filling(NamedTuple):
    """A slab on its way: the number of its first row; and rows that come from files, if any do, and their places."""

    slab: Slab
    first: int
    places: Rows
    incoming: Incoming | None


class StraightFiller:
    """Fills a slab, time and again, with the rows of an epoch, from the row `start` of its order on.

    Parameters
    ----------
    loader : Loader
    reader : Reader
        Of its dataset.
    epoch, start : int
    team : Team
        Reads and moves rows.
    """

    def __init__(self, loader: Loader, reader: Reader, epoch: int, start: int, team: Team) -> None:
        self._loader = loader
        self._reader = reader
        self._team = team
        self._start = start
        self._room = room = loader.take_room()
        self._rest = None if room.rest is None else Rest(room.rest)
        n_blocks = len(loader.blocks)
        self._window = Window(loader, epoch, team, room.window) if loader.shuffle else None
        self._order = block_order(n_blocks, loader.seed, epoch) if loader.shuffle else np.arange(n_blocks)
        self._before = loader.blocks.rows_before(self._order)
        self._held = 0 if self._window is None else self._window.slots
        self._swapped = loader.dataset.n_rows - self._held  # rows that others push out; the rest is drained

    def slabs(self) -> Iterator[Slab]:
        """Each slab when it is filled."""
        if self._window is not None:
            self._fill(self._window)
        loader, ready = self._loader, list[Slab]()
        size = len(self._room.slab)
        for first in range(self._start, loader.dataset.n_rows, size):
            slab, failed = self._room.slab.first(min(size, loader.dataset.n_rows - first)), None
            try:
                filling = self._ask(slab, first)
            except Exception as error:
                failed = error  # the rows before it come first
            yield from ready
            if failed is not None:
                raise failed
            try:
                self._finish(filling)
            except DataError:
                if self._window is None:  # else some have been swapped
                    yield from self._sound(filling)
                raise
            ready = [slab]
        yield from ready
        loader.keep_room(self._room)

    def _incoming(self, first: int, last: int, places: Rows, move: Move | None) -> Incoming:
        """Rows first to last of those that come, in their order, on their way to places and from there."""
        self._team.go_on()
        begin = int(np.searchsorted(self._before, first, side="right")) - 1
        end = int(np.searchsorted(self._before, last, side="left"))
        before, source = self._before[begin : end + 1], self._loader.blocks.first_rows[self._order[begin:end]]
        spans = np.column_stack([np.maximum(before[:-1], first), np.minimum(before[1:], last)])
        spans += (source - before[:-1]).reshape(-1, 1)
        return ask_for(self._loader, self._reader, spans, places, move, self._rest)

    def _fill(self, window: Window) -> None:
        """Bring the window to where the first row goes out."""
        if self._start:
            window.restore(self._reader, self._order, min(self._start, self._swapped))
            return
        room = len(self._room.slab)
        for first in range(0, window.slots, room):
            places = self._room.coming.cut(0, min(window.slots - first, room))
            n = len(places.x)
            moved = self._incoming(first, first + n, places, window.putting(places)).finish(self._team)
            window.held += moved
            window.admit([places.cut(moved, n)])

    def _ask(self, slab: Slab, first: int) -> _Filling:
        """Ask for the rows of a slab, which others may still be in."""
        coming, window = min(len(slab), max(0, self._swapped - first)), self._window
        places, outs = self._room.coming.cut(0, coming), self._room.going.cut(0, coming)
        if not coming:
            return _Filling(slab, first, places, None)
        move = None if window is None else window.swapping(places, outs)
        begin = self._held + first
        return _Filling(slab, first, places, self._incoming(begin, begin + coming, places, move))

    def _finish(self, filling: _Filling) -> None:
        """Bring them there."""
        slab, first, places, incoming = filling
        window, coming = self._window, len(places.x)
        moved = 0 if incoming is None else incoming.finish(self._team)
        begin, outs = time.perf_counter(), self._room.going.cut(0, coming)
        if window is not None:
            window.exchanged += moved
            if moved < coming:
                window.exchange([places.cut(moved, coming)], outs.cut(moved, coming))
        self._cast(outs, slab)
        if window is not None and coming < len(slab):
            window.drain(first + coming - self._swapped, slab.parts(coming, len(slab)))
        self._loader.spent.add(shuffling=time.perf_counter() - begin)

    def _sound(self, filling: _Filling) -> Iterator[Slab]:
        """The batches before rows that are to be had no more, or are unfit."""
        assert filling.incoming is not None
        size = self._loader.batch_size
        rows = filling.incoming.sound // size * size
        if rows:
            self._cast(self._room.going.cut(0, rows), filling.slab)
            yield filling.slab.first(rows)

    def _cast(self, rows: Rows, slab: Slab) -> None:
        """Copy parts of rows that are of another dtype into the slab."""
        outs = slab.parts(0, len(rows.x)).parts()
        pairs = [(part, out) for part, out in zip(rows.parts(), outs, strict=True) if part.dtype != out.dtype]
        if pairs:
            self._team.move(sum(part.nbytes for part, _ in pairs), copy_shares, pairs)
