"""What HDF5's compression filters made of bytes, undone by libraries that let other threads go on.

gzip and LZF always work; the others, and gzip at twice the speed, with the extra ``codecs``.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.scratch import scratch

Bytes = NDArray[np.uint8]

DEFLATE, LZF, BLOSC, LZ4, BITSHUFFLE, ZSTD = 1, 32000, 32001, 32004, 32008, 32015
_BITSHUFFLE_BYTES, _BITSHUFFLE_LEAST = 8192, 128  # of a block, and its elements, where the filter was not told
_BITSHUFFLE_LZ4, _BITSHUFFLE_ZSTD = 2, 3
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class DamagedChunkError(Exception):
    """A chunk that its filters could not have made; says what is wrong."""


def decompress(number: int, values: tuple[int, ...], data: Bytes, size: int, out: Bytes | None = None) -> Bytes:
    """The bytes that a filter compressed, `size` of them if nothing is damaged.

    Parameters
    ----------
    number, values : int, tuple of int
        The filter, one of those that `can_decompress`, and its parameters.
    data : array of uint8, contiguous
    size : int
    out : array (size,) of uint8, contiguous, optional
        Where they may come to lie, apart from the data; if not given, in memory that the next call of the thread uses
        again.

    Raises
    ------
    DamagedChunkError
        If these are no data that the filter made of so many bytes.
    """
    name, decode = _DECODERS[number]
    try:
        return decode(data, size, values, out)
    except Exception as error:  # each library has errors of its own
        raise DamagedChunkError(f"the {name} data of a chunk are damaged ({error})") from error


def can_decompress(number: int) -> bool:
    """Whether a filter is one of those that are undone here."""
    return number in (DEFLATE, LZF) or (is_of_plugin(number) and _imagecodecs() is not None)


def is_of_plugin(number: int) -> bool:
    """Whether a filter is one of those, and HDF5 has it from a plugin only."""
    return number in _DECODERS and number not in (DEFLATE, LZF)


def needs_codecs(number: int) -> bool:
    """Whether a filter would be undone here if the extra ``codecs`` were installed."""
    return number in _DECODERS and not can_decompress(number)


_OPTIONAL: dict[str, Any] = {}


def _imagecodecs() -> Any:
    """The module `imagecodecs`, or None where it is not installed."""
    if "imagecodecs" not in _OPTIONAL:
        try:
            _OPTIONAL["imagecodecs"] = importlib.import_module("imagecodecs")
        except ImportError:
            _OPTIONAL["imagecodecs"] = None
    return _OPTIONAL["imagecodecs"]


def _inflate(data: Bytes, size: int, values: tuple[int, ...], out: Bytes | None) -> Bytes:
    if _imagecodecs() is not None:
        return _whole(_imagecodecs().deflate_decode, data, size, out)
    decoder = zlib.decompressobj()
    content = decoder.decompress(data.data, size + 1)  # one byte more, so that the stream's checksum is read too
    if not decoder.eof:
        raise zlib.error("incomplete or too long")
    return np.frombuffer(content, np.uint8)


def _unlzf(data: Bytes, size: int, values: tuple[int, ...], out: Bytes | None) -> Bytes:
    from fastsgd.kernels.storage import lzf_decompress

    out = _room(out, size, data)
    written = int(lzf_decompress(data, out))
    if written < 0:
        raise ValueError("a run or reference reaches too far")
    return out[:written]


def _unzstd(data: Bytes, size: int, values: tuple[int, ...], out: Bytes | None) -> Bytes:
    return _whole(_imagecodecs().zstd_decode, data, size, out)


def _unlz4(data: Bytes, size: int, values: tuple[int, ...], out: Bytes | None) -> Bytes:
    plain, block_bytes = struct.unpack_from(">QI", data.data)
    if plain != size or block_bytes == 0:
        raise ValueError(f"the header tells of {plain} bytes in blocks of {block_bytes}; they are {size}")
    return _unpacked(data, _room(out, size, data), block_bytes, 0, _unlz4_block)


def _unlz4_block(data: Bytes, out: Bytes) -> int:
    if data.size == out.size:  # it would not have become smaller
        out[:] = data
        return out.size
    return len(_imagecodecs().lz4_decode(data, out=out))


def _unblosc(data: Bytes, size: int, values: tuple[int, ...], out: Bytes | None) -> Bytes:
    # The library takes the length of the data from their header, and reads so many bytes whatever there are.
    if data.size < 16:
        raise ValueError("the header is cut short")
    plain, _, compressed = struct.unpack_from("<III", data.data, 4)
    if plain != size or compressed > data.size:
        raise ValueError(f"the header tells of {plain} bytes in {compressed}; there are {data.size} for {size}")
    return _whole(_imagecodecs().blosc_decode, data, size, out, numthreads=1)


def _unbitshuffle(data: Bytes, size: int, values: tuple[int, ...], out: Bytes | None) -> Bytes:
    """Bits of elements together again; the parameters are two of the version, the size of an element, elements of a
    block or 0, and the compression, which is of each block for itself."""
    element = values[2]
    compression = values[4] if len(values) > 4 else 0
    if compression in (_BITSHUFFLE_LZ4, _BITSHUFFLE_ZSTD):
        plain, block_bytes = struct.unpack_from(">QI", data.data)
        if plain != size or size % element or block_bytes % (8 * element) or block_bytes == 0:
            raise ValueError(f"the header tells of {plain} bytes in blocks of {block_bytes}; they are {size}")
        tail = size % (8 * element)
        library, whole = _imagecodecs().zstd_decode, None
        if compression == _BITSHUFFLE_LZ4:
            library = _imagecodecs().lz4_decode
            if block_bytes == element * _block_elements(values):
                whole = _unlz4_blocks(data, size, block_bytes, tail)
        if whole is None:
            room = scratch("decompressed", size, data)
            whole = _unpacked(data, room, block_bytes, tail, lambda block, out: len(library(block, out=out)))
        data = whole
    elif compression == 0 and data.size == size and size % element == 0:
        block_bytes = element * _block_elements(values)
    else:
        raise ValueError(f"compression {compression}, {data.size} bytes for {size}")
    decode = partial(_imagecodecs().bitshuffle_decode, itemsize=element, blocksize=block_bytes // element)
    if element in _UNSIGNED and size % element == 0:
        result = (scratch("unbitshuffled", size, data) if out is None else out).view(_UNSIGNED[element])
        return decode(data.view(result.dtype), out=result).view(np.uint8)  # type: ignore[no-any-return]
    # Bytes, since of an array the library takes the size of an element from there.
    return np.frombuffer(decode(data.tobytes()), np.uint8)


def _block_elements(values: tuple[int, ...]) -> int:
    """Elements of a block of bitshuffle, with its parameters."""
    return values[3] or max(_BITSHUFFLE_LEAST, _BITSHUFFLE_BYTES // values[2] // 8 * 8)


def _unlz4_blocks(data: Bytes, size: int, block_bytes: int, tail: int) -> Bytes | None:
    """`_unpacked` of bitshuffle's LZ4 blocks in one call, in a sixth of the time; None where that will not do.

    For HDF5's own LZ4 they are laid out alike, but that it takes a block as long as its content for the content itself.
    """
    from fastsgd.kernels.storage import end_of_blocks

    place = int(end_of_blocks(data, 12, size - tail, block_bytes))
    if data.size - place != tail:
        return None
    out, framed = scratch("decompressed", size, data), data[:place]
    if tail:  # which HDF5's own does not have, and so does not count
        framed = scratch("framed", place, data)
        framed[:12], framed[12:] = np.frombuffer(struct.pack(">QI", size - tail, block_bytes), np.uint8), data[12:place]
    if len(_imagecodecs().lz4h5_decode(framed, out=out[: size - tail])) != size - tail:
        raise ValueError("a block is cut short")
    out[size - tail :] = data[place:]
    return out


def _unpacked(data: Bytes, out: Bytes, block_bytes: int, tail: int, unpack: Callable[[Bytes, Bytes], int]) -> Bytes:
    """Blocks decompressed one by one, each after its length; at the end are `tail` bytes as they were."""
    size, at, place = out.size, 0, 12
    while at < size - tail:
        (count,) = struct.unpack_from(">I", data.data, place)
        place += 4
        stop = min(at + block_bytes, size - tail)
        if place + count > data.size or unpack(data[place : place + count], out[at:stop]) != stop - at:
            raise ValueError("a block is cut short")
        place, at = place + count, stop
    if data.size - place != tail:
        raise ValueError("the end is cut short, or too long")
    out[at:] = data[place:]
    return out


def _whole(decode: Callable[..., Any], data: Bytes, size: int, out: Bytes | None, **options: int) -> Bytes:
    decoded: Bytes = decode(data, out=_room(out, size, data), **options)
    return decoded


def _room(out: Bytes | None, size: int, data: Bytes) -> Bytes:
    return scratch("decompressed", size, data) if out is None else out


# By the filter's number: its name, and a function of the data, the number of bytes they decode to, the parameters, and
# where the bytes may lie.
_DECODERS: dict[int, tuple[str, Callable[[Bytes, int, tuple[int, ...], Bytes | None], Bytes]]] = {
    DEFLATE: ("gzip", _inflate),
    LZF: ("LZF", _unlzf),
    BLOSC: ("blosc", _unblosc),
    LZ4: ("LZ4", _unlz4),
    BITSHUFFLE: ("bitshuffle", _unbitshuffle),
    ZSTD: ("zstd", _unzstd),
}
