"""Kernels use no memory that is freed, and read none before it is written: the allocator of the C library fills both
with a pattern, and what depends on either fails."""

import os
import subprocess
import sys
from pathlib import Path

# Without the second one each thread would keep some blocks, unfilled.
FILLED = "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"
TESTS = [
    "test_kernels_losses.py::test_public_functions",
    "test_kernels_public.py::test_updates",
    "test_kernels_step.py::test_serial_and_parallel_give_the_same_bits",
    "test_kernels_step.py::test_two_hundred_steps_of_the_seed_network",
]


def test_what_is_freed_is_not_used():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=Path(__file__).parent,
        env={**os.environ, "GLIBC_TUNABLES": FILLED},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
