"""Training steps of the kernels beside those of the reference. ``python steps.py GROUP`` compares a group of cases."""

import sys

import naive
import numpy as np

import fastsgd as fs
from fastsgd.kernels.passes import Source
from fastsgd.kernels.step import train_slab_serial

# sizes, hidden activation, last activation, loss, batch, use_bias; and rows, if not three batches and a half
CASES = [
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
# Batches that are taken in groups of rows, each with a gradient of its own: from 128 rows of a small network, from 32
# of a single layer; tails that are no groups, or smaller than one; the most groups there are, and a tail with more.
GROUPED = [
    ([10, 64, 64, 1], "relu", "linear", "mse", 128, True, 128 + 3),
    ([10, 64, 64, 1], "relu", "linear", "mse", 193, True, 2 * 193 + 130),
    ([7, 20, 3], "silu", "softmax", "sparse_categorical_crossentropy", 500, False, 1100),
    ([33, 10], "relu", "softmax", "sparse_categorical_crossentropy", 64, True, 64 + 7),
    ([33, 1], "relu", "linear", "mse", 100, True, 400 + 63),
    ([9, 40], "relu", "tanh", "mse", 333, False, 800),
    ([3, 5, 2], "tanh", "linear", "mse", 5000, True, 5000 + 4096),
    ([4, 2], "tanh", "linear", "mse", 2500, True, 2500 + 2048),
]
# Above 2**15 parameters the whole batch is in the workspace: sums of more than 192 rows go in chunks; above 2**17 a
# block has more rows, from 2**18 elements of a kernel on a task. Rows of 256 and more lie strip after strip, unless
# they are read for dot products.
LONG = [
    ([40, 700, 300, 5], "tanh", "linear", "mse", 600, True, 1250),
    ([100, 330, 20], "relu", "softmax", "sparse_categorical_crossentropy", 385, False, 385 + 192),
    ([300, 112, 1], "sigmoid", "linear", "mse", 193, True, 600),
    ([1100, 130], "relu", "linear", "mse", 300, True, 557),
    ([520, 530, 3], "relu", "linear", "mse", 300, True, 600),
    ([256, 290, 2], "silu", "softmax", "sparse_categorical_crossentropy", 70, True, 150),
]
# One or two outputs of one layer: rows are read where they lie, eight and one at a time, and memory is asked for rows
# to come, of this task, of the thread's next one and of the next batch.
LINEAR = [
    *(([n, 1], "relu", "linear", "mse", 70, n % 2 > 0, 300) for n in (1, 7, 8, 15, 16, 17, 31, 32, 33, 100)),
    *(([n, 2], "relu", "tanh", "mse", 96, n % 2 > 0, 96 + 65) for n in (3, 16, 45)),
    ([784, 1], "relu", "linear", "mse", 256, True, 2 * 256 + 90),
    ([20, 1], "relu", "sigmoid", "binary_crossentropy", 5000, True, 2 * 5000 + 77),
]
EXTREME = [
    ([30, 2100, 40, 1], "tanh", "linear", "mse", 50, True),
    ([2100, 9], "relu", "linear", "mse", 40, True),
    ([3] + [8] * 10 + [2], "tanh", "linear", "mse", 1, True, 5),
    ([5] + [17] * 10 + [1], "leaky_relu", "linear", "mse", 150, True, 170),
    ([1, 1, 1, 1], "tanh", "linear", "mse", 130, True),
    ([6, 6], "relu", "softplus", "mse", 1, True, 3),
    *(([11, 24, n], "relu", "linear", "mse", 20, n % 3 > 0, 45) for n in range(1, 18)),
    *(([11, n, 3], "elu", "linear", "mse", 33, True, 40) for n in range(1, 18, 3)),
]
# For plain Python: a little of everything.
TINY = [
    ([3, 5, 4, 1], "relu", "linear", "mse", 7, True, 10),
    ([2, 1, 3], "tanh", "linear", "mae", 5, False, 12),
    ([3, 18, 2], "gelu", "softmax", "sparse_categorical_crossentropy", 4, True, 9),
    ([2, 3, 1], "sigmoid", "sigmoid", "binary_crossentropy", 130, True, 135),
    ([3, 17], "relu", "linear", "mse", 65, True, 70),
    ([5, 2], "relu", "linear", "mse", 65, True, 70),
]
GROUPS = {"usual": CASES, "grouped": GROUPED, "long": LONG, "linear": LINEAR, "extreme": EXTREME, "tiny": TINY}
# momentum, nesterov, weighted, in an order, standardized
KINDS = (
    (0.0, False, False, True, False),
    (0.9, False, True, False, False),
    (0.9, True, True, True, True),
    (0.0, False, True, False, True),
)


def problem(sizes, hidden, last, loss, use_bias, *, rows, dtype, seed=0, standardize=False):
    """A model with a bias that is not 0, and data for it: (model, x, y, weight)."""
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


def source_of(x, y, weight=None, order=None):
    """The rows of a slab as the kernels take them."""
    none = np.empty(0, x.dtype)
    return Source(x, y, none if weight is None else weight, np.empty(0, np.int64) if order is None else order)


def optimizer_state(model, loss, momentum=0.0, nesterov=False):
    return fs.Trainer(model, fs.SGD(0.05, momentum=momentum, nesterov=nesterov), loss).optimizer_state


def compare(case, kind, dtype, slab):
    """Raise AssertionError unless some steps end where the reference does."""
    sizes, hidden, last, loss, batch, use_bias = case[:6]
    momentum, nesterov, weighted, ordered, standardize = kind
    rows = case[6] if len(case) > 6 else batch * 3 + batch // 2
    tolerance = 2e-4 if dtype == np.float32 else 1e-11
    model, x, y, weight = problem(sizes, hidden, last, loss, use_bias, rows=rows, dtype=dtype, standardize=standardize)
    inputs = x
    if standardize:
        rng = np.random.default_rng(2)
        for name in ("standardize/mean", "standardize/scale"):
            model.parameters[name][:] = rng.random(sizes[0]) + 0.5
        inputs = (x - model.parameters["standardize/mean"]) * model.parameters["standardize/scale"]
    order = np.random.default_rng(1).permutation(rows) if ordered else np.arange(rows)
    reference, losses = naive.copy_of(model), np.zeros(-(-rows // batch))
    source = source_of(x, y, weight if weighted else None, order if ordered else None)
    workspace = model.workspace(batch)
    slab(model.network, optimizer_state(model, loss, momentum, nesterov), workspace, source, batch, losses)
    wanted = []
    for start in range(0, rows, batch):
        part = order[start : start + batch]
        weights = weight[part] if weighted else None
        wanted.append(reference.step(loss, inputs[part], y[part], 0.05, momentum, nesterov, weights))
    about = str((case, kind))
    np.testing.assert_allclose(losses, wanted, rtol=tolerance, err_msg=about)
    for index, (kernel, bias) in enumerate(zip(reference.kernels, reference.biases, strict=True)):
        found = model.parameters[f"dense_{index}/kernel"]
        np.testing.assert_allclose(found, kernel, rtol=tolerance, atol=tolerance, err_msg=about)
        if use_bias:
            found = model.parameters[f"dense_{index}/bias"]
            np.testing.assert_allclose(found, bias, rtol=tolerance, atol=tolerance, err_msg=about)


def compare_all(group, dtype, slab=train_slab_serial):
    """Every case of a group: each kind of update for the first few, by turns for the others."""
    for index, case in enumerate(GROUPS[group]):
        for kind in KINDS if len(GROUPS[group]) < 16 else [KINDS[index % len(KINDS)]]:
            compare(case, kind, dtype, slab)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for real in (np.float32, np.float64):
            compare_all(name, real)
