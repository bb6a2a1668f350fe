"""Kernels from a user's own `@njit` code, and the cache that never answers with old code."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import naive
import numba
import numpy as np
import pytest
from numba import njit, prange
from numba.core import ir

import fastsgd as fs
from fastsgd import kernels
from fastsgd.kernels.jit import exact, inlined

NAMES = {kernels.LINEAR: "linear", kernels.RELU: "relu", kernels.TANH: "tanh", kernels.SIGMOID: "sigmoid"}
PACKAGE = Path(fs.__file__).parent


def test_numba_is_left_as_it_was_when_kernels_are_compiled(monkeypatch):
    @inlined
    def inner(values):
        return values[0] + values[1]

    @exact
    def outer(values):
        total = inner(values)
        for _ in range(3):
            total += inner(values)
        return total

    def copy(scope, memo):
        raise AssertionError("a table of variables was copied")

    before = vars(ir.Scope).get("__deepcopy__")
    with monkeypatch.context() as patch:
        patch.setattr(ir.Scope, "__deepcopy__", copy, raising=False)
        assert outer(np.array([1.0, 2.0])) == 12.0
        assert ir.Scope.__deepcopy__ is copy
    assert outer(np.array([1, 2])) == 12
    assert vars(ir.Scope).get("__deepcopy__") is before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (kernels.dense_forward, kernels.dense_backward),
        (kernels.dense_forward_serial, kernels.dense_backward_serial),
    ],
)
def test_dense_layer(forward, backward, dtype):
    rng = np.random.default_rng(0)
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    for (rows, n_in, n_out), code in zip(
        [(1, 1, 1), (50, 10, 7), (33, 17, 64), (130, 3, 2), (7, 70, 33)], [*NAMES, kernels.SOFTMAX], strict=True
    ):
        name = NAMES.get(code, "softmax")
        x, weight, bias, grad = (
            rng.standard_normal(shape).astype(dtype) for shape in ((rows, n_in), (n_in, n_out), (n_out,), (rows, n_out))
        )
        out, before = np.empty((rows, n_out), dtype), x.astype(float) @ weight + bias
        forward(x, weight, bias, code, out)
        np.testing.assert_allclose(out, naive.activation(name, before), rtol=tolerance, atol=tolerance)
        wanted = naive.activation_grad(name, before, grad.astype(float))
        for grad_x in (np.empty_like(x), np.empty((0, 0), dtype)):
            grad_out, grad_weight, grad_bias = grad.copy(), np.empty_like(weight), np.empty_like(bias)
            backward(x, weight, out, code, grad_out, grad_x, grad_weight, grad_bias)
            np.testing.assert_allclose(grad_out, wanted, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(grad_weight, x.T.astype(float) @ wanted, rtol=tolerance, atol=tolerance * 9)
            np.testing.assert_allclose(grad_bias, wanted.sum(axis=0), rtol=tolerance, atol=tolerance * 9)
            if grad_x.size:
                np.testing.assert_allclose(grad_x, wanted @ weight.T, rtol=tolerance, atol=tolerance * 9)


@pytest.mark.parametrize("suffix", ["", "_serial"])
@pytest.mark.parametrize("units", [20, 50, 512])
def test_dense_kernels_take_the_kernels_of_a_model(suffix, units):
    """Whose rows have gaps between them."""
    rng = np.random.default_rng(0)
    kernel, bias = fs.Sequential([fs.Dense(units)], input_dim=10).parameters.values()
    x, out, grad = rng.standard_normal((9, 10)).astype(np.float32), *np.ones((2, 9, units), np.float32)
    getattr(kernels, f"dense_forward{suffix}")(x, kernel, bias, kernels.LINEAR, out)
    np.testing.assert_allclose(out, x @ kernel + bias, rtol=1e-5, atol=1e-5)
    grads = np.empty_like(x), np.empty((10, units), np.float32), np.empty_like(bias)
    getattr(kernels, f"dense_backward{suffix}")(x, kernel, out, kernels.LINEAR, grad, *grads)
    np.testing.assert_allclose(grads[0], np.ones((9, units), np.float32) @ kernel.T, rtol=1e-4, atol=1e-4)


def test_dense_forward_refuses_a_kernel_stored_by_columns():
    kernel, bias = fs.Sequential([fs.Dense(3)], input_dim=10).parameters.values()
    with pytest.raises(ValueError, match="ascontiguousarray"):
        kernels.dense_forward_serial(
            np.ones((2, 10), np.float32), kernel, bias, kernels.LINEAR, np.ones((2, 3), np.float32)
        )


@pytest.mark.parametrize("suffix", ["", "_serial"])
def test_updates(suffix):
    rng = np.random.default_rng(0)
    param, grad, velocity = rng.standard_normal((3, 1001))
    for name, momentum in (("sgd_update", 0.0), ("momentum_update", 0.9), ("nesterov_update", 0.9)):
        update = getattr(kernels, name + suffix)
        found, kept = param.copy(), velocity.copy()
        if momentum:
            update(found, grad, kept, 0.1, momentum)
            v = momentum * velocity - 0.1 * grad
            wanted = param + (momentum * v - 0.1 * grad if name.startswith("nesterov") else v)
            np.testing.assert_allclose(kept, v, rtol=1e-12)
        else:
            update(found, grad, 0.1)
            wanted = param - 0.1 * grad
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@njit
def train_until(network, state, workspace, x, y, goal):
    """A user's own loop."""
    for epoch in range(1000):
        if kernels.train_batches(network, state, workspace, x, y, 25) < goal:
            return epoch
    return -1


