"""Layers, start parameters, prediction, standardization."""

import copy
import pickle

import naive
import numpy as np
import pytest

import fastsgd as fs


def network(*layers, **options):
    return fs.Sequential(list(layers), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.Dense(0), "units is 0; it is a whole number from 1 on"),
        (lambda: fs.Dense(2.5), "units is 2.5"),
        (lambda: fs.Dense(2, "rleu"), "did you mean 'relu'"),
        (lambda: fs.Dense(2, init="ones"), "there are glorot_normal"),
        (lambda: fs.Sequential([]), "no Dense layer"),
        (lambda: network(fs.Dense(1), fs.Standardize()), "can only be the first"),
        (lambda: network(fs.Dense(2, "softmax"), fs.Dense(1)), "for the last layer only"),
        (lambda: network(64), "layers are Dense and Standardize"),
        (lambda: fs.Sequential(fs.Dense(1)), "it is a list of layers"),
        (lambda: network(fs.Dense(1), dtype="float16"), "float32 or float64"),
        (lambda: network(fs.Dense(1), input_dim=0), "input_dim is 0"),
        (lambda: network(fs.Dense(10**9), fs.Dense(10**9), input_dim=3), "more than a machine holds"),
        (lambda: network(fs.Dense(1)).predict(np.zeros((1, 2))), "does not know its input columns"),
    ],
)
def test_what_makes_no_network_is_refused(make, message):
    with pytest.raises(fs.ModelError, match=message):
        make()


def test_parameters_are_views_into_one_vector():
    for units in (1, 3, 5, 64):
        model = network(fs.Dense(7, "relu"), fs.Dense(units, use_bias=False), input_dim=4)
        assert {name: view.shape for name, view in model.parameters.items()} == {
            "dense_0/kernel": (4, 7),
            "dense_0/bias": (7,),
            "dense_1/kernel": (7, units),
        }
        model.parameters["dense_1/kernel"][...] = np.arange(7 * units).reshape(7, units)
        x = np.eye(7, dtype=np.float32)
        model.parameters["dense_0/kernel"][...] = np.eye(4, 7)
        np.testing.assert_array_equal(model.predict(x[:4, :4]), np.arange(7 * units).reshape(7, units)[:4])
        assert np.shares_memory(model.parameters["dense_1/kernel"], model.network.parameters)
        assert model.n_parameters == 4 * 7 + 7 + 7 * units
        assert model.work_per_row == 4 * (28 + 7 * units) + 2 * 7 * units


def test_start_parameters():
    model = network(fs.Dense(500), fs.Dense(400, init="he_normal"), fs.Dense(3, init="lecun_uniform"), input_dim=300)
    kernels = [model.parameters[f"dense_{i}/kernel"] for i in range(3)]
    limit = np.sqrt(6 / 800)
    assert np.abs(kernels[0]).max() <= limit
    assert np.abs(kernels[0]).max() > 0.999 * limit
    assert kernels[0].var() == pytest.approx(limit**2 / 3, rel=0.02)
    assert kernels[1].var() == pytest.approx(2 / 500, rel=0.02)
    assert kernels[2].var() == pytest.approx(1 / 400, rel=0.1)
    assert all(abs(kernel.mean()) < 0.01 for kernel in kernels)
    assert not model.parameters["dense_0/bias"].any()
    assert not np.array_equal(kernels[0], network(fs.Dense(500), input_dim=300, seed=1).parameters["dense_0/kernel"])
    # Golden: a change of these changes every user's model.
    golden = network(fs.Dense(2), input_dim=2, dtype="float64").parameters["dense_0/kernel"]
    np.testing.assert_allclose(golden, GOLDEN, rtol=1e-15)


GOLDEN = [[-0.5979566909897459, -1.0083964895989124], [-0.513179255732344, 0.162360044268109]]


@pytest.mark.parametrize("last", ["linear", "relu", "tanh", "sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_prediction_is_the_formula(last, dtype):
    rng = np.random.default_rng(0)
    for units in (1, 3, 9):
        model = network(
            fs.Standardize(), fs.Dense(17, "relu"), fs.Dense(5, "tanh"), fs.Dense(units, last), input_dim=6, dtype=dtype
        )
        for name, view in model.parameters.items():
            if name.endswith("bias") or name.startswith("standardize"):
                view[:] = rng.random(view.shape) + 0.5
        x = rng.standard_normal((101, 6))
        inputs = (x - model.parameters["standardize/mean"]) * model.parameters["standardize/scale"]
        befores, afters = naive.copy_of(model).forward(inputs)
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-12}
        found = model.predict(x)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, afters[-1], **tolerance)
        np.testing.assert_allclose(model.predict(x, raw=True), befores[-1], **tolerance)


