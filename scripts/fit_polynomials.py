"""Fit the polynomials of `fastsgd/kernels/elementwise.py`: prints each with its largest relative error.

Remez's exchange in 60 digits, for the least relative error over an interval. Needs mpmath, which the package does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp  # type: ignore[import-not-found, unused-ignore]
import numpy as np

mp.mp.dps = 60
TAIL_CENTRE = 4

Function = Callable[[Any], Any]


def exchange(f: Function, low: Any, high: Any, degree: int) -> tuple[list[Any], Any]:
    """Coefficients, lowest power first, and the largest relative error on a fine grid."""
    count = degree + 2
    middle, half = (low + high) / 2, (high - low) / 2
    nodes = [middle - half * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    grid = [middle - half * mp.cos(mp.pi * mp.mpf(i) / 800) for i in range(801)]
    values = [f(x) for x in grid]
    for _ in range(6):
        system, right = mp.matrix(count, count), mp.matrix(count, 1)
        for i, x in enumerate(nodes):
            right[i] = f(x)
            for j in range(degree + 1):
                system[i, j] = x**j
            system[i, degree + 1] = (-1) ** i * abs(right[i])
        coefficients = list(mp.lu_solve(system, right))[: degree + 1]
        errors = [mp.polyval(coefficients[::-1], x) / y - 1 for x, y in zip(grid, values, strict=True)]
        peaks = _peaks(errors)
        while len(peaks) > count:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        if len(peaks) < count:
            break
        nodes = [grid[i] for i in peaks]
    return coefficients, max(map(abs, errors))


def _peaks(errors: list[Any]) -> list[int]:
    """Where the error is largest between two changes of its sign."""
    found = [0]
    for i, error in enumerate(errors):
        if mp.sign(error) != mp.sign(errors[found[-1]]):
            found.append(i)
        elif abs(error) > abs(errors[found[-1]]):
            found[-1] = i
    return found


def _exponential(r: Any) -> Any:
    """(exp(r) - 1 - r) / r^2"""
    return (mp.expm1(r) - r) / r**2 if abs(r) > mp.mpf("1e-15") else mp.mpf(1) / 2 + r / 6


def _logarithm(z: Any) -> Any:
    """(log((1 + s) / (1 - s)) - 2 s) / s^3 for s = sqrt(z)"""
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s) / (s * z) if z > mp.mpf("1e-20") else mp.mpf(2) / 3 + z * 2 / 5


def _tangent(z: Any) -> Any:
    """(tanh(x) - x) / x^3 for x = sqrt(z)"""
    x = mp.sqrt(z)
    return (mp.tanh(x) - x) / x**3 if z > mp.mpf("1e-20") else -mp.mpf(1) / 3 + z * 2 / 15


def _normal_near(z: Any) -> Any:
    """(Phi(x) - 1/2) / x for x = sqrt(z)"""
    x = mp.sqrt(z)
    return mp.erf(x / mp.sqrt(2)) / 2 / x if z > mp.mpf("1e-30") else 1 / mp.sqrt(2 * mp.pi)


def _normal_far(q: Any) -> Any:
    """a (1 - Phi(a)) exp(a^2 / 2) for q = (a - K) / (a + K)"""
    a = TAIL_CENTRE * (1 + q) / (1 - q)
    return a * mp.erfc(a / mp.sqrt(2)) * mp.exp(a * a / 2) / 2


def main() -> None:
    reach = mp.log(2) / 2 * mp.mpf("1.01")
    widest = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.01")
    zero = mp.mpf(0)

    def tail(a: Any) -> Any:
        return (a - TAIL_CENTRE) / (a + TAIL_CENTRE)

    for function, intervals, degrees in (
        (_exponential, [(-reach, reach)] * 2, (5, 9)),
        (_logarithm, [(zero, widest)] * 2, (3, 6)),
        (_tangent, [(zero, mp.mpf("0.5"))] * 2, (5, 11)),
        (_normal_near, [(zero, mp.mpf("0.55"))] * 2, (4, 8)),
        (_normal_far, [(tail(mp.mpf("0.65")), tail(mp.mpf(last))) for last in (15, 40)], (9, 20)),
    ):
        for dtype, (low, high), degree in zip((np.float32, np.float64), intervals, degrees, strict=True):
            coefficients, error = exchange(function, low, high, degree)
            print(f"{function.__doc__}, {dtype.__name__}: relative error {mp.nstr(error, 2)}")
            print("   ", ", ".join(str(dtype(float(c))) for c in coefficients))


if __name__ == "__main__":
    main()
