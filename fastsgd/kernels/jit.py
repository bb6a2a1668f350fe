"""The presets every kernel is compiled with, and the cache they share.

Numba keys a cached function by the hash of that function's own file, so an edit to a kernel that it *calls* would be
answered with the old machine code. Kernels here therefore carry one stamp: a hash over all files of this package.
"""

from __future__ import annotations

import hashlib
import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

from numba import config, njit
from numba.core import caching, ir
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from fastsgd.kernels.aside import interruptible

FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}  # no "nnan", no "ninf": a NaN must survive to be seen

# Only explicit prange loops run in parallel; array expressions stay as they are written.
_PARALLEL = {
    "comprehension": False,
    "prange": True,
    "numpy": False,
    "reduction": False,
    "inplace_binop": False,
    "setitem": False,
    "stencil": False,
    "fusion": False,
}


@lru_cache(maxsize=1)
def kernels_stamp() -> bytes:
    """SHA-256 over the name and content of every kernel file."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.digest()


class _StampedByPackage:
    def get_source_stamp(self) -> bytes:
        return kernels_stamp()


class _UserProvided(_StampedByPackage, caching.UserProvidedCacheLocator):
    pass


class _InTree(_StampedByPackage, caching.InTreeCacheLocator):
    pass


class _UserWide(_StampedByPackage, caching.UserWideCacheLocator):
    pass


class _KernelCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar[list[type]] = [_UserProvided, _InTree, _UserWide]

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """What Numba forgets: what starts its threads is handed on to the functions that call a kernel from the cache.

        A function that calls a parallel kernel would otherwise, when it comes from a cache itself, end the process.
        """
        result = super().rebuild(target_context, payload)
        result.library._reload_init.update(result.reload_init)
        return result


_expected: dict[str, Callable[[str], None]] = {}  # by name, what waits for a kernel that another process compiles


class _KernelCacheFile(caching.IndexDataCacheFile):
    """What cannot be read, as a power cut or a version of this package with other classes leaves it, is not there."""

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except Exception:
            return {}

    def _load_data(self, name: str) -> Any:
        try:
            return super()._load_data(name)
        except Exception as error:
            raise FileNotFoundError(name) from error


class _KernelCache(caching.FunctionCache):
    _impl_class = _KernelCacheImpl

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file.__class__ = _KernelCacheFile

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """From the file; where it is not there, but another process is compiling it, as soon as it is."""
        found = super().load_overload(sig, target_context)
        name = self._py_func.__qualname__
        if found is None and name in _expected:
            _expected.pop(name)(name)
            found = super().load_overload(sig, target_context)
        return found


@contextmanager
def _one_scope() -> Iterator[None]:
    """Let Numba copy statements without all the variables around them.

    Where one function is pasted into another, Numba 0.68 copies each block of its statements, and with each block the
    table of all variables, of which one is then used: a seventh of a cold start. What `inlined` pastes was made for
    that one place, so the copies may as well have the table itself. Kernels must not call what Numba itself pastes from
    one copy for all, of Python's functions `bool`.
    """
    with global_compiler_lock:
        before = ir.Scope.__dict__.get("__deepcopy__")
        ir.Scope.__deepcopy__ = lambda scope, memo: scope
        try:
            yield
        finally:
            if before is None:
                del ir.Scope.__deepcopy__
            else:
                ir.Scope.__deepcopy__ = before


# A process that is forked has no thread but one: where another was compiling, it would wait for that for ever.
os.register_at_fork(
    before=global_compiler_lock.acquire,
    after_in_parent=global_compiler_lock.release,
    after_in_child=global_compiler_lock.release,
)


def compiles() -> bool:
    """Whether the caller's thread is compiling, so that others that would have to wait."""
    return bool(global_compiler_lock.is_locked())


class Kernel(CPUDispatcher):
    """A kernel for Numba to call and to compile."""

    def compile(self, sig: Any) -> Any:
        # Where a function that is being compiled calls this one, it has to be done here, as the lock is this thread's.
        return self._compile_here(sig) if compiles() else interruptible(partial(self._compile_here, sig))

    def _compile_here(self, sig: Any) -> Any:
        with _one_scope():
            return super().compile(sig)


_KEPT: list[Any] = []  # the kernels whose machine code is kept in files


