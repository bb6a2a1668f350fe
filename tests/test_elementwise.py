"""The elementary functions: within some units in the last place of the truth everywhere, and vector code in a loop."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fastsgd.kernels import elementwise
from fastsgd.kernels.jit import serial
from fastsgd.kernels.machine import maximum
from fastsgd.kernels.vectors import host_features


def normal_below(x):
    """(Phi(x), phi(x)) in long double, to its last digits: a series for the middle, a continued fraction for the ends.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 1964: 26.2.11 and 26.2.14.
    """
    a = np.minimum(np.abs(x.astype(np.longdouble)), 150)
    density = np.exp(-a * a / 2) / np.sqrt(2 * np.longdouble("3.14159265358979323846264"))
    near = np.minimum(a, 3)
    term, total = near.copy(), near.copy()
    for k in range(1, 60):
        term *= near * near / (2 * k + 1)
        total += term
    middle = np.longdouble(0.5) - density * total
    far, fraction = np.maximum(a, 3), np.zeros_like(a)
    for k in range(120, 0, -1):
        fraction = k / (far + fraction)
    below = np.where(a < 3, middle, density / (far + fraction))
    return np.where(x > 0, 1 - below, below), density


def erf(x):
    """From the normal distribution; the middle by its series, which loses nothing near 0."""
    x = x.astype(np.longdouble)
    near = np.clip(x, -1, 1)
    term, total = near.copy(), near.copy()
    for k in range(1, 40):
        term *= -near * near / k
        total += term / (2 * k + 1)
    two_over_root_pi = np.longdouble("1.128379167095512573896158903121545171688")
    return np.where(np.abs(x) < 1, total * two_over_root_pi, 2 * normal_below(x * np.sqrt(np.longdouble(2)))[0] - 1)


REFERENCES = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.where(x > 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x))),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "erf": erf,
    "gelu": lambda x: x * normal_below(x)[0],
}
LIMITS = {  # ulp in float32 and in float64
    "exp": (1, 1),
    "expm1": (1, 1.25),
    "log": (1, 1),
    "log1p": (1, 1),
    "tanh": (1.5, 1.5),
    "sigmoid": (1.5, 1.5),
    "softplus": (2, 2),
    "erf": (3.5, 3.5),
    "gelu": (4, 4),
}
LOOPS = {}


def loop(name):
    """A kernel that applies a function to a row."""
    if name not in LOOPS:
        function = getattr(elementwise, name)

        def run(x, out):
            for j in range(x.size):
                out[j] = function(x[j])

        run.__name__ = run.__qualname__ = f"run_{name}"  # the cache's file is named after it
        LOOPS[name] = serial(run)
    return LOOPS[name]


def spread(dtype):
    """Numbers of every size, and many where the functions bend, overflow or leave the normal numbers."""
    rng = np.random.default_rng(0)
    if dtype == np.float32:
        patterns = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
        edges = (88.7, -87.3, -103.9, -13.0, -14.2, 9.0, -16.6, 2e-38, 1e-40)
    else:
        patterns = rng.integers(0, 2**64, 400_000, dtype=np.uint64).view(np.float64)
        edges = (709.7, -708.4, -745.1, -37.5, -38.4, 19.0, -36.7, 3e-308, 1e-310)
    middle = [rng.uniform(-bound, bound, 50_000) for bound in (1e-3, 1, 3, 10, 40)]
    near = [edge * rng.uniform(0.98, 1.02, 5_000) for edge in edges]
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]
    return np.concatenate([patterns, *(part.astype(dtype) for part in (*middle, *near)), np.array(special, dtype)])


def ulps(found, wanted):
    """Distance in units in the last place of what is wanted; 0 where both are the same NaN, infinity or rounding."""
    dtype = found.dtype
    with np.errstate(all="ignore"):
        rounded = wanted.astype(dtype)
        distance = np.abs(found - wanted) / np.spacing(np.maximum(np.abs(rounded), np.finfo(dtype).tiny))
    same = (found == rounded) | (np.isnan(found) & np.isnan(wanted))
    return np.where(same, np.minimum(np.nan_to_num(distance, nan=0.0), 0.5), np.nan_to_num(distance, nan=np.inf))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", REFERENCES)
def test_within_some_ulp_of_the_truth(name, dtype):
    if dtype == np.float64:
        assert np.finfo(np.longdouble).nmant > 60, "this test needs a long double that is longer than a double"
    x = spread(dtype)
    x = x[~(x > 0)] if name == "expm1" else x
    out = np.empty_like(x)
    loop(name)(x, out)
    with np.errstate(all="ignore"):
        wanted = REFERENCES[name](x.astype(np.longdouble if dtype == np.float64 or name in ("erf", "gelu") else float))
    if name == "gelu":
        wanted[np.isneginf(x)] = 0
    found = ulps(out, wanted)
    at = found.argmax()
    assert found[at] <= LIMITS[name][dtype == np.float64], (x[at], out[at], wanted[at])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slope_of_gelu(dtype):
    @serial
    def run_gelu_and_slope(x, out, slope):
        for j in range(x.size):
            out[j], slope[j] = elementwise.gelu_and_slope(x[j])

    x = spread(dtype)
    x = x[np.isfinite(x) & (x > (-13 if dtype == np.float32 else -37))]
    out, slope, alone = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    run_gelu_and_slope(x, out, slope)
    loop("gelu")(x, alone)
    np.testing.assert_array_equal(out, alone)
    below, density = normal_below(x)
    moved = x * density
    larger = np.maximum(np.abs(below), np.abs(moved)).astype(dtype)
    assert (np.abs(slope - (below + moved)) / np.spacing(larger)).max() < 6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_loop_is_vector_code(name, dtype):
    loop(name)(np.zeros(1, dtype), np.zeros(1, dtype))
    (assembly,) = (
        code for types, code in loop(name).inspect_asm().items() if f"float{8 * dtype().itemsize}" in str(types)
    )
    if {"avx2", "fma"} <= host_features():
        packed = "ps" if dtype == np.float32 else "pd"
        wide = [line for line in assembly.splitlines() if "ymm" in line or "zmm" in line]
        assert any("vfmadd" in line and packed in line for line in wide)


def test_maximum_keeps_a_nan():
    @serial
    def largest(x):
        found = x[0]
        for value in x:
            found = maximum(found, value)
        return found

    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(0).standard_normal(37).astype(dtype)
        assert largest(x) == x.max()
        x[20] = np.nan
        assert np.isnan(largest(x))


def test_plain_python():
    """NUMBA_DISABLE_JIT=1: the same functions without a compiler."""
    code = (
        "import numpy as np\n"
        "from fastsgd.kernels import elementwise as e\n"
        "for real, bound in ((np.float32, 1e-6), (np.float64, 1e-14)):\n"
        "    for x in (-300.0, -5.0, -0.3, 0.0, 0.5, 20.0):\n"
        "        x = real(x)\n"
        "        for f, wanted in ((e.exp, np.exp), (e.tanh, np.tanh), (e.softplus, lambda x: np.logaddexp(0, x))):\n"
        "            assert abs(f(x) - wanted(float(x))) <= bound * abs(wanted(float(x))) + 1e-46, (f, x)\n"
        "            assert type(f(x)) is real\n"
        "    assert e.log(real(0)) == -np.inf and np.isnan(e.exp(real('nan'))) and e.gelu(real(-np.inf)) == 0\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True)
