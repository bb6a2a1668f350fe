"""The reference itself, against finite differences."""

import itertools

import naive
import numpy as np
import pytest


@pytest.mark.parametrize(
    ("loss", "last"),
    [
        ("mse", "linear"),
        ("mse", "sigmoid"),
        ("mse", "softmax"),
        ("mae", "tanh"),
        ("binary_crossentropy", "sigmoid"),
        ("sparse_categorical_crossentropy", "softmax"),
    ],
)
def test_gradients_are_finite_differences(loss, last):
    rng = np.random.default_rng(3)
    sizes = [3, 5, 4, 3]
    network = naive.Network(
        [rng.standard_normal(shape) for shape in itertools.pairwise(sizes)],
        [rng.standard_normal(n) for n in sizes[1:]],
        ["tanh", "sigmoid", last],
    )
    x = rng.standard_normal((7, 3))
    y = rng.integers(0, 3, (7, 1)) if loss.startswith("sparse") else rng.random((7, 3))
    weight = rng.random(7)
    kernels, biases = network.gradients(loss, x, y, weight)
    for params, grads in ((network.kernels, kernels), (network.biases, biases)):
        for param, grad in zip(params, grads, strict=True):
            for index in np.ndindex(param.shape):
                here = param[index]
                ends = []
                for step in (1e-6, -1e-6):
                    param[index] = here + step
                    ends.append(network.loss(loss, x, y, weight))
                param[index] = here
                assert grad[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)
