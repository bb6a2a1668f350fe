"""Vector registers: how long they are on this host, and the LLVM instructions that load, store and rearrange them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

I32 = ir.IntType(32)
I64 = ir.IntType(64)


def host_features() -> frozenset[str]:
    """Names of the instruction sets that Numba compiles for, after NUMBA_CPU_NAME and NUMBA_CPU_FEATURES."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


def tile_shape(features: frozenset[str]) -> tuple[int, int, int]:
    """(bytes in a vector, rows of a tile, vectors in a row of a tile) for a set of host features.

    Sixteen vector registers hold 6 x 2 accumulators, two vectors of b and the broadcast a; thirty-two hold 12 x 2,
    which load half as much of b for each product.
    """
    if "avx512f" in features:
        return 64, 12, 2
    if "avx2" in features and "fma" in features:
        return 32, 6, 2
    if "neon" in features:
        return 16, 6, 4
    return 16, 4, 2


VECTOR_BYTES, TILE_ROWS, TILE_VECTORS = tile_shape(frozenset() if config.DISABLE_JIT else host_features())


def emit_prefetch(builder: Any, pointer: Any, to_write: int, level: int) -> None:
    """Ask for the cache line of an element, for the cache of that level (3 the first, 2 the second)."""
    address = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    function_type = ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    builder.call(function, [address, I32(to_write), I32(level), I32(1)])


class Emitter:
    """Emits vector operations into an LLVM builder: those of rows of a tile, of whole vectors or of masked ones."""

    def __init__(self, builder: Any, element: Any, lanes: int, masks: list[Any]) -> None:
        self.builder = builder
        self.element = element
        self.lanes = lanes
        self.vector = ir.VectorType(element, lanes)
        self.size = 4 if isinstance(element, ir.FloatType) else 8
        self.masks = masks  # one for each vector of a row, or none at all
        self.zero = ir.Constant(self.vector, [0.0] * lanes)
        letter = "f32" if self.size == 4 else "f64"
        self._suffix = f"v{lanes}{letter}"

    def function(self, name: str, result: Any, arguments: list[Any]) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        function = self.function(f"llvm.fma.{self._suffix}", self.vector, [self.vector] * 3)
        return self.builder.call(function, [a, b, c])

    def at(self, pointer: Any, *offsets: Any) -> Any:
        for offset in offsets:
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def scalar(self, pointer: Any) -> Any:
        return self.splat(self.builder.load(pointer))

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def prefetch(self, pointer: Any, to_write: int, level: int) -> None:
        emit_prefetch(self.builder, pointer, to_write, level)

    def load(self, pointer: Any, j: int) -> Any:
        """Vector `j` of a row."""
        if not self.masks:
            return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)
        mask = self.masks[j]
        function = self.function(
            f"llvm.masked.load.{self._suffix}.p0", self.vector, [pointer.type, I32, mask.type, self.vector]
        )
        return self.builder.call(function, [pointer, I32(self.size), mask, self.zero])

    def store(self, value: Any, pointer: Any, j: int, *, past_caches: bool = False) -> None:
        """Write vector `j` of a row. Where it lies at a multiple of its size it may go past the caches, which then do
        not bring what it overwrites; others see it after this thread's next atomic change, as they do any."""
        if not self.masks:
            place = self.builder.bitcast(pointer, self.vector.as_pointer())
            stored = self.builder.store(value, place, align=VECTOR_BYTES if past_caches else self.size)
            if past_caches:
                stored.set_metadata("nontemporal", self.builder.module.add_metadata([I32(1)]))
            return
        mask = self.masks[j]
        function = self.function(
            f"llvm.masked.store.{self._suffix}.p0", ir.VoidType(), [self.vector, pointer.type, I32, mask.type]
        )
        self.builder.call(function, [value, pointer, I32(self.size), mask])


