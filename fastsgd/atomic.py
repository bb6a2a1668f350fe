"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# From file systems that cannot be asked to write a folder to the disk, and of folders that are not ours to read.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Path of a temporary file to write; it takes the place of `path` when the block ends, or goes if it fails.

    A link is followed, and a file that is replaced hands its permissions on.

    Raises
    ------
    OSError
        If `path` cannot be written; it names `path`, and comes before the block where that can be known.
    """
    path = os.fsdecode(path)
    mode = _mode(path)
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    # Named here, not by tempfile: no signal can come between the file and knowing what to remove.
    temporary = os.path.join(folder, f".{name[:50]}.{secrets.token_hex(8)}")
    try:
        _create(temporary, path)
        yield temporary
        _sync(temporary, path)
        if mode is not None:
            with suppress(OSError):  # some file systems have no permissions
                os.chmod(temporary, mode)
        _rename(temporary, target, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder, path)


def make_folder(path: str) -> bool:
    """Make a folder, and those above it, so that they outlast a power cut; returns whether it was not there before."""
    if os.path.isdir(path):
        return False
    above = os.path.dirname(path)
    if not os.path.lexists(above):
        make_folder(above)
    os.makedirs(path, exist_ok=True)
    _sync_folder(above, path)
    return True


def is_temporary(name: str, of: re.Pattern[str]) -> bool:
    """Whether a file of this name was written for one whose name is like `of` (50 characters at most)."""
    match = re.fullmatch(r"\.(.+)\.[0-9a-f]{16}", name)
    return match is not None and of.fullmatch(match[1]) is not None


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    with replacing(path) as temporary:
        try:
            _write(temporary, content)
        except OSError as error:
            raise _about(error, os.fsdecode(path)) from error


def _write(path: str, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        left = memoryview(content)
        while left:  # a disk that fills up takes a part first
            left = left[os.write(handle, left) :]
    finally:
        os.close(handle)


def _mode(path: str) -> int | None:
    """Permissions of the file that is to be replaced, or None; OSError if it is something that must not be."""
    try:
        found = os.stat(path).st_mode if os.path.basename(path) else stat.S_IFDIR
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found):
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return stat.S_IMODE(found)


def _create(temporary: str, path: str) -> None:
    # The process's umask cannot be read without changing it for all threads; the kernel applies it here.
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _about(error, path) from error


def _rename(temporary: str, target: str, path: str) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:
        raise _about(error, path) from error


def _about(error: OSError, path: str) -> OSError:
    """The error as one about `path`, which the user knows, and not about the temporary file."""
    return OSError(error.errno, error.strerror or str(error), path)


def _sync_folder(folder: str, path: str) -> None:
    """Bring the name of `path` to the disk, with the folder that it is in."""
    try:
        _sync(folder, path)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _sync(name: str, path: str) -> None:
    try:
        handle = os.open(name, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _about(error, path) from error
