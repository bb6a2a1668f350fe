"""An epoch whose slabs are filled by the threads that train, while they train on the slab before.

Where rows lie in files as they do in memory, nothing but compiled code is needed to bring them: each is read to its
place in a slab, and swapped there with one of the window. That is work for the moments in which training waits for
memory, or for its own threads; where training is less work than that, its threads bring the rows when it has ended.
How many rows go which way is known from the start, as none is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastsgd.data.blocks import Reader, Rows
from fastsgd.data.incoming import Incoming, lies_straight
from fastsgd.data.order import block_order
from fastsgd.data.readers import OPEN_FILES
from fastsgd.data.refill import Refill
from fastsgd.data.slab import Slab
from fastsgd.data.team import Team
from fastsgd.data.window import Window

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader


def may_overlap(loader: Loader, reader: Reader) -> bool:
    """Whether the rows of an epoch may come so; the first block tells how the others lie."""
    dataset, blocks = loader.dataset, loader.blocks
    if blocks.scattered or set(loader.check.types) != {loader.dtype}:
        return False
    # Rows of a slab that lie in more files than may be open would come one file after the other.
    files, rows = len(dataset._files()) - 1, loader.plan.slab_rows * loader.plan.slabs
    if files > OPEN_FILES and rows * len(blocks) > OPEN_FILES * dataset.n_rows:
        return False
    return lies_straight(loader, reader, blocks[0])


class _Filling(NamedTuple):
    """A slab on its way: rows that come from files, to places in the slab or, of targets that are looked at, beside it;
    and what is done while the slab before is trained on."""

    slab: Slab
    first: int
    incoming: Incoming | None
    places: Rows
    refill: Refill | None


class Overlap:
    """Fills slabs with the rows of an epoch, from the row `start` of its order on.

    Parameters
    ----------
    loader : Loader
    reader : Reader
        Of its dataset.
    epoch, start : int
    team : Team
        Reads and moves what is not done meanwhile.
    """

    def __init__(self, loader: Loader, reader: Reader, epoch: int, start: int, team: Team) -> None:
        self._loader = loader
        self._reader = reader
        self._team = team
        self._start = start
        self._room = room = loader.take_room()
        n_blocks = len(loader.blocks)
        self._window = Window(loader, epoch, team, room.window) if loader.shuffle else None
        self._order = block_order(n_blocks, loader.seed, epoch) if loader.shuffle else np.arange(n_blocks)
        self._before = loader.blocks.rows_before(self._order)
        self._held = 0 if self._window is None else self._window.slots
        self._swapped = loader.dataset.n_rows - self._held  # rows that others push out; the rest is drained
        self._read_later = 0.0  # of what is read, by those who swap
        self._fast = True  # whether rows come from memory: to wait for a disk is nothing for threads that train

    def slabs(self) -> Iterator[Slab]:
        """Each slab when it is filled, with the refill of the next."""
        if self._window is not None:
            self._fill(self._window)
        loader, slabs, ready, batches = self._loader, self._room.slabs, None, 0
        size = len(slabs[0])
        for number, first in enumerate(range(self._start, loader.dataset.n_rows, size)):
            slab = slabs[number % len(slabs)].first(min(size, loader.dataset.n_rows - first))
            failed: Exception | None = None
            try:
                filling = self._begin(slab, first, batches)
            except Exception as error:
                failed = error  # the rows before it come first
            if ready is not None:
                yield replace(ready, refill=None if failed is not None else filling.refill)
            if failed is not None:
                raise failed
            self._finish(filling)
            ready, batches = slab, loader.batches(len(slab))
        if ready is not None:
            yield ready
        loader.keep_room(self._room)

    def _incoming(self, first: int, last: int, places: Rows) -> Incoming:
        """Rows first to last of those that come, in their order, on their way to places."""
        self._team.go_on()
        begin = int(np.searchsorted(self._before, first, side="right")) - 1
        end = int(np.searchsorted(self._before, last, side="left"))
        before, source = self._before[begin : end + 1], self._loader.blocks.first_rows[self._order[begin:end]]
        spans = np.column_stack([np.maximum(before[:-1], first), np.minimum(before[1:], last)])
        spans += (source - before[:-1]).reshape(-1, 1)
        return Incoming(self._loader, self._reader, spans, places)

    def _fill(self, window: Window) -> None:
        """Bring the window to where the first row goes out."""
        if self._start:
            window.restore(self._reader, self._order, min(self._start, self._swapped))
            return
        slab = self._room.slabs[0]
        for first in range(0, window.slots, len(slab)):
            places = slab.parts(0, min(window.slots - first, len(slab)))
            self._fast = self._incoming(first, first + len(places.x), places).finish(self._team)
            window.admit([places])

    def _begin(self, slab: Slab, first: int, batches: int) -> _Filling:
        """Ask for the rows of a slab; so many batches are trained on meanwhile."""
        outs = slab.parts(0, len(slab))
        coming = min(len(slab), max(0, self._swapped - first))
        places = outs.cut(0, coming)
        if self._room.targets.size:
            # Targets are looked at when all are read; by then some are swapped, and so must not lie where they go to.
            places = places._replace(y=self._room.targets[:coming])
        incoming = self._incoming(self._held + first, self._held + first + coming, places) if coming else None
        return _Filling(slab, first, incoming, places, self._refill(incoming, places, outs, first, batches))

    def _refill(self, incoming: Incoming | None, places: Rows, outs: Rows, first: int, batches: int) -> Refill | None:
        """How that is done while so many batches are trained on; None where it is not."""
        window, straight = self._window, None if incoming is None else incoming.straight
        if not (batches and self._fast and self._loader.fills_between) or (incoming is not None and straight is None):
            return None
        move = None
        if window is not None and incoming is not None:
            move = window.swapping(places, outs)
        elif window is not None:
            move = window.draining(first - self._swapped, outs)
        rows = len(outs.x if incoming is None else places.x)
        return Refill(rows, self._loader, straight, move, batches, self._read_later)

    def _finish(self, filling: _Filling) -> None:
        """Do what is left to be done."""
        slab, first, incoming, places, refill = filling
        loader, window, coming, done = self._loader, self._window, len(places.x), 0
        if refill is not None:
            done = refill.moved
            reading, moving = (seconds / loader.threads() for seconds in refill.seconds)
            loader.spent.add(reading=reading, shuffling=moving)
        if incoming is not None:
            self._fast = incoming.finish(self._team, refill)
            self._read_later = self._read_later if refill is None else refill.even_share
        if window is None:
            return
        begin, outs = time.perf_counter(), slab.parts(0, len(slab))
        if coming:
            window.exchanged += done
            window.exchange([places.cut(done, coming)], outs.cut(done, coming))
        drained = max(done, coming)
        window.drain(first + drained - self._swapped, outs.cut(drained, len(slab)))
        loader.spent.add(shuffling=time.perf_counter() - begin)
