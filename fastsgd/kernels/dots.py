"""Products of a few long rows at a time, vectors along the rows: dot products with one row, and sums over the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsgd.kernels.vectors import I64, VECTOR_BYTES, Emitter, lane_mask

_LINE = 64  # bytes
_SECOND_CACHE = 2

# Vector j of a turn, from element k on, of the row that starts at a pointer.
_Reader = Callable[[Emitter, Any, int], Callable[[Any], Any]]


def _emit_vectors(
    builder: Any, real: Any, element: Any, count: Any, unroll: int, body: Callable[[Emitter, Any, int], None]
) -> Emitter:
    """``body(emit, k, j)`` for each vector of rows of `count` elements: k is its first element, j its number in a turn
    of the loop, of `unroll` vectors. The last turn is masked. Returns an emitter of whole vectors."""
    lanes = VECTOR_BYTES // (real.bitwidth // 8)
    emit, tail = (Emitter(builder, element, lanes, []) for _ in range(2))
    turn = I64(unroll * lanes)
    whole = builder.mul(builder.sdiv(count, turn), turn)
    with cgutils.for_range_slice(builder, I64(0), whole, turn, intp=I64) as (k, _):
        for j in range(unroll):
            body(emit, builder.add(k, I64(j * lanes)), j)
    tail.masks = [lane_mask(builder, lanes, j * lanes, builder.sub(count, whole)) for j in range(unroll)]
    for j in range(unroll):
        body(tail, builder.add(whole, I64(j * lanes)), j)
    return emit


def _emit_sum_of_lanes(emit: Emitter, start: Any, vector: Any) -> Any:
    name = f"llvm.vector.reduce.fadd.v{emit.lanes}f{8 * emit.size}"
    add_up = emit.function(name, emit.element, [emit.element, emit.vector])
    # Free to add pair by pair; else it would add one after the other.
    return emit.builder.call(add_up, [start, vector], fastmath=("reassoc",))


def make_dots(rows: int) -> Any:
    """An intrinsic for the dot products of some rows with one.

    ``dots(a, a_row, b, count, out, out_row, start)``: out[i] := start + sum_k a[i, k] * b[k]; pointers, and strides in
    elements.
    """

    @intrinsic
    def dots(typing, a, a_row, b, count, out, out_row, start):
        size = types.intp
        real = a.dtype
        signature = types.void(a, size, b, size, out, size, real)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_row, b, count, out, out_row, start = arguments
            starts = [builder.gep(a, [builder.mul(a_row, I64(i))]) for i in range(rows)]
            element = context.get_value_type(real)
            totals = _emit_dots(builder, real, element, starts, b, count, 1, _as_stored)
            _store_totals(builder, totals, start, out, out_row)
            return context.get_dummy_value()

        return signature, codegen

    return dots


def _as_stored(emit: Emitter, k: Any, j: int) -> Callable[[Any], Any]:
    return lambda start: emit.load(emit.at(start, k), j)


def _emit_dots(
    builder: Any,
    real: Any,
    element: Any,
    starts: Sequence[Any],
    b: Any,
    count: Any,
    unroll: int,
    reader: _Reader,
) -> tuple[Emitter, list[Any]]:
    """Vectors whose lanes add up to the dot products of the rows at `starts` with b."""
    lanes = VECTOR_BYTES // (real.bitwidth // 8)
    zero = ir.Constant(ir.VectorType(element, lanes), [0.0] * lanes)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in starts]

    def body(emit: Emitter, k: Any, j: int) -> None:
        read, weights = reader(emit, k, j), emit.load(emit.at(b, k), j)
        for start, total in zip(starts, sums, strict=True):
            builder.store(emit.fma(read(start), weights, builder.load(total)), total)

    emit = _emit_vectors(builder, real, element, count, unroll, body)
    return emit, [builder.load(total) for total in sums]


def _store_totals(builder: Any, totals: tuple[Emitter, list[Any]], start: Any, out: Any, out_row: Any) -> None:
    emit, vectors = totals
    for i, vector in enumerate(vectors):
        value = _emit_sum_of_lanes(emit, start, vector)
        builder.store(value, emit.at(out, builder.mul(out_row, I64(i))))


class _Scattered:
    """Rows of a matrix that an order names, read as they are or standardized; memory is asked for others on the way."""

    def __init__(self, builder: Any, x: Any, width: Any, standard: tuple[Any, ...]) -> None:
        self.builder = builder
        self.x = x
        self.width = width
        self.standard = standard

    def starts(self, order: Any, first: int, last: int) -> list[Any]:
        """Pointers to the rows order[first:last]."""
        builder = self.builder
        numbers = [builder.load(builder.gep(order, [I64(i)])) for i in range(first, last)]
        return [builder.gep(self.x, [builder.mul(number, self.width)]) for number in numbers]

    def reader(self, ahead: Sequence[Any]) -> _Reader:
        """Reads the rows; with the first vector of a turn the lines of the rows `ahead` are asked for."""

        def reader(emit: Emitter, k: Any, j: int) -> Callable[[Any], Any]:
            for row in ahead if j == 0 else ():
                emit.prefetch(emit.at(row, k), 0, _SECOND_CACHE)
            standard = [emit.load(emit.at(part, k), j) for part in self.standard]

            def read(start: Any) -> Any:
                value = emit.load(emit.at(start, k), j)
                if standard:
                    shift, scale = standard
                    value = self.builder.fmul(self.builder.fsub(value, shift), scale)
                return value

            return read

        return reader


def _asked_with_dots(rows: int) -> int:
    """Of so many rows ahead, those that dot products ask for."""
    return (rows + 3) // 4


def make_scattered_dots(rows: int, *, standardized: bool) -> Any:
    """An intrinsic for the dot products of some rows, wherever they lie, with one.

    ``dots(x, width, order, ahead, shift, scale, b, out, out_row, start)``: out[i] := start + sum_k a[i, k] * b[k],
    where a[i] is the row order[i] of x (., width), or (that - shift) * scale. A quarter of the rows ahead[i] of x are
    asked of memory; in training the others are by `make_scattered_sums`, which reads from the cache: memory then works
    all the time.
    """

    @intrinsic
    def dots(typing, x, width, order, ahead, shift, scale, b, out, out_row, start):
        size = types.intp
        real = x.dtype
        signature = types.void(x, size, order, ahead, shift, scale, b, out, size, real)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, width, order, ahead, shift, scale, b, out, out_row, start = arguments
            scattered = _Scattered(builder, x, width, (shift, scale) if standardized else ())
            reader = scattered.reader(scattered.starts(ahead, 0, _asked_with_dots(rows)))
            starts = scattered.starts(order, 0, rows)
            element = context.get_value_type(real)
            totals = _emit_dots(builder, real, element, starts, b, width, _LINE // VECTOR_BYTES, reader)
            _store_totals(builder, totals, start, out, out_row)
            return context.get_dummy_value()

        return signature, codegen

    return dots


def make_scattered_sums(rows: int, *, standardized: bool) -> Any:
    """An intrinsic for the sum of some rows, wherever they lie, each with its factor.

    ``sums(x, width, order, ahead, shift, scale, factor, factor_row, out, fresh)``: out[k] := sum_i factor[i] * a[i, k],
    to which the former out[k] is added unless `fresh`; the rest as for `make_scattered_dots`.
    """

    @intrinsic
    def sums(typing, x, width, order, ahead, shift, scale, factor, factor_row, out, fresh):
        size = types.intp
        real = x.dtype
        signature = types.void(x, size, order, ahead, shift, scale, factor, size, out, types.boolean)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, width, order, ahead, shift, scale, factor, factor_row, out, fresh = arguments
            scattered = _Scattered(builder, x, width, (shift, scale) if standardized else ())
            reader = scattered.reader(scattered.starts(ahead, _asked_with_dots(rows), rows))
            starts = scattered.starts(order, 0, rows)
            element = context.get_value_type(real)
            whole = Emitter(builder, element, VECTOR_BYTES // (real.bitwidth // 8), [])
            factors = [whole.scalar(whole.at(factor, builder.mul(factor_row, I64(i)))) for i in range(rows)]

            def body(emit: Emitter, k: Any, j: int) -> None:
                read = reader(emit, k, j)
                total = builder.select(fresh, emit.zero, emit.load(emit.at(out, k), j))
                for start, value in zip(starts, factors, strict=True):
                    total = emit.fma(read(start), value, total)
                emit.store(total, emit.at(out, k), j)

            _emit_vectors(builder, real, element, width, _LINE // VECTOR_BYTES, body)
            return context.get_dummy_value()

        return signature, codegen

    return sums
