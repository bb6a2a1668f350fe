"""Scalar operations that Python has no name for, each one machine instruction that LLVM can make a vector of.

All take float32 or float64 and answer in kind. The plain versions are for NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import config, types
from numba.extending import intrinsic

# Bits of the mantissa, bias of the exponent, and a number whose last bits hold an integer added to it.
_LAYOUT = {32: (23, 127, 1.5 * 2.0**23), 64: (52, 1023, 1.5 * 2.0**52)}


def _choose(compiled: Any, plain: Callable[..., Any]) -> Any:
    return plain if config.DISABLE_JIT else compiled


def _is_single(x: Any) -> bool:
    return isinstance(x, np.float32)


def _plain_like(x: Any, value: float) -> Any:
    return np.float32(value) if _is_single(x) else np.float64(value)


@intrinsic
def _like(typing, x, value):
    """`value` as a number of the type of x: a literal alone would make float64 of all it meets."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], types.float64, x)

    return x(x, types.float64), codegen


like = _choose(_like, _plain_like)


def _plain_by_type(x: Any, single: float, double: float) -> Any:
    return np.float32(single) if _is_single(x) else np.float64(double)


@intrinsic
def _by_type(typing, x, single, double):
    """`single` where x is a float32, `double` where it is a float64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1 if x == types.float32 else 2], types.float64, x)

    return x(x, types.float64, types.float64), codegen


by_type = _choose(_by_type, _plain_by_type)


def _plain_fma(a: Any, b: Any, c: Any) -> Any:
    return np.float32(float(a) * float(b) + float(c)) if _is_single(a) else a * b + c


@intrinsic
def _fma(typing, a, b, c):
    """a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), codegen


fma = _choose(_fma, _plain_fma)


def make_polynomial(single: Sequence[float], double: Sequence[float]) -> Any:
    """A function of x: the polynomial with these coefficients for float32 and for float64, lowest power first.

    Horner's scheme of fused multiply-adds.
    """

    @intrinsic
    def polynomial(typing, x):
        coefficients = single if x == types.float32 else double

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            total, *others = (context.get_constant(x, value) for value in reversed(coefficients))
            for value in others:
                total = builder.fma(total, arguments[0], value)
            return total

        return x(x), codegen

    def plain(x: Any) -> Any:
        total, *others = reversed(single if _is_single(x) else double)
        total = _plain_like(x, total)
        for value in others:
            total = _plain_fma(total, x, _plain_like(x, value))
        return total

    return _choose(polynomial, plain)


def _plain_shift(x: Any) -> Any:
    return _plain_like(x, _LAYOUT[32 if _is_single(x) else 64][2])


@intrinsic
def _shift(typing, x):
    """A number of the type of x whose sum with n, |n| < 2^21, is rounded to a whole n, there in its last bits."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(x, _LAYOUT[x.bitwidth][2])

    return x(x), codegen


shift = _choose(_shift, _plain_shift)


def _plain_power_of_two(t: Any) -> Any:
    n = t - _plain_shift(t)
    return _plain_like(t, math.nan if math.isnan(n) else math.ldexp(1.0, int(n)))


@intrinsic
def _power_of_two(typing, t):
    """2^n for t = n + shift, n whole and 2^n a normal number, or infinity next to them; anything for a NaN."""
    mantissa, bias, _ = _LAYOUT[t.bitwidth]
    whole = types.int32 if t.bitwidth == 32 else types.int64

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], context.get_value_type(whole))
        biased = builder.add(bits, context.get_constant(whole, bias))
        placed = builder.shl(biased, context.get_constant(whole, mantissa))
        return builder.bitcast(placed, context.get_value_type(t))

    return t(t), codegen


power_of_two = _choose(_power_of_two, _plain_power_of_two)


def _bits_of_root_half(width: int) -> int:
    return int.from_bytes(struct.pack("<f" if width == 32 else "<d", math.sqrt(0.5)), "little")


def _plain_split(x: Any) -> Any:
    if not 0 < x < math.inf:
        return x, x
    m, e = math.frexp(x)
    if m < math.sqrt(0.5):
        m, e = 2 * m, e - 1
    return _plain_like(x, m), _plain_like(x, e)


@intrinsic
def _split(typing, x):
    """(m, e) with x = m 2^e and m from sqrt(1/2) to sqrt(2), for a positive normal x; any numbers for others."""
    mantissa, _, centre = _LAYOUT[x.bitwidth]
    whole = types.int32 if x.bitwidth == 32 else types.int64

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, real = context.get_value_type(whole), context.get_value_type(x)
        bits = builder.bitcast(arguments[0], integer)
        above = builder.sub(bits, context.get_constant(whole, _bits_of_root_half(x.bitwidth)))
        e = builder.ashr(above, context.get_constant(whole, mantissa))
        m = builder.sub(bits, builder.shl(e, context.get_constant(whole, mantissa)))
        # As an integer in the last bits of a float: AVX2 converts no 64-bit integers.
        start = context.get_constant(x, centre)
        number = builder.fsub(builder.bitcast(builder.add(builder.bitcast(start, integer), e), real), start)
        return context.make_tuple(builder, signature.return_type, [builder.bitcast(m, real), number])

    return types.UniTuple(x, 2)(x), codegen


split = _choose(_split, _plain_split)
