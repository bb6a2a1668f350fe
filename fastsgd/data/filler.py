"""One epoch of rows on their way into slabs: as they are stored, or through the swap window."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Block, Reader, Rows
from fastsgd.data.order import block_order, drain_key
from fastsgd.data.slab import Slab
from fastsgd.data.team import Team
from fastsgd.data.window import Window

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader

_BYTES_A_THREAD = 1 << 16  # that are moved in about the time that a thread takes to wake

# Brings rows into a slab: the share of one of several threads. Called with the number of the thread, how many there
# are, the number of a part (0: x, 1: y, 2: weight), its rows, the position of the first of them among those emitted
# together, and where they go.
Move = Callable[[int, int, int, NDArray[np.generic], int, NDArray[np.floating]], None]
_Piece = tuple[int, NDArray[np.generic], int, NDArray[np.floating]]  # what a `Move` is called with, after the threads


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

    def slabs(self) -> Iterator[Slab]:
        """Each slab when it is filled."""
        loader = self._loader
        with loader.dataset.open(loader.decoders(), loader.spent) as reader:
            if loader.shuffle:
                yield from self._through_window(reader)
            else:
                for rows in self._read_from(reader, np.arange(len(loader.blocks)), self._start):
                    yield from self._emit(rows, _copy_rows)
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
        for rows in self._loader.read_together(reader, wanted, self._team, self._room):
            rows[0] = rows[0].each(operator.itemgetter(slice(skipped, None)))
            yield rows
            skipped = 0

    def _through_window(self, reader: Reader) -> Iterator[Slab]:
        from fastsgd.kernels.rows import fill_order, gather

        loader, epoch = self._loader, self._epoch
        window = Window(loader, epoch)
        order = block_order(len(loader.blocks), loader.seed, epoch)
        if self._start:
            window.exchanged = min(self._start, loader.dataset.n_rows - window.slots)
            self._refill(window, reader, order)
        for rows in self._read_from(reader, order, window.admitted):
            yield from self._exchange(window, rows)
            rows.clear()  # gone before the next are asked for
        key, held = drain_key(loader.seed, epoch), window.held()

        def drain(
            thread: int, threads: int, part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating]
        ) -> None:
            span = _share_of(len(out), thread, threads)
            order = np.empty(span.stop - span.start, np.int64)
            fill_order(0, 1, key, len(held.x), at + span.start, order)
            gather(0, 1, held[part], order, out[span])

        yield from self._emit([held], drain, max(0, self._start - window.exchanged))

    def _refill(self, window: Window, reader: Reader, order: NDArray[np.int64]) -> None:
        """Read what the window held after its exchanges, from the last row that came to the first.

        The places of the rows of blocks that are read ahead take the memory of slabs, none of which is filled yet.
        """
        blocks, found = self._loader.blocks, deque[NDArray[np.int64]]()
        before = np.minimum(blocks.rows_before(order), window.slots + window.exchanged)

        def wanted() -> Iterator[Block]:
            missing, taken = window.slots, np.zeros(window.slots // 8 + 1, np.uint8)
            for index, first, last in zip(order[::-1], before[-2::-1], before[:0:-1], strict=True):
                places = window.places(int(first), int(last), taken)
                here = int((places >= 0).sum())
                if here:
                    found.append(places)
                    yield blocks[index]
                missing -= here
                if not missing:
                    return

        for rows in self._loader.read(reader, wanted()):
            self._team.go_on()
            window.put(rows, found.popleft())
            del rows

    def _exchange(self, window: Window, blocks: list[Rows]) -> Iterator[Slab]:
        """Emit what the rows of some blocks push out of the window."""
        from fastsgd.kernels.rows import exchange

        blocks = [window.admit(rows) for rows in blocks]
        start = window.exchanged

        def swap(
            thread: int, threads: int, part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating]
        ) -> None:
            exchange(thread, threads, window.rows[part], rows, out, window.key, start + at)

        yield from self._emit(blocks, swap)
        window.exchanged += sum(len(rows.x) for rows in blocks)

    def _free_slab(self) -> Slab:
        """The slab that is being filled."""
        if self._slab is None:
            self._slab = self._free()
            self._filled = 0
        return self._slab

    def _emit(self, blocks: Sequence[Rows], move: Move, at: int = 0) -> Iterator[Slab]:
        """Append the rows of some blocks, one after the other, to the slabs, from the row `at` on."""
        n, loader = sum(len(rows.x) for rows in blocks), self._loader
        while at < n:
            self._team.go_on()
            slab = self._free_slab()
            count = min(n - at, len(slab.x) - self._filled, self._passed_over or n)
            span = slice(self._filled, self._filled + count)
            outs = (slab.x[span], slab.y[span], slab.weight[span].reshape(-1, 1))
            begin = time.perf_counter()
            threads = 1 + count * loader.dataset.row_bytes // _BYTES_A_THREAD
            self._team.together(_move_pieces, threads, move, list(_pieces(blocks, at, count, outs)))
            loader.spent.add(shuffling=time.perf_counter() - begin)
            at += count
            self._emitted += count
            if self._passed_over:
                self._passed_over -= count
                continue
            self._filled += count
            if self._filled == len(slab.x):
                self._slab = None
                yield slab


def _share_of(rows: int, thread: int, threads: int) -> slice:
    return slice(rows * thread // threads, rows * (thread + 1) // threads)


def _copy_rows(
    thread: int, threads: int, part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating]
) -> None:
    span = _share_of(len(out), thread, threads)
    np.copyto(out[span], rows[span], casting="unsafe")


def _pieces(blocks: Sequence[Rows], first: int, count: int, outs: tuple[NDArray[np.floating], ...]) -> Iterator[_Piece]:
    """What of some blocks, one after the other, are `count` rows from row `first` on."""
    start = 0
    for rows in blocks:
        left, right = max(first, start), min(first + count, start + len(rows.x))
        if left < right:
            for part, (source, out) in enumerate(zip(rows, outs, strict=True)):
                if source is not None:
                    yield part, source[left - start : right - start], left, out[left - first : right - first]
        start += len(rows.x)


def _move_pieces(thread: int, threads: int, move: Move, pieces: Sequence[_Piece]) -> None:
    """A thread's share of what brings rows into a slab.

    Each begins with another part: rows that are neighbours in the slab share cache lines, which two threads that move
    them at the same time take from each other, at half of the speed.
    """
    for piece in sorted(pieces, key=lambda piece: (piece[0] - thread) % len(Rows._fields)):
        move(thread, threads, *piece)
