"""Signals that end a run: they wait while a step and its bookkeeping are under way, so that a run ends between two
steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGUSR1 is what batch systems send before a job's time is up.
_NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupts:
    """While the context lasts, signals are handled as before, but outside of `held`.

    Where a signal ended the process, the context is left by an exception first, and the process ends after it.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holds = False
        self._waiting: list[int] = []
        self._ends_with: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # which alone gets signals, and may set handlers
            for number in _NUMBERS:
                handler = signal.getsignal(number)
                if handler is not None and handler is not signal.SIG_IGN:  # None: not Python's to give back
                    self._before[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._ends_with is not None:
            os.kill(os.getpid(), self._ends_with)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._holds:
            self._pass_on(number, frame)
        elif number not in self._waiting:
            self._waiting.append(number)

    def _pass_on(self, number: int, frame: FrameType | None = None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
            return
        self._ends_with = number
        raise KeyboardInterrupt(signal.strsignal(number))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the end of the context."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
            while self._waiting:
                self._pass_on(self._waiting.pop(0))
