"""SIGINT and SIGTERM: raised once, where they are seen, and with an exit code each."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
# A second Ctrl-C is soon pressed; while the first is handled, files are being written.
_SAME_WISH_SECONDS = 1.0
_AGAIN_SECONDS = 0.02


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; handled like an interrupt, but for the exit code."""


class _Handler:
    def __init__(self) -> None:
        self._raised = -_SAME_WISH_SECONDS
        self._number = signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._raised < _SAME_WISH_SECONDS:
            return
        self._raised, self._number = now, signal.Signals(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def unraisable(self, lost: Any) -> None:
        """Send the signal again if its exception was lost, as it is in a destructor or the callback of a weakref."""
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        self._raised = -_SAME_WISH_SECONDS
        main = threading.main_thread().ident
        assert main is not None
        again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, [main, self._number])
        again.daemon = True
        again.start()


def install() -> None:
    """Make SIGINT raise KeyboardInterrupt and SIGTERM Terminated; what is ignored, as in a background job, stays so."""
    handler = _Handler()
    sys.unraisablehook = handler.unraisable
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def ignore() -> None:
    """Let no signal change the exit code of a process that is ending."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore both signals, so that several files that belong together are all written."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals, and may set handlers
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
