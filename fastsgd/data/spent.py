"""What a loader's time goes into."""

from __future__ import annotations

import threading


class Spent:
    """Seconds that a loader was busy: reading from files, decoding, and shuffling. What several threads do counts as if
    they always did it side by side."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._seconds = {"reading": 0.0, "decoding": 0.0, "shuffling": 0.0}

    def add(self, *, shared: bool = False, **seconds: float) -> None:
        """Count some seconds, by name; `shared` are those of one of several threads."""
        with self._lock:
            for name, value in seconds.items():
                self._seconds[name] += value / self._threads if shared else value

    def total(self) -> dict[str, float]:
        """What was counted so far, by name."""
        with self._lock:
            return dict(self._seconds)