def test_prediction_does_not_depend_on_how_it_is_asked():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1003, 6)).astype(np.float32)
    model = network(fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(2), input_dim=6)
    whole = model.predict(x)
    for batch_size in (1, 7, 256, 100_000):
        np.testing.assert_array_equal(model.predict(x, batch_size=batch_size), whole)
    np.testing.assert_array_equal(model.predict(x[5:6]), whole[5:6])
    np.testing.assert_array_equal(model.predict(np.asfortranarray(x)), whole)
    np.testing.assert_array_equal(model.predict(x.tolist()), whole)
    np.testing.assert_array_equal(model.predict(fs.ArrayDataset(x)), whole)
    np.testing.assert_array_equal(model.predict(x, threads=1), whole)
    out = np.empty_like(whole)
    assert model.predict(x, out=out) is out
    np.testing.assert_array_equal(out, whole)
    assert model.predict(x[:0]).shape == (0, 2)


def test_prediction_refuses_what_does_not_fit():
    model = network(fs.Dense(2), input_dim=3)
    refused = {
        "the data have 4 columns; the model takes 3": {"x": np.zeros((5, 4))},
        r"x has shape \(5,\); the model takes \(rows, 3\)": {"x": np.zeros(5)},
        "no array of numbers": {"x": np.full((5, 3), "a")},
        r"out is float64 of shape \(5, 2\)": {"x": np.zeros((5, 3)), "out": np.zeros((5, 2))},
        r"out is float32 of shape \(4, 2\)": {"x": np.zeros((5, 3)), "out": np.zeros((4, 2), "f4")},
    }
    for message, arguments in refused.items():
        with pytest.raises(fs.DataError, match=message):
            model.predict(**arguments)
    with pytest.raises(fs.DataError, match="the data have 2 columns; the model takes 3"):
        model.predict(fs.ArrayDataset(np.zeros((5, 2))))
    with pytest.raises(fs.ModelError, match="batch_size is 0"):
        model.predict(np.zeros((5, 3)), batch_size=0)


def test_standardize_learns_mean_and_deviation():
    rng = np.random.default_rng(0)
    x = np.stack([rng.standard_normal(20_001), 1e9 + rng.standard_normal(20_001), np.full(20_001, 0.1)], axis=1)
    model = network(fs.Standardize(), fs.Dense(1), dtype="float64", input_dim=3)
    assert model.needs_standardization
    model.learn_standardization(fs.ArrayDataset(x))
    assert not model.needs_standardization
    np.testing.assert_allclose(model.parameters["standardize/mean"], x.mean(axis=0), rtol=1e-12, atol=1e-12)
    scale = model.parameters["standardize/scale"]
    np.testing.assert_allclose(scale[:2], 1 / x[:, :2].std(axis=0), rtol=1e-7)
    assert scale[2] == 1, "a column that does not vary is only shifted"


def test_copies_and_pickles_are_whole_and_separate():
    model = network(fs.Standardize(), fs.Dense(8, "tanh"), fs.Dense(3, "softmax"), input_dim=5)
    model.learn_standardization(fs.ArrayDataset(np.random.default_rng(0).random((50, 5))))
    x = np.random.default_rng(1).random((9, 5))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.predict(x), model.predict(x))
        assert not twin.needs_standardization
        twin.parameters["dense_0/kernel"][:] = 0
        assert model.parameters["dense_0/kernel"].any()
    unbuilt = pickle.loads(pickle.dumps(network(fs.Dense(2))))
    assert unbuilt.input_dim is None


def test_summary():
    model = network(fs.Standardize(), fs.Dense(64, "relu"), fs.Dense(1))
    assert "?" in model.summary()
    model.build(10)
    lines = model.summary().splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["input", "standardize", "dense_0", "dense_1", "total"]
    assert lines[-1].split() == ["total", "float32", "769"]


def test_one_model_predicts_in_several_threads():
    from concurrent.futures import ThreadPoolExecutor

    x = np.random.default_rng(0).standard_normal((3000, 6)).astype(np.float32)
    model = network(fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(2), input_dim=6)
    whole = model.predict(x)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(x, batch_size=500), range(20)):
            np.testing.assert_array_equal(found, whole)
