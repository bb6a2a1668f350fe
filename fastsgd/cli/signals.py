"""SIGINT, SIGTERM and SIGUSR1: raised once, where they are seen, and with an exit code each."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGUSR1 is what batch systems send before a job's time is up.
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# One wish may come as several signals: `timeout`, for one, sends a process its own and that of its group.
_SAME_WISH_SECONDS = 0.2
_AGAIN_SECONDS = 0.02


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 arrived; handled like an interrupt, but for the exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.strsignal(number))
        self.number = number


class _Handler:
    """Raises; `wishes` are those to end that came so far, of which the first is `ignored` at times. `lost` is the last
    that was raised where nothing can be raised."""

    def __init__(self) -> None:
        self.wishes = 0
        self.lost: KeyboardInterrupt | None = None
        self.ignored = False
        self._raised = -_SAME_WISH_SECONDS
        self._number = signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._raised < _SAME_WISH_SECONDS:
            return
        self._raised, self._number = now, signal.Signals(number)
        self.wishes += 1
        if self.ignored and self.wishes == 1:
            return
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    def unraisable(self, lost: Any) -> None:
        """Send the signal again if its exception was lost, as it is in a destructor or the callback of a weakref."""
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        self._raised = -_SAME_WISH_SECONDS
        self.wishes -= 1
        self.lost = lost.exc_value
        main = threading.main_thread().ident
        assert main is not None
        again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, [main, self._number])
        again.daemon = True
        again.start()


_handler = _Handler()


def install() -> None:
    """Make SIGINT raise KeyboardInterrupt and the others Terminated; what is ignored, as in a background job, stays
    so."""
    sys.unraisablehook = _handler.unraisable
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handler)


def ignore() -> None:
    """Let no signal change the exit code of a process that is ending."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def is_pressing() -> bool:
    """Whether the end was asked for a second time, and so is to come at once."""
    return _handler.wishes > 1


def lost() -> KeyboardInterrupt | None:
    """A wish to end that was lost, as in a callback of the compiler: it may be what an error comes from."""
    return _handler.lost


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the first wish to end, so that several files that belong together are all written."""
    _handler.ignored = True
    try:
        yield
    finally:
        _handler.ignored = False