@njit(parallel=True)
def predict_tables(network, tables, outs):
    """A user's own prange over a serial twin, each turn with scratch memory of its own."""
    for i in prange(tables.shape[0]):
        workspace = kernels.make_workspace(network, 50)
        kernels.predict_serial(network, tables[i], workspace, outs[i])


def test_training_and_prediction_inside_a_users_njit_code():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 3)).astype(np.float32)
    y = (x[:, :1] - x[:, 1:2]).astype(np.float32)
    model = fs.Sequential([fs.Dense(16, "tanh"), fs.Dense(1)], input_dim=3)
    state = kernels.make_optimizer_state(model.network, kernels.MSE, 0.1, 0.9, True)
    epochs = train_until(model.network, state, kernels.make_workspace(model.network, 25), x, y, 1e-4)
    assert 0 < epochs < 1000
    assert fs.Trainer(model, fs.SGD(), "mse").evaluate((x, y))["loss"] < 1e-3
    tables = rng.standard_normal((7, 120, 3)).astype(np.float32)
    outs = np.empty((7, 120, 1), np.float32)
    predict_tables(model.network, tables, outs)
    for table, out in zip(tables, outs, strict=True):
        np.testing.assert_array_equal(out, model.predict(table))


_USER_MODULE = """
import numba
import numpy as np
from numba import njit
import fastsgd as fs
from fastsgd import kernels

@njit(cache=True)
def fit(network, state, workspace, x, y):
    return kernels.train_batches_serial(network, state, workspace, x, y, 10)

model = fs.Sequential([fs.Dense(4, "relu"), fs.Dense(1)], input_dim=2)
x = np.linspace(-1, 1, 60).astype("f4").reshape(30, 2)
state = kernels.make_optimizer_state(model.network, kernels.MSE, 0.1, 0.0, False)
loss = fit(model.network, state, kernels.make_workspace(model.network, 10), x, x[:, :1].copy())
print(repr(loss), sum(fit.stats.cache_hits.values()))
"""


def test_a_users_cached_function_is_answered_from_its_cache(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(_USER_MODULE)
    runs = [
        subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert runs[0][0] == runs[1][0]
    assert [hits for _, hits in runs] == ["0", "1"]


_PARALLEL = """
import sys
import numba
import numpy as np
from numba import njit
from fastsgd import kernels

@njit(cache=True)
def mine(param, grad):
    kernels.sgd_update(param, grad, 0.5)

param = np.ones(3)
(mine if len(sys.argv) > 1 else lambda *pair: kernels.sgd_update(*pair, 0.5))(param, np.ones(3))
print(*param)
"""


def test_a_users_cached_function_may_call_a_parallel_kernel_from_the_cache(tmp_path):
    """Numba's threads must have started, though neither of the two is compiled in the process."""
    script = tmp_path / "mine.py"
    script.write_text(_PARALLEL)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for arguments in ([], ["call it"], ["from the cache"]):
        command = [sys.executable, str(script), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["0.5"] * 3


_CALLER = """
import sys
import numba
import numpy as np
from fastsgd.kernels import dense_forward_serial, TANH
out = np.empty((1, 1))
dense_forward_serial(np.ones((1, 1)), np.ones((1, 1)), np.zeros(1), TANH, out)
print(out[0, 0], sum(dense_forward_serial.stats.cache_hits.values()))
"""


def test_an_edited_kernel_is_never_answered_from_a_stale_cache(tmp_path):
    """dense.py calls activations.py; an edit of the second must reach the cached code of the first."""
    shutil.copytree(PACKAGE, tmp_path / "fastsgd", ignore=shutil.ignore_patterns("__pycache__", "*.h5"))
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}

    def call():
        done = subprocess.run(
            [sys.executable, "-c", _CALLER], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        value, hits = done.stdout.split()
        return float(value), int(hits)

    assert call() == (pytest.approx(np.tanh(1)), 0)
    assert call() == (pytest.approx(np.tanh(1)), 1), "an unchanged kernel comes from the cache"
    edited = tmp_path / "fastsgd" / "kernels" / "activations.py"
    source = edited.read_text()
    changed = re.sub(r"row\[j\] = tanh\(row\[j\]\)", "row[j] = 2 * tanh(row[j])", source)
    assert changed != source
    edited.write_text(changed)
    assert call() == (pytest.approx(2 * np.tanh(1)), 0)


_OF_BEFORE = b"cfastsgd.kernels.matmul\nGoneSince\n."  # a pickle of a class that is not there any more


@pytest.mark.parametrize(("files", "first"), [("*.nbi", pickle.dumps(numba.__version__)), ("*.nbc", b"")])
@pytest.mark.parametrize("content", [b"", b"\x80\x04", _OF_BEFORE])
def test_a_cache_that_cannot_be_read_is_made_again(tmp_path, files, first, content):
    """As a power cut leaves it, or an earlier version whose classes are gone."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def call():
        command = [sys.executable, "-c", _CALLER]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        value, hits = done.stdout.split()
        return float(value), int(hits)

    assert call() == (pytest.approx(np.tanh(1)), 0)
    found = list(tmp_path.rglob(files))
    assert found
    for path in found:
        path.write_bytes(first + content)
    assert call() == (pytest.approx(np.tanh(1)), 0)
    assert call() == (pytest.approx(np.tanh(1)), 1)
