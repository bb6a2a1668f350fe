"""What a loader's time goes into."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Spent:
    """Seconds that a loader was busy: reading from files, decoding, and shuffling. What several threads do counts as if
    they always did it side by side."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._side_by_side = 1
        self._lock = threading.Lock()
        self._seconds = {"reading": 0.0, "decoding": 0.0, "shuffling": 0.0}

    @contextmanager
    def side_by_side(self, threads: int) -> Iterator[None]:
        """What is counted meanwhile, and not as shared, is done by so many threads at a time."""
        self._side_by_side = threads
        try:
            yield
        finally:
            self._side_by_side = 1

    def add(self, *, shared: bool = False, **seconds: float) -> None:
        """Count some seconds, by name; `shared` are those of one of several threads."""
        with self._lock:
            for name, value in seconds.items():
                self._seconds[name] += value / (self._threads if shared else self._side_by_side)

    def total(self) -> dict[str, float]:
        """What was counted so far, by name."""
        with self._lock:
            return dict(self._seconds)
