"""The order of rows: a pure function of seed, epoch, block sizes and window, never of threads or timing.

Blocks come in random order. Each of their rows is exchanged with a random slot of a window of rows, and what it pushes
out is the next row; when the blocks are through, the window is emptied in random order. Data that fit in memory whole
are the case where the window holds every row.
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import DataError

_BLOCKS, _EXCHANGE, _DRAIN, _SPLIT, _REWRITE = range(5)


def as_seed(value: int, name: str = "seed") -> int:
    """A seed or an epoch as 64 bits: any whole number is one.

    Raises
    ------
    DataError
        If it is no whole number.
    """
    try:
        return operator.index(value) & 0xFFFF_FFFF_FFFF_FFFF
    except TypeError:
        raise DataError(f"{name} is {value!r}; it is a whole number") from None


def _key(seed: int, epoch: int, purpose: int) -> np.uint64:
    from fastsgd.kernels.random import stream_key

    return np.uint64(stream_key(np.uint64(as_seed(seed)), np.uint64(as_seed(epoch, "epoch")), np.uint64(purpose)))


def _order(n_blocks: int, key: np.uint64) -> NDArray[np.int64]:
    from fastsgd.kernels.random import permutation

    order: NDArray[np.int64] = permutation(key, n_blocks)
    return order


def block_order(n_blocks: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """In which order the blocks are read."""
    return _order(n_blocks, _key(seed, epoch, _BLOCKS))


def split_order(n_blocks: int, seed: int) -> NDArray[np.int64]:
    """In which order a split draws the blocks of its smaller part."""
    return _order(n_blocks, _key(seed, 0, _SPLIT))


def exchange_key(seed: int, epoch: int) -> np.uint64:
    """Names the stream of slots that incoming rows take."""
    return _key(seed, epoch, _EXCHANGE)


def drain_key(seed: int, epoch: int) -> np.uint64:
    """Names the permutation in which a full window is emptied."""
    return _key(seed, epoch, _DRAIN)


def rewrite_key(seed: int) -> np.uint64:
    """Names the permutation in which a shuffled file has the rows of the one that it was made from."""
    return _key(seed, 0, _REWRITE)