def lane_mask(builder: Any, lanes: int, first: int, columns: Any) -> Any:
    """Vector of bits: first + lane < columns."""
    vector = ir.VectorType(I64, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    splat = builder.insert_element(undefined, columns, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    numbers = ir.Constant(vector, list(range(first, first + lanes)))
    return builder.icmp_signed("<", numbers, builder.shuffle_vector(splat, undefined, zeros))


def _emit_transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """The transpose of a square of vectors, by swapping the off-diagonal quarters of ever smaller squares."""
    lanes = len(rows)
    half = lanes // 2
    while half > 0:
        upper = [lane if lane & half == 0 else lanes + lane - half for lane in range(lanes)]
        lower = [lane + half if lane & half == 0 else lanes + lane for lane in range(lanes)]
        vector = ir.VectorType(I32, lanes)
        for i in range(lanes):
            if i & half == 0:
                pair = rows[i], rows[i + half]
                rows[i] = builder.shuffle_vector(*pair, ir.Constant(vector, upper))
                rows[i + half] = builder.shuffle_vector(*pair, ir.Constant(vector, lower))
        half //= 2
    return rows


def _make_copy(vectors: int, *, past_caches: bool = False) -> Any:
    @intrinsic
    def copy(typing, source, out):
        """Copy the elements of some vectors; pointers."""
        real = source.dtype

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            lanes = VECTOR_BYTES // (real.bitwidth // 8)
            emit = Emitter(builder, context.get_value_type(real), lanes, [])
            source, out = arguments
            for j in range(vectors):
                value = emit.load(emit.at(source, I64(j * lanes)), 0)
                emit.store(value, emit.at(out, I64(j * lanes)), 0, past_caches=past_caches)
            return context.get_dummy_value()

        return types.void(source, out), codegen

    return copy


copy_vector = _make_copy(1)
# As many elements as a tile has columns.
copy_strip_row = _make_copy(TILE_VECTORS)
copy_strip_row_past_caches = _make_copy(TILE_VECTORS, past_caches=True)


_MOST_MOVED = 64  # bytes at a time


def _emit_move(builder: Any, held: Any, source: Any, out: Any, count: Any) -> None:
    """out := held, `count` bytes, and held := source where there is one."""

    def emit(size: int, offset: Any) -> None:
        vector = ir.VectorType(ir.IntType(8), size).as_pointer()

        def at(pointer: Any) -> Any:
            return builder.bitcast(builder.gep(pointer, [offset]), vector)

        old = builder.load(at(held), align=1)
        new = None if source is None else builder.load(at(source), align=1)
        builder.store(old, at(out), align=1)
        if new is not None:
            builder.store(new, at(held), align=1)

    size = _MOST_MOVED
    with cgutils.for_range(builder, builder.udiv(count, I64(size))) as loop:
        emit(size, builder.mul(loop.index, I64(size)))
    while size > 1:
        size //= 2
        with builder.if_then(builder.icmp_unsigned("!=", builder.and_(count, I64(size)), I64(0))):
            emit(size, builder.and_(count, I64(-2 * size)))  # after what was moved in larger pieces


@intrinsic
def copy_bytes(typing, source, out, count):
    """out := source; pointers to bytes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, out, count = arguments
        _emit_move(builder, source, None, out, count)
        return context.get_dummy_value()

    return types.void(source, out, types.int64), codegen


@intrinsic
def swap_bytes(typing, held, source, out, count):
    """out := held, then held := source; pointers to bytes, of which `source` may be `out`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit_move(builder, *arguments)
        return context.get_dummy_value()

    return types.void(held, source, out, types.int64), codegen


def _make_transpose(*, past_caches: bool) -> Any:
    @intrinsic
    def transpose(typing, source, source_row, out, out_row):
        """Transpose a square of as many rows as a vector has lanes; pointers, and strides in elements."""
        size = types.intp
        real = source.dtype
        signature = types.void(source, size, out, size)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, source_row, out, out_row = arguments
            lanes = VECTOR_BYTES // (real.bitwidth // 8)
            emit = Emitter(builder, context.get_value_type(real), lanes, [])
            rows = [emit.load(emit.at(source, builder.mul(source_row, I64(i))), 0) for i in range(lanes)]
            for j, row in enumerate(_emit_transpose(builder, rows)):
                emit.store(row, emit.at(out, builder.mul(out_row, I64(j))), 0, past_caches=past_caches)
            return context.get_dummy_value()

        return signature, codegen

    return transpose


transpose_square = _make_transpose(past_caches=False)
transpose_square_past_caches = _make_transpose(past_caches=True)
