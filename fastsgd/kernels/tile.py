"""The register tile: one block of a matrix product held in vector registers.

``acc[i, j] = init[i, j] + sum_k a[i, k] * b[k, j]``, ended in registers by what the caller asks for: a plain store, an
activation, an activation gradient, or the update of a weight. Every accumulator is one chain of fused multiply-adds in
the order of k, so a result does not depend on the tile that computed it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsgd.kernels.vectors import I64, VECTOR_BYTES, Emitter, lane_mask

# How a tile's left factor is stored: next to an element lies the next of its row, or of its column.
ANYHOW, BY_ROWS, BY_COLUMNS = range(3)
STEPS = 4  # products of an accumulator in a turn of the loop
# Rows of a that are found from one pointer. With one for all, a tall tile has too few registers for the addresses, and
# 0.9 of the rate.
_ROWS_OF_POINTER = 4
# Products from asking for a row of b to its use, where b comes from beyond the first cache: on a Xeon whose third cache
# answers after 70 ns as good as 8, and better than 24 and more.
_AHEAD = 16
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


def _emit_prefetch(emit: Emitter, start: Any, elements: int, to_write: int, cache: int) -> None:
    """Ask for the lines of so many elements."""
    for first in range(0, elements, _LINE // emit.size):
        emit.prefetch(emit.at(start, I64(first)), to_write, cache)


def _emit_prefetches(emit: Emitter, shape: tuple[int, int], c: Any, c_row: Any) -> None:
    """Ask for the lines that the tile will end in: they are far where a kernel is larger than the cache."""
    rows, vectors = shape
    for i in range(rows):
        _emit_prefetch(emit, emit.at(c, emit.builder.mul(c_row, I64(i))), vectors * emit.lanes, 1, _FIRST_CACHE)


class _Factors(NamedTuple):
    """The factors of a product: pointers to the first row of a, or to every `_ROWS_OF_POINTER`-th, and to b; strides in
    elements."""

    a: tuple[Any, ...]
    a_row: Any
    a_k: Any
    b: Any
    b_k: Any

    def after(self, emit: Emitter, steps: int) -> _Factors:
        """Those that are left after so many steps of k."""
        builder = emit.builder
        a = tuple(emit.at(pointer, builder.mul(self.a_k, I64(steps))) for pointer in self.a)
        return self._replace(a=a, b=emit.at(self.b, builder.mul(self.b_k, I64(steps))))


def _hidden(emit: Emitter, factors: _Factors) -> _Factors:
    """The same pointers, of which LLVM knows no more how they were found. It would otherwise find all rows of a tall
    tile from the first one, load the values of a whole turn at once and keep them in memory: 79 GFLOP/s of 120."""
    opaque = ir.InlineAsm(ir.FunctionType(factors.b.type, [factors.b.type]), "", "=r,0", side_effect=False)
    a = tuple(emit.builder.call(opaque, [pointer]) for pointer in factors.a)
    if isinstance(factors.a_k, ir.Constant):
        return factors._replace(a=a)
    return factors._replace(a=a, b=emit.builder.call(opaque, [factors.b]))


def _emit_factors(emit: Emitter, rows: int, a: Any, a_row: Any, a_k: Any, b: Any, b_k: Any) -> _Factors:
    """The factors of a tile of so many rows: one pointer will do where they are no rows as they are stored."""
    firsts = range(0, rows if isinstance(a_k, ir.Constant) else 1, _ROWS_OF_POINTER)
    pointers = tuple(emit.at(a, emit.builder.mul(a_row, I64(first))) for first in firsts)
    return _Factors(pointers, a_row, a_k, b, b_k)


def _emit_step(emit: Emitter, acc: list[list[Any]], factors: _Factors) -> list[list[Any]]:
    """The accumulators after the products of one k."""
    b_vectors = [emit.load(emit.at(factors.b, I64(j * emit.lanes)), j) for j in range(len(acc[0]))]
    new = []
    for i, row in enumerate(acc):
        number = min(i // _ROWS_OF_POINTER, len(factors.a) - 1)
        distance = emit.builder.mul(factors.a_row, I64(i - number * _ROWS_OF_POINTER))
        a_value = emit.scalar(emit.at(factors.a[number], distance))
        new.append([emit.fma(a_value, b_vector, old) for b_vector, old in zip(b_vectors, row, strict=True)])
    return new


class _Fetched(NamedTuple):
    """What a loop asks memory for as it goes: so many elements in each turn, from `first` on in turn 0 and `step`
    elements further in each; to be written too or not, for the first cache or the second."""

    first: Any
    step: Any
    elements: int
    to_write: int
    cache: int


class _Pieces(NamedTuple):
    """How the rows of a are cut: turns of `STEPS` products in a piece, and elements from the end of one to the next."""

    turns: Any
    gap: Any


def _emit_while_below(
    emit: Emitter, end: Any, first: Any, carried: Sequence[Any], body: Callable[[Any, list[Any]], tuple[Any, list[Any]]]
) -> list[Any]:
    """Values that are carried from turn to turn: ``while first < end: first, carried = body(first, carried)``."""
    builder = emit.builder
    before, head, inside, done = builder.block, *(builder.append_basic_block("tile.k") for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)
    values = []
    for start in (first, *carried):
        values.append(builder.phi(start.type))
        values[-1].add_incoming(start, before)
    builder.cbranch(builder.icmp_signed("<", values[0], end), inside, done)
    builder.position_at_end(inside)
    following, new = body(values[0], values[1:])
    for value, incoming in zip(values, (following, *new), strict=True):
        value.add_incoming(incoming, builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return values[1:]


def _carried(acc: list[list[Any]], factors: _Factors) -> list[Any]:
    """What changes from turn to turn."""
    return [*factors.a, factors.b, *itertools.chain(*acc)]


def _from_carried(values: list[Any], vectors: int, factors: _Factors) -> tuple[list[list[Any]], _Factors]:
    """Accumulators, so many vectors in a row, and the factors that are left, by what `_carried` gave."""
    pointers = len(factors.a)
    a, b, sums = values[:pointers], values[pointers], values[pointers + 1 :]
    acc = [sums[first : first + vectors] for first in range(0, len(sums), vectors)]
    return acc, factors._replace(a=tuple(a), b=b)


def _emit_loop(
    emit: Emitter,
    acc: list[list[Any]],
    factors: _Factors,
    turns: tuple[Any, Any],
    steps: int,
    fetched: Sequence[_Fetched] | None = None,
) -> tuple[list[list[Any]], _Factors]:
    """Turns from one number to below another, of so many steps each: the accumulators, and the factors that are left.

    Where anything is `fetched`, be it nothing else, each row of b is, some products before its use.
    """
    vectors = len(acc[0])

    def body(turn: Any, values: list[Any]) -> tuple[Any, list[Any]]:
        new, following = _from_carried(values, vectors, factors)
        for one in fetched or ():
            start = emit.at(one.first, emit.builder.mul(one.step, turn))
            _emit_prefetch(emit, start, one.elements, one.to_write, one.cache)
        # Elements of rows that are stored as such lie at known distances for a whole turn, others only for a step.
        hides_each = steps if isinstance(factors.a_k, ir.Constant) else 1
        passed = 0
        for step in range(steps):
            if fetched is not None:
                ahead = following.after(emit, step - passed + _AHEAD).b
                _emit_prefetch(emit, ahead, vectors * emit.lanes, 0, _FIRST_CACHE)
            new = _emit_step(emit, new, following.after(emit, step - passed))
            if (step + 1) % hides_each == 0:
                following, passed = _hidden(emit, following.after(emit, hides_each)), step + 1
        return emit.builder.add(turn, I64(1)), _carried(new, following)

    first, end = turns
    return _from_carried(_emit_while_below(emit, end, first, _carried(acc, factors), body), vectors, factors)


def _next_piece(emit: Emitter, rows: int, a: Any, turn: Any, pieces: _Pieces) -> _Fetched:
    """The next piece of so many rows of a, from the turn in which this one begins on. Rows that are in one piece have
    none: the same lines are asked for in each turn, which costs less than another loop would to compile."""
    builder = emit.builder
    step = builder.select(builder.icmp_signed("==", pieces.gap, I64(0)), I64(0), I64(rows * STEPS))
    strip = builder.add(builder.mul(pieces.turns, I64(STEPS)), pieces.gap)
    first = emit.at(a, builder.sub(strip, builder.mul(turn, step)))
    return _Fetched(first, step, rows * STEPS, 0, _FIRST_CACHE)


def _emit_pieces(
    emit: Emitter,
    acc: list[list[Any]],
    factors: _Factors,
    turns: Any,
    pieces: _Pieces,
    fetched: Sequence[_Fetched] | None,
) -> tuple[list[list[Any]], _Factors]:
    """`_emit_loop` over so many turns of `STEPS` products, whose rows of a lie in pieces."""
    builder, rows, vectors = emit.builder, len(acc), len(acc[0])

    def body(turn: Any, values: list[Any]) -> tuple[Any, list[Any]]:
        sums, here = _from_carried(values, vectors, factors)
        next_turn = builder.add(turn, pieces.turns)
        is_whole = builder.icmp_signed("<=", next_turn, turns)
        end = builder.select(is_whole, next_turn, turns)
        fetches = fetched if fetched is None else [*fetched, _next_piece(emit, rows, here.a[0], turn, pieces)]
        new, here = _emit_loop(emit, sums, here, (turn, end), STEPS, fetches)
        gap = builder.select(is_whole, pieces.gap, I64(0))
        return end, _carried(new, here._replace(a=tuple(emit.at(pointer, gap) for pointer in here.a)))

    return _from_carried(_emit_while_below(emit, turns, I64(0), _carried(acc, factors), body), vectors, factors)


def _emit_products(
    emit: Emitter,
    acc: list[list[Any]],
    factors: _Factors,
    count: Any,
    pieces: _Pieces | None,
    fetched: Sequence[_Fetched] | None,
) -> list[list[Any]]:
    """The sum over k, several steps a turn: whatever is no multiply-add counts on cores that are shared."""
    turns = emit.builder.sdiv(count, I64(STEPS))
    if pieces is None:
        acc, factors = _emit_loop(emit, acc, factors, (I64(0), turns), STEPS, fetched)
    else:
        acc, factors = _emit_pieces(emit, acc, factors, turns, pieces, fetched)
    left = emit.builder.sub(count, emit.builder.mul(turns, I64(STEPS)))
    return _emit_loop(emit, acc, factors, (I64(0), left), 1)[0]


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
    rows: int,
    vectors: int,
    ends: tuple[int, ...],
    stored: int = ANYHOW,
    *,
    masked: bool = False,
    fetches: bool = False,
    packed: bool = False,
) -> Any:
    """An intrinsic for one tile of `rows` x (`vectors` x lanes), float32 or float64 by its pointers.

    ``tile(mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns, later,
    piece, gap)``: pointers to the first elements, strides in elements, `count` products. `ends` are the modes it knows,
    `stored` says which stride of a is one, whatever is given: addresses of a known stride cost no instructions. Rows of
    a that are stored as such may lie in pieces, each of `piece` elements, a multiple of `STEPS` if there are several,
    with `gap` elements from the end of one to the next. A masked tile touches only the first `columns` columns of init,
    b, c and aux. The b of a packed one lies row after row.

    One that `fetches` asks memory for b ahead of its use, and in each turn of `STEPS` products for one of b's rows from
    `later` on, which other tiles will read. One of them that ends in weights asks for a row of c in each turn, instead
    of for all of them at the start: `count` should be `STEPS` times `rows` at least.
    """

    @intrinsic
    def tile(
        typing, mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, aux, aux_row, alpha, beta, columns, later,
        piece, gap,
    ):  # fmt: skip
        size = types.intp
        real = a.dtype
        signature = types.void(
            size, init, size, a, size, size, b, size, c, size, size, aux, size, real, real, size, a, size, size
        )  # fmt: skip

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            mode, init, init_row, a, a_row, a_k, b, b_k, c, c_row, count, *others = arguments
            aux, aux_row, alpha, beta, columns, later, piece, gap = others
            element = context.get_value_type(real)
            lanes = VECTOR_BYTES // (real.bitwidth // 8)
            masks = [lane_mask(builder, lanes, j * lanes, columns) for j in range(vectors)] if masked else []
            emit = Emitter(builder, element, lanes, masks)
            b_k = I64(vectors * lanes) if packed else b_k
            fetched = [_Fetched(later, b_k, vectors * lanes, 0, _SECOND_CACHE)] if fetches else None
            if UPDATE in ends and fetched is not None:
                fetched.append(_Fetched(c, c_row, vectors * lanes, 1, _FIRST_CACHE))
            elif UPDATE in ends:
                _emit_prefetches(emit, (rows, vectors), c, c_row)
            start = _emit_start(emit, (rows, vectors), init, init_row)
            a_row, a_k = I64(1) if stored == BY_COLUMNS else a_row, I64(1) if stored == BY_ROWS else a_k
            pieces = _Pieces(builder.sdiv(piece, I64(STEPS)), gap) if stored == BY_ROWS else None
            acc = _emit_products(emit, start, _emit_factors(emit, rows, a, a_row, a_k, b, b_k), count, pieces, fetched)
            _emit_end(emit, acc, mode, ends, (c, c_row, aux, aux_row), (alpha, beta))
            return context.get_dummy_value()

        return signature, codegen

    return tile
