"""The order of rows as pure functions: random numbers, permutations, exchange with a window, order of blocks."""

import numpy as np
import pytest

from fastsgd.data.order import as_seed, block_order, drain_key, exchange_key, split_order
from fastsgd.errors import DataError
from fastsgd.kernels.random import permutation, permuted, random_below, random_bits, stream_key
from fastsgd.kernels.rows import fill_order, first_nonfinite, gather
from fastsgd.kernels.sharing import share
from fastsgd.kernels.slots import drain, put_rows

WORD = 0xFFFF_FFFF_FFFF_FFFF


def plain_bits(key, position):
    """SplitMix64 in Python's own integers."""
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def plain_below(key, position, size):
    return ((plain_bits(key, position) >> 32) * size) >> 32


def keys(count):
    return [drain_key(seed, 0) for seed in range(count)]


def excess(counts, freedom):
    """By how many of its own deviations a chi-square statistic over equally likely cells lies above its mean."""
    expected = counts.sum() / counts.size
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("key", [0, 1, 12345, WORD])
@pytest.mark.parametrize("position", [0, 1, 2**40])
def test_random_bits_are_splitmix64(key, position):
    assert int(random_bits(np.uint64(key), position)) == plain_bits(key, position)
    assert int(random_below(np.uint64(key), position, 1000)) == plain_below(key, position, 1000)


def test_permutation_is_a_bijection_for_each_small_size():
    for key in keys(3):
        for size in range(1, 201):
            assert np.array_equal(np.sort(permutation(key, size)), np.arange(size)), size


@pytest.mark.parametrize("size", [65_537, 99_991, 262_145, 1_000_003])
def test_permutation_is_a_bijection_for_a_large_size(size):
    order = permutation(keys(1)[0], size)
    assert np.array_equal(np.sort(order), np.arange(size))
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.01


def test_permutation_is_permuted_at_each_position():
    key = keys(1)[0]
    assert permutation(key, 77).tolist() == [permuted(key, position, 77) for position in range(77)]


def test_permutations_of_different_keys_differ():
    assert len({tuple(permutation(key, 50)) for key in keys(1000)}) == 1000


@pytest.mark.parametrize("size", [2, 3, 16, 64])
def test_each_row_is_as_likely_at_each_place(size):
    drawn = np.array([permutation(key, size) for key in keys(20_000)])
    places = np.array([np.bincount(column, minlength=size) for column in drawn.T])
    assert excess(places, (size - 1) ** 2) < 15
    pairs = np.bincount(drawn[:, 0] * size + drawn[:, 1], minlength=size**2).reshape(size, size)
    assert excess(pairs[~np.eye(size, dtype=bool)], size * (size - 1) - 1) < 15


@pytest.mark.parametrize("size", [2, 10, 64, 1000])
def test_random_below_is_uniform(size):
    key = keys(1)[0]
    drawn = np.array([random_below(key, position, size) for position in range(50_000)])
    assert drawn.min() == 0
    assert drawn.max() == size - 1
    # Five deviations above the mean, once in a few million streams; the stream is fixed.
    assert excess(np.bincount(drawn, minlength=size), size - 1) < 5
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.02


# A change of any of these numbers changes the order of rows, the batches and so the model of every user.
def test_golden_values():
    assert permutation(np.uint64(0), 12).tolist() == [3, 6, 7, 1, 10, 9, 2, 5, 11, 8, 4, 0]
    assert [random_below(np.uint64(12345), i, 1000) for i in range(8)] == [133, 204, 119, 176, 506, 337, 122, 431]
    assert int(stream_key(np.uint64(1), np.uint64(2), np.uint64(3))) == 0xC3AF767707239AC1
    assert block_order(10, 0, 0).tolist() == [4, 5, 7, 0, 9, 6, 1, 3, 2, 8]
    assert block_order(10, 0, 1).tolist() == [0, 5, 7, 9, 4, 3, 8, 2, 6, 1]
    assert split_order(10, 0).tolist() == [3, 4, 1, 7, 8, 5, 9, 0, 2, 6]
    assert int(exchange_key(7, 3)) == 0xB6B6C97107FFA82D
    assert int(drain_key(7, 3)) == 0xB8C2DA9E8EC251D7


