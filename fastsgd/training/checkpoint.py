"""Checkpoints: what a user asks for, and the recorder that writes them beside training."""

from __future__ import annotations

import math
import numbers
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastsgd.errors import CheckpointError
from fastsgd.training.checkpoint_folder import CheckpointFolder
from fastsgd.training.snapshots import Position, Snapshot

_RETRY_SECONDS = 5.0  # after a checkpoint could not be written


@dataclass(frozen=True)
class Checkpoint:
    """When and where checkpoints are written: whole or not at all, and beside training.

    Parameters
    ----------
    directory : path
        A folder of its own for each run; made if it is not there.
    every_steps : int, optional
        Batches from one to the next.
    every_seconds : float, optional
        Seconds from one to the next; None for none by the clock.
    keep : int
        How many of the newest are kept.

    Raises
    ------
    CheckpointError
        If an argument is none of these.
    """

    directory: str | os.PathLike[str]
    every_steps: int | None = field(default=None, kw_only=True)
    every_seconds: float | None = field(default=300, kw_only=True)
    keep: int = field(default=2, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)) or not os.fspath(self.directory):
            raise CheckpointError(f"Checkpoint: directory is {self.directory!r}; it is the path of a folder")
        for name in ("every_steps", "keep"):
            value = getattr(self, name)
            if value is None and name == "every_steps":
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise CheckpointError(f"Checkpoint: {name} is {value!r}; it is a whole number from 1 on")
        seconds = self.every_seconds
        if seconds is not None and not (isinstance(seconds, numbers.Real) and 0 < seconds < math.inf):
            raise CheckpointError(f"Checkpoint: every_seconds is {seconds!r}; it is a number above 0, or None")


def as_checkpoint(given: Any) -> Checkpoint:
    """What `fit` takes as `checkpoint`: a `Checkpoint`, or just its directory."""
    return given if isinstance(given, Checkpoint) else Checkpoint(given)


class Recorder:
    """Writes snapshots of a run when they are due, on a thread of its own."""

    def __init__(self, settings: Checkpoint, folder: CheckpointFolder, take: Callable[[], Snapshot]) -> None:
        self._settings = settings
        self._folder = folder
        self._take = take
        self._thread: threading.Thread | None = None
        self._written: Position | None = None  # of the newest that is on the disk
        self._started = time.monotonic()
        self._failure: OSError | MemoryError | TypeError | None = None  # of the newest that was tried

    def first(self) -> None:
        """Write one now, even where it is there already, so that a folder that cannot be written to shows at once.

        Raises
        ------
        CheckpointError
            If it cannot be written.
        """
        self._write(self._take())
        self._require_written("no checkpoint can be written")

    def batches_left(self, step: int) -> int | None:
        """Batches until one is due by its step."""
        every = self._settings.every_steps
        return None if every is None else every - step % every

    def record(self, step: int) -> None:
        """Begin to write one if it is due."""
        from fastsgd.kernels.host import require_thread

        every, seconds = self._settings.every_steps, self._settings.every_seconds
        waited = time.monotonic() - self._started
        busy = self._thread is not None and self._thread.is_alive()
        by_step = every is not None and step % every == 0
        by_clock = seconds is not None and waited >= seconds
        again = self._failure is not None and waited >= _RETRY_SECONDS
        if by_step or ((by_clock or again) and not busy):
            self.wait()
            self._warn()
            self._started = time.monotonic()
            try:
                snapshot = self._take()
            except MemoryError as error:
                self._failure = error
                return
            thread = threading.Thread(target=self._beside, args=(snapshot,), name="fastsgd-checkpoint", daemon=True)
            try:
                require_thread()
                thread.start()
                self._thread = thread
            except RuntimeError:  # the system has none to spare
                self._write(snapshot)

    def save(self) -> None:
        """Write one of the state as it is now, and wait for it.

        Raises
        ------
        CheckpointError
            If it cannot be written; the one before is still there.
        """
        self.wait()
        snapshot = self._take()
        if self._written is None or snapshot.position.place != self._written.place:
            self._write(snapshot)
        self._require_written("the last checkpoint could not be written")

    def save_what_can_be(self) -> None:
        """`save` where something else is already wrong: a failure is a warning."""
        try:
            self.save()
        except (CheckpointError, MemoryError) as error:
            warnings.warn(str(error), UserWarning, stacklevel=2)

    @property
    def newest(self) -> str | None:
        """The path of the newest that was written."""
        return None if self._written is None else self._folder.path(self._written.step)

    def _beside(self, snapshot: Snapshot) -> None:
        from fastsgd.kernels.sharing import yield_to_others

        yield_to_others()
        self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        if not snapshot.is_finite():
            return  # nor will be the loss of the next batch, which says more
        try:
            self._folder.write(snapshot.position.step, snapshot.encode(), self._settings.keep)
        except (OSError, MemoryError, TypeError) as error:  # of type: a record that the user put into the history
            self._failure = error
        else:
            self._failure, self._written = None, snapshot.position

    def wait(self) -> None:
        """Wait until the one that is being written is."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _about_failure(self) -> str:
        assert self._failure is not None
        kept = "" if self.newest is None else f"; the one before is whole: {self.newest}"
        reason = getattr(self._failure, "strerror", None) or str(self._failure) or "out of memory"
        return f"to {self._folder.directory!r}: {reason}{kept}"

    def _warn(self) -> None:
        if self._failure is not None:
            text = f"a checkpoint could not be written {self._about_failure()}; it is tried again"
            warnings.warn(text, UserWarning, stacklevel=4)

    def _require_written(self, what: str) -> None:
        if self._failure is not None:
            raise CheckpointError(f"{what} {self._about_failure()}") from self._failure
