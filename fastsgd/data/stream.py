"""Slabs of an epoch that is read as it is trained on: in turns with the consumer, or by a thread beside it."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastsgd.data.filler import Filler
from fastsgd.data.frames import let_go
from fastsgd.data.helpers import may_wait
from fastsgd.data.slab import Slab
from fastsgd.data.straight import StraightFiller, goes_straight
from fastsgd.data.team import Team
from fastsgd.errors import DataError

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader

_END_SECONDS = 30  # that the end of a stream waits for its thread at most, which ends after the block it is reading
_LOOK_SECONDS = 0.5  # how often a consumer that waits looks whether the thread still runs


def stream(loader: Loader, epoch: int, start: int) -> Iterator[Slab]:
    """The slabs of an epoch; each may be filled again when the next is asked for."""
    process = os.getpid()
    with closing((_in_turns if loader.takes_turns else _beside)(loader, epoch, start)) as slabs:  # type: ignore[type-var]
        while True:
            if os.getpid() != process:
                raise DataError(
                    "this iteration was begun before the process was forked, and the threads that read for it are in "
                    "the process that began it alone; begin another in this one"
                )
            asked = time.perf_counter()
            slab = next(slabs, None)
            loader.waited += time.perf_counter() - asked
            if slab is None:
                return
            yield slab


def _in_turns(loader: Loader, epoch: int, start: int) -> Iterator[Slab]:
    """Slabs that the consumer's own threads fill."""
    from fastsgd.kernels.sharing import keeps_threads

    team = Team(loader.threads() if keeps_threads() else 1, loader.spent)
    try:
        with loader.open() as reader:
            if goes_straight(loader):
                yield from StraightFiller(loader, reader, epoch, start, team).slabs()
                return
            (slab,) = loader.stream_slabs()
            yield from Filler(loader, epoch, start, team, lambda: slab).slabs(reader)
    except BaseException as error:
        let_go(error)
        raise


def _beside(loader: Loader, epoch: int, start: int) -> Iterator[Slab]:
    """Slabs that a thread of their own fills."""
    reader = Stream(loader, epoch, start)
    try:
        while (slab := reader.next()) is not None:
            yield slab
            reader.give_back()
    finally:
        reader.close()


@dataclass(frozen=True)
class _Between:
    """What the two sides of a stream share: slabs to be filled (None: no more are wanted), those that are (None after
    the last, or an error), and whether the consumer waits for one."""

    free: queue.SimpleQueue[Slab | None] = field(default_factory=queue.SimpleQueue)
    ready: queue.SimpleQueue[Slab | BaseException | None] = field(default_factory=queue.SimpleQueue)
    consumer_waits: threading.Event = field(default_factory=threading.Event)


class Stream:
    """The consumer's side of a thread that fills slabs: takes and gives them back, and ends the thread with itself."""

    def __init__(self, loader: Loader, epoch: int, start: int = 0) -> None:
        from fastsgd.kernels.host import require_thread

        self._between = between = _Between()
        for slab in loader.stream_slabs():
            between.free.put(slab)
        self._current: Slab | None = None
        filling = _Filling(loader, epoch, start, between)
        self._thread = thread = threading.Thread(target=filling.run, name="fastsgd-loader", daemon=True)
        # Both also at the end of the interpreter, the second first: a thread that still read then would crash it.
        weakref.finalize(thread, _join, weakref.ref(thread))
        self.close = weakref.finalize(self, _end, between, filling.stop, thread)
        require_thread()
        thread.start()

    def next(self) -> Slab | None:
        """The next slab, or None after the last; raises what the thread raised."""
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
                return self._between.ready.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if not runs:  # it had no memory even to say so
                    return MemoryError("the thread that reads has ended")

    def give_back(self) -> None:
        """Let the slab be filled again."""
        if self._current is not None:
            self._between.consumer_waits.set()  # at once: who fills it looks whether all cores are free
            self._between.free.put(self._current)


def _end(between: _Between, stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    between.free.put(None)
    # The garbage collector may call from anywhere: from the thread itself, or with a lock that the thread waits for.
    if thread.is_alive() and thread is not threading.current_thread() and may_wait():
        thread.join(_END_SECONDS)


def _join(found: weakref.ref[threading.Thread]) -> None:
    thread = found()
    if thread is not None and thread.is_alive():
        thread.join(_END_SECONDS)


class _StoppedError(Exception):
    """The consumer has ended the epoch."""


class _Filling:
    """The thread's side of a stream. Holds no reference to the stream, whose end it must not delay."""

    def __init__(self, loader: Loader, epoch: int, start: int, between: _Between) -> None:
        self.stop = threading.Event()
        self._between = between
        self._loader = loader
        self._threads = loader.threads()
        team = Team(self._threads, loader.spent, self._at_hand, self._go_on)
        self._filler = Filler(loader, epoch, start, team, self._free)

    def run(self) -> None:
        """Fill slabs until the rows or the consumer end."""
        from fastsgd.kernels.aside import stop_with
        from fastsgd.kernels.sharing import keep_threads, yield_to_others

        stop_with(self.stop)
        yield_to_others()
        try:
            with keep_threads(), self._loader.open() as reader:
                for slab in self._filler.slabs(reader):
                    self._between.ready.put(slab)
            self._between.ready.put(None)
        except _StoppedError:
            pass
        except BaseException as error:
            let_go(error)
            self._between.ready.put(error)

    def _at_hand(self) -> int:
        """This thread alone, as others compute; as many as there are while these wait for rows."""
        waits = self._between.consumer_waits.is_set() and self._between.ready.empty()
        return self._threads if waits else 1

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _free(self) -> Slab:
        """A slab that the consumer has given back."""
        slab = self._between.free.get()
        if slab is None:
            raise _StoppedError
        return slab
