"""Memory that a thread uses again and again: fresh memory of the size of a chunk may take as long to touch as the chunk
takes to decode."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

_KEPT_BYTES = 1 << 22  # of each purpose of a thread
_THREADS_OWN = threading.local()


def scratch(purpose: str, size: int, unlike: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Bytes of this thread, until it asks for some of the same purpose again; much is not kept.

    Where `unlike`, which is still read, lies in them, others.
    """
    kept: dict[str, NDArray[np.uint8]] = _THREADS_OWN.__dict__
    memory = kept.get(purpose)
    if memory is None or memory.size < size:
        memory = np.empty(size, np.uint8)
        if size <= _KEPT_BYTES:
            kept[purpose] = memory
    elif unlike is not None and np.may_share_memory(memory, unlike):
        memory = np.empty(size, np.uint8)
    return memory[:size]
