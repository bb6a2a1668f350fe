"""The register tile: one block of a matrix product held in vector registers.

``acc[i, j] = init[i, j] + sum_k a[i, k] * b[k, j]``, ended in registers by what the caller asks for: a plain store, an
activation, an activation gradient, or the update of a weight. Every accumulator is one chain of fused multiply-adds in
the order of k, so a result does not depend on the tile that computed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsgd.kernels.vectors import I64, VECTOR_BYTES, Emitter, lane_mask

# How a tile's left factor is stored: next to an element lies the next of its row, or of its column.
ANYHOW, BY_ROWS, BY_COLUMNS = range(3)
STEPS = 4  # products of an accumulator in a turn of the loop
_LINE = 64  # bytes of a line of the cache
_FIRST_CACHE, _SECOND_CACHE = 3, 2

# How a tile ends.
STORE = 0  # c = acc
RELU = 1  # c = max(acc, 0)
RELU_GRAD = 2  # c = acc where aux > 0, else 0
SCALE = 3  # c = acc * aux
UPDATE = 4  # c -= alpha * acc
MOMENTUM = 5  # aux = beta * aux - alpha * acc; c += aux
NESTEROV = 6  # aux = beta * aux - alpha * acc; c += beta * aux - alpha * acc


def _emit_start(emit: Emitter, shape: tuple[int, int], init: Any, init_row: Any) -> list[list[Any]]:
    """The first values of the accumulators (rows x vectors)."""
    rows, vectors = shape
    start = []
    for i in range(rows):
        row = emit.at(init, emit.builder.mul(init_row, I64(i)))
        start.append([emit.load(emit.at(row, I64(j * emit.lanes)), j) for j in range(vectors)])
    return start


def _emit_prefetches(emit: Emitter, shape: tuple[int, int], c: Any, c_row: Any) -> None:
    """Ask for the lines that the tile will end in: they are far where a kernel is larger than the cache."""
    rows, vectors = shape
    builder = emit.builder
    for i in range(rows):
        row = emit.at(c, builder.mul(c_row, I64(i)))
        for first in range(0, vectors * VECTOR_BYTES, _LINE):
            emit.prefetch(emit.at(row, I64(first // emit.size)), 1, _FIRST_CACHE)


class _Factors(NamedTuple):
    """The factors of a product: pointers to their first elements, and strides in elements."""

    a: Any
    a_row: Any
    a_k: Any
    b: Any
    b_k: Any

    def after(self, emit: Emitter, steps: int) -> _Factors:
        """Those that are left after so many steps of k."""
        builder = emit.builder
        a = emit.at(self.a, builder.mul(self.a_k, I64(steps)))
        return self._replace(a=a, b=emit.at(self.b, builder.mul(self.b_k, I64(steps))))


def _emit_step(emit: Emitter, acc: list[list[Any]], factors: _Factors) -> list[list[Any]]:
    """The accumulators after the products of one k."""
    b_vectors = [emit.load(emit.at(factors.b, I64(j * emit.lanes)), j) for j in range(len(acc[0]))]
    new = []
    for i, row in enumerate(acc):
        a_value = emit.scalar(emit.at(factors.a, emit.builder.mul(factors.a_row, I64(i))))
        new.append([emit.fma(a_value, b_vector, old) for b_vector, old in zip(b_vectors, row, strict=True)])
    return new


def _emit_loop(
    emit: Emitter, acc: list[list[Any]], factors: _Factors, count: Any, steps: int, ahead: Any = None
) -> tuple[list[list[Any]], _Factors]:
    """`count` turns of so many steps each: the accumulators, and the factors that are left. Each turn asks memory for
    a line from `ahead` on, if that is given."""
    builder = emit.builder
    before, head, body, done = builder.block, *(builder.append_basic_block(f"tile.k{steps}") for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)

    def changing(first: Any) -> Any:
        phi = builder.phi(first.type)
        phi.add_incoming(first, before)
        return phi

    turn = changing(I64(0))
    here = factors._replace(a=changing(factors.a), b=changing(factors.b))
    old = [[changing(value) for value in row] for row in acc]
    builder.cbranch(builder.icmp_signed("<", turn, count), body, done)
    builder.position_at_end(body)
    if ahead is not None:
        emit.prefetch(emit.at(ahead, builder.mul(turn, I64(_LINE // emit.size))), 0, _SECOND_CACHE)
    new = old
    for step in range(steps):
        new = _emit_step(emit, new, here.after(emit, step))
    following = here.after(emit, steps)
    turn.add_incoming(builder.add(turn, I64(1)), body)
    here.a.add_incoming(following.a, body)
    here.b.add_incoming(following.b, body)
    for old_row, new_row in zip(old, new, strict=True):
        for phi, value in zip(old_row, new_row, strict=True):
            phi.add_incoming(value, body)
    builder.branch(head)
    builder.position_at_end(done)
    return old, here


def _emit_products(emit: Emitter, acc: list[list[Any]], factors: _Factors, count: Any, ahead: Any) -> list[list[Any]]:
    """The sum over k, several steps a turn: whatever is no multiply-add counts on cores that are shared."""
    turns = emit.builder.sdiv(count, I64(STEPS))
    acc, factors = _emit_loop(emit, acc, factors, turns, STEPS, ahead)
    left = emit.builder.sub(count, emit.builder.mul(turns, I64(STEPS)))
    return _emit_loop(emit, acc, factors, left, 1)[0]


class _Place(NamedTuple):
    """Where one accumulator ends: the vector's number in its row, pointers to c and aux, and the rates."""

    j: int
    c: Any
    aux: Any
    alpha: Any
    beta: Any


