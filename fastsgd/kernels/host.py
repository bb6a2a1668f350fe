"""What the host grants this process: processors, memory, and where that was read. Standard library only.

Containers and batch systems limit a process through control groups and variables, which neither Numba nor OpenMP reads:
with a quota of two processors on a machine of 64, 64 threads would each wait most of the time.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

_SLURM = "SLURM_CPUS_PER_TASK"
_CGROUPS = "sys/fs/cgroup"
# A limit that no machine reaches is none: version 1 says "unlimited" with a number near 2**63.
_NO_LIMIT = 1 << 60
_STACK_BYTES = 8 << 20  # of a thread, where no limit says
_FIRST_STEPS_BYTES = 4 << 20  # that a thread takes until Python knows that it runs


def cpu_limits(root: str | Path = "/") -> dict[str, int]:
    """Processors that each of the limits of this process grants, by the limit's name; a limit that is not set has none.

    Parameters
    ----------
    root : path
        Of the file system that has ``proc`` and ``sys``.

    Returns
    -------
    dict
        "affinity", "cgroup quota" and "SLURM_CPUS_PER_TASK".
    """
    found = {"affinity": affinity(), "cgroup quota": cpu_quota(root), _SLURM: _slurm()}
    return {name: count for name, count in found.items() if count is not None}


def affinity() -> int:
    """Processors that the scheduler may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _slurm() -> int | None:
    value = os.environ.get(_SLURM, "").strip()
    return int(value) if value.isascii() and value.isdigit() and int(value) > 0 else None


@lru_cache(maxsize=8)
def cpu_quota(root: str | Path = "/") -> int | None:
    """Processors' worth of time that the control groups grant, rounded up; None without a quota. Read once a process.

    Every group above this process's own counts, so the smallest quota on the way up is taken.
    """
    return min(filter(None, map(_quota, _groups(root, "cpu"))), default=None)


def _quota(group: Path) -> int | None:
    words = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    if len(words) != 2 or not all(word.isdigit() and int(word) > 0 for word in words):
        return None  # "max", or -1 in version 1
    quota, period = map(int, words)
    return -(-quota // period)


def memory_limit(root: str | Path = "/") -> int | None:
    """Bytes of memory that the control groups grant; None without a limit."""
    found = []
    for folder in _groups(root, "memory"):
        for word in _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes"):
            if word.isdigit() and int(word) < _NO_LIMIT:
                found.append(int(word))
    return min(found, default=None)


def memory_available(root: str | Path = "/") -> int | None:
    """Bytes of memory that the machine has left, its file caches counted as free; None where it does not say."""
    return next((1024 * int(value.split()[0]) for value in _values(root, "meminfo", "MemAvailable")), None)


def peak_memory(root: str | Path = "/") -> int:
    """The most bytes of memory that this process has held. Linux tells in proc; what getrusage tells goes on from the
    process that started this one."""
    held = next(_values(root, "self/status", "VmHWM"), None)
    if held is not None:
        return 1024 * int(held.split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def address_space_left(root: str | Path = "/") -> int | None:
    """Bytes that this process may map beside what it has mapped, by RLIMIT_AS (`ulimit -v`); None without a limit."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    mapped = _words(Path(root) / "proc/self/statm")
    if most == resource.RLIM_INFINITY or not mapped:
        return None
    return max(0, most - int(mapped[0]) * resource.getpagesize())


def require_thread() -> None:
    """Raise RuntimeError, as Python does where it can start no thread, unless there is memory for a thread's first
    steps: where they fail, Python waits for the thread for ever."""
    left = address_space_left()
    if left is not None:
        stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
        if left < (_STACK_BYTES if stack == resource.RLIM_INFINITY else stack) + _FIRST_STEPS_BYTES:
            raise RuntimeError("can't start new thread: the limit of the address space leaves too little")


def processor_name(root: str | Path = "/") -> str:
    """The processor's name as its maker writes it, or its architecture."""
    return next(_values(root, "cpuinfo", "model name"), "") or platform.processor() or platform.machine()


def _groups(root: str | Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of all above it, in both versions of control groups.

    In a container, the path may be that of the host, and the folder of the container is mounted as the top one; what
    is not there reads as empty.
    """
    for line in _lines(Path(root) / "proc/self/cgroup"):
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        parts = PurePosixPath("/", path).relative_to("/")
        # The group is outside of what this process's namespace shows.
        inside = PurePosixPath(".") if ".." in parts.parts else parts
        if not controllers:
            tops = ["", "unified"]  # the second where version 1 is mounted beside
        elif controller in controllers.split(","):
            tops = [controllers, controller]
        else:
            continue
        for top in tops:
            for folder in (inside, *inside.parents):
                yield Path(root) / _CGROUPS / top / folder


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    """The words of a file's first line; none if there is no such file."""
    return (_lines(path) or [""])[0].split()


def _values(root: str | Path, file: str, key: str) -> Iterator[str]:
    """What follows "key :" on lines of a file in proc."""
    for line in _lines(Path(root) / "proc" / file):
        name, _, value = line.partition(":")
        if name.strip() == key:
            yield value.strip()
