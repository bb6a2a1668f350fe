"""The register tile: one block of a matrix product held in vector registers.

``acc[i, j] = init[i, j] + sum_k a[i, k] * b[k, j]``, ended in registers by what the caller asks for: a plain store, an
activation, an activation gradient, or the update of a weight. Every accumulator is one chain of fused multiply-adds in
the order of k, so a result does not depend on the tile that computed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

# How a tile ends.
STORE = 0  # c = acc
RELU = 1  # c = max(acc, 0)
RELU_GRAD = 2  # c = acc where aux > 0, else 0
SCALE = 3  # c = acc * aux
UPDATE = 4  # c -= alpha * acc
MOMENTUM = 5  # aux = beta * aux - alpha * acc; c += aux
NESTEROV = 6  # aux = beta * aux - alpha * acc; c += beta * aux - alpha * acc

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


def host_features() -> frozenset[str]:
    """Names of the instruction sets that Numba compiles for, after NUMBA_CPU_NAME and NUMBA_CPU_FEATURES."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


def tile_shape(features: frozenset[str]) -> tuple[int, int, int]:
    """(bytes in a vector, rows of a tile, vectors in a row of a tile) for a set of host features.

    Sixteen vector registers hold 6 x 2 accumulators, two vectors of b and the broadcast a; thirty-two hold 12 x 2.
    """
    if "avx512f" in features:
        return 64, 12, 2
    if "avx2" in features and "fma" in features:
        return 32, 6, 2
    if "neon" in features:
        return 16, 6, 4
    return 16, 4, 2


VECTOR_BYTES, TILE_ROWS, TILE_VECTORS = tile_shape(frozenset() if config.DISABLE_JIT else host_features())


class _Emitter:
    """Emits the vector operations of one tile into an LLVM builder."""

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
        first = self.builder.insert_element(undefined, value, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def load(self, pointer: Any, j: int) -> Any:
        """Vector `j` of a row."""
        if not self.masks:
            return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)
        mask = self.masks[j]
        function = self.function(
            f"llvm.masked.load.{self._suffix}.p0", self.vector, [pointer.type, _I32, mask.type, self.vector]
        )
        return self.builder.call(function, [pointer, _I32(self.size), mask, self.zero])

    def store(self, value: Any, pointer: Any, j: int) -> None:
        """Write vector `j` of a row."""
        if not self.masks:
            self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)
            return
        mask = self.masks[j]
        function = self.function(
            f"llvm.masked.store.{self._suffix}.p0", ir.VoidType(), [self.vector, pointer.type, _I32, mask.type]
        )
        self.builder.call(function, [value, pointer, _I32(self.size), mask])