def test_block_order_depends_on_seed_and_epoch():
    orders = {tuple(block_order(20, seed, epoch)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_each_purpose_has_a_stream_of_its_own():
    streams = [block_order(20, 5, 0), split_order(20, 5), permutation(drain_key(5, 0), 20)]
    assert len({tuple(stream) for stream in streams}) == 3
    assert exchange_key(5, 0) != drain_key(5, 0)


@pytest.mark.parametrize("seed", [np.int64(-3), np.uint8(253), -3, 2**64 - 3, 2**70 + 1, np.int32(0)])
def test_any_whole_number_is_a_seed(seed):
    assert as_seed(seed) == int(seed) % 2**64
    assert sorted(block_order(9, seed, seed)) == list(range(9))
    assert block_order(9, seed, 4).tolist() == block_order(9, int(seed), np.int64(4)).tolist()


@pytest.mark.parametrize("seed", [None, 1.5, "1"])
def test_nothing_else_is_a_seed(seed):
    with pytest.raises(DataError, match=r"seed is .*it is a whole number"):
        block_order(9, seed, 0)
    with pytest.raises(DataError, match=r"epoch is .*it is a whole number"):
        block_order(9, 0, seed)


def as_bytes(parts):
    """Rows whose parts lie one after the other, and the bytes of each part."""
    flat = [np.ascontiguousarray(part).view(np.uint8).reshape(len(part), -1) for part in parts]
    return np.concatenate(flat, axis=1), np.array([part.shape[1] for part in flat], np.int64)


def address(array):
    return array.__array_interface__["data"][0]


def some_rows(n, dtypes, start=0):
    """Parts of rows: as many columns of each dtype."""
    return [
        ((np.arange(n * width) + start + k) % 101).reshape(n, width).astype(dtype)
        for k, (dtype, width) in enumerate(dtypes)
    ]


ROW_PARTS = [
    [("f4", 3)],
    [("f8", 1), ("u1", 1)],
    [("u1", 17), ("f4", 1), ("f8", 1)],
    [("f4", 40), ("i2", 3), ("u1", 1)],
    [("u1", 1), ("u1", 2)],
]


@pytest.mark.parametrize("dtypes", ROW_PARTS)
@pytest.mark.parametrize("parts", [1, 3, 16])
def test_rows_are_put_to_their_slots(parts, dtypes):
    incoming, slots = some_rows(9, dtypes), np.array([3, -1, 0, 8, -1, 1, 7, 2, -1])
    want, widths = as_bytes(incoming)
    window = np.full((10, widths.sum()), 255, np.uint8)
    blocks = np.array([[n, *np.repeat([address(part[at:]) for part in incoming], 2)] for at, n in ((0, 4), (4, 5))])
    expected = np.full_like(window, 255)
    expected[slots[slots >= 0]] = want[slots >= 0]
    for part in range(parts):
        put_rows(part, parts, window, widths, blocks, 0, slots)
    assert np.array_equal(window, expected)
    expected[1:] = want
    for part in range(parts):
        put_rows(part, parts, window, widths, blocks, 1, slots[:0])
    assert np.array_equal(window, expected)


@pytest.mark.parametrize("dtypes", ROW_PARTS)
@pytest.mark.parametrize("parts", [1, 2, 3, 201])
def test_a_window_is_drained_in_the_order_of_the_permutation(parts, dtypes):
    key, held = drain_key(1, 2), 500
    window, widths = as_bytes(some_rows(held + 20, dtypes))
    for start, count in ((0, 500), (37, 200), (499, 1)):
        found = [np.zeros_like(part) for part in some_rows(count, dtypes)]
        share(drain, parts, parts, window, widths, np.array(list(map(address, found))), held, key, start, count)
        assert np.array_equal(as_bytes(found)[0], window[permutation(key, held)[start : start + count]])


@pytest.mark.parametrize("start", [0, 37])
@pytest.mark.parametrize(("stored", "out"), [("f4", "f4"), ("f8", "f4"), ("u1", "f8")])
def test_gather_brings_the_rows_of_the_permutation(start, stored, out):
    """In any number of parts, also more than there are rows, on as many threads."""
    key, rows = drain_key(1, 2), 500
    source = (np.arange(rows * 37) % 251).reshape(rows, 37).astype(stored)
    wanted = permutation(key, rows)[start : start + 200]
    for parts in (1, 2, 3, 64, 201):
        order, found = np.full(200, -1), np.full((200, 37), -1, out)
        share(fill_order, parts, parts, key, rows, start, order)
        np.testing.assert_array_equal(order, wanted)
        share(gather, parts, parts, source, order, found)
        np.testing.assert_array_equal(found, source[wanted])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_nonfinite_finds_each_position(dtype, bad):
    values = np.linspace(-1, 1, 10_000).astype(dtype)
    values[:2] = np.finfo(dtype).max, -np.finfo(dtype).max  # finite, and a sum of such is not
    assert first_nonfinite(values) == -1
    for position in (0, 1, 4095, 4096, 8191, 8192, 9999):
        one = values.copy()
        one[position] = one[-1] = bad
        assert first_nonfinite(one) == position