def _end_store(emit: Emitter, acc: Any, place: _Place) -> None:
    emit.store(acc, place.c, place.j)


def _end_relu(emit: Emitter, acc: Any, place: _Place) -> None:
    # "acc <= 0 ? 0 : acc" is false for NaN, which so passes through.
    kept = emit.builder.select(emit.builder.fcmp_ordered("<=", acc, emit.zero), emit.zero, acc)
    emit.store(kept, place.c, place.j)


def _end_relu_grad(emit: Emitter, acc: Any, place: _Place) -> None:
    active = emit.builder.fcmp_unordered(">", emit.load(place.aux, place.j), emit.zero)
    emit.store(emit.builder.select(active, acc, emit.zero), place.c, place.j)


def _end_scale(emit: Emitter, acc: Any, place: _Place) -> None:
    emit.store(emit.builder.fmul(acc, emit.load(place.aux, place.j)), place.c, place.j)


def _end_update(emit: Emitter, acc: Any, place: _Place) -> None:
    weight = emit.load(place.c, place.j)
    emit.store(emit.fma(emit.builder.fneg(place.alpha), acc, weight), place.c, place.j)


def _new_velocity(emit: Emitter, acc: Any, place: _Place) -> tuple[Any, Any]:
    step = emit.builder.fneg(emit.builder.fmul(place.alpha, acc))
    velocity = emit.fma(place.beta, emit.load(place.aux, place.j), step)
    emit.store(velocity, place.aux, place.j)
    return velocity, step


def _end_momentum(emit: Emitter, acc: Any, place: _Place) -> None:
    velocity, _ = _new_velocity(emit, acc, place)
    emit.store(emit.builder.fadd(emit.load(place.c, place.j), velocity), place.c, place.j)


def _end_nesterov(emit: Emitter, acc: Any, place: _Place) -> None:
    velocity, step = _new_velocity(emit, acc, place)
    moved = emit.builder.fadd(emit.load(place.c, place.j), emit.fma(place.beta, velocity, step))
    emit.store(moved, place.c, place.j)


_ENDS: dict[int, Callable[[Emitter, Any, _Place], None]] = {
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
    emit: Emitter,
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
    opaque = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0", side_effect=True)
    mode = builder.call(opaque, [mode])
    finish = builder.append_basic_block("tile.finish")
    blocks = [builder.append_basic_block(f"tile.end{code}") for code in ends]
    switch = builder.switch(mode, blocks[0])
    for code, block in zip(ends, blocks, strict=True):
        if code != ends[0]:
            switch.add_case(I64(code), block)
        builder.position_at_end(block)
        for i, row in enumerate(acc):
            c_start = emit.at(c, builder.mul(c_row, I64(i)))
            aux_start = emit.at(aux, builder.mul(aux_row, I64(i)))
            for j, value in enumerate(row):
                offset = I64(j * emit.lanes)
                place = _Place(j, emit.at(c_start, offset), emit.at(aux_start, offset), alpha, beta)
                _ENDS[code](emit, value, place)
        builder.branch(finish)
    builder.position_at_end(finish)


def make_tile(
    rows: int, vectors: int, ends: tuple[int, ...], stored: int = ANYHOW, *, masked: bool = False, asks: bool = False
) -> Any:
    """An intrinsic for one tile of `rows` x (`vectors` x lanes), float32 or float64 by its pointers.

    ``tile(mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns, ahead)``:
    pointers to the first elements, strides in elements, `count` products. `ends` are the modes it knows, `stored` says
    which stride of a is one, whatever is given: addresses of a known stride cost no instructions. A masked tile touches
    only the first `columns` columns of init, b, c and aux. One that asks has memory bring a line for each `STEPS`
    products, from `ahead` on.
    """

    @intrinsic
    def tile(
        typing, mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns, ahead
    ):
        size = types.intp
        real = a.dtype
        signature = types.void(
            size, init, size, a, size, size, b, size, c, size, size, aux, size, real, real, size, a
        )  # fmt: skip

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, *others = arguments
            aux, aux_row, alpha, beta, columns, ahead = others
            element = context.get_value_type(real)
            lanes = VECTOR_BYTES // (real.bitwidth // 8)
            masks = [lane_mask(builder, lanes, j * lanes, columns) for j in range(vectors)] if masked else []
            emit = Emitter(builder, element, lanes, masks)
            if UPDATE in ends:
                _emit_prefetches(emit, (rows, vectors), c, c_row)
            start = _emit_start(emit, (rows, vectors), init, init_row)
            a_row, a_k = I64(1) if stored == BY_COLUMNS else a_row, I64(1) if stored == BY_ROWS else a_k
            acc = _emit_products(emit, start, _Factors(a, a_row, a_k, b, b_k), count, ahead if asks else None)
            _emit_end(emit, acc, mode, ends, (c, c_row, aux, aux_row), (alpha, beta))
            return context.get_dummy_value()

        return signature, codegen

    return tile
