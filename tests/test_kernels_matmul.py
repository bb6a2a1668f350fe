"""Products of register tiles, in every mode, over odd shapes, dtypes and layouts."""

import itertools

import numpy as np
import pytest

from fastsgd.kernels import tile
from fastsgd.kernels.matmul import Ending, Matrix, multiply, multiply_plain

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
MODES = [tile.STORE, tile.BIAS, tile.BIAS_RELU, tile.RELU_GRAD, tile.UPDATE, tile.MOMENTUM, tile.NESTEROV]


def expected(mode, a, b, c, aux, alpha, beta):
    """(c, aux) after the product, in float64."""
    product = a.astype(float) @ b.astype(float)
    c, aux = c.astype(float), aux.astype(float)
    velocity = beta * aux - alpha * product
    return {
        tile.STORE: lambda: (product, aux),
        tile.BIAS: lambda: (product + aux, aux),
        tile.BIAS_RELU: lambda: (np.maximum(product + aux, 0), aux),
        tile.RELU_GRAD: lambda: (np.where(aux > 0, product, 0), aux),
        tile.UPDATE: lambda: (c - alpha * product, aux),
        tile.MOMENTUM: lambda: (c + velocity, velocity),
        tile.NESTEROV: lambda: (c + beta * velocity - alpha * product, velocity),
    }[mode]()


def padded(array, spare):
    """The array inside a larger flat one, and the Matrix that says where; what lies around is NaN."""
    rows, columns = array.shape
    memory = np.full((rows + 2) * (columns + spare) + 3, np.nan, array.dtype)
    inside = memory[3 : 3 + rows * (columns + spare)].reshape(rows, columns + spare)
    inside[:, :columns] = array
    return inside[:, :columns], Matrix(memory, 3, columns + spare, 1)


@pytest.mark.parametrize("kernel", [multiply, multiply_plain])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spare", [0, 5])
def test_every_mode_and_shape(kernel, dtype, spare):
    rng = np.random.default_rng(0)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    for (m, n, k), mode in itertools.product(SHAPES, MODES):
        a, b, c, aux = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (m, n), (m, n)))
        alpha, beta = dtype(0.25), dtype(0.875)
        if mode in (tile.BIAS, tile.BIAS_RELU):
            aux = np.ascontiguousarray(np.broadcast_to(aux[:1], (m, n)))
        wanted, wanted_aux = expected(mode, a, b, c, aux, 0.25, 0.875)
        _, a_matrix = padded(a.T, spare)  # read down its columns, as for gradients
        _, b_matrix = padded(b, spare)
        c_view, c_matrix = padded(c, spare)
        aux_view, aux_matrix = padded(aux, spare)
        if mode in (tile.BIAS, tile.BIAS_RELU):
            aux_matrix = Matrix(aux_matrix.data, aux_matrix.start, 0, 1)
        around = np.isnan(c_matrix.data).sum()
        a_matrix = Matrix(a_matrix.data, a_matrix.start, 1, a_matrix.row)
        kernel(a_matrix, b_matrix, c_matrix, m, n, k, Ending(mode, aux_matrix, alpha, beta))
        np.testing.assert_allclose(c_view, wanted, rtol=tolerance * k, atol=tolerance * k)
        np.testing.assert_allclose(aux_view, wanted_aux, rtol=tolerance * k, atol=tolerance * k)
        assert np.isnan(c_matrix.data).sum() == around, "wrote outside the matrix"


@pytest.mark.parametrize("kernel", [multiply, multiply_plain])
def test_nan_and_infinity_survive_relu(kernel):
    a = np.array([np.nan, np.inf, -np.inf, -1.0, 2.0], np.float32).reshape(5, 1)
    b, out = np.ones((1, 1), np.float32), np.zeros((5, 1), np.float32)
    bias = Matrix(np.zeros(1, np.float32), 0, 0, 1)
    column = Matrix(out.reshape(-1), 0, 1, 1)
    ending = Ending(tile.BIAS_RELU, bias, np.float32(0), np.float32(0))
    kernel(Matrix(a.reshape(-1), 0, 1, 1), Matrix(b.reshape(-1), 0, 1, 1), column, 5, 1, 1, ending)
    np.testing.assert_array_equal(out[:, 0], [np.nan, np.inf, 0, 0, 2])


def test_a_sum_does_not_depend_on_its_tile():
    """Each accumulator is one chain in the order of k: rows and columns may be cut anywhere."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((23, 300)).astype(np.float32), rng.standard_normal((300, 41)).astype(np.float32)

    def product(m, n, i, j):
        out = np.zeros((23, 41), np.float32)
        c = Matrix(out.reshape(-1), i * 41 + j, 41, 1)
        ending = Ending(tile.STORE, c, np.float32(0), np.float32(0))
        multiply(Matrix(a.reshape(-1), i * 300, 300, 1), Matrix(b.reshape(-1), j, 41, 1), c, m, n, 300, ending)
        return out[i : i + m, j : j + n]

    whole = product(23, 41, 0, 0)
    for m, n, i, j in [(1, 1, 22, 40), (5, 7, 3, 11), (23, 1, 0, 16), (1, 41, 9, 0), (6, 16, 17, 25)]:
        np.testing.assert_array_equal(product(m, n, i, j), whole[i : i + m, j : j + n])


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
    assert tile.tile_shape(frozenset(features)) == shape
    _, rows, vectors = shape
    registers = 32 if features & {"avx512f", "neon"} else 16
    assert rows * vectors + vectors + 1 <= registers
