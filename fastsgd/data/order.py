"""The order of rows: a pure function of seed, epoch, block sizes and window, never of threads or timing.

Blocks come in random order. Each of their rows is exchanged with a random slot of a window of rows, and what it pushes
out is the next row; when the blocks are through, the window is emptied in random order. Data that fit in memory whole
are the case where the window holds every row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCKS, _EXCHANGE, _DRAIN = range(3)


def _key(seed: int, epoch: int, purpose: int) -> np.uint64:
    from fastsgd.kernels.random import stream_key

    # Masked, so that any Python integer is a seed.
    return np.uint64(stream_key(np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF), np.uint64(epoch), np.uint64(purpose)))


def block_order(n_blocks: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """In which order the blocks are read."""
    from fastsgd.kernels.random import permutation

    order: NDArray[np.int64] = permutation(_key(seed, epoch, _BLOCKS), n_blocks)
    return order


def exchange_key(seed: int, epoch: int) -> np.uint64:
    """Names the stream of slots that incoming rows take."""
    return _key(seed, epoch, _EXCHANGE)


def drain_key(seed: int, epoch: int) -> np.uint64:
    """Names the permutation in which a full window is emptied."""
    return _key(seed, epoch, _DRAIN)
