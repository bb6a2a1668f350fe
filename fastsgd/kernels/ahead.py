"""A second process that compiles a part of the training step while this one compiles the rest.

Numba compiles on one thread, and what it finds in the cache it does not compile. The other process therefore works
through some functions of the step, each for the types of arguments that the step has, and says when one is in the
cache. This process waits for one where it would compile it itself. If the other fails, all is compiled here.
"""

from __future__ import annotations

import atexit
import multiprocessing.spawn
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types

from fastsgd.kernels import activations, host, jit, linear, losses, matmul, threads, weights

# Bytes that control groups and machine must have beside what training takes: a process that compiles takes 300 MB,
# and Python and Numba are in this one too.
_LEAST_MEMORY = 2 * 10**9


def parts(dtype: str) -> list[tuple[Any, tuple[Any, ...]]]:
    """Functions of the training step, and the types of their arguments, in the order in which the step needs them.

    About half of the work, so that neither process waits for the other.
    """
    real, size, flag = numba.from_dtype(np.dtype(dtype)), types.int64, types.boolean
    pointer, numbers = types.CPointer(real), types.CPointer(size)
    matrix = types.NamedTuple((pointer, size, size, size), matmul.Matrix)
    panel = types.NamedTuple((pointer, size, size, size), matmul.Panel)
    ending = types.NamedTuple((size, panel, panel, real, real), matmul.Ending)
    product = (panel, panel, panel, size, size, size, ending)
    in_place = types.NamedTuple((pointer, size, numbers, numbers, size, pointer, pointer, flag), linear.InPlace)
    return [
        (matmul.multiply_rows, product),
        (activations.activate_with_slope, (size, matrix, matrix, size, size)),
        (losses.loss_rows, (size, pointer, matrix, matrix, matrix, size, size, real, matrix, pointer)),
        (activations.scale_rows, (matrix, matrix, size, size)),
        (activations.relu_or_softmax_grad, (size, matrix, matrix, size, size)),
        (linear.sums_in_place, (in_place, matrix, pointer, flag)),
        (matmul.multiply_columns, product),
        (weights.add_and_update, (pointer, pointer, size, real, real, pointer, size, size, size, size)),
    ]


def compile_parts(dtype: str) -> None:
    """What the other process does: compile each part, and print its name when it is in the cache."""
    for kernel, arguments in parts(dtype):
        kernel.compile(arguments)
        print(jit.name_of(kernel), flush=True)


class _Other:
    """The other process, and the parts that it has not yet said are in the cache."""

    def __init__(self, dtype: str, names: Iterable[str]) -> None:
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from fastsgd.kernels.ahead import compile_parts; "
            f"compile_parts({dtype!r})"
        )
        self._process = subprocess.Popen(
            [multiprocessing.spawn.get_executable(), "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._missing = set(names)
        self._asked_by = os.getpid()
        atexit.register(self._end)

    def wait(self, name: str) -> None:
        """Return when a part is in the cache, or will not come."""
        assert self._process.stdout is not None
        if self._is_of_a_parent():
            return  # which reads what it says
        while name in self._missing:
            line = self._process.stdout.readline()
            self._missing -= {line.decode().strip()} if line else self._missing
            if not self._missing:
                self._process.communicate()  # it is at its end

    def _is_of_a_parent(self) -> bool:
        """Whether this process was forked from the one that started it."""
        return os.getpid() != self._asked_by

    def _end(self) -> None:
        if self._missing and not self._is_of_a_parent():
            with self._process:  # whose output another thread may be reading
                self._process.kill()


def compile_ahead(dtype: str, reserved: int = 0) -> None:
    """Start the other process, where there are two processors and the memory for it; once for a dtype.

    Parameters
    ----------
    dtype : str
        Of the network: "float32" or "float64".
    reserved : int
        Bytes that this process is about to take.
    """
    free = [most - reserved for most in (host.memory_limit(), host.memory_available()) if most is not None]
    # A frozen program is its own interpreter: to start it would start the program again.
    frozen = getattr(sys, "frozen", False) or not multiprocessing.spawn.get_executable()
    if not frozen and threads.available_threads(None) > 1 and min(free, default=_LEAST_MEMORY) >= _LEAST_MEMORY:
        _start(dtype)


@cache
def _start(dtype: str) -> None:
    kernels = [kernel for kernel, _ in parts(dtype)]
    if not all(map(jit.cache_folder, kernels)):
        return
    try:
        other = _Other(dtype, map(jit.name_of, kernels))
    except OSError:
        return  # all is compiled here
    for kernel in kernels:
        jit.expect(kernel, other.wait)
