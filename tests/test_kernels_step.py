"""The training step against the float64 reference, and the same bits for any number of threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.kernels.network import make_optimizer_state, make_workspace
from fastsgd.kernels.step import forward_slab, forward_slab_serial, train_slab, train_slab_serial

CASES = [
    # sizes, hidden activation, last activation, loss, batch, use_bias
    ([10, 64, 64, 1], "relu", "linear", "mse", 32, True),
    ([1, 1], "relu", "linear", "mse", 1, True),
    ([3, 2], "relu", "linear", "mae", 5, False),
    ([17, 33, 7, 5], "tanh", "linear", "mse", 19, True),
    ([5, 50, 50, 3], "sigmoid", "tanh", "mse", 77, False),
    ([4, 9, 6], "relu", "sigmoid", "binary_crossentropy", 13, True),
    ([28, 30, 1], "relu", "sigmoid", "binary_crossentropy", 100, True),
    ([8, 16, 10], "tanh", "softmax", "sparse_categorical_crossentropy", 64, True),
    ([6, 40, 2], "relu", "linear", "sparse_categorical_crossentropy", 9, False),
    ([12, 300, 3, 70, 4], "relu", "linear", "mae", 257, True),
]


def problem(sizes, hidden, last, loss, use_bias, *, rows, dtype, seed=0, standardize=False):
    """A model with a bias that is not 0, and data for it."""
    rng = np.random.default_rng(seed)
    layers = [fs.Standardize()] if standardize else []
    layers += [fs.Dense(n, hidden, use_bias=use_bias) for n in sizes[1:-1]]
    layers.append(fs.Dense(sizes[-1], last, use_bias=use_bias))
    model = fs.Sequential(layers, input_dim=sizes[0], dtype=dtype)
    for name, view in model.parameters.items():
        if name.endswith("bias"):
            view[:] = rng.standard_normal(view.shape) * 0.1
    x = rng.standard_normal((rows, sizes[0])).astype(dtype)
    if loss.startswith("sparse"):
        y = rng.integers(0, sizes[-1], (rows, 1)).astype(dtype)
    else:
        y = rng.random((rows, sizes[-1])).astype(dtype)
    return model, x, y, rng.random(rows).astype(dtype) + dtype(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slab", [train_slab, train_slab_serial])
def test_steps_agree_with_the_reference(slab, dtype):
    tolerance = 2e-4 if dtype == np.float32 else 1e-11
    for sizes, hidden, last, loss, batch, use_bias in CASES:
        for momentum, nesterov, weighted in ((0.0, False, False), (0.9, False, True), (0.9, True, False)):
            rows = batch * 3 + batch // 2
            model, x, y, weight = problem(sizes, hidden, last, loss, use_bias, rows=rows, dtype=dtype)
            reference = naive.copy_of(model)
            trainer = fs.Trainer(model, fs.SGD(0.05, momentum=momentum, nesterov=nesterov), loss)
            losses = np.zeros(-(-rows // batch))
            weights = weight if weighted else weight[:0]
            slab(model.network, trainer.optimizer_state, model.workspace(batch), x, y, weights, batch, losses)
            wanted = [
                reference.step(
                    loss, x[s : s + batch], y[s : s + batch], 0.05, momentum, nesterov,
                    weight[s : s + batch] if weighted else None,
                )
                for s in range(0, rows, batch)
            ]  # fmt: skip
            np.testing.assert_allclose(losses, wanted, rtol=tolerance, err_msg=str((sizes, loss)))
            for index, kernel in enumerate(reference.kernels):
                found = model.parameters[f"dense_{index}/kernel"]
                np.testing.assert_allclose(found, kernel, rtol=tolerance, atol=tolerance, err_msg=str((sizes, loss)))
                if use_bias:
                    bias = model.parameters[f"dense_{index}/bias"]
                    np.testing.assert_allclose(bias, reference.biases[index], rtol=tolerance, atol=tolerance)


def test_two_hundred_steps_of_the_seed_network():
    model, x, _, _ = problem([10, 64, 64, 1], "relu", "linear", "mse", True, rows=6400, dtype=np.float32)
    y = np.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    reference = naive.copy_of(model)
    trainer = fs.Trainer(model, fs.SGD(0.05), "mse")
    for start in range(0, 6400, 32):
        rows = slice(start, start + 32)
        found = trainer.train_batch(x[rows], y[rows])
        assert found == pytest.approx(reference.step("mse", x[rows], y[rows], 0.05), rel=2e-4)
    assert trainer.steps == 200


@pytest.mark.parametrize("standardize", [False, True])
def test_serial_and_parallel_give_the_same_bits(standardize):
    for sizes, hidden, last, loss, batch, use_bias in CASES:
        found = []
        for slab, forward in ((train_slab, forward_slab), (train_slab_serial, forward_slab_serial)):
            rows = batch * 2 + 1
            model, x, y, weight = problem(
                sizes, hidden, last, loss, use_bias, rows=rows, dtype=np.float32, standardize=standardize
            )
            if standardize:
                model.parameters["standardize/mean"][:] = 0.25
                model.parameters["standardize/scale"][:] = 1.5
            trainer = fs.Trainer(model, fs.SGD(0.05, momentum=0.5), loss)
            losses, out = np.zeros(3), np.zeros((rows, sizes[-1]), np.float32)
            slab(model.network, trainer.optimizer_state, model.workspace(batch), x, y, weight, batch, losses)
            forward(model.network, model.workspace(batch), x, False, out)
            found.append((losses.tobytes(), model.network.parameters.tobytes(), out.tobytes()))
        assert found[0] == found[1], (sizes, loss)


_BITS = """
import hashlib, json, sys
import numpy as np, numba
import fastsgd as fs
rng = np.random.default_rng(0)
x = rng.standard_normal((5000, 20)).astype("f4")
y = x[:, :1] * x[:, 1:2]
found = {}
for threads in (1, 2, 3, 16):
    model = fs.Sequential([fs.Standardize(), fs.Dense(100, "relu"), fs.Dense(33, "tanh"), fs.Dense(1)])
    trainer = fs.Trainer(model, fs.SGD(0.05, momentum=0.9), "mse", threads=threads)
    history = trainer.fit((x, y), epochs=2, batch_size=700, seed=1)
    bits = model.network.parameters.tobytes() + model.predict(x, threads=threads).tobytes()
    found[threads] = [hashlib.sha256(bits).hexdigest(), history.epochs[-1]["loss"], numba.get_num_threads()]
