"""Hold the elementary functions of the kernels against the truth at every float32 there is, or at every n-th.

    python scripts/check_functions.py            # all 2**32 of each function: some minutes
    python scripts/check_functions.py --step 97 --only exp,gelu

The truth is the C library's, in float64. Printed for each function is the largest distance in units in the last place,
and where; more than tests/test_elementwise.py allows, or NaN or an infinity that was lost, is a failure.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from fastsgd.kernels import elementwise

PATTERNS = 2**32
CHUNK = 2**20
LIMITS = {
    "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "tanh": 1.5, "sigmoid": 1.5, "softplus": 2, "erf": 3.5, "gelu": 4,
}  # fmt: skip


@njit
def sigmoid(x):
    small = math.exp(-abs(x))
    return (1.0 if x > 0 else small) / (1.0 + small)


@njit
def softplus(x):
    return max(x, 0.0) + np.log1p(math.exp(-abs(x)))


@njit
def gelu(x):
    return 0.0 if x == -np.inf else 0.5 * x * math.erfc(-x / math.sqrt(2.0))


TRUTH: dict[str, Any] = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": math.tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "erf": math.erf,
    "gelu": gelu,
}


@njit
def ulps(found, wanted):
    """Distance of a float32 from a float64, in units in the last place of the latter as float32."""
    rounded = np.float32(wanted)
    if found == rounded or (math.isnan(found) and math.isnan(wanted)):
        return 0.0
    if not (math.isfinite(found) and math.isfinite(wanted)):
        return np.inf
    _, exponent = math.frexp(max(abs(wanted), 2.0**-126))
    return abs(found - wanted) / math.ldexp(1.0, exponent - 24)


def make_check(name: str) -> Callable[..., Any]:
    """A kernel for (largest distance, its argument) over an array of arguments."""
    function, truth, below = getattr(elementwise, name), TRUTH[name], name == "expm1"

    @njit(nogil=True)
    def fill(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    @njit(nogil=True, error_model="numpy")
    def check(x, out):
        fill(x, out)
        worst, at = 0.0, x[0]
        for i in range(x.size):
            if below and x[i] > 0:  # activations ask for no others
                continue
            distance = ulps(out[i], truth(np.float64(x[i])))
            if distance > worst:
                worst, at = distance, x[i]
        return worst, at

    return check


def check_all(name: str, step: int, threads: int) -> tuple[float, float]:
    """The largest distance over every step-th float32, and its argument."""
    check = make_check(name)
    check(np.zeros(1, np.float32), np.zeros(1, np.float32))

    def run(first: int) -> tuple[float, float]:
        patterns = np.arange(first, min(PATTERNS, first + CHUNK * step), step, np.uint64).astype(np.uint32)
        return check(patterns.view(np.float32), np.empty(len(patterns), np.float32))

    with ThreadPoolExecutor(threads) as pool:
        return max(pool.map(run, range(0, PATTERNS, CHUNK * step)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1, help="every so many patterns of bits (default: %(default)s)")
    parser.add_argument("--only", default=",".join(TRUTH), help="functions, by commas (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    failed = 0
    for name in options.only.split(","):
        worst, at = check_all(name, options.step, options.threads)
        failed += worst > LIMITS[name]
        print(f"{name:10} {worst:6.3f} ulp at {at!r}, {LIMITS[name]} allowed", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
