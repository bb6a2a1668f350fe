"""What the machine can do and Numba has no word for: pointers, prefetches, atomic counters, functions kept apart.

With what is made of vector registers (`vectors`, `tile`, `dots`) all that knows LLVM. Each has a form in plain Python,
for NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, config, get_num_threads, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsgd.kernels import vectors
from fastsgd.kernels.jit import inlined, small
from fastsgd.kernels.vectors import I32, I64, VECTOR_BYTES, copy_vector, emit_prefetch


@intrinsic
def _compiled_lanes(typing, data):
    lanes = VECTOR_BYTES // (data.dtype.bitwidth // 8)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.intp, lanes)

    return types.intp(data), codegen


def _plain_lanes(data: Any) -> int:
    return VECTOR_BYTES // int(data.itemsize)


# Elements of an array in one vector, known when compiling.
lanes_of = _plain_lanes if config.DISABLE_JIT else _compiled_lanes


@intrinsic
def _compiled_pointer(typing, array, offset):
    signature = types.CPointer(array.dtype)(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return signature, codegen


@intrinsic
def _compiled_advance(typing, pointer, offset):
    signature = pointer(pointer, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return signature, codegen


@intrinsic
def begins_vector(typing, pointer, offset):
    """Whether an element lies at a multiple of a vector's bytes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), I64)
        return builder.icmp_unsigned("==", builder.and_(address, I64(VECTOR_BYTES - 1)), I64(0))

    return types.boolean(pointer, types.intp), codegen


@small
def _compiled_view(pointer, offset, size):
    return carray(_compiled_advance(pointer, offset), size)


@intrinsic
def _compiled_keep(typing, array):
    return types.void(array), lambda context, builder, signature, arguments: context.get_dummy_value()


def _plain_keep(array: Any) -> None:
    pass


def _plain_pointer(array: Any, offset: int) -> Any:
    return array.reshape(-1)[offset:]


def _plain_advance(pointer: Any, offset: int) -> Any:
    return pointer[offset:]


def _plain_view(pointer: Any, offset: int, size: int) -> Any:
    return pointer[offset : offset + size]


def _plain_copy(source: Any, out: Any, count: int) -> None:
    out[:count] = source[:count]


@inlined
def _compiled_copy(source, out, count):
    lanes = _compiled_lanes(out)
    if count >= lanes:
        last = count - lanes
        for k in range(0, last, lanes):
            copy_vector(_compiled_advance(source, k), _compiled_advance(out, k))
        copy_vector(_compiled_advance(source, last), _compiled_advance(out, last))
    else:
        for k in range(count):
            out[k] = source[k]


# pointer(array, offset): where element `offset` of a C-contiguous array lies. Inside a step arrays go by their
# pointers, one word each: an array is seven, and each function that hands it on would be that much longer to compile.
pointer = _plain_pointer if config.DISABLE_JIT else _compiled_pointer
# keep(array): its memory is not freed before here. Numba frees an array of the function's own after its last mention,
# and knows nothing of its pointers.
keep = _plain_keep if config.DISABLE_JIT else _compiled_keep
# advance(pointer, offset): `offset` elements further.
advance = _plain_advance if config.DISABLE_JIT else _compiled_advance
# view(pointer, offset, size): the 1-D array of `size` elements from `offset` on.
view = _plain_view if config.DISABLE_JIT else _compiled_view
# copy_elements(source, out, count): out[:count] := source[:count], pointers of one dtype. By whole vectors, of which
# the last two may overlap: what LLVM makes of a loop takes twice as long for rows of ten.
copy_elements = _plain_copy if config.DISABLE_JIT else _compiled_copy


def _make_never_inline() -> Any:
    @intrinsic
    def never_inline(typing):
        """Keep the calling function one function of its own: one copy to compile, and the same machine code, so the
        same bits, whoever calls it."""

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.function.attributes.add("noinline")
            return context.get_dummy_value()

        return types.void(), codegen

    def nothing() -> None:
        """Plain Python inlines nothing."""

    return nothing if config.DISABLE_JIT else never_inline


never_inline = _make_never_inline()


def _make_prefetch(to_write: int, level: int) -> Any:
    @intrinsic
    def prefetch(typing, pointer, offset):
        signature = types.void(pointer, types.intp)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit_prefetch(builder, builder.gep(arguments[0], [arguments[1]]), to_write, level)
            return context.get_dummy_value()

        return signature, codegen

    def nothing(pointer: Any, offset: int) -> None:
        """There is no cache to warm in plain Python."""

    return nothing if config.DISABLE_JIT else prefetch


# prefetch(pointer, offset): ask memory for the cache line of an element that will soon be read, or written too. What is
# to be read goes to the second cache: a block of wide rows is more than the first one holds.
prefetch = _make_prefetch(0, 2)
prefetch_to_write = _make_prefetch(1, 3)


@intrinsic
def _compiled_fetch_add(typing, counters, index, value):
    signature = types.int64(counters, types.intp, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(arguments[0], [arguments[1]]), arguments[2], "acq_rel")

    return signature, codegen


_one_at_a_time = threading.Lock()


def _plain_fetch_add(counters: Any, index: int, value: int) -> int:
    with _one_at_a_time:
        before = int(counters[index])
        counters[index] += value
    return before


