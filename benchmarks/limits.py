"""The limits of this machine: the rate of float32 multiply-adds and of reading memory. As a script, prints JSON.

Measured for one thread and for all; each figure is the best of several runs, since anything else running only slows.
"""

from __future__ import annotations

import json
import os
from typing import Any

from fastsgd.kernels.peak import multiply_add_rate, read_rate
from fastsgd.kernels.tile import VECTOR_BYTES


def limits(*counts: int) -> dict[str, Any]:
    """Both rates for each number of threads, by default one and all.

    Returns
    -------
    dict
        ``vector_bytes``, and ``multiply_add_gflops`` and ``read_gbytes`` as dicts by number of threads (a string, for
        JSON), in 1e9 a second.
    """
    counts = counts or tuple(sorted({1, len(os.sched_getaffinity(0))}))
    return {
        "vector_bytes": VECTOR_BYTES,
        "multiply_add_gflops": {str(n): round(multiply_add_rate(n) / 1e9, 1) for n in counts},
        "read_gbytes": {str(n): round(read_rate(n) / 1e9, 2) for n in counts},
    }


if __name__ == "__main__":
    print(json.dumps(limits(), indent=2))
