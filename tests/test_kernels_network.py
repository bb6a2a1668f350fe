"""Where parameters lie: what is stored as a row fills whole strips, and what lies beyond it is nobody's."""

import itertools

import numpy as np
import pytest

import fastsgd as fs
from fastsgd.kernels.network import BIAS_START, KERNEL, KERNEL_ROW, N_IN, N_OUT, TRANSPOSED, layer_table

WIDTHS = (1, 2, 10, 15, 16, 17, 50, 64, 128, 300, 512, 784, 2048)
# A gradient for each group of rows, and the whole batch in the workspace, with a task for some columns each.
NETWORKS = [([10, 50, 7, 17, 1], 130), ([20, 300, 128, 5], 40), ([70, 530, 520, 33], 20)]


@pytest.mark.parametrize(("n_in", "n_out"), list(itertools.product(WIDTHS, WIDTHS)))
def test_rows_are_whole_lines_apart_and_do_not_collide(n_in, n_out):
    (first, second), length = layer_table([n_in, n_out, n_in], [0, 0], [True, False])
    rows, columns = (n_out, n_in) if first[TRANSPOSED] else (n_in, n_out)
    assert {first[N_IN], first[N_OUT]} == {rows, columns}
    assert first[KERNEL_ROW] >= columns
    assert rows == 1 or first[KERNEL_ROW] % 128, "512 bytes of float32 apart"
    starts = first[KERNEL], first[BIAS_START], second[KERNEL]
    assert all(start % 16 == 0 for start in starts), "not on a cache line"
    assert first[KERNEL] + rows * first[KERNEL_ROW] <= first[BIAS_START]
    assert first[BIAS_START] + n_out <= second[KERNEL] < length


def built(sizes, dtype="float32"):
    """A model, its trainer with momentum, and data."""
    n_in, *hidden, last = sizes
    model = fs.Sequential([*(fs.Dense(n, "relu") for n in hidden), fs.Dense(last)], input_dim=n_in, dtype=dtype)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((300, n_in)).astype(dtype), rng.standard_normal((300, last)).astype(dtype)
    return model, fs.Trainer(model, fs.SGD(0.01, momentum=0.9, nesterov=True), "mse"), data


def fill_gaps(model, vector, value):
    """Set what lies between the rows of a vector that is laid out like the parameters."""
    kept = {name: view.copy() for name, view in model.views(vector).items()}
    vector[:] = value
    for name, view in model.views(vector).items():
        view[...] = kept[name]


@pytest.mark.parametrize(("sizes", "batch"), NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gaps_stay_zero(sizes, batch, dtype):
    model, trainer, data = built(sizes, dtype)
    trainer.fit(data, epochs=2, batch_size=batch)
    for vector in (model.network.parameters, trainer.optimizer_state.velocity):
        assert all(view.any() for view in model.views(vector).values())
        found = vector.copy()
        fill_gaps(model, vector, 0)
        np.testing.assert_array_equal(found, vector)


@pytest.mark.parametrize(("sizes", "batch"), NETWORKS)
def test_what_lies_in_the_gaps_changes_nothing(sizes, batch):
    """A loop of one's own may have diverged, and good parameters been put back, which the gaps do not see."""
    found = []
    for value in (0.0, np.nan):
        model, trainer, data = built(sizes)
        fill_gaps(model, model.network.parameters, value)
        trainer.fit(data, epochs=2, batch_size=batch)
        found.append([view.tobytes() for view in model.parameters.values()])
        found[-1].append(model.predict(data[0]).tobytes())
    assert found[0] == found[1]
