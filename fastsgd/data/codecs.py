"""HDF5's filter pipelines, undone without HDF5: on any thread, several at once.

Chunks pass a list of filters when they are written, and the same list backwards when they are read; bit i of a chunk's
filter mask says that filter i was left out (HDF5 File Format Specification, version 3.0, IV.A.2.l).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.compressors import Bytes, DamagedChunkError, can_decompress, decompress, needs_codecs
from fastsgd.data.scratch import scratch

SHUFFLE, FLETCHER32 = 2, 3
CHECKSUM_BYTES = 4
_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_NAMES = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    305: "lzo",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}  # by the registry of the HDF Group


@dataclass(frozen=True)
class Filter:
    """A filter's number and its parameters."""

    number: int
    values: tuple[int, ...]


def filter_name(number: int, given: bytes) -> str:
    """What to call a filter: by its number, or as the file calls it."""
    return _NAMES.get(number) or given.decode("utf-8", "replace") or f"number {number}"


def why_not_undoable(filters: tuple[Filter, ...]) -> str | None:
    """Why some filters can be undone by HDF5 only, or None."""
    for one in filters:
        name = _NAMES.get(one.number, f"number {one.number}")
        if needs_codecs(one.number):
            return f"its filter {name} needs what pip install 'fastsgd[codecs]' brings"
        if one.number not in (SHUFFLE, FLETCHER32) and not can_decompress(one.number):
            return f"its filter {name} is known to HDF5 only"
    return None


def undo(filters: tuple[Filter, ...], mask: int, data: Bytes, size: int, out: Bytes | None = None) -> tuple[Bytes, int]:
    """The `size` bytes of a chunk as they were before some filters, in `out` (size,) if that is given and will do.

    Returns
    -------
    data : array (size,) of uint8
    element : int
        0; or the size of the elements whose bytes are still shuffled: the last filter to undo is left to whoever knows
        where the bytes go.

    Raises
    ------
    DamagedChunkError
        If the data do not decode to so many bytes, or a checksum is wrong.
    """
    active = [one for i, one in enumerate(filters) if not mask >> i & 1]
    for i in range(len(active) - 1, -1, -1):
        one = active[i]
        if one.number == FLETCHER32:
            data = _verified(data)
        elif one.number == SHUFFLE:
            element = one.values[0] if one.values else 0
            if element == 0:
                raise DamagedChunkError("the shuffle of a chunk has no element size")
            if i == 0 and element > 1 and data.size == size:
                return data, element
            data = unshuffled(data, element)
        else:
            checksums = sum(other.number == FLETCHER32 for other in active[:i])
            plain = size + CHECKSUM_BYTES * checksums
            data = decompress(one.number, one.values, data, plain, out if i == 0 else None)
    if data.size != size:
        raise DamagedChunkError(f"a chunk has {data.size} bytes, {size} are needed")
    return data, 0


def unshuffled(data: Bytes, element: int, out: NDArray[Any] | None = None, *, swapped: bool = False) -> Bytes:
    """Bytes of elements together again, those of a number in the other order where `swapped`.

    `out`, a contiguous 1-D array of numbers of `element` bytes, is written to if given. Bytes after the last whole
    element stay as they are.
    """
    from fastsgd.kernels.storage import unshuffle

    count = data.size // element
    if out is None:
        out = scratch("unshuffled", data.size, data)
    result = out.view(np.uint8)
    if element in _UNSIGNED:
        unshuffle(data, swapped, result[: count * element].view(_UNSIGNED[element]))
    else:
        result[: count * element].reshape(count, element)[...] = data[: count * element].reshape(element, count).T
    result[count * element :] = data[count * element :]
    return result


def _verified(data: Bytes) -> Bytes:
    """The data before their checksum."""
    from fastsgd.kernels.storage import fletcher32

    if data.size < CHECKSUM_BYTES:
        raise DamagedChunkError("the checksum of a chunk is missing")
    content, stored = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:].tobytes()
    found = int(fletcher32(content)).to_bytes(CHECKSUM_BYTES, "little")
    # HDF5 before 1.6.3 swapped the bytes of each half on little-endian machines; later ones read both.
    if stored not in (found, found[1::-1] + found[:1:-1]):
        raise DamagedChunkError("the checksum of a chunk is wrong")
    return content