print(json.dumps([numba.threading_layer(), found]))
"""


def test_any_number_of_threads_and_any_layer_give_the_same_bits():
    bits = set()
    for layer in ("omp", "workqueue"):
        environment = os.environ | {"NUMBA_NUM_THREADS": "16", "NUMBA_THREADING_LAYER": layer}
        done = subprocess.run(
            [sys.executable, "-c", _BITS], env=environment, capture_output=True, text=True, check=True
        )
        used, found = json.loads(done.stdout)
        assert used == layer
        assert {threads for _, _, threads in found.values()} == {16}, "threads= leaves the setting as it was"
        bits |= {(digest, loss) for digest, loss, _ in found.values()}
    assert len(bits) == 1


def test_a_label_out_of_range_gives_nan_and_touches_no_memory():
    model, x, y, _ = problem(
        [4, 8, 3], "relu", "softmax", "sparse_categorical_crossentropy", True, rows=6, dtype=np.float32
    )
    for label in (3.0, -1.0, 1e30, np.nan):
        y[2] = label
        workspace = make_workspace(model.network, 6)
        state = make_optimizer_state(model.network, 3, 0.1, 0.0, False)
        assert np.isnan(fs.kernels.train_batch(model.network, state, workspace, x, y))


def test_nan_in_the_input_reaches_the_loss():
    model, x, y, _ = problem([10, 64, 64, 1], "relu", "linear", "mse", True, rows=50, dtype=np.float32)
    x[17, 3] = np.nan
    state = make_optimizer_state(model.network, 0, 0.1, 0.0, False)
    assert np.isnan(fs.kernels.train_batch(model.network, state, make_workspace(model.network, 50), x, y))


def test_train_batches_takes_the_last_rows_too_and_returns_the_mean():
    model, x, y, _ = problem([10, 64, 64, 1], "relu", "linear", "mse", True, rows=70, dtype=np.float64)
    reference = naive.copy_of(model)
    state = make_optimizer_state(model.network, fs.kernels.MSE, 0.05, 0.0, False)
    found = fs.kernels.train_batches(model.network, state, make_workspace(model.network, 32), x, y, 32)
    wanted = [reference.step("mse", x[s : s + 32], y[s : s + 32], 0.05) for s in (0, 32, 64)]
    assert found == pytest.approx((wanted[0] * 32 + wanted[1] * 32 + wanted[2] * 6) / 70, rel=1e-12)


def test_parameters_written_between_steps_are_used():
    """The step keeps transposes of the kernels; it must not answer from old ones."""
    model, x, y, _ = problem([10, 24, 24, 1], "relu", "linear", "mse", True, rows=20, dtype=np.float64)
    trainer = fs.Trainer(model, fs.SGD(0.05), "mse")
    trainer.train_batch(x, y)
    model.parameters["dense_1/kernel"][...] = np.random.default_rng(5).standard_normal((24, 24))
    reference = naive.copy_of(model)
    trainer.train_batch(x, y)
    reference.step("mse", x, y, 0.05)
    np.testing.assert_allclose(model.parameters["dense_0/kernel"], reference.kernels[0], rtol=1e-10, atol=1e-12)


def test_kernels_run_in_plain_python():
    """NUMBA_DISABLE_JIT=1 takes the plain path through the same code."""
    here = Path(__file__).parent
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, naive, fastsgd as fs\n"
        "x = np.random.default_rng(0).standard_normal((9, 3)); y = x[:, :1] ** 2\n"
        "model = fs.Sequential([fs.Dense(5, 'relu'), fs.Dense(4, 'tanh'), fs.Dense(1)], input_dim=3, dtype='float64')\n"
        "reference = naive.copy_of(model)\n"
        "trainer = fs.Trainer(model, fs.SGD(0.05, momentum=0.9), 'mse')\n"
        "for _ in range(3):\n"
        "    assert abs(trainer.train_batch(x, y) - reference.step('mse', x, y, 0.05, 0.9)) < 1e-12\n"
        "trainer.fit((x, y), epochs=1, batch_size=4)\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code, str(here)], env=environment, check=True)
