"""One epoch through the swap window, filled by a thread that reads ahead of its consumer, or in turns with it."""

from __future__ import annotations

import operator
import os
import queue
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Block, Reader, Rows
from fastsgd.data.order import block_order, drain_key
from fastsgd.data.window import Window
from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader

_END_SECONDS = 30  # that the end of a stream waits for its thread at most, which ends after the block it is reading
_BYTES_WORTH_HELP = 1 << 16  # of the consumer's thread, which is there
_LOOK_SECONDS = 0.5  # how often a consumer that waits looks whether the thread still runs


@dataclass
class Slab:
    """Whole batches of rows: x (rows, n_features), y (rows, n_targets), weight (rows,) or (0,).

    Where `order` (int64) is not empty, the arrays are those of a whole dataset, and the slab is its rows in that order.
    The arrays are used again for a later slab: copy what must outlive the next step of the iteration.
    """

    x: NDArray[np.floating]
    y: NDArray[np.floating]
    weight: NDArray[np.floating]
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.order) or len(self.x)

    def first(self, rows: int) -> Slab:
        """The first `rows` rows."""
        return self.rows(0, rows)

    def rows(self, first: int, last: int) -> Slab:
        """Rows `first` to `last`."""
        if len(self.order):
            return replace(self, order=self.order[first:last])
        return Slab(self.x[first:last], self.y[first:last], self.weight[first:last])


# Brings rows into a slab: the share of one of several threads. Called with the number of the thread, how many there
# are, the number of a part (0: x, 1: y, 2: weight), its rows, the position of the first of them among those emitted
# together, and where they go.
Move = Callable[[int, int, int, NDArray[np.generic], int, NDArray[np.floating]], None]
_Piece = tuple[int, NDArray[np.generic], int, NDArray[np.floating]]  # what a `Move` is called with, after the threads


@dataclass(frozen=True)
class _Between:
    """What the two sides of a stream share: slabs to be filled (None: no more are wanted), those that are (None after
    the last, or an error), whether the consumer waits for one, and calls that it makes meanwhile: they come among the
    slabs, and what became of them goes back (True: made)."""

    free: queue.SimpleQueue[Slab | None] = field(default_factory=queue.SimpleQueue)
    ready: queue.SimpleQueue[Slab | Callable[[], None] | BaseException | None] = field(
        default_factory=queue.SimpleQueue
    )
    consumer_waits: threading.Event = field(default_factory=threading.Event)
    made: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)


class Stream:
    """The consumer's side: takes slabs, gives them back, and ends the thread with itself."""

    def __init__(self, loader: Loader, epoch: int, start: int = 0) -> None:
        from fastsgd.kernels.host import require_thread

        self._between = between = _Between()
        for slab in loader.stream_slabs():
            between.free.put(slab)
        self._current: Slab | None = None
        filler = _Filler(loader, epoch, start, between)
        self._thread = thread = threading.Thread(target=filler.run, name="fastsgd-loader", daemon=True)
        # Both also at the end of the interpreter, the second first: a thread that still read then would crash it.
        weakref.finalize(thread, _join, weakref.ref(thread))
        self.close = weakref.finalize(self, _end, between, filler.stop, thread)
        self._process = os.getpid()
        require_thread()
        thread.start()

    def next(self) -> Slab | None:
        """The next slab, or None after the last; raises what the thread raised."""
        if os.getpid() != self._process:
            raise DataError(
                "this iteration was begun before the process was forked, and the thread that reads for it is in the "
                "process that began it alone; begin another in this one"
            )
        self._between.consumer_waits.set()
        item = self._wait()
        self._between.consumer_waits.clear()
        if isinstance(item, BaseException):
            raise item
        self._current = item
        return item

    def _wait(self) -> Slab | BaseException | None:
        while True:
            runs = self._thread.is_alive()
            try:
                item = self._between.ready.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if not runs:  # it had no memory even to say so
                    return MemoryError("the thread that reads has ended")
                continue
            if not callable(item):
                return item
            made = False
            try:
                item()
                made = True
            finally:
                self._between.made.put(made)

    def give_back(self) -> None:
        """Let the slab be filled again."""
        if self._current is not None:
            self._between.consumer_waits.set()  # at once: who fills it looks whether all cores are free
            self._between.free.put(self._current)


