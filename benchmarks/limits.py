"""The limits of this machine: the rates of float32 multiply-adds, of reading memory and of reading the page cache.

As a script, prints JSON for one thread and for all. Each figure is the best of several runs, since
anything else running only slows.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsgd.kernels.tile import VECTOR_BYTES

LANES = VECTOR_BYTES // 4
# A chain waits four cycles for each of its multiply-adds, and two or more start in a cycle. Sixteen vector registers
# hold 12 chains and the two constants; machines with vectors of 64 bytes, and ARM ones, have thirty-two.
CHAINS = 12 if VECTOR_BYTES == 32 else 24
READ_BYTES = 512 * 2**20  # well past any cache
FILE_BYTES = 256 * 2**20
PIECE_BYTES = 256 * 2**10
REPEATS = 7


@intrinsic
def _multiply_add_loop(_typing: Any, n: Any) -> Any:
    """n rounds of one multiply-add in each of CHAINS vectors; returns something that depends on all."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (rounds,) = arguments
        vector = ir.VectorType(ir.FloatType(), LANES)
        # fmuladd is one instruction where the machine has it, and two where it has not, never a call.
        fmuladd = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        before = builder.block
        loop = builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        builder.branch(loop)

        builder.position_at_end(loop)
        count = builder.phi(rounds.type)
        count.add_incoming(rounds.type(0), before)
        chains = [builder.phi(vector) for _ in range(CHAINS)]
        for i, chain in enumerate(chains):
            chain.add_incoming(ir.Constant(vector, [1.0 + i] * LANES), before)
        factor = ir.Constant(vector, [0.999] * LANES)
        addend = ir.Constant(vector, [0.001] * LANES)
        advanced = [builder.call(fmuladd, [chain, factor, addend]) for chain in chains]
        for chain, value in zip(chains, advanced, strict=True):
            chain.add_incoming(value, loop)
        counted = builder.add(count, rounds.type(1))
        count.add_incoming(counted, loop)
        builder.cbranch(builder.icmp_signed("<", counted, rounds), loop, after)

        builder.position_at_end(after)
        total = advanced[0]
        for value in advanced[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float32(types.intp), codegen


# Not the presets of fastsgd's kernels: their fast-math could rearrange the chains.
@njit(nogil=True)
def _multiply_add(n: Any) -> Any:
    return _multiply_add_loop(n)


@njit(nogil=True, fastmath={"reassoc"})
def _read(values: Any) -> Any:
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return total


def _best_seconds(calls: list[Callable[[], object]], repeats: int) -> float:
    """The shortest time in which all calls are done, each on a thread of its own."""
    best = float("inf")
    for _ in range(repeats):
        threads = [threading.Thread(target=call) for call in calls]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - begin)
    return best


def multiply_add_rate(threads: int, repeats: int = REPEATS) -> float:
    """Float32 operations a second, two for each multiply-add, with vectors as long as fastsgd uses them."""
    _multiply_add(1)
    begin = time.perf_counter()
    _multiply_add(1_000_000)
    rounds = int(1_000_000 * 0.1 / (time.perf_counter() - begin))  # a tenth of a second
    seconds = _best_seconds([lambda: _multiply_add(rounds)] * threads, repeats)
    return 2 * LANES * CHAINS * rounds * threads / seconds


def read_rate(threads: int, repeats: int = REPEATS) -> float:
    """Bytes of memory read a second."""
    values = np.ones(READ_BYTES // 4, np.float32)
    _read(values[:8])
    parts = np.array_split(values, threads)
    calls: list[Callable[[], object]] = [lambda part=part: _read(part) for part in parts]  # type: ignore[misc]
    return values.nbytes / _best_seconds(calls, repeats)


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
        return share * threads / _best_seconds(calls, repeats)


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
        self.multiply_add.append(multiply_add_rate(self.threads, self.repeats))
        self.read.append(read_rate(self.threads, self.repeats))

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
