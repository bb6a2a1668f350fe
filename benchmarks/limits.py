"""The limits of this machine: the rates of float32 multiply-adds, of reading memory and of reading the page cache.

As a script, prints JSON for one thread and for all. Each figure is the best of several runs, since
anything else running only slows.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

from fastsgd.kernels.peak import best_seconds, multiply_add_rate, read_rate
from fastsgd.kernels.vectors import VECTOR_BYTES

FILE_BYTES = 256 * 2**20
PIECE_BYTES = 256 * 2**10
REPEATS = 7


def page_cache_rate(threads: int, repeats: int = REPEATS) -> float:
    """Bytes a second out of a file that the page cache holds, in pieces that stay in the processor's cache."""
    with tempfile.TemporaryFile() as file:
        for _ in range(FILE_BYTES // PIECE_BYTES):
            file.write(bytes(PIECE_BYTES))
        file.flush()
        share = FILE_BYTES // threads

        def read_part(part: int) -> None:
            piece = bytearray(PIECE_BYTES)
            for start in range(part * share, (part + 1) * share, PIECE_BYTES):
                os.preadv(file.fileno(), [piece], start)

        calls: list[Callable[[], object]] = [lambda part=part: read_part(part) for part in range(threads)]  # type: ignore[misc]
        return share * threads / best_seconds(calls, repeats)


class Limits:
    """The limits of a number of threads: measured at once, and again whenever asked, of which the best counts.

    A shared machine may be busy at any of these times.

    Parameters
    ----------
    threads : int
    repeats : int
        Of each measurement.
    """

    def __init__(self, threads: int, repeats: int = REPEATS) -> None:
        self.threads = threads
        self.repeats = repeats
        self.page_cache = page_cache_rate(threads, repeats)
        self.multiply_add: list[float] = []
        self.read: list[float] = []
        self.measure()

    def measure(self) -> None:
        """Measure the rates of arithmetic and of memory once more."""
        self.multiply_add.append(multiply_add_rate(self.threads, repeats=self.repeats))
        self.read.append(read_rate(self.threads, repeats=self.repeats))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the best of each in 1e9 a second, and all that were measured, the first before anything else."""
        return {
            "threads": self.threads,
            "vector_bytes": VECTOR_BYTES,
            "multiply_add_gflops": round(max(self.multiply_add) / 1e9, 1),
            "read_gbytes": round(max(self.read) / 1e9, 2),
            "page_cache_gbytes": round(self.page_cache / 1e9, 2),
            "multiply_add_gflops_measured": [round(rate / 1e9, 1) for rate in self.multiply_add],
            "read_gbytes_measured": [round(rate / 1e9, 2) for rate in self.read],
        }


if __name__ == "__main__":
    counts = sorted({1, len(os.sched_getaffinity(0))})
    print(json.dumps([Limits(count).to_dict() for count in counts], indent=2))
