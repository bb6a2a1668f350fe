"""The training step against the float64 reference, and the same bits for any number of threads."""

import json
import os
import subprocess
import sys

import naive
import numpy as np
import pytest
from numba import njit
from products import make_panel, view_of, width_of
from steps import CASES, GROUPS, KINDS, compare, compare_all, optimizer_state, problem, source_of

import fastsgd as fs
from fastsgd.kernels import network, passes, weights
from fastsgd.kernels.machine import pointer
from fastsgd.kernels.network import aligned_zeros, make_optimizer_state, make_workspace
from fastsgd.kernels.step import forward_slab, forward_slab_serial, train_slab, train_slab_serial


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("group", [name for name in GROUPS if name != "tiny"])
def test_steps_agree_with_the_reference(group, dtype):
    compare_all(group, dtype, train_slab_serial)


@njit
def rows_of_groups(n_layers, n_parameters, rows):
    return network.group_rows(n_layers, n_parameters, rows)


def test_a_workspace_has_room_for_every_smaller_batch():
    """A smaller batch may have more groups than a larger one, whose groups are whole blocks."""
    for layers in ([fs.Dense(2)], [fs.Dense(3), fs.Dense(2)]):
        model = fs.Sequential(layers, input_dim=4)
        size = model.network.parameters.size
        for most in (64, 127, 128, 129, 2048, 2049, 4095, 4097, 5000, 8191):
            workspace = make_workspace(model.network, most)
            numbers = workspace.numbers
            room = numbers[network.PARTIALS] - numbers[network.GRADIENTS]
            for rows in range(1, most + 1):
                height = rows_of_groups(len(layers), size, rows)
                groups = -(-rows // height) if height else 0
                assert groups * (size + network.APART) <= room, (most, rows)
                sums = groups if height else -(-rows // network.BLOCK_ROWS)
                assert sums <= workspace.block_loss.size, (most, rows)


@pytest.mark.parametrize("slab", [train_slab, train_slab_serial])
@pytest.mark.parametrize("shift", [0, 1])
def test_large_kernels_are_packed_past_the_caches(monkeypatch, slab, shift):
    """Above 2**20 weights, and wherever the workspace lies: who copies one gets memory that no vector need begin at."""
    sizes = [8, 1030, 1040, 3]
    assert sizes[1] * sizes[2] > weights._PAST_CACHES

    def workspace_of(model, rows):
        workspace = make_workspace(model.network, rows)
        memory = aligned_zeros(workspace.memory.size + shift, workspace.memory)[shift:]
        memory[:] = workspace.memory
        return workspace._replace(memory=memory)

    monkeypatch.setattr(fs.Sequential, "workspace", workspace_of)
    compare((sizes, "relu", "linear", "mse", 20, True), KINDS[0], np.float32, slab)


def test_what_threads_write_for_a_batch_in_groups_lies_a_page_apart():
    for layers in ([fs.Dense(2)], [fs.Dense(3), fs.Dense(2)]):
        model = fs.Sequential(layers, input_dim=4)
        workspace = make_workspace(model.network, 1024)
        numbers, size = workspace.numbers, model.network.parameters.size
        end = numbers[network.ROW_WEIGHTS] + numbers[network.ROWS]
        assert numbers[network.SLICE] - end >= network.APART
        assert numbers[network.PACKED] >= workspace.workers * numbers[network.SLICE], "one for each"
        own = workspace.workers * network.MOST_PENDING * (size + network.APART)
        assert numbers[network.SCRATCH] - numbers[network.PARTIALS] >= own


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
    for case in [*CASES, *GROUPS["grouped"][:6], *GROUPS["long"][:1]]:
        sizes, hidden, last, loss, batch, use_bias = case[:6]
        found = []
        for slab, forward in ((train_slab, forward_slab), (train_slab_serial, forward_slab_serial)):
            rows = batch * 2 + 1
            model, x, y, weight = problem(
                sizes, hidden, last, loss, use_bias, rows=rows, dtype=np.float32, standardize=standardize
            )
            if standardize:
                model.parameters["standardize/mean"][:] = 0.25
                model.parameters["standardize/scale"][:] = 1.5
            state = optimizer_state(model, loss, 0.5)
            losses, out = np.zeros(3), np.zeros((rows, sizes[-1]), np.float32)
            slab(model.network, state, model.workspace(batch), source_of(x, y, weight), batch, losses)
            forward(model.network, model.workspace(batch), x, False, out)
            found.append((losses.tobytes(), model.network.parameters.tobytes(), out.tobytes()))
        assert found[0] == found[1], case


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


@njit
def copy_rows(rows, width, order, ordered, first, m, out, place):
    passes._copy_rows(pointer(rows, 0), width, pointer(order, 0), ordered, first, m, make_panel(out, place))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ordered", [False, True])
def test_rows_are_copied_to_whole_and_cut_strips_and_nothing_else(dtype, ordered):
    width = width_of(dtype)
    for n in (1, 7, width, width + 1, 3 * width - 1, 3 * width):
        x = np.arange(9 * n, dtype=dtype).reshape(9, n)
        order = np.random.default_rng(n).permutation(9) if ordered else np.arange(9)
        for place in ((3, n + 2, width), (3, width, 4 * width + 5)):
            out = np.full(3 * (4 * width + 5) + 4 * (n + 2) + 6, np.nan, dtype)
            copy_rows(x, n, order, ordered, 2, 4, out, place)
            np.testing.assert_array_equal(view_of((out, place), 4, n), x[order[2:6]])
            assert np.isnan(out).sum() == out.size - 4 * n, (n, place)
