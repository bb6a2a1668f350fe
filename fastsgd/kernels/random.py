"""Counter-based random numbers: any position of any stream, at once, the same on every machine and thread count.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) turns a counter into
64 random bits; a Feistel cipher turns a position into its place in a random permutation, with no table.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastsgd.kernels.jit import inlined, serial, small

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)
_TOGETHER = 256  # positions that are enciphered at a time


@small
def _bits(key, position):
    """`random_bits`, of unsigned integers alone: each kind of arguments would be compiled by itself."""
    z = key + (position + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


@serial
def random_bits(key, position):
    """64 random bits for a position of the stream `key`."""
    return _bits(np.uint64(key), np.uint64(position))


@serial
def random_below(key, position, size):
    """A random integer in [0, size), for a size below 2**32."""
    high = _bits(np.uint64(key), np.uint64(position)) >> np.uint64(32)
    return np.int64((high * np.uint64(size)) >> np.uint64(32))


@serial
def stream_key(seed, epoch, purpose):
    """The key of an independent stream for a seed, an epoch and a purpose."""
    return _bits(_bits(_bits(np.uint64(seed), np.uint64(epoch)), np.uint64(purpose)), np.uint64(0))


class Cipher(NamedTuple):
    """A random permutation of [0, size): the grid it is stirred on, and a key for each round."""

    size: int
    rows: int
    columns: int
    keys: tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]


@serial
def make_cipher(key, size):
    """The random permutation of [0, size) that `key` names; size below 2**62."""
    rows = math.ceil(math.sqrt(size))
    key = np.uint64(key)
    keys = (
        _bits(key, np.uint64(0)),
        _bits(key, np.uint64(1)),
        _bits(key, np.uint64(2)),
        _bits(key, np.uint64(3)),
        _bits(key, np.uint64(4)),
        _bits(key, np.uint64(5)),
    )
    return Cipher(int(size), rows, (size + rows - 1) // rows, keys)


@small
def _noise(key, other, size):
    """Noise in [0, size) that depends on the other half."""
    z = (np.uint64(other) + key) * _GOLDEN
    z = (z ^ (z >> np.uint64(32))) * _FIRST
    z = (z ^ (z >> np.uint64(29))) >> np.uint64(32)
    # The mask, which changes no size, tells LLVM that one multiplication of 32 bits will do.
    return np.int64((z * (np.uint64(size) & _LOW)) >> np.uint64(32))


@small
def _turn(key, half, other, size):
    """One Feistel round on a half in [0, size): add noise that depends on the other half, modulo size."""
    moved = half + _noise(key, other, size)
    # No branch, which would be mispredicted every other time.
    return moved - size * np.int64(moved >= size)


@small
def _turn_back(key, half, other, size):
    """Undo `_turn`."""
    moved = half - _noise(key, other, size)
    return moved + size * np.int64(moved < 0)


@small
def _cell(cipher, value):
    """Row and column of the grid's cell number `value`."""
    # Unsigned: a signed division that rounds down takes more steps.
    row = np.int64(np.uint64(value) // np.uint64(cipher.columns))
    return row, value - row * cipher.columns


@small
def _stir(cipher, row, column):
    """Six rounds on a cell of the grid; the number of the one it becomes."""
    first, second, third, fourth, fifth, sixth = cipher.keys
    row = _turn(first, row, column, cipher.rows)
    column = _turn(second, column, row, cipher.columns)
    row = _turn(third, row, column, cipher.rows)
    column = _turn(fourth, column, row, cipher.columns)
    row = _turn(fifth, row, column, cipher.rows)
    column = _turn(sixth, column, row, cipher.columns)
    return row * cipher.columns + column


@small
def _unstir(cipher, row, column):
    """Undo `_stir`."""
    first, second, third, fourth, fifth, sixth = cipher.keys
    column = _turn_back(sixth, column, row, cipher.columns)
    row = _turn_back(fifth, row, column, cipher.rows)
    column = _turn_back(fourth, column, row, cipher.columns)
    row = _turn_back(third, row, column, cipher.rows)
    column = _turn_back(second, column, row, cipher.columns)
    row = _turn_back(first, row, column, cipher.rows)
    return row * cipher.columns + column


@inlined
def _walk(cipher, value):
    """Stir a cell until it lands inside; seldom at all, as the grid has few cells outside."""
    while value >= cipher.size:
        row, column = _cell(cipher, value)
        value = _stir(cipher, row, column)
    return value


@inlined
def encipher(cipher, position):
    """Where `position` goes: from each position in [0, size) to exactly one other.

    A generalized Feistel cipher on a grid of about sqrt(size) x sqrt(size) cells (Black and Rogaway, "Ciphers with
    arbitrary finite domains", CT-RSA 2002), walked until it lands inside.
    """
    row, column = _cell(cipher, np.int64(position))
    return _walk(cipher, _stir(cipher, row, column))


@inlined
def decipher(cipher, place):
    """The position that `encipher` sends to `place`."""
    row, column = _cell(cipher, np.int64(place))
    value = _unstir(cipher, row, column)
    while value >= cipher.size:
        row, column = _cell(cipher, value)
        value = _unstir(cipher, row, column)
    return value


@inlined
def encipher_all(cipher, start, out):
    """``out[i] := encipher(cipher, start + i)``, in vector code: along the rows of the grid, the few walks apart."""
    row, column = _cell(cipher, np.int64(start))
    first = 0
    while first < out.size:
        count = min(_TOGETHER, out.size - first, cipher.columns - column)
        some, outside = out[first : first + count], np.int64(0)
        for i in range(count):
            some[i] = _stir(cipher, row, column + i)
            outside += np.int64(some[i] >= cipher.size)
        if outside > 0:
            for i in range(count):
                some[i] = _walk(cipher, some[i])
        first += count
        column += count
        if column == cipher.columns:
            row, column = row + 1, 0


@serial
def permuted(key, position, size):
    """Where `position` goes in the random permutation of [0, size) that `key` names."""
    return encipher(make_cipher(key, size), position)


@serial
def permutation(key, size):
    """The whole random permutation of [0, size) that `key` names (int64)."""
    cipher = make_cipher(key, size)
    out = np.empty(size, np.int64)
    encipher_all(cipher, 0, out)
    return out