def _lane_mask(builder: Any, lanes: int, first: int, columns: Any) -> Any:
    """Vector of bits: first + lane < columns."""
    vector = ir.VectorType(_I64, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    splat = builder.insert_element(undefined, columns, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    numbers = ir.Constant(vector, list(range(first, first + lanes)))
    return builder.icmp_signed("<", numbers, builder.shuffle_vector(splat, undefined, zeros))


def _emit_start(emit: _Emitter, shape: tuple[int, int], init: Any, init_row: Any) -> list[list[Any]]:
    """The first values of the accumulators (rows x vectors)."""
    rows, vectors = shape
    start = []
    for i in range(rows):
        row = emit.at(init, emit.builder.mul(init_row, _I64(i)))
        start.append([emit.load(emit.at(row, _I64(j * emit.lanes)), j) for j in range(vectors)])
    return start


def _emit_prefetches(emit: _Emitter, shape: tuple[int, int], c: Any, c_row: Any) -> None:
    """Ask for the lines that the tile will end in: they are far where a kernel is larger than the cache."""
    rows, vectors = shape
    builder = emit.builder
    for i in range(rows):
        row = emit.at(c, builder.mul(c_row, _I64(i)))
        for first in range(0, vectors * VECTOR_BYTES, 64):
            address = builder.bitcast(emit.at(row, _I64(first // emit.size)), ir.IntType(8).as_pointer())
            prefetch = emit.function("llvm.prefetch.p0", ir.VoidType(), [address.type, _I32, _I32, _I32])
            builder.call(prefetch, [address, _I32(1), _I32(3), _I32(1)])


def _emit_products(
    emit: _Emitter, shape: tuple[int, int], start: list[list[Any]], operands: tuple[Any, ...]
) -> list[list[Any]]:
    """The loop over k; returns the accumulators (rows x vectors)."""
    rows, vectors = shape
    a, a_row, a_k, b, b_k, count = operands
    builder = emit.builder
    before = builder.block
    loop = builder.append_basic_block("tile.k")
    done = builder.append_basic_block("tile.done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_I64)
    k.add_incoming(_I64(0), before)
    old = [[builder.phi(emit.vector) for _ in range(vectors)] for _ in range(rows)]
    b_row = emit.at(b, builder.mul(k, b_k))
    a_column = emit.at(a, builder.mul(k, a_k))
    b_vectors = [emit.load(emit.at(b_row, _I64(j * emit.lanes)), j) for j in range(vectors)]
    new = []
    for i in range(rows):
        a_value = emit.scalar(emit.at(a_column, builder.mul(a_row, _I64(i))))
        new.append([emit.fma(a_value, b_vectors[j], old[i][j]) for j in range(vectors)])
    following = builder.add(k, _I64(1))
    k.add_incoming(following, loop)
    for i in range(rows):
        for j in range(vectors):
            old[i][j].add_incoming(start[i][j], before)
            old[i][j].add_incoming(new[i][j], loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    return new


class _Place(NamedTuple):
    """Where one accumulator ends: the vector's number in its row, pointers to c and aux, and the rates."""

    j: int
    c: Any
    aux: Any
    alpha: Any
    beta: Any


def _end_store(emit: _Emitter, acc: Any, place: _Place) -> None:
    emit.store(acc, place.c, place.j)


def _end_relu(emit: _Emitter, acc: Any, place: _Place) -> None:
    # "acc <= 0 ? 0 : acc" is false for NaN, which so passes through.
    kept = emit.builder.select(emit.builder.fcmp_ordered("<=", acc, emit.zero), emit.zero, acc)
    emit.store(kept, place.c, place.j)


def _end_relu_grad(emit: _Emitter, acc: Any, place: _Place) -> None:
    active = emit.builder.fcmp_unordered(">", emit.load(place.aux, place.j), emit.zero)
    emit.store(emit.builder.select(active, acc, emit.zero), place.c, place.j)


def _end_scale(emit: _Emitter, acc: Any, place: _Place) -> None:
    emit.store(emit.builder.fmul(acc, emit.load(place.aux, place.j)), place.c, place.j)


def _end_update(emit: _Emitter, acc: Any, place: _Place) -> None:
    weight = emit.load(place.c, place.j)
    emit.store(emit.fma(emit.builder.fneg(place.alpha), acc, weight), place.c, place.j)


def _new_velocity(emit: _Emitter, acc: Any, place: _Place) -> tuple[Any, Any]:
    step = emit.builder.fneg(emit.builder.fmul(place.alpha, acc))
    velocity = emit.fma(place.beta, emit.load(place.aux, place.j), step)
    emit.store(velocity, place.aux, place.j)
    return velocity, step


def _end_momentum(emit: _Emitter, acc: Any, place: _Place) -> None:
    velocity, _ = _new_velocity(emit, acc, place)
    emit.store(emit.builder.fadd(emit.load(place.c, place.j), velocity), place.c, place.j)


def _end_nesterov(emit: _Emitter, acc: Any, place: _Place) -> None:
    velocity, step = _new_velocity(emit, acc, place)
    moved = emit.builder.fadd(emit.load(place.c, place.j), emit.fma(place.beta, velocity, step))
    emit.store(moved, place.c, place.j)


_ENDS: dict[int, Callable[[_Emitter, Any, _Place], None]] = {
    STORE: _end_store,
    RELU: _end_relu,
    RELU_GRAD: _end_relu_grad,
    SCALE: _end_scale,
    UPDATE: _end_update,
    MOMENTUM: _end_momentum,
    NESTEROV: _end_nesterov,
}
ROW_ENDS = (STORE, RELU, RELU_GRAD, SCALE)  # of rows on their way through the layers
WEIGHT_ENDS = (STORE, UPDATE, MOMENTUM, NESTEROV)  # of a gradient


def _emit_end(
    emit: _Emitter,
    acc: list[list[Any]],
    mode: Any,
    ends: tuple[int, ...],
    places: tuple[Any, ...],
    rates: tuple[Any, Any],
) -> None:
    """A switch over the modes; each writes the accumulators its own way. Any other number does as the first."""
    c, c_row, aux, aux_row = places
    builder = emit.builder
    alpha, beta = (emit.splat(rate) for rate in rates)
    # An empty instruction that claims to change the mode: LLVM would otherwise copy the loops around the tiles once for
    # each mode, four times the code to compile.
    opaque = ir.InlineAsm(ir.FunctionType(_I64, [_I64]), "", "=r,0", side_effect=True)
    mode = builder.call(opaque, [mode])
    finish = builder.append_basic_block("tile.finish")
    blocks = [builder.append_basic_block(f"tile.end{code}") for code in ends]
    switch = builder.switch(mode, blocks[0])
    for code, block in zip(ends, blocks, strict=True):
        if code != ends[0]:
            switch.add_case(_I64(code), block)
        builder.position_at_end(block)
        for i, row in enumerate(acc):
            c_start = emit.at(c, builder.mul(c_row, _I64(i)))
            aux_start = emit.at(aux, builder.mul(aux_row, _I64(i)))
            for j, value in enumerate(row):
                offset = _I64(j * emit.lanes)
                place = _Place(j, emit.at(c_start, offset), emit.at(aux_start, offset), alpha, beta)
                _ENDS[code](emit, value, place)
        builder.branch(finish)
    builder.position_at_end(finish)


def make_tile(rows: int, vectors: int, ends: tuple[int, ...], *, masked: bool = False) -> Any:
    """An intrinsic for one tile of `rows` x (`vectors` x lanes), float32 or float64 by its pointers.

    ``tile(mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns)``: pointers
    to the first elements, strides in elements, `count` products (at least one). `ends` are the modes it knows. A masked
    tile touches only the first `columns` columns of init, b, c and aux.
    """

    @intrinsic
    def tile(typing, mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns):
        size = types.intp
        real = a.dtype
        signature = types.void(
            size, init, size, a, size, size, b, size, c, size, size, aux, size, real, real, size
        )  # fmt: skip

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns = arguments
            element = context.get_value_type(real)
            lanes = VECTOR_BYTES // (real.bitwidth // 8)
            masks = [_lane_mask(builder, lanes, j * lanes, columns) for j in range(vectors)] if masked else []
            emit = _Emitter(builder, element, lanes, masks)
            if UPDATE in ends:
                _emit_prefetches(emit, (rows, vectors), c, c_row)
            start = _emit_start(emit, (rows, vectors), init, init_row)
            acc = _emit_products(emit, (rows, vectors), start, (a, a_row, a_k, b, b_k, count))
            _emit_end(emit, acc, mode, ends, (c, c_row, aux, aux_row), (alpha, beta))
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _emit_dots(emit: _Emitter, tail: _Emitter, rows: int, operands: tuple[Any, ...]) -> list[Any]:
    """Vectors whose elements add up to the dot products of `rows` rows with one; `tail` masks what no vector fills."""
    a, a_row, b, count = operands
    builder = emit.builder
    whole = builder.mul(builder.sdiv(count, _I64(emit.lanes)), _I64(emit.lanes))
    before = builder.block
    loop, body, done = (builder.append_basic_block(f"dots.{name}") for name in ("loop", "body", "done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_I64)
    k.add_incoming(_I64(0), before)
    sums = [builder.phi(emit.vector) for _ in range(rows)]
    builder.cbranch(builder.icmp_signed("<", k, whole), body, done)
    builder.position_at_end(body)
    b_vector = emit.load(emit.at(b, k), 0)
    for i, total in enumerate(sums):
        a_vector = emit.load(emit.at(a, builder.mul(a_row, _I64(i)), k), 0)
        total.add_incoming(emit.zero, before)
        total.add_incoming(emit.fma(a_vector, b_vector, total), body)
    k.add_incoming(builder.add(k, _I64(emit.lanes)), body)
    builder.branch(loop)
    builder.position_at_end(done)
    tail.masks = [_lane_mask(builder, emit.lanes, 0, builder.sub(count, whole))]
    b_vector = tail.load(emit.at(b, whole), 0)
    starts = [emit.at(a, builder.mul(a_row, _I64(i)), whole) for i in range(rows)]
    return [emit.fma(tail.load(start, 0), b_vector, total) for start, total in zip(starts, sums, strict=True)]


def make_dots(rows: int) -> Any:
    """An intrinsic for the dot products of some rows with one, vectors along the rows.

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
            lanes = VECTOR_BYTES // (real.bitwidth // 8)
            element = context.get_value_type(real)
            emit, tail = (_Emitter(builder, element, lanes, []) for _ in range(2))
            sums = _emit_dots(emit, tail, rows, (a, a_row, b, count))
            name = f"llvm.vector.reduce.fadd.v{lanes}f{real.bitwidth}"
            add_up = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(element, [element, emit.vector]), name
            )
            for i, total in enumerate(sums):
                # Free to add pair by pair; else it would add one after the other.
                value = builder.call(add_up, [start, total], fastmath=("reassoc",))
                builder.store(value, emit.at(out, builder.mul(out_row, _I64(i))))
            return context.get_dummy_value()

        return signature, codegen

    return dots


def _emit_transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """The transpose of a square of vectors, by swapping the off-diagonal quarters of ever smaller squares."""
    lanes = len(rows)
    half = lanes // 2
    while half > 0:
        upper = [lane if lane & half == 0 else lanes + lane - half for lane in range(lanes)]
        lower = [lane + half if lane & half == 0 else lanes + lane for lane in range(lanes)]
        vector = ir.VectorType(_I32, lanes)
        for i in range(lanes):
            if i & half == 0:
                pair = rows[i], rows[i + half]
                rows[i] = builder.shuffle_vector(*pair, ir.Constant(vector, upper))
                rows[i + half] = builder.shuffle_vector(*pair, ir.Constant(vector, lower))
        half //= 2
    return rows


@intrinsic
def copy_strip_row(typing, source, out):
    """Copy as many elements as a tile has columns; pointers."""
    real = source.dtype

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = VECTOR_BYTES // (real.bitwidth // 8)
        emit = _Emitter(builder, context.get_value_type(real), lanes, [])
        source, out = arguments
        for j in range(TILE_VECTORS):
            emit.store(emit.load(emit.at(source, _I64(j * lanes)), 0), emit.at(out, _I64(j * lanes)), 0)
        return context.get_dummy_value()

    return types.void(source, out), codegen


@intrinsic
def transpose_square(typing, source, source_row, out, out_row):
    """Transpose a square of as many rows as a vector has lanes; pointers, and strides in elements."""
    size = types.intp
    real = source.dtype
    signature = types.void(source, size, out, size)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, out, out_row = arguments
        lanes = VECTOR_BYTES // (real.bitwidth // 8)
        emit = _Emitter(builder, context.get_value_type(real), lanes, [])
        rows = [emit.load(emit.at(source, builder.mul(source_row, _I64(i))), 0) for i in range(lanes)]
        for j, row in enumerate(_emit_transpose(builder, rows)):
            emit.store(row, emit.at(out, builder.mul(out_row, _I64(j))), 0)
        return context.get_dummy_value()

    return signature, codegen
