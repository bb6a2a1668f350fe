"""Where parameters lie: what is stored as a row fills whole strips, and what lies beyond it is nobody's."""

import itertools

import numpy as np
import pytest
from numba import njit

import fastsgd as fs
from fastsgd.kernels.network import (
    BIAS_START,
    BLOCK_ROWS,
    KERNEL,
    KERNEL_ROW,
    N_IN,
    N_OUT,
    TRANSPOSED,
    block_rows,
    layer_table,
)

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


def busiest(rows, size, threads):
    """Rows of the thread that has most of them, where each takes the next block as soon as it is done."""
    done = [0] * threads
    for first in range(0, rows, size):
        done[done.index(min(done))] += min(size, rows - first)
    return max(done)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.parametrize("n_parameters", [1000, 2**18])
def test_blocks_share_the_rows_of_a_batch_evenly(n_parameters, threads):
    @njit
    def sizes(n_parameters, threads):
        return np.array([block_rows(n_parameters, rows, threads) for rows in range(1, 1000)])

    largest = 128 if n_parameters == 2**18 else 64
    for rows, size in enumerate(sizes(n_parameters, threads), start=1):
        assert size % BLOCK_ROWS == 0
        assert BLOCK_ROWS <= size <= largest
        # With the smallest blocks nobody would have less; of larger ones one may be less even by itself.
        turns = -(-rows // (threads * largest))
        least = busiest(rows, BLOCK_ROWS, threads)
        assert busiest(rows, size, threads) <= least + BLOCK_ROWS * turns, rows


def test_a_short_last_block_may_be_sooner_done_than_two_even_ones():
    @njit
    def size():
        return block_rows(100_000, 100, 2)

    assert size() == 48
    assert busiest(100, 48, 2) < busiest(100, 64, 2)
