"""Losses by code against the float64 reference: values, gradients, extremes, and whole networks."""

import os
import subprocess
import sys

import naive
import numpy as np
import pytest
from numba import njit
from products import make_matrix

import fastsgd as fs
from fastsgd import kernels
from fastsgd.errors import DataError, ModelError
from fastsgd.kernels import losses
from fastsgd.kernels.losses import LOSS_SCRATCH, loss_sum
from fastsgd.kernels.machine import pointer
from fastsgd.training.losses import LOSSES

# A loss as the reference takes it, (name, a, b), and what its user writes.
TOLD = [
    (("huber", 0.4, 0), fs.losses.Huber(0.4)),
    (("quantile", 0.9, 0), fs.losses.Quantile(0.9)),
    (("epsilon_insensitive", 0.5, 0), fs.losses.EpsilonInsensitive(0.5)),
    (("binary_crossentropy", 0.2, 0), fs.losses.BinaryCrossentropy(0.2)),
    (("categorical_crossentropy", 0.1, 0), fs.losses.CategoricalCrossentropy(0.1)),
    (("sparse_categorical_crossentropy", 0.1, 0), fs.losses.SparseCategoricalCrossentropy(0.1)),
    (("focal", 0, 0.3), fs.losses.Focal(0, 0.3)),
    (("focal", 3.5, 0.25), fs.losses.Focal(3.5, 0.25)),
]
ALL = [(naive.described(name), name) for name in LOSSES] + TOLD
SHAPES = [(1, 2), (9, 4), (300, 2), (33, 17), (5, 128), (3, 301)]
LABELS = ("hinge", "squared_hinge", "modified_huber", "focal")
LAST = {"poisson": "softplus", "focal": "sigmoid", "binary_crossentropy": "sigmoid"}


def named(loss):
    return "-".join(map(str, loss[0])) if isinstance(loss, tuple) else ""


def targets(name, rng, m, n):
    """Targets that go with a loss."""
    if name.startswith("sparse"):
        return rng.integers(0, n, (m, 1)).astype(float)
    if name == "categorical_crossentropy":
        y = rng.random((m, n))
        return y / y.sum(axis=1, keepdims=True)
    y = rng.random((m, n))
    return y.round() if name in LABELS else y


@njit
def loss_rows(code, parameters, z, target, weight, m, n, scale, grad, scratch):
    matrices = make_matrix(*z), make_matrix(*target), make_matrix(*weight)
    place = pointer(scratch, 0)
    return losses.loss_rows(code, pointer(parameters, 0), *matrices, m, n, scale, make_matrix(*grad), place)


@njit
def takes_raw_outputs(code):
    return losses.takes_raw_outputs(code)


def matrix(array):
    return array.reshape(-1), (0, array.shape[1], 1)


def found_by(code, parameters, z, y, weight):
    """Sum of the losses, and gradient, with two columns to spare around the gradient."""
    m, n = z.shape
    memory = np.full((m, n + 2), 7, z.dtype)
    scratch = np.full(LOSS_SCRATCH + 1, 7, z.dtype)
    matrices = matrix(z), matrix(y), matrix(weight[:, None])
    grad = memory.reshape(-1), (1, n + 2, 1)
    total = loss_rows(code, parameters, *matrices, m, n, z.dtype.type(0.5), grad, scratch)
    assert (memory[:, [0, -1]] == 7).all(), "wrote outside the gradient"
    assert scratch[-1] == 7, "wrote beyond the scratch memory"
    return total, memory[:, 1:-1]


def test_codes_are_those_of_the_kernels():
    assert {name: getattr(kernels, name.upper()) for name in LOSSES} == {k: v.code for k, v in LOSSES.items()}
    for name, loss in LOSSES.items():
        assert takes_raw_outputs(loss.code) == loss.merged == (name in naive.MERGED)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ALL, ids=named)