def compiled_here() -> int:
    """How many kernels, counted for each kind of arguments, were compiled in this process and not read from a file."""
    return sum(sum(dispatcher.stats.cache_misses.values()) for dispatcher in _KEPT)


def _compile(
    function: Callable[..., Any], *, cached: bool = True, fastmath: set[str] | bool = FASTMATH, **options: Any
) -> Any:
    dispatcher = njit(nogil=True, error_model="numpy", fastmath=fastmath, no_cfunc_wrapper=True, **options)(function)
    if not config.DISABLE_JIT:
        dispatcher.__class__ = Kernel
    if cached and not config.DISABLE_JIT:
        try:
            dispatcher._cache = _KernelCache(function)
            _KEPT.append(dispatcher)
        except RuntimeError:
            # No folder can be written to: every process compiles for itself, which is slow but right.
            dispatcher._cache = caching.NullCache()
    return dispatcher


def name_of(kernel: Any) -> str:
    """What a kernel is called in the cache."""
    return str(kernel.py_func.__qualname__)


def expect(kernel: Any, wait: Callable[[str], None]) -> None:
    """Call ``wait(name)`` before this kernel, which another process is compiling, is compiled here."""
    _expected[name_of(kernel)] = wait


def serial(function: Callable[..., Any]) -> Any:
    """Compile `function` for one thread; any `prange` in it runs as `range`."""
    return _compile(function)


def parallel(function: Callable[..., Any]) -> Any:
    """Compile `function` with its `prange` loops spread over threads."""
    # Numba empties the dict it is given, hence the copy.
    return _compile(function, parallel=dict(_PARALLEL))


def inlined(function: Callable[..., Any]) -> Any:
    """Paste `function` into the kernels that call it. For small helpers: a compiled function of its own costs a
    cold start a quarter of a second."""
    return _compile(function, cached=False, inline="always")


class _CompiledOnly(Kernel):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.__name__} is a part of kernels, to be called from compiled code only")


def small(function: Callable[..., Any]) -> Any:
    """Compile a helper of a line or two, called from many places: LLVM pastes it, once Numba has typed it once."""
    dispatcher = _compile(function, cached=False, no_cpython_wrapper=True)
    if not config.DISABLE_JIT:
        dispatcher.__class__ = _CompiledOnly
    return dispatcher


def exact(function: Callable[..., Any]) -> Any:
    """Compile `function` of scalars to the letter of its arithmetic, and have LLVM paste it into each loop around it.

    The flags of `FASTMATH` let LLVM simplify ``(x + c) - c`` to x, on which the elementary functions rest. Flags belong
    to an instruction, so these stay without inside a kernel that has them; what `inlined` pastes would take them on.
    """
    return _compile(function, cached=False, fastmath=False, forceinline=True)


def serial_twin(function: Callable[..., Any]) -> Any:
    """Compile the one-thread twin of a function that is also compiled with `parallel`.

    Numba's cache files are named after the function, so the twin needs a name of its own.
    """
    name = f"{function.__name__}_serial"
    twin = types.FunctionType(function.__code__, function.__globals__, name, function.__defaults__)
    twin.__qualname__ = name
    twin.__doc__ = function.__doc__
    twin.__module__ = function.__module__
    return serial(twin)


def cache_folder(dispatcher: Any) -> str | None:
    """Where the machine code of a kernel is kept; None if no folder can be written to, or nothing is compiled."""
    if config.DISABLE_JIT or isinstance(dispatcher._cache, caching.NullCache):
        return None
    return str(dispatcher._cache.cache_path)


def must_compile(dispatcher: Any, arguments: Callable[[], tuple[Any, ...]]) -> bool:
    """Whether a kernel must be compiled to run on such arguments, which are made only where that is in doubt."""
    if config.DISABLE_JIT:
        return False
    kept = {} if cache_folder(dispatcher) is None else dispatcher._cache._cache_file._load_index()
    if not kept and not dispatcher.signatures:
        return True
    types_of = tuple(dispatcher.typeof_pyval(argument) for argument in arguments())
    if types_of in dispatcher.overloads:
        return False
    return not kept or dispatcher._cache._index_key(types_of, dispatcher.targetctx.codegen()) not in kept
