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
        (("sparse_categorical_crossentropy", 0.2, 0), "linear"),
        (("categorical_crossentropy", 0.1, 0), "softmax"),
        (("binary_crossentropy", 0.3, 0), "linear"),
        ("focal", "sigmoid"),
        (("focal", 1.5, 0.3), "linear"),
        ("huber", "gelu"),
        ("log_cosh", "silu"),
        (("quantile", 0.9, 0), "elu"),
        ("poisson", "softplus"),
        ("epsilon_insensitive", "selu"),
        ("hinge", "leaky_relu"),
        ("squared_hinge", "linear"),
        ("modified_huber", "linear"),
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
    name = naive.described(loss)[0]
    y = rng.integers(0, 3, (7, 1)) if name.startswith("sparse") else rng.random((7, 3))
    if name in ("focal", "hinge", "squared_hinge", "modified_huber"):
        y = y.round()
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