def test_values_and_gradients(loss, dtype):
    (name, a, b), _ = loss
    parameters = np.array([a, -1 if b is None else b], dtype)
    rng, tolerance = np.random.default_rng(0), 1e-5 if dtype == np.float32 else 1e-12
    for m, n in [*SHAPES, *([(1, 1), (200, 1)] if "categorical" not in name else [])]:
        for size in (0.5, 30):
            z = (rng.standard_normal((m, n)) * size).astype(dtype)
            z = np.abs(z) if name == "poisson" else z
            y = targets(name, rng, m, n).astype(dtype)
            weight = rng.random(m).astype(dtype)
            total, grad = found_by(LOSSES[name].code, parameters, z, y, weight)
            z, y, weight = z.astype(float), y.astype(float), weight.astype(float)
            described = (name, float(parameters[0]), b and float(parameters[1]))
            wanted = naive.row_losses(described, z, y)
            assert total == pytest.approx(wanted @ weight, rel=tolerance, abs=tolerance)
            wanted = naive.row_loss_grads(described, z, y) * weight[:, None] / 2
            np.testing.assert_allclose(grad, wanted, rtol=tolerance, atol=tolerance / 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_extremes(name, dtype):
    code, parameters = LOSSES[name].code, np.array(LOSSES[name].parameters, dtype)
    one = np.ones(1, dtype)
    for far in (200, 1e4, 1e15):
        for signed in ([[far, -far]], [[-far, far]]):
            z = np.array(np.abs(signed) if name == "poisson" else signed, dtype)
            y = np.array([[1.0]] if name.startswith("sparse") else [[1.0, 0.0]], dtype)
            total, grad = found_by(code, parameters, z, y, one)
            with np.errstate(all="ignore"):
                wanted = naive.row_losses(name, z.astype(float), y.astype(float))[0]
                down = naive.row_loss_grads(name, z.astype(float), y.astype(float)) / 2
            assert total == pytest.approx(wanted, rel=1e-5)
            np.testing.assert_allclose(grad, down, rtol=1e-5, atol=1e-30)
    for n in (1, 2, 40):
        if n > 1 or "categorical" not in name:
            z, y = np.full((3, n), 0.25, dtype), np.zeros((3, 1 if name.startswith("sparse") else n), dtype)
            z[1, n // 2] = np.nan
            total, grad = found_by(code, parameters, z, y, np.ones(3, dtype))
            assert np.isnan(total), "a NaN survives"
            assert np.isnan(grad[1, n // 2])
            assert not np.isnan(grad[[0, 2]]).any()


@pytest.mark.parametrize("name", LABELS[:3])
def test_labels_of_both_kinds_are_the_same(name):
    z, y = np.random.default_rng(0).standard_normal((20, 3)), np.random.default_rng(1).integers(0, 2, (20, 3)) * 1.0
    found = [found_by(LOSSES[name].code, np.zeros(2), z, labels, np.ones(20)) for labels in (y, 2 * y - 1)]
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_public_functions():
    rng = np.random.default_rng(0)
    for name, loss in LOSSES.items():
        z, y, weight = rng.random((21, 3)), targets(name, rng, 21, 3), rng.random(21)
        grad = np.empty_like(z)
        rows = naive.row_losses(name, z, y)
        assert kernels.loss_and_grad(loss.code, z, y, grad) == pytest.approx(rows.mean(), rel=1e-12), name
        np.testing.assert_allclose(grad, naive.row_loss_grads(name, z, y) / 21, rtol=1e-11, atol=1e-14)
        parameters = np.array(loss.parameters)
        assert loss_sum(loss.code, parameters, z, y, weight, grad) == pytest.approx(rows @ weight, rel=1e-12)
        assert loss_sum(loss.code, parameters, z, y, weight[:0], grad[:1]) == pytest.approx(rows.sum(), rel=1e-12)


@pytest.mark.parametrize("loss", ALL, ids=named)
def test_training_a_network(loss):
    """Steps and evaluation, with one output and with some, by name and as an object."""
    described, given = loss
    name, rng = described[0], np.random.default_rng(2)
    for outputs in (1, 3):
        if outputs == 1 and "categorical" in name:
            continue
        last = LAST.get(name, "softmax" if "categorical" in name else "linear")
        layers = [fs.Dense(7, "tanh"), fs.Dense(outputs, last)]
        model = fs.Sequential(layers, input_dim=4, dtype="float64")
        reference, trainer = naive.copy_of(model), fs.Trainer(model, fs.SGD(0.05), given)
        for rows in (40, 5):
            x, y = rng.standard_normal((rows, 4)), targets(name, rng, rows, outputs)
            assert trainer.train_batch(x, y) == pytest.approx(reference.step(described, x, y, 0.05), rel=1e-11)
        found = trainer.evaluate((x, y))["loss"]
        assert found == pytest.approx(reference.loss(described, x, y), rel=1e-11)


def test_what_a_user_gets_wrong():
    def trainer(loss, activation="linear", units=3):
        return fs.Trainer(fs.Sequential([fs.Dense(units, activation)]), fs.SGD(), loss)

    for make, message in [
        (lambda: fs.losses.Huber(0), "Huber: delta is 0; it is a number above 0"),
        (lambda: fs.losses.Huber(float("inf")), "delta is inf"),
        (lambda: fs.losses.Quantile(1), "Quantile: q is 1; it is a number between 0 and 1"),
        (lambda: fs.losses.EpsilonInsensitive("x"), "epsilon is 'x'"),
        (lambda: fs.losses.BinaryCrossentropy(1.5), "BinaryCrossentropy: label_smoothing is 1.5"),
        (lambda: fs.losses.Focal(-1), "gamma is -1"),
        (lambda: fs.losses.Focal(alpha=float("nan")), "alpha is nan; it is a number from 0 to 1, or None"),
        (lambda: trainer("poisson"), "needs 'softplus' or 'relu' or 'sigmoid'"),
        (lambda: trainer("focal", "tanh"), "needs 'sigmoid' or 'linear'"),
        (lambda: trainer("hinge", "sigmoid"), "needs 'linear' or 'tanh'"),
        (lambda: trainer("categorical_crossentropy", "softmax", 1), "2 or more"),
        (lambda: trainer("hubber"), "did you mean 'huber'"),
        (lambda: trainer(fs.losses.Huber), "is unknown"),
    ]:
        with pytest.raises(ModelError, match=message):
            make()
    x = np.zeros((3, 2))
    for loss, activation, y, message in [
        ("hinge", "linear", [[0, 1, 1], [1, 0, 0], [0, 1, 2]], r"the label is 2.*-1 or 1, or instead 0 or 1"),
        ("focal", "linear", [[0, 1, 1], [1, 1.5, 0], [0, 1, 1]], r"the label is 1.5.*from 0 to 1"),
        ("poisson", "relu", [[0, 1, 1], [1, 1.5, 0], [0, 1, -1]], r"the label is -1.*from 0 on"),
        ("categorical_crossentropy", "softmax", [[0], [1], [2]], "in one column there is 'sparse_categorical"),
    ]:
        with pytest.raises(DataError, match=message):
            trainer(loss, activation).train_batch(x, np.array(y, float))


def test_names_of_keras():
    for name, found in {
        "logcosh": "log_cosh",
        "binary_focal_crossentropy": "focal",
        "pinball": "quantile",
        "mean_squared_error": "mse",
    }.items():
        assert fs.Trainer(fs.Sequential([fs.Dense(1)]), fs.SGD(), name).loss.name == found


@pytest.mark.parametrize("loss", ["focal", "hinge", "categorical_crossentropy"])
def test_accuracy(loss):
    model = fs.Sequential([fs.Dense(2, "softmax" if loss.startswith("cat") else "linear")], input_dim=2)
    model.parameters["dense_0/kernel"][...] = np.eye(2) * 4
    found = fs.Trainer(model, fs.SGD(), loss, metrics=["accuracy"]).evaluate(
        (np.array([[1.0, -1], [-1, 1], [1, -1]]), np.array([[1.0, 0], [0, 1], [0, 1]]))
    )
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_plain_python():
    """NUMBA_DISABLE_JIT=1: every activation and every loss, against the reference."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, naive, fastsgd as fs\n"
        "from fastsgd.model.layers import ACTIVATIONS\n"
        "from fastsgd.training.losses import LOSSES\n"
        "rng = np.random.default_rng(0)\n"
        "cases = [('mse', name, 'linear') for name in ACTIVATIONS if name != 'softmax']\n"
        "cases += [(name, 'tanh', (loss.activations or ('linear',))[0]) for name, loss in LOSSES.items()]\n"
        "for loss, hidden, last in cases:\n"
        "    x, y = rng.standard_normal((6, 3)), rng.random((6, 2)).round()\n"
        "    y = y[:, :1] if loss.startswith('sparse') else y\n"
        "    model = fs.Sequential([fs.Dense(4, hidden), fs.Dense(2, last)], input_dim=3, dtype='float64')\n"
        "    reference, trainer = naive.copy_of(model), fs.Trainer(model, fs.SGD(0.05), loss)\n"
        "    for _ in range(2):\n"
        "        wanted = reference.step(loss, x, y, 0.05)\n"
        "        assert abs(trainer.train_batch(x, y) - wanted) < 1e-11, (loss, hidden)\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__)], env=environment, check=True)