@intrinsic
def _compiled_compare_exchange(typing, counters, index, old, new):
    signature = types.boolean(counters, types.intp, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        counters, index, old, new = arguments
        found = builder.cmpxchg(builder.gep(counters, [index]), old, new, "acq_rel", "acquire")
        return builder.extract_value(found, 1)

    return signature, codegen


def _plain_compare_exchange(counters: Any, index: int, old: int, new: int) -> bool:
    with _one_at_a_time:
        equal = int(counters[index]) == old
        if equal:
            counters[index] = new
    return equal


@intrinsic
def _compiled_read(typing, counters, index):
    signature = types.int64(counters, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 8)

    return signature, codegen


def _plain_read(counters: Any, index: int) -> int:
    return int(counters[index])


@intrinsic
def read_at(typing, descriptor, pointer, count, offset):
    """Bring up to `count` bytes of an open file, from `offset` on, to where a pointer points. Returns how many came:
    none at the end of the file, and less than none where it cannot be read."""
    signature = types.int64(types.int32, pointer, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        descriptor, pointer, count, offset = arguments
        # That of the C library, whose offsets have 64 bits wherever a pointer has.
        buffer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(I64, [I32, buffer.type, I64, I64])
        function = cgutils.get_or_insert_function(builder.module, function_type, "pread")
        return builder.call(function, [descriptor, buffer, count, offset])

    return signature, codegen


@intrinsic
def _compiled_nanoseconds(typing):
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shown = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))  # seconds, and nanoseconds
        function_type = ir.FunctionType(I32, [I32, shown.type])
        function = cgutils.get_or_insert_function(builder.module, function_type, "clock_gettime")
        builder.call(function, [I32(getattr(time, "CLOCK_MONOTONIC", 0)), shown])
        seconds, rest = (builder.extract_value(builder.load(shown), i) for i in range(2))
        return builder.add(builder.mul(seconds, I64(1_000_000_000)), rest)

    return types.int64(), codegen


# nanoseconds(): what a clock shows that only goes on.
nanoseconds = time.monotonic_ns if config.DISABLE_JIT else _compiled_nanoseconds


@intrinsic
def _compiled_pointer_at(typing, address, like):
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.int64, like), codegen


def _plain_pointer_at(address: int, like: Any) -> Any:
    size = sys.maxsize // 16 * 8  # in bytes of the largest elements that there are
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(int(address))), like.dtype)


# pointer_at(address, like): a pointer to an address, to elements of the type of `like`.
pointer_at = _plain_pointer_at if config.DISABLE_JIT else _compiled_pointer_at


def _plain_swap_bytes(held: Any, source: Any, out: Any, count: int) -> None:
    new = source[:count].copy()
    out[:count] = held[:count]
    held[:count] = new


def _plain_copy_strip(source: Any, out: Any) -> None:
    _plain_copy(source, out, vectors.TILE_VECTORS * _plain_lanes(source))


# copy_strip(source, out): as many elements as a tile has columns.
copy_strip = _plain_copy_strip if config.DISABLE_JIT else vectors.copy_strip_row
# copy_bytes(source, out, count): out[:count] := source[:count], pointers to bytes.
copy_bytes = _plain_copy if config.DISABLE_JIT else vectors.copy_bytes
# swap_bytes(held, source, out, count): out := held, then held := source; `source` may be `out`.
swap_bytes = _plain_swap_bytes if config.DISABLE_JIT else vectors.swap_bytes


@intrinsic
def _compiled_pause(typing):
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        void = ir.VoidType()
        if platform.machine() in {"x86_64", "AMD64"}:
            name, arguments = "llvm.x86.sse2.pause", []
        elif platform.machine() in {"aarch64", "arm64"}:
            name, arguments = "llvm.aarch64.hint", [I32(1)]  # 1 is "yield"
        else:
            return context.get_dummy_value()
        function_type = ir.FunctionType(void, [argument.type for argument in arguments])
        builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _compiled_give_way(typing):
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _compiled_region_threads(typing):
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function_type = ir.FunctionType(I64, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, "get_num_threads"), [])

    return types.intp(), codegen


def _nothing() -> None:
    """One thread of plain Python never waits."""


# fetch_add(counters, index, value): counters[index] += value for all threads at once; returns what was there. The
# counters are int64, by their pointer.
fetch_add = _plain_fetch_add if config.DISABLE_JIT else _compiled_fetch_add
# compare_exchange(counters, index, old, new): counters[index] := new if it is `old`, for all threads at once; whether.
compare_exchange = _plain_compare_exchange if config.DISABLE_JIT else _compiled_compare_exchange
# read_counter(counters, index): counters[index], and with it all that was written before it was set.
read_counter = _plain_read if config.DISABLE_JIT else _compiled_read
# Tell the core, and then the operating system, that this thread only waits.
pause = _nothing if config.DISABLE_JIT else _compiled_pause
give_way = _nothing if config.DISABLE_JIT else _compiled_give_way

# region_threads(): threads of the parallel region that the function calling this will start. Numba's own word for it
# holds an address, so that a function with it could not be kept in a file.
region_threads = get_num_threads if config.DISABLE_JIT else _compiled_region_threads


@intrinsic
def _compiled_maximum(typing, a, b):
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = arguments[0].type
        function_type = ir.FunctionType(real, [real, real])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.maximum.f{a.bitwidth}")
        return builder.call(function, arguments)

    return a(a, a), codegen


# maximum(a, b): the larger of two numbers, NaN where either is; unlike Python's max a reduction of vectors too.
maximum = np.maximum if config.DISABLE_JIT else _compiled_maximum
