"""Activations by code against the float64 reference: values, slopes, and what passes through them."""

import naive
import numpy as np
import pytest
from numba import njit
from products import make_matrix

import fastsgd as fs
from fastsgd import kernels
from fastsgd.kernels import activations, network
from fastsgd.model.layers import ACTIVATIONS

SHAPES = [(1, 1), (3, 1), (2, 5), (5, 16), (4, 33), (1, 1000)]
NO_SLOPE = {"linear", "softmax"}  # the slope is left as it was
NO_OUTPUT = {"gelu", "silu"}  # no slope from the output


def rows_of(array, spare=3):
    """A copy of the array with NaN around it, as a view and as [memory, where its Matrix lies]."""
    m, n = array.shape
    memory = np.full((m + 1) * (n + spare), np.nan, array.dtype)
    view = memory[spare : spare + m * (n + spare)].reshape(m, n + spare)[:, :n]
    view[...] = array
    return view, (memory, (spare, n + spare, 1))


@njit
def activate(code, z, m, n):
    activations.activate(code, make_matrix(*z), m, n)


@njit
def activate_with_slope(code, z, slope, m, n):
    activations.activate_with_slope(code, make_matrix(*z), make_matrix(*slope), m, n)


@njit
def activation_grad(code, out, grad, m, n):
    activations.activation_grad(code, make_matrix(*out), make_matrix(*grad), m, n)


@njit
def scale_rows(grad, slope, m, n):
    activations.scale_rows(make_matrix(*grad), make_matrix(*slope), m, n)


@njit
def has_slope(code):
    return activations.has_slope(code)


def test_codes_are_those_of_the_layers():
    assert {name: getattr(kernels, name.upper()) for name in ACTIVATIONS} == ACTIVATIONS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes(name, dtype):
    code, rng = ACTIVATIONS[name], np.random.default_rng(0)
    tolerance = 3e-6 if dtype == np.float32 else 1e-14
    for m, n in SHAPES:
        z = (rng.standard_normal((m, n)) * 4).astype(dtype)
        wanted = naive.activation(name, z.astype(float))
        grad = rng.standard_normal((m, n)).astype(dtype)
        wanted_grad = naive.activation_grad(name, z.astype(float), grad.astype(float))
        out, out_rows = rows_of(z)
        around = np.isnan(out_rows[0]).sum()
        activate(code, out_rows, m, n)
        np.testing.assert_allclose(out, wanted, rtol=tolerance, atol=tolerance / 10)
        assert np.isnan(out_rows[0]).sum() == around, "wrote outside the rows"
        again, again_rows = rows_of(z)
        slope, slope_rows = rows_of(np.full_like(z, 7))
        activate_with_slope(code, again_rows, slope_rows, m, n)
        np.testing.assert_array_equal(again, out)
        if name in NO_SLOPE:
            assert (slope == 7).all()
        else:
            found, found_rows = rows_of(grad)
            scale_rows(found_rows, slope_rows, m, n)
            np.testing.assert_allclose(found, wanted_grad, rtol=10 * tolerance, atol=tolerance)
        if name not in NO_OUTPUT:
            found, found_rows = rows_of(grad)
            activation_grad(code, out_rows, found_rows, m, n)
            np.testing.assert_allclose(found, wanted_grad, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "softmax"])
def test_extremes(name, dtype):
    ends = np.array([[np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, 1e-30, -1e-30]], dtype)
    z, rows = rows_of(np.repeat(ends, 2, axis=1))  # in vector code and in what is left of it
    slope, slope_rows = rows_of(np.ones_like(z))
    activate_with_slope(ACTIVATIONS[name], rows, slope_rows, *z.shape)
    assert np.isnan(z[0, :2]).all(), "a NaN survives"
    assert name in NO_SLOPE or np.isnan(slope[0, :2]).all()
    assert not np.isnan(z[0, 2:]).any()
    assert not np.isnan(slope[0, 2:]).any()
    with np.errstate(all="ignore"):
        wanted = naive.activation(name, ends.astype(float))
        wanted[0, 2] = {"gelu": 0, "silu": 0}.get(name, wanted[0, 2])
    np.testing.assert_allclose(z[0, 2::2], wanted[0, 1:].astype(dtype), rtol=1e-6)
    high, low = {"sigmoid": (0, 0), "tanh": (0, 0), "linear": (1, 1), "leaky_relu": (1, 0.2)}.get(name, (1, 0))
    high = naive._SELU[0] if name == "selu" else high
    np.testing.assert_allclose(slope[0, 2:10:2], np.array([high, low, high, low], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_extremes(dtype):
    z, rows = rows_of(np.array([[1e30, 0, -1e30], [1000, 999, -np.inf], [0, np.nan, 1]], dtype))
    activate(kernels.SOFTMAX, rows, 3, 3)
    np.testing.assert_allclose(z[:2], [[1, 0, 0], [1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0]], rtol=1e-6)
    assert np.isnan(z[2]).all()


def test_dense_backward_refuses_what_it_cannot_know():
    x, weight, out = np.ones((2, 3)), np.ones((3, 4)), np.ones((2, 4))
    for backward in (kernels.dense_backward, kernels.dense_backward_serial):
        for code in (kernels.GELU, kernels.SILU):
            with pytest.raises(ValueError, match="cannot be told from the output"):
                backward(x, weight, out, code, out.copy(), np.empty((0, 0)), weight.copy(), np.ones(4))


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "softmax"])
def test_training_a_network(name):
    """As a hidden and as the last layer, in float64 and wide and narrow layers, against the reference."""
    rng = np.random.default_rng(1)
    layers = [fs.Dense(19, name), fs.Dense(3, name), fs.Dense(6, name), fs.Dense(2, name)]
    model = fs.Sequential(layers, input_dim=5, dtype="float64")
    reference = naive.copy_of(model)
    trainer = fs.Trainer(model, fs.SGD(0.05, momentum=0.5), "mse")
    for rows in (1, 30, 77):
        x, y = rng.standard_normal((rows, 5)), rng.standard_normal((rows, 2))
        assert trainer.train_batch(x, y) == pytest.approx(reference.step("mse", x, y, 0.05, 0.5), rel=1e-12)
    for index, kernel in enumerate(reference.kernels):
        np.testing.assert_allclose(model.parameters[f"dense_{index}/kernel"], kernel, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(model.predict(x), reference.forward(x)[1][-1], rtol=1e-10, atol=1e-12)


def test_slopes_take_memory_only_where_they_are_needed():
    for name in ACTIVATIONS:
        model = fs.Sequential([fs.Dense(4, "relu"), fs.Dense(3, name)], input_dim=2)
        numbers = kernels.make_workspace(model.network, 8).numbers
        # They lie one after the other; of deltas and slopes there are none for the inputs, before the first layer's.
        first_layer = numbers[numbers[network.LAYOUT] + 3]
        size = numbers[network.TARGETS] - (numbers[network.SLOPES] + first_layer)
        outputs = numbers[network.DELTAS] - numbers[network.OUTPUTS]
        assert outputs > 0
        assert size == (outputs if has_slope(ACTIVATIONS[name]) else 0), name
