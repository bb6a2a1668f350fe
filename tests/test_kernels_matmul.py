"""Products of register tiles, in every mode, over odd shapes, dtypes and layouts."""

import itertools

import numpy as np
import pytest
from numba import njit
from products import (
    KERNELS,
    columns_stored,
    expected,
    panel_stored,
    rows_stored,
    strips_stored,
    view_of,
    width_of,
)

from fastsgd.kernels import matmul, tile, vectors
from fastsgd.kernels.machine import lanes_of, pointer
from fastsgd.kernels.network import aligned_zeros
from fastsgd.kernels.weights import copy_across, copy_along

SHAPES = [
    (1, 1, 1),
    (1, 17, 5),
    (2, 3, 4),
    (6, 16, 10),
    (7, 17, 1),
    (13, 50, 64),
    (1, 200, 33),
    (25, 33, 3),
    (12, 8, 70),
]
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 22, 24, 25, 29, 34, 37, 51)  # all ways to cut them
ALL_MODES = sorted({*tile.ROW_ENDS, *tile.WEIGHT_ENDS})
RATES = 0.25, 0.875
PARTS = [(23, 41, 0, 0), (1, 1, 22, 40), (5, 7, 3, 11), (23, 1, 0, 16), (1, 41, 9, 0), (6, 16, 17, 25)]
NO_PANEL = 0, 0, 0


def drawn(rng, dtype, *shapes):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def side_by_side(array, spare):
    """A panel whose strips lie side by side, the last as wide as it is."""
    memory, (first, row, _) = rows_stored(array, spare)
    return memory, (first, row, width_of(array.dtype))


def check(found, wanted, dtype, k, about):
    tolerance = (1e-5 if dtype == np.float32 else 1e-13) * k
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=str(about))


