"""The folder of a run's checkpoints: one run at a time, files that are whole, the newest few of them kept."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress

from fastsgd.atomic import is_temporary, make_folder, write_whole
from fastsgd.errors import CheckpointError
from fastsgd.training.snapshots import OtherRunError, Snapshot

_NAME = re.compile(r"step-(\d{12,})\.safetensors")
_LOCK = "lock"
_DAMAGED = ".damaged"


class CheckpointFolder:
    """A folder, ours from `open` to `close`.

    Parameters
    ----------
    directory : path
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.path.abspath(os.fsdecode(directory))
        self._lock: int | None = None
        self._made = False  # whether it was not there before
        self._written: list[int] = []  # steps

    def open(self) -> None:
        """Make the folder, if it is not there, and take it.

        Raises
        ------
        CheckpointError
            If it cannot be made or written to, or another run has it.
        """
        try:
            self._made = make_folder(self.directory)
            self._lock = self._locked()
            os.truncate(self._lock, 0)
            os.pwrite(self._lock, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)
            self._sweep()
        except OSError as error:
            raise CheckpointError(
                f"no checkpoints can be kept in {self.directory!r}: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(self._lock, fcntl.LOCK_UN)  # also for processes that were forked meanwhile
            os.close(self._lock)
            self._lock = None

    def _locked(self) -> int:
        """Take the lock, which the system gives back however the process ends."""
        path = os.path.join(self.directory, _LOCK)
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with os.fdopen(lock) as file:
                    raise CheckpointError(
                        f"another run writes its checkpoints to {self.directory!r}{_owner(file.read(1000))}; give each "
                        "run a folder of its own, or wait for its end"
                    ) from None
            except OSError as error:
                warnings.warn(
                    f"{path} cannot be locked ({error.strerror}): take care that no other run uses this folder",
                    UserWarning,
                    stacklevel=5,
                )
            if _is_at(lock, path):
                break
            os.close(lock)  # a run that left nothing has just removed it
        return lock

    def discard(self) -> None:
        """Remove what was written since the folder was opened, and the folder if it was made then."""
        if self._lock is None:
            return
        with suppress(OSError):
            for step in self._written:
                os.unlink(self.path(step))
            if not self.steps():
                os.unlink(os.path.join(self.directory, _LOCK))
                if self._made:
                    os.rmdir(self.directory)

    def _sweep(self) -> None:
        """Remove what a run left that ended while it wrote."""
        for name in os.listdir(self.directory):
            if is_temporary(name, _NAME):
                with suppress(OSError):
                    os.unlink(os.path.join(self.directory, name))

    def path(self, step: int) -> str:
        """Of the checkpoint of a step."""
        return os.path.join(self.directory, f"step-{step:012d}.safetensors")

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in order."""
        found = (_NAME.fullmatch(name) for name in os.listdir(self.directory))
        return sorted(int(match[1]) for match in found if match is not None)

    def newest(self, read: Callable[[str], Snapshot]) -> Snapshot | None:
        """The newest checkpoint that is whole; None where there is none.

        Damaged ones are named in a warning, and set aside.

        Raises
        ------
        OtherRunError
            If it is one of another run.
        CheckpointError
            If all are damaged.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                snapshot = read(path)
            except OtherRunError:
                raise
            except CheckpointError as error:
                damaged.append(path)
                warnings.warn(f"{error}; it is passed over", UserWarning, stacklevel=3)
                continue
            for other in damaged:
                with suppress(OSError):
                    os.replace(other, other + _DAMAGED)
            return snapshot
        if damaged:
            raise CheckpointError(
                f"all checkpoints in {self.directory!r} are damaged; start anew with resume=False, or in another folder"
            )
        return None

    def write(self, step: int, content: bytes, keep: int) -> None:
        """Write a checkpoint, then remove all but the newest few up to it."""
        write_whole(self.path(step), content)
        self._written = [*self._written, step][-keep:]
        for old in [other for other in self.steps() if other <= step][:-keep]:
            with suppress(OSError):
                os.unlink(self.path(old))

    def forget_all_but(self, step: int) -> None:
        """Remove all checkpoints but that of a step."""
        for other in self.steps():
            if other != step:
                with suppress(OSError):
                    os.unlink(self.path(other))


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def has_checkpoints(directory: str | os.PathLike[str]) -> bool:
    """Whether there are checkpoints in a folder, if it is one."""
    try:
        return any(map(_NAME.fullmatch, os.listdir(os.fsdecode(directory))))
    except OSError:
        return False


def _owner(text: str) -> str:
    """Who has a lock, as its file tells."""
    try:
        owner = json.loads(text)
        return f" (process {int(owner['process'])} on {str(owner['host'])[:100]})"
    except (ValueError, TypeError, KeyError):
        return ""
