"""What the machine could do at most: the rate of float32 multiply-adds and of reading memory.

For `fastsgd doctor` and the benchmarks; nothing that trains comes here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsgd.kernels.jit import exact, parallel, serial
from fastsgd.kernels.threads import available_threads, parallel_region
from fastsgd.kernels.vectors import VECTOR_BYTES

LANES = VECTOR_BYTES // 4
# A chain waits four cycles for each of its multiply-adds, and two or more start in a cycle. Sixteen vector registers
# hold 12 chains and the two constants; machines with vectors of 64 bytes, and ARM ones, have thirty-two.
CHAINS = 12 if VECTOR_BYTES == 32 else 24


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


@exact  # fast-math could rearrange the chains
def _chains(n: Any) -> Any:
    return _multiply_add_loop(n)


@serial
def _multiply_add(n: Any) -> Any:
    return _chains(n)


@serial
def _read(values: Any) -> Any:
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return total


def _fill(values):
    for i in prange(values.size):
        values[i] = i


fill = parallel(_fill)


def threading_layer() -> str:
    """The library that Numba's parallel code runs on here: "tbb", "omp" or "workqueue".

    Raises
    ------
    ValueError
        If the one that is asked for by NUMBA_THREADING_LAYER is not there.
    """
    with parallel_region(available_threads(None)):
        fill(np.empty(64))
    return str(numba.threading_layer())


def best_seconds(calls: list[Callable[[], object]], repeats: int) -> float:
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


def multiply_add_rate(threads: int, *, seconds: float = 0.1, repeats: int = 7) -> float:
    """Float32 operations a second, two for each multiply-add, with vectors as long as fastsgd uses them.

    The best of `repeats` runs of about so many `seconds`.
    """
    _multiply_add(1)
    begin = time.perf_counter()
    _multiply_add(1_000_000)
    rounds = max(1, int(1_000_000 * seconds / (time.perf_counter() - begin)))
    best = best_seconds([lambda: _multiply_add(rounds)] * threads, repeats)
    return 2 * LANES * CHAINS * rounds * threads / best


def read_rate(threads: int, *, nbytes: int = 512 * 2**20, repeats: int = 7) -> float:
    """Bytes of memory read a second: the best of `repeats` runs over `nbytes`, which no cache should hold."""
    values = np.ones(nbytes // 4, np.float32)
    _read(values[:8])
    parts = np.array_split(values, threads)
    return values.nbytes / best_seconds([lambda part=part: _read(part) for part in parts], repeats)  # type: ignore[misc]