@pytest.mark.parametrize("kernel", ["multiply", "multiply_plain"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("down", [False, True])
def test_every_shape(kernel, dtype, spare, down):
    """Products of matrices stored anyhow, the left factor read down its columns or not, touch no column beyond the
    last."""
    rng, width = np.random.default_rng(0), width_of(dtype)
    modes = (tile.STORE,) if kernel == "multiply" else ALL_MODES
    for (m, n, k), mode, start in itertools.product(SHAPES, modes, ("zero", "row", "rows")):
        a, b, init, c, aux = drawn(rng, dtype, (m, k), (k, n), (m, n), (m, n), (m, n))
        if start == "zero":
            init[:] = 0
            init_stored = np.zeros(8 * width, dtype), NO_PANEL
        elif start == "row":
            init[:] = init[0]
            memory, (first, _, _) = rows_stored(init[:1], 0)
            init_stored = memory, (first, 0, width)
        else:
            memory, (first, row, _) = rows_stored(init, spare)
            init_stored = memory, (first, row, width)
        b_memory, (first, row, _) = rows_stored(b, spare)
        stored = [
            columns_stored(a, spare) if down else rows_stored(a, spare),
            (b_memory, (first, row, width)),
            init_stored,
            side_by_side(c, spare),
            side_by_side(aux, spare),
        ]
        around = [np.isnan(memory).sum() for memory, _ in stored]
        rates = dtype(RATES[0]), dtype(RATES[1])
        KERNELS[kernel](mode, *zip(*stored, strict=True), (m, n, k), rates)
        found = view_of(stored[3], m, n), view_of(stored[4], m, n)
        check(found, expected(mode, a, b, init, c, aux, *RATES), dtype, k, (m, n, k, mode, start))
        assert [np.isnan(memory).sum() for memory, _ in stored] == around, "wrote outside the matrix"


def left_stored(kernel, a, in_strips):
    """The left factor as a kernel wants it."""
    if kernel == "multiply_plain":
        return rows_stored(a, 2)
    a = a.T if kernel == "multiply_columns" else a
    return strips_stored(a, spare=5) if in_strips else panel_stored(a, 2)


@pytest.mark.parametrize("kernel", ["multiply_rows", "multiply_columns", "multiply_plain"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("in_strips", [False, True])
def test_whole_strips_in_every_mode_and_shape(kernel, dtype, in_strips):
    """Products for rows and for gradients write whole strips, half ones in half tiles, and nothing beyond."""
    rng, width = np.random.default_rng(1), width_of(dtype)
    columns = {1, 3, width // 2, width // 2 + 1, width - 1, width, width + 1, 2 * width + width // 2, 3 * width}
    columns |= {4 * width, 9 * width + 1}  # of a single row, several strips go at once
    products = 1, 4, 7, 2 * width, 2 * width + 5
    if in_strips:
        columns, products = {width // 2, 2 * width + 1}, (width - 1, width, width + 6, 3 * width)
    modes = {"multiply_rows": tile.ROW_ENDS, "multiply_columns": tile.WEIGHT_ENDS}.get(kernel, ALL_MODES)
    rates = dtype(RATES[0]), dtype(RATES[1])
    for m, n in itertools.product(ROWS, sorted(columns)):
        for mode, k, one_init in itertools.product(modes, products[:3] if m > 17 else products, (True, False)):
            a, b, init, c, aux = drawn(rng, dtype, (m, k), (k, n), (m, n), (m, n), (m, n))
            init_memory, (first, row, strip) = strips_stored(init[:1] if one_init else init, spare=3)
            if one_init:
                init[:], row = init[0], 0
            stored = [
                left_stored(kernel, a, in_strips),
                strips_stored(b, spare=4) if in_strips or kernel != "multiply_columns" else panel_stored(b, 2),
                (init_memory, (first, row, strip)),
                strips_stored(c, spare=1) if in_strips else panel_stored(c, 3),
                strips_stored(aux, spare=2) if in_strips else panel_stored(aux, 1),
            ]
            around = [np.isnan(memory).sum() for memory, _ in stored]
            KERNELS[kernel](mode, *zip(*stored, strict=True), (m, n, k), rates)
            found = view_of(stored[3], m, n), view_of(stored[4], m, n)
            check(found, expected(mode, a, b, init, c, aux, *RATES), dtype, k, (m, n, k, mode, one_init))
            assert [np.isnan(memory).sum() for memory, _ in stored] == around, "wrote outside the rows"


@pytest.mark.parametrize("kernel", ["multiply_rows", "multiply_plain"])
@pytest.mark.parametrize("columns", [1, 16])
def test_nan_and_infinity_survive_relu(kernel, columns):
    a = np.array([np.nan, np.inf, -np.inf, -1.0, 2.0], np.float32).reshape(5, 1)
    stored = [
        panel_stored(a, 0) if kernel == "multiply_rows" else rows_stored(a, 0),
        strips_stored(np.ones((1, columns), np.float32)),
        (np.zeros(256, np.float32), NO_PANEL),
        panel_stored(np.zeros((5, columns), np.float32), 0),
        panel_stored(np.zeros((5, columns), np.float32), 0),
    ]
    KERNELS[kernel](tile.RELU, *zip(*stored, strict=True), (5, columns, 1), (np.float32(0), np.float32(0)))
    out = view_of(stored[3], 5, columns)
    np.testing.assert_array_equal(out, np.repeat([[np.nan], [np.inf], [0], [0], [2]], columns, axis=1))


def test_a_sum_does_not_depend_on_its_tile():
    """Each accumulator is one chain in the order of k: rows and columns may be cut anywhere, for rows and gradients."""
    rng, width = np.random.default_rng(1), width_of(np.float32)
    a, b = drawn(rng, np.float32, (23, 300), (300, 41))
    zeros, rates = (np.zeros(8 * width, np.float32), NO_PANEL), (np.float32(0), np.float32(0))

    def product(kernel, in_strips, m, n, i, j):
        left, right = a[i : i + m], b[:, j : j + n]
        out = panel_stored(np.zeros((m, n), np.float32), 0)
        stored = [
            rows_stored(left, 0) if kernel == "multiply" else left_stored(kernel, left, in_strips),
            panel_stored(right, 0),
            zeros,
            out,
            out,
        ]
        KERNELS[kernel](tile.STORE, *zip(*stored, strict=True), (m, n, 300), rates)
        return view_of(out, m, n)

    whole = product("multiply", False, 23, 41, 0, 0)
    for kernel, in_strips in itertools.product(("multiply", "multiply_rows", "multiply_columns"), (False, True)):
        for m, n, i, j in PARTS:
            np.testing.assert_array_equal(product(kernel, in_strips, m, n, i, j), whole[i : i + m, j : j + n])


@pytest.mark.parametrize("kernel", ["multiply_rows", "multiply_columns"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("in_strips", [False, True])
def test_long_sums_are_the_same_bits_where_the_right_factor_is_asked_for(kernel, dtype, in_strips):
    """Tall tiles ask for it, low ones do not; the last turn of their loops is cut short."""
    m, n, k, width = 4 * vectors.TILE_ROWS + 4, 2 * width_of(dtype) + 5, 1027, width_of(dtype)
    a, b, c, aux = drawn(np.random.default_rng(3), dtype, (m, k), (k, n), (m, n), (m, n))
    zeros, rates = (np.zeros(8 * width, dtype), NO_PANEL), (dtype(RATES[0]), dtype(RATES[1]))
    rights = {"beside": panel_stored(b, 0), "packed": strips_stored(b)}
    modes = tile.ROW_ENDS if kernel == "multiply_rows" else tile.WEIGHT_ENDS

    def product(mode, right, rows):
        left = left_stored(kernel, a[rows], in_strips)
        out, other = (panel_stored(one[rows], 0) for one in (c, aux))
        some = len(a[rows])
        KERNELS[kernel](mode, *zip(left, right, zeros, out, other, strict=True), (some, n, k), rates)
        return view_of(out, some, n), view_of(other, some, n)

    for mode, right in itertools.product(modes, rights):
        whole = product(mode, rights[right], slice(None))
        check(whole, expected(mode, a, b, np.zeros((m, n), dtype), c, aux, *RATES), dtype, k, (mode, right))
        parts = [product(mode, rights[right], slice(i, i + 4)) for i in range(0, m, 4)]  # in low tiles
        for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(one, np.concatenate(pieces))


def test_rows_are_cut_into_the_tiles_that_take_least_time():
    def cost(height):
        return max(height * vectors.TILE_VECTORS, 8)

    def cuts(left):
        if left == 0:
            yield 0
        for height in {vectors.TILE_ROWS, 2 * vectors.TILE_ROWS // 3, 5, 4, 2, 1}:
            if height <= left:
                yield from (cost(height) + rest for rest in cuts(left - height))

    for rows in range(1, 17):
        left, found = rows, 0
        while left > 0:
            height = height_of_next(left)
            left, found = left - height, found + cost(height)
        assert left == 0
        assert found == min(cuts(rows)), rows
    assert height_of_next(1000) == vectors.TILE_ROWS


@njit
def height_of_next(left):
    return matmul._height(left)


@njit
def transpose(source, source_row, out, out_row):
    vectors.transpose_square(pointer(source, 0), source_row, pointer(out, 0), out_row)


@njit
def lanes(like):
    return lanes_of(pointer(like, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transpose_of_a_square(dtype):
    side = lanes(np.zeros(1, dtype))
    source = np.arange((side + 3) * side, dtype=dtype).reshape(side, side + 3)
    out = np.full((side, side + 5), -1, dtype)
    transpose(source, side + 3, out, side + 5)
    np.testing.assert_array_equal(out[:, :side], source[:, :side].T)
    assert (out[:, side:] == -1).all()


@njit
def copy_to_strips(parameters, start, stored, rectangle, across, across_place, along, along_place, past_caches):
    copy_across(pointer(parameters, 0), start, stored, rectangle, pointer(across, 0), across_place, past_caches)
    copy_along(pointer(parameters, 0), start, stored, rectangle, pointer(along, 0), along_place, past_caches)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (48, 16), (50, 37), (97, 64), (16, 100), (130, 19)])
@pytest.mark.parametrize("past_caches", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_kernel_is_copied_to_its_strips(shape, dtype, past_caches, aligned):
    """Rectangle by rectangle, along and across, and nothing but them; past the caches where a vector begins."""
    rows, columns = shape
    width = width_of(dtype)
    kernel = np.random.default_rng(2).standard_normal(shape).astype(dtype)
    parameters = np.concatenate([np.full(7, np.nan, dtype), kernel.reshape(-1), np.full(7, np.nan, dtype)])
    before = width if aligned else 5
    places = [(before, -(-end // width), other) for end, other in ((rows, columns), (columns, rows))]
    memories = [aligned_zeros(before + strips * long * width + 2, parameters) for _, strips, long in places]
    for memory in memories:
        memory[:] = -1
    heads = [(at, long * width) for at, _, long in places]
    for top, left in itertools.product(range(0, rows, 48), range(0, columns, 2 * width)):
        rectangle = top, min(rows, top + 48), left, min(columns, left + 2 * width)
        copy_to_strips(parameters, 7, columns, rectangle, memories[0], heads[0], memories[1], heads[1], past_caches)
    for memory, (at, strips, long), wanted in zip(memories, places, (kernel.T, kernel), strict=True):
        filled = np.full((long, strips * width), -1, dtype)
        filled[:, : wanted.shape[1]] = wanted
        for strip in range(strips):
            start = at + strip * long * width
            found = memory[start : start + long * width].reshape(long, width)
            np.testing.assert_array_equal(found, filled[:, strip * width : (strip + 1) * width])
        assert (memory[:at] == -1).all()
        assert (memory[-2:] == -1).all()


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        ({"avx512f", "avx2", "fma"}, (64, 12, 2)),
        ({"avx2", "fma"}, (32, 6, 2)),
        ({"neon"}, (16, 6, 4)),
        (set(), (16, 4, 2)),
    ],
)
def test_tile_shape_fits_the_registers(features, shape):
    assert vectors.tile_shape(frozenset(features)) == shape
    _, rows, columns = shape
    registers = 32 if features & {"avx512f", "neon"} else 16
    assert rows * columns + columns + 1 <= registers