def _end(between: _Between, stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    between.free.put(None)
    between.made.put(False)
    # The garbage collector may call from anywhere: from the thread itself, or with a lock that the thread waits for.
    if thread.is_alive() and thread is not threading.current_thread() and not _holds_a_lock():
        thread.join(_END_SECONDS)


def _holds_a_lock() -> bool:
    """Whether the caller is inside of HDF5 or of the compiler, which no other thread may then enter."""
    from fastsgd.kernels.jit import compiles

    h5py = sys.modules.get("h5py._objects")
    return compiles() or (h5py is not None and h5py.phil._is_owned())


def _join(found: weakref.ref[threading.Thread]) -> None:
    thread = found()
    if thread is not None and thread.is_alive():
        thread.join(_END_SECONDS)


class _StoppedError(Exception):
    """The consumer has ended the epoch."""


class _Filler:
    """The thread's side of a stream. Holds no reference to the stream, whose end it must not delay.

    It is the loader's `Team`: where the consumer waits, that one's thread takes part.
    """

    def __init__(
        self,
        loader: Loader,
        epoch: int,
        start: int,
        between: _Between,
    ) -> None:
        self.stop = threading.Event()
        self._loader = loader
        self._epoch = epoch
        self._between = between
        self._slab: Slab | None = None
        self._filled = 0
        # How many rows a block leaves is known only when it is read, where some are left out: then all are read.
        all_are_read = loader.dataset.nan == "skip"
        self._start = 0 if all_are_read else start
        self._passed_over = start if all_are_read else 0
        self._emitted = self._start

    def run(self) -> None:
        """Fill slabs until the rows or the consumer end."""
        from fastsgd.kernels.aside import stop_with
        from fastsgd.kernels.sharing import keep_threads, yield_to_others

        stop_with(self.stop)
        yield_to_others()
        try:
            with keep_threads():
                self._fill_all()
            self._between.ready.put(None)
        except _StoppedError:
            pass
        except BaseException as error:
            # Whoever keeps the error must not keep the window with it, which the frames of its traceback hold.
            traceback.clear_frames(error.__traceback__)
            self._between.ready.put(error)

    def _fill_all(self) -> None:
        loader = self._loader
        with loader.dataset.open(loader.decoders(), loader.spent) as reader:
            if loader.shuffle:
                self._through_window(reader)
            else:
                for rows in self._read_from(reader, np.arange(len(loader.blocks)), self._start):
                    self._emit(rows, _copy_rows)
                    rows.clear()
        loader.require_some(self._emitted)
        self._hand_over()

    def room(self) -> int:
        """The blocks that the slab has room for, once the consumer waits for it, where the two take turns."""
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
        for rows in self._loader.read_together(reader, (blocks[index] for index in order[first:]), self):
            rows[0] = rows[0].each(operator.itemgetter(slice(skipped, None)))
            yield rows
            skipped = 0

    def go_on(self) -> None:
        """Raise _StoppedError where the consumer has ended the epoch."""
        if self.stop.is_set():
            raise _StoppedError

    def _through_window(self, reader: Reader) -> None:
        from fastsgd.kernels.rows import fill_order, gather

        loader, epoch = self._loader, self._epoch
        window = Window(loader, epoch)
        order = block_order(len(loader.blocks), loader.seed, epoch)
        if self._start:
            window.exchanged = min(self._start, loader.dataset.n_rows - window.slots)
            self._refill(window, reader, order)
        for rows in self._read_from(reader, order, window.admitted):
            self._exchange(window, rows)
            rows.clear()  # gone before the next are asked for
        key, held = drain_key(loader.seed, epoch), window.held()

        def drain(
            thread: int, threads: int, part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating]
        ) -> None:
            span = _share_of(len(out), thread, threads)
            order = np.empty(span.stop - span.start, np.int64)
            fill_order(0, 1, key, len(held.x), at + span.start, order)
            gather(0, 1, held[part], order, out[span])

        self._emit([held], drain, max(0, self._start - window.exchanged))

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
            self.go_on()
            window.put(rows, found.popleft())
            del rows

    def _exchange(self, window: Window, blocks: list[Rows]) -> None:
        """Emit what the rows of some blocks push out of the window."""
        from fastsgd.kernels.rows import exchange

        blocks = [window.admit(rows) for rows in blocks]
        start = window.exchanged

        def swap(
            thread: int, threads: int, part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating]
        ) -> None:
            exchange(thread, threads, window.rows[part], rows, out, window.key, start + at)

        self._emit(blocks, swap)
        window.exchanged += sum(len(rows.x) for rows in blocks)

    def _free_slab(self) -> Slab:
        """The slab that is being filled, maybe once the consumer has given it back."""
        if self._slab is None:
            self._slab = self._between.free.get()
            self._filled = 0
            if self._slab is None:
                raise _StoppedError
        return self._slab

    def takers(self) -> int:
        return self._loader.threads()

    def together(self, work: Callable[..., None], threads: int, *arguments: Any) -> None:
        """``work(i, threads, *arguments)`` for each i below `threads`; for one alone, unless the consumer waits, whose
        thread then takes part: it has a core, while the system may start a new one on this thread's."""
        from fastsgd.kernels.sharing import share

        if threads == 1 or not (self._between.consumer_waits.is_set() and self._between.ready.empty()):
            work(0, 1, *arguments)
            return
        with self._loader.spent.side_by_side(threads):
            self._between.ready.put(partial(work, threads - 1, threads, *arguments))
            try:
                share(work, threads - 1, threads, *arguments)
            finally:  # whatever comes of it here, nothing may be let go that the consumer's thread still works on
                made = self._between.made.get()
            if not made:
                raise _StoppedError

    def _emit(self, blocks: Sequence[Rows], move: Move, at: int = 0) -> None:
        """Append the rows of some blocks, one after the other, to the slabs, from the row `at` on.

        On one thread, as the others compute; on all while these wait for rows.
        """
        n, loader = sum(len(rows.x) for rows in blocks), self._loader
        while at < n:
            self.go_on()
            slab = self._free_slab()
            count = min(n - at, len(slab.x) - self._filled, self._passed_over or n)
            span = slice(self._filled, self._filled + count)
            outs = (slab.x[span], slab.y[span], slab.weight[span].reshape(-1, 1))
            begin = time.perf_counter()
            worth_help = count * loader.dataset.row_bytes >= _BYTES_WORTH_HELP
            helped = min(loader.threads(), 2 if worth_help else 1)
            self.together(
                _move_pieces, max(helped, loader.workers(count)), move, list(_pieces(blocks, at, count, outs))
            )
            loader.spent.add(shuffling=time.perf_counter() - begin)
            at += count
            self._emitted += count
            if self._passed_over:
                self._passed_over -= count
                continue
            self._filled += count
            if self._filled == len(slab.x):
                self._hand_over()

    def _hand_over(self) -> None:
        if self._slab is not None and self._filled:
            self._between.ready.put(self._slab if self._filled == len(self._slab.x) else self._slab.first(self._filled))
            self._slab = None


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
