"""Compiling on a thread of its own, so that whoever waits for it need not wait for its end.

Python handles signals on the main thread alone, and only between two of its steps, while one pass of LLVM takes up to
two seconds. What is still being compiled when nobody waits any more is finished all the same, for the next call; only
the end of the process ends it, before LLVM is taken down.
"""

from __future__ import annotations

import atexit
import ctypes
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from fastsgd.kernels.host import require_thread

_LOOK_SECONDS = 0.05  # how often a thread that waits looks whether it is to stop
_AGAIN_SECONDS = 0.05  # an exception may be lost in a destructor or a callback, and then is raised again

_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
_threads: set[threading.Thread] = set()

_Result = tuple[Any, BaseException | None]  # what the work returned, or raised


class NobodyWaitsError(Exception):
    """The thread was told to stop while it waited for a kernel."""


def stop_with(event: threading.Event) -> None:
    """Let this thread wait for no kernel any more, but raise NobodyWaitsError, once the event is set."""
    _stop.set(event)


def started(thread: threading.Thread) -> bool:
    """Start a thread; False where the system has none for it."""
    handled = sys.exception()
    try:
        require_thread()
        thread.start()
    except RuntimeError as error:
        if error.__context__ not in (None, handled):  # an interrupt of the wait for the start
            raise error.__context__ from None
        return False
    return True


def interruptible(work: Callable[[], Any]) -> Any:
    """What `work` returns. The wait for it ends with an interrupt on the main thread, on others with their event."""
    stop = _stop.get()
    if stop is None and threading.current_thread() is not threading.main_thread():
        return work()
    # Not a Future: an interrupt may leave its lock, which is taken in Python, taken for ever.
    results: queue.SimpleQueue[_Result] = queue.SimpleQueue()
    thread = threading.Thread(target=_do, args=(work, results), name="fastsgd-compiler", daemon=True)
    _threads.add(thread)  # first, as an interrupt may come while it starts
    if not started(thread):
        _threads.discard(thread)
        return work()
    value, raised = _first(results, stop)
    thread.join()
    try:
        if raised is not None:
            raise raised
        return value
    finally:
        del raised  # whose traceback has this frame


def _first(results: queue.SimpleQueue[_Result], stop: threading.Event | None) -> _Result:
    while stop is None or not stop.is_set():
        with suppress(queue.Empty):
            return results.get(timeout=None if stop is None else _LOOK_SECONDS)
    raise NobodyWaitsError


def _do(work: Callable[[], Any], results: queue.SimpleQueue[_Result]) -> None:
    try:
        results.put((work(), None))
    except BaseException as error:
        results.put((None, error))
    finally:
        _threads.discard(threading.current_thread())


def wait_at_no_end() -> None:
    """At the end of the process, which is to follow without its interpreter's, leave what is being compiled alone."""
    atexit.unregister(_end)


@atexit.register
def _end() -> None:
    before = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if lost.exc_type is SystemExit else before(lost)
    while working := [thread for thread in list(_threads) if thread.is_alive()]:
        for thread in working:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
            thread.join(_AGAIN_SECONDS)
