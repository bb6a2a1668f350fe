"""What filters made of rows, undone off HDF5's lock: byte shuffling, the fletcher32 checksum, LZF; and what leads
through blocks that others compressed.

One thread, no Python lock. Arrays are 1-D and contiguous, of uint8 where nothing else is said.
"""

from __future__ import annotations

from fastsgd.kernels.jit import serial

_TOGETHER = 4096  # elements whose bytes are put together in the first cache
_WORDS = 1024  # of a partial checksum: its sums stay far below 64 bits


@serial
def unshuffle(planes, swapped, out):
    """out[i] := the number whose byte k, from the lowest on, is planes[k * out.size + i]; the highest comes first where
    `swapped`. `out` is of an unsigned integer dtype."""
    size, count = out.itemsize, out.size
    for first in range(0, count, _TOGETHER):
        part = out[first : first + _TOGETHER]
        for k in range(size):
            shift = 8 * (size - 1 - k) if swapped else 8 * k
            plane = planes[k * count + first : k * count + first + part.size]
            if k == 0:
                for i in range(part.size):
                    part[i] = out.dtype.type(plane[i]) << shift
            else:
                for i in range(part.size):
                    part[i] |= out.dtype.type(plane[i]) << shift


@serial
def fletcher32(data):
    """HDF5's checksum: that of Fletcher over big-endian 16-bit words, an odd last byte the high one of a word.

    Sums are modulo 65535, where only an empty or all-zero input gives 0 (J. G. Fletcher, IEEE Trans. Commun. 30, 1982).
    """
    low, high, words = 0, 0, data.size // 2
    some = False
    for first in range(0, words, _WORDS):
        count = min(_WORDS, words - first)
        plain, weighted = 0, 0
        for i in range(count):
            word = (int(data[2 * (first + i)]) << 8) | int(data[2 * (first + i) + 1])
            plain += word
            weighted += (count - i) * word
        some = some or plain > 0
        high = (high + count * low + weighted) % 65535
        low = (low + plain) % 65535
    if data.size % 2 == 1:
        word = int(data[data.size - 1]) << 8
        some = some or word > 0
        low = (low + word) % 65535
        high = (high + low) % 65535
    if some and low == 0:
        low = 65535
    if some and high == 0:
        high = 65535
    return (high << 16) | low


@serial
def end_of_blocks(data, start, size, block_bytes):
    """Where blocks end that lie in `data` from `start` on, each after its length, a big-endian number of 4 bytes, and
    were `block_bytes` long before they were compressed, `size` in all; -1 where one is as long as it was, or the data
    end before."""
    at, place = start, 0
    while place < size:
        if at + 4 > data.size:
            return -1
        count = int(data[at]) << 24 | int(data[at + 1]) << 16 | int(data[at + 2]) << 8 | int(data[at + 3])
        content = min(block_bytes, size - place)
        if count == content:
            return -1
        at, place = at + 4 + count, place + content
    return at


@serial
def lzf_decompress(data, out):
    """Fill `out` from LZF's literal runs and back references; returns the bytes written, or -1 for damaged data."""
    at, end = 0, 0
    while at < data.size:
        control = int(data[at])
        at += 1
        if control < 32:
            count = control + 1
            if at + count > data.size or end + count > out.size:
                return -1
            for i in range(count):
                out[end + i] = data[at + i]
            at += count
        else:
            count = control >> 5
            if count == 7:
                if at >= data.size:
                    return -1
                count += int(data[at])
                at += 1
            count += 2
            if at >= data.size:
                return -1
            source = end - ((control & 31) << 8) - int(data[at]) - 1
            at += 1
            if source < 0 or end + count > out.size:
                return -1
            for i in range(count):  # byte by byte: the two may overlap
                out[end + i] = out[source + i]
        end += count
    return end
