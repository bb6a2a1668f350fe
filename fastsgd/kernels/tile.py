"""The register tile: one block of a matrix product held in vector registers. The only file that knows LLVM.

``acc[i, j] = init[j] + sum_k a[i, k] * b[k, j]``, ended in registers by what the caller asks for: a plain store, an
activation, an activation gradient, or the update of a weight. Every accumulator is one chain of fused multiply-adds in
the order of k, so a result does not depend on the tile that computed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

# How a tile starts and ends.
STORE = 0  # c = acc
BIAS = 1  # c = aux[j] + acc
BIAS_RELU = 2  # c = max(aux[j] + acc, 0)
RELU_GRAD = 3  # c = acc where aux[i, j] > 0, else 0
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

    def __init__(self, builder: Any, element: Any, lanes: int, mask: Any) -> None:
        self.builder = builder
        self.element = element
        self.lanes = lanes
        self.vector = ir.VectorType(element, lanes)
        self.size = 4 if isinstance(element, ir.FloatType) else 8
        self.mask = mask
        self.zero = ir.Constant(self.vector, [0.0] * lanes)
        letter = "f32" if self.size == 4 else "f64"
        self._suffix = f"v{lanes}{letter}"

    def _function(self, name: str, result: Any, arguments: list[Any]) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        function = self._function(f"llvm.fma.{self._suffix}", self.vector, [self.vector] * 3)
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

    def load(self, pointer: Any) -> Any:
        if self.mask is None:
            return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)
        function = self._function(
            f"llvm.masked.load.{self._suffix}.p0",
            self.vector,
            [pointer.type, _I32, self.mask.type, self.vector],
        )
        return self.builder.call(function, [pointer, _I32(self.size), self.mask, self.zero])

    def store(self, value: Any, pointer: Any) -> None:
        if self.mask is None:
            self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)
            return
        function = self._function(
            f"llvm.masked.store.{self._suffix}.p0",
            ir.VoidType(),
            [self.vector, pointer.type, _I32, self.mask.type],
        )
        self.builder.call(function, [value, pointer, _I32(self.size), self.mask])


def _lane_mask(builder: Any, lanes: int, columns: Any) -> Any:
    """Vector of bits: lane < columns."""
    vector = ir.VectorType(_I64, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, columns, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.icmp_signed(
        "<", ir.Constant(vector, list(range(lanes))), builder.shuffle_vector(first, undefined, zeros)
    )


def _emit_start(emit: _Emitter, vectors: int, mode: Any, aux: Any) -> tuple[list[Any], Any]:
    """The first value of each column of accumulators: the bias for modes that have one, else zero."""
    builder = emit.builder
    has_bias = builder.or_(
        builder.icmp_signed("==", mode, _I64(BIAS)), builder.icmp_signed("==", mode, _I64(BIAS_RELU))
    )
    entry = builder.block
    with builder.if_then(has_bias):
        loaded = [emit.load(emit.at(aux, _I64(j * emit.lanes))) for j in range(vectors)]
        with_bias = builder.block
    start = []
    for j in range(vectors):
        phi = builder.phi(emit.vector)
        phi.add_incoming(emit.zero, entry)
        phi.add_incoming(loaded[j], with_bias)
        start.append(phi)
    return start, builder.block


def _emit_products(
    emit: _Emitter, shape: tuple[int, int], start: list[Any], before: Any, operands: tuple[Any, ...]
) -> list[list[Any]]:
    """The loop over k; returns the accumulators (rows x vectors)."""
    rows, vectors = shape
    a, a_row, a_k, b, b_k, count = operands
    builder = emit.builder
    loop = builder.append_basic_block("tile.k")
    done = builder.append_basic_block("tile.done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_I64)
    k.add_incoming(_I64(0), before)
    old = [[builder.phi(emit.vector) for _ in range(vectors)] for _ in range(rows)]
    b_row = emit.at(b, builder.mul(k, b_k))
    a_column = emit.at(a, builder.mul(k, a_k))
    b_vectors = [emit.load(emit.at(b_row, _I64(j * emit.lanes))) for j in range(vectors)]
    new = []
    for i in range(rows):
        a_value = emit.scalar(emit.at(a_column, builder.mul(a_row, _I64(i))))
        new.append([emit.fma(a_value, b_vectors[j], old[i][j]) for j in range(vectors)])
    following = builder.add(k, _I64(1))
    k.add_incoming(following, loop)
    for i in range(rows):
        for j in range(vectors):
            old[i][j].add_incoming(start[j], before)
            old[i][j].add_incoming(new[i][j], loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    return new


def _end_store(emit: _Emitter, acc: Any, c: Any, aux: Any, alpha: Any, beta: Any) -> None:
    emit.store(acc, c)


def _end_relu(emit: _Emitter, acc: Any, c: Any, aux: Any, alpha: Any, beta: Any) -> None:
    # "acc <= 0 ? 0 : acc" is false for NaN, which so passes through.
    emit.store(emit.builder.select(emit.builder.fcmp_ordered("<=", acc, emit.zero), emit.zero, acc), c)


def _end_relu_grad(emit: _Emitter, acc: Any, c: Any, aux: Any, alpha: Any, beta: Any) -> None:
    active = emit.builder.fcmp_unordered(">", emit.load(aux), emit.zero)
    emit.store(emit.builder.select(active, acc, emit.zero), c)


def _end_update(emit: _Emitter, acc: Any, c: Any, aux: Any, alpha: Any, beta: Any) -> None:
    emit.store(emit.fma(emit.builder.fneg(alpha), acc, emit.load(c)), c)


def _new_velocity(emit: _Emitter, acc: Any, aux: Any, alpha: Any, beta: Any) -> tuple[Any, Any]:
    step = emit.builder.fneg(emit.builder.fmul(alpha, acc))
    velocity = emit.fma(beta, emit.load(aux), step)
    emit.store(velocity, aux)
    return velocity, step


def _end_momentum(emit: _Emitter, acc: Any, c: Any, aux: Any, alpha: Any, beta: Any) -> None:
    velocity, _ = _new_velocity(emit, acc, aux, alpha, beta)
    emit.store(emit.builder.fadd(emit.load(c), velocity), c)


def _end_nesterov(emit: _Emitter, acc: Any, c: Any, aux: Any, alpha: Any, beta: Any) -> None:
    velocity, step = _new_velocity(emit, acc, aux, alpha, beta)
    emit.store(emit.builder.fadd(emit.load(c), emit.fma(beta, velocity, step)), c)


_ENDS: dict[int, Callable[..., None]] = {
    STORE: _end_store,
    BIAS: _end_store,
    BIAS_RELU: _end_relu,
    RELU_GRAD: _end_relu_grad,
    UPDATE: _end_update,
    MOMENTUM: _end_momentum,
    NESTEROV: _end_nesterov,
}


def _emit_end(emit: _Emitter, acc: list[list[Any]], mode: Any, places: tuple[Any, ...], rates: tuple[Any, Any]) -> None:
    """A switch over the modes; each writes the accumulators its own way."""
    c, c_row, aux, aux_row = places
    builder = emit.builder
    alpha, beta = (emit.splat(rate) for rate in rates)
    # An empty instruction that claims to change the mode: LLVM would otherwise copy the loops around the tiles once for
    # each mode, four times the code to compile.
    opaque = ir.InlineAsm(ir.FunctionType(_I64, [_I64]), "", "=r,0", side_effect=True)
    mode = builder.call(opaque, [mode])
    finish = builder.append_basic_block("tile.finish")
    default = builder.append_basic_block("tile.store")
    switch = builder.switch(mode, default)
    for code, end in _ENDS.items():
        block = default if code == STORE else builder.append_basic_block(f"tile.end{code}")
        if code != STORE:
            switch.add_case(_I64(code), block)
        builder.position_at_end(block)
        for i, row in enumerate(acc):
            c_start = emit.at(c, builder.mul(c_row, _I64(i)))
            aux_start = emit.at(aux, builder.mul(aux_row, _I64(i)))
            for j, value in enumerate(row):
                offset = _I64(j * emit.lanes)
                end(emit, value, emit.at(c_start, offset), emit.at(aux_start, offset), alpha, beta)
        builder.branch(finish)
    builder.position_at_end(finish)


def make_tile(rows: int, vectors: int, *, masked: bool = False) -> Any:
    """An intrinsic for one tile of `rows` x (`vectors` x lanes), float32 or float64 by its pointers.

    ``tile(mode, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns)``: pointers to the first
    elements, strides in elements, `count` products (at least one). A masked tile is one vector wide and touches only
    the first `columns` lanes of b, c and aux.
    """

    @intrinsic
    def tile(typing, mode, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns):
        size = types.intp
        real = a.dtype
        signature = types.void(size, a, size, size, b, size, c, size, size, aux, size, real, real, size)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            mode, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns = arguments
            element = context.get_value_type(real)
            lanes = VECTOR_BYTES // (real.bitwidth // 8)
            mask = _lane_mask(builder, lanes, columns) if masked else None
            emit = _Emitter(builder, element, lanes, mask)
            start, before = _emit_start(emit, vectors, mode, aux)
            acc = _emit_products(emit, (rows, vectors), start, before, (a, a_row, a_k, b, b_k, count))
            _emit_end(emit, acc, mode, (c, c_row, aux, aux_row), (alpha, beta))
            return context.get_dummy_value()

        return signature, codegen

    return tile


@intrinsic
def pointer(typing, array, offset):
    """Pointer to element `offset` of a contiguous array."""
    signature = types.CPointer(array.dtype)(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return signature, codegen


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


def _make_prefetch() -> Any:
    @intrinsic
    def prefetch(typing, array, offset):
        signature = types.void(array, types.intp)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32]),
                "llvm.prefetch.p0",
            )
            builder.call(function, [address, _I32(1), _I32(3), _I32(1)])
            return context.get_dummy_value()

        return signature, codegen

    def nothing(array: Any, offset: int) -> None:
        """There is no cache to warm in plain Python."""

    return nothing if config.DISABLE_JIT else prefetch


prefetch = _make_prefetch()


def _make_maximum() -> Any:
    @intrinsic
    def maximum(typing, a, b):
        """The larger of two numbers, NaN where either is: unlike Python's max, a reduction that becomes vector code."""

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            real = arguments[0].type
            name = f"llvm.maximum.f{a.bitwidth}"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(real, [real, real]), name)
            return builder.call(function, arguments)

        return a(a, a), codegen

    return np.maximum if config.DISABLE_JIT else maximum


maximum = _make_maximum()
