"""Layers, start parameters, predictions and copies: against plain NumPy."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.errors import DataError, MemoryBudgetError, ModelError
from fastsgd.model.layers import INITIALIZERS

ACTIVATIONS = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softmax": lambda z: (
        np.exp(z - z.max(axis=1, keepdims=True)) / np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
    ),
}
CLOSE = {"float32": {"rtol": 3e-5, "atol": 3e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}


def forward(model, x, raw=False):
    """The outputs of a model in float64 NumPy."""
    parameters = {name: np.asarray(array, np.float64) for name, array in model.parameters.items()}
    x = np.asarray(x, np.float64)
    if model.standardizes:
        x = (x - parameters["standardize/mean"]) * parameters["standardize/scale"]
    for index, layer in enumerate(model.dense):
        x = x @ parameters[f"dense_{index}/kernel"] + parameters.get(f"dense_{index}/bias", 0)
        if not (raw and index == len(model.dense) - 1):
            x = ACTIVATIONS[layer.activation](x)
    return x


def stirred(model, seed=1):
    """The model with random biases, and random mean and scale where it standardizes."""
    rng = np.random.default_rng(seed)
    for name, array in model.parameters.items():
        if name.endswith(("bias", "mean")):
            array[...] = rng.normal(size=array.shape)
        if name.endswith("scale"):
            array[...] = rng.uniform(0.5, 2, size=array.shape)
    return model


def rows(count, columns=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(np.float32)


@pytest.fixture
def model():
    layers = [fs.Standardize(), fs.Dense(7, "relu"), fs.Dense(3, "tanh", use_bias=False), fs.Dense(2)]
    return stirred(fs.Sequential(layers, input_dim=5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "units is 0; it is a whole number from 1 on"),
        ({"units": -3}, "units is -3"),
        ({"units": 2.0}, "units is 2.0"),
        ({"units": True}, "units is True"),
        ({"units": "8"}, "units is '8'"),
        ({"units": None}, "units is None"),
        ({"units": 2, "activation": "rellu"}, "'rellu' is unknown; did you mean 'relu'.*linear, relu, selu, sigmoid"),
        ({"units": 2, "activation": None}, "the activation None is unknown"),
        ({"units": 2, "activation": ["relu"]}, "is unknown"),
        ({"units": 2, "init": "xavier"}, "the initializer 'xavier' is unknown.*glorot_uniform"),
        ({"units": 2, "use_bias": "no"}, "use_bias is 'no'; it is True or False"),
    ],
)
def test_dense_refuses(arguments, message):
    with pytest.raises(ModelError, match=message):
        fs.Dense(**arguments)


def test_dense_is_a_value():
    layer = fs.Dense(np.int64(4), "ReLU", init="HE_normal", use_bias=np.bool_(False))
    assert layer == fs.Dense(4, "relu", init="he_normal", use_bias=False)
    assert type(layer.units) is int
    with pytest.raises(AttributeError):
        layer.units = 5


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "no Dense layer"),
        ([fs.Standardize()], "no Dense layer"),
        (fs.Dense(1), "layers is Dense"),
        (None, "layers is None"),
        (5, "layers is 5"),
        (["dense"], "layer 0 is 'dense'"),
        ([fs.Dense], "layer 0 is <class"),
        ([fs.Dense(2), fs.Standardize(), fs.Dense(1)], r"layer 1 is Standardize\(\); it can only be the first"),
        ([fs.Dense(2, "softmax"), fs.Dense(1)], "dense_0 has softmax, which is for the last layer"),
    ],
)
def test_sequential_refuses_layers(layers, message):
    with pytest.raises(ModelError, match=message):
        fs.Sequential(layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"dtype": "float16"}, "dtype is 'float16'; it is float32 or float64"),
        ({"dtype": "float31"}, "dtype is 'float31'"),
        ({"dtype": None}, "dtype is None"),
        ({"dtype": ">f4"}, "dtype is '>f4'"),
        ({"dtype": {}}, "dtype is {}"),
        ({"input_dim": 0}, "input_dim is 0"),
        ({"input_dim": "4"}, "input_dim is '4'"),
        ({"input_dim": 2**62}, "more than a machine holds"),
    ],
)
def test_sequential_refuses_options(options, message):
    with pytest.raises(ModelError, match=message):
        fs.Sequential([fs.Dense(1)], **options)


def splitmix(seed, layer, count):
    """Uniform numbers, as Steele, Lea and Flood's SplitMix64 gives them, in Python's whole numbers."""
    mask = 2**64 - 1

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    state = mix((seed + mix(layer + 1)) & mask)
    return np.array([(mix((state + i * 0x9E3779B97F4A7C15) & mask) >> 11) / 2**53 for i in range(1, count + 1)])


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_start_parameters_are_fixed(seed):
    model = fs.Sequential([fs.Dense(6), fs.Dense(2)], input_dim=3, seed=seed, dtype="float64")
    for layer, (n_in, n_out) in enumerate([(3, 6), (6, 2)]):
        expected = (2 * splitmix(seed, layer, n_in * n_out).reshape(n_in, n_out) - 1) * np.sqrt(6 / (n_in + n_out))
        assert np.array_equal(model.parameters[f"dense_{layer}/kernel"], expected)
        assert not model.parameters[f"dense_{layer}/bias"].any()


# From the whole numbers of `splitmix` and Python's own math, seed 7.
GOLDEN_UNIFORM = [[-0.13574824330142587, -0.6490688688027078], [-0.7868940639934334, 0.24447940789807637]]
GOLDEN_NORMAL = [
    [-1.0030810193569426, 0.3844546008710939, 1.6998220063041931, -0.8536134568758965, -0.16435371053739017],
    [1.8703512142258878, -0.22957242675683798, 0.3461014775683364, 0.45461012188781735, -0.8625188574941655],
]


def test_start_parameters_golden():
    model = fs.Sequential([fs.Dense(2), fs.Dense(5, init="he_normal")], input_dim=2, seed=7, dtype="float64")
    uniform, normal = model.parameters["dense_0/kernel"], model.parameters["dense_1/kernel"]
    assert np.array_equal(uniform, GOLDEN_UNIFORM)
    np.testing.assert_allclose(normal, GOLDEN_NORMAL, rtol=1e-13)


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("glorot_uniform", 2 / 700),
        ("glorot_normal", 2 / 700),
        ("he_uniform", 2 / 400),
        ("he_normal", 2 / 400),
        ("lecun_uniform", 1 / 400),
        ("lecun_normal", 1 / 400),
        ("zeros", 0),
    ],
)
def test_start_variance(init, variance):
    kernel = fs.Sequential([fs.Dense(300, init=init)], input_dim=400).parameters["dense_0/kernel"].astype(np.float64)
    assert kernel.mean() == pytest.approx(0, abs=4 * np.sqrt(variance / kernel.size))
    assert kernel.var() == pytest.approx(variance, rel=0.02)
    # A uniform distribution ends at sqrt(3) deviations and nearly reaches it; a normal one goes on.
    reach = np.abs(kernel).max() / np.sqrt(3 * variance) if variance else 0
    assert (0.999 < reach <= 1 + 1e-7) == init.endswith("uniform")
    assert (reach > 2) == init.endswith("normal")


def test_every_initializer_is_tested():
    tested = {mark.args[1][i][0] for mark in test_start_variance.pytestmark for i in range(len(mark.args[1]))}
    assert tested == set(INITIALIZERS)


def test_start_parameters_differ_by_layer_and_seed_and_not_by_dtype():
    def kernels(**options):
        model = fs.Sequential([fs.Dense(8), fs.Dense(8), fs.Dense(8)], input_dim=8, **options)
        return [model.parameters[f"dense_{i}/kernel"] for i in range(3)]

    first, other, exact = kernels(seed=1), kernels(seed=2), kernels(seed=1, dtype="float64")
    assert not np.isin(first[0], [first[1], first[2], *other]).any()
    assert all(
        a.dtype == np.float32 and np.array_equal(a, b.astype(np.float32)) for a, b in zip(first, exact, strict=True)
    )


def test_parameters_are_views_of_the_flat_vector(model):
    shapes = {name: array.shape for name, array in model.parameters.items()}
    assert shapes == {
        "standardize/mean": (5,),
        "standardize/scale": (5,),
        "dense_0/kernel": (5, 7),
        "dense_0/bias": (7,),
        "dense_1/kernel": (7, 3),
        "dense_2/kernel": (3, 2),
        "dense_2/bias": (2,),
    }
    flat = model.network.parameters
    flat[:] = 0
    dense = [array for name, array in model.parameters.items() if name.startswith("dense")]
    for array in dense:
        array[...] += 1
    # No element is in two views, and each is in the flat vector.
    assert flat.max() == 1
    assert flat.sum() == model.n_parameters == sum(array.size for array in dense) == 5 * 7 + 7 + 7 * 3 + 3 * 2 + 2


@pytest.mark.parametrize("units", [1, 2, 3, 4, 5, 17])
def test_written_parameters_are_predicted_with(units):
    model = fs.Sequential([fs.Dense(units)], input_dim=3)
    kernel = np.arange(3 * units, dtype=np.float32).reshape(3, units)
    model.parameters["dense_0/kernel"][...] = kernel
    model.parameters["dense_0/bias"][...] = 100
    model.parameters["dense_0/kernel"][2, units - 1] = -1
    kernel[2, units - 1] = -1
    assert np.array_equal(model.predict(np.eye(3)), kernel + 100)


def test_a_model_without_columns_says_so():
    model = fs.Sequential([fs.Dense(2)])
    for use in (
        lambda: model.network,
        lambda: model.parameters,
        lambda: model.predict(rows(2)),
        lambda: model.predict(fs.ArrayDataset(rows(2))),
        lambda: model.save("nowhere"),
        lambda: model.learn_standardization(fs.ArrayDataset(rows(2))),
    ):
        with pytest.raises(ModelError, match="does not know its input columns"):
            use()
    assert model.input_dim is None
    assert "input_dim=None" in repr(model)


def test_build():
    model = fs.Sequential([fs.Dense(2)])
    with pytest.raises(ModelError, match=r"input_dim is 2\.5"):
        model.build(2.5)
    model.build(np.int32(4))
    assert (model.input_dim, type(model.input_dim)) == (4, int)
    kernel = model.parameters["dense_0/kernel"].copy()
    model.parameters["dense_0/kernel"][...] = 5
    model.build(4)
    assert (model.parameters["dense_0/kernel"] == 5).all()
    with pytest.raises(DataError, match="the data have 3 columns; the model takes 4"):
        model.build(3)
    assert np.array_equal(kernel, fs.Sequential([fs.Dense(2)], input_dim=4).parameters["dense_0/kernel"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", list(ACTIVATIONS))
@pytest.mark.parametrize("hidden", [None, "linear", "relu", "tanh", "sigmoid"])
def test_predict_is_plain_numpy(hidden, last, dtype):
    widths = [] if hidden is None else [19, 3, 33]
    bias = last != "tanh"
    layers = [fs.Standardize()] if last == "relu" else []
    layers += [fs.Dense(units, hidden, use_bias=bias) for units in widths]
    for outputs in (1, 4, 10):
        model = stirred(fs.Sequential([*layers, fs.Dense(outputs, last)], input_dim=5, dtype=dtype))
        x = rows(101).astype(dtype)
        for raw in (False, True):
            found = model.predict(x, raw=raw)
            assert found.shape == (101, outputs)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, forward(model, x, raw), **CLOSE[dtype])


def test_predict_takes_arrays_of_any_kind(model):
    x = np.random.default_rng(3).integers(-4, 5, (40, 5)).astype(np.float32)
    expected = model.predict(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    apart = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    apart[...] = x
    assert not apart.flags.aligned
    for given in (
        x.tolist(),
        x.astype(np.float64),
        x.astype(np.int8),
        x.astype(">f4"),
        x.astype(np.float16),
        np.asfortranarray(x),
        np.repeat(x, 2, axis=0)[::2],
        x[::-1][::-1],
        frozen,
        apart,
    ):
        assert np.array_equal(model.predict(given), expected)
    assert np.array_equal(model.predict(x[:1]), expected[:1])
    assert model.predict(x[:0]).shape == (0, 2)
    narrow = fs.Sequential([fs.Dense(2)], input_dim=1)
    assert np.array_equal(narrow.predict([1, 2, 3]), narrow.predict([[1], [2], [3]]))


@pytest.mark.parametrize(
    "layers",
    [
        [fs.Standardize(), fs.Dense(40, "relu"), fs.Dense(33, "tanh"), fs.Dense(3, "softmax")],
        [fs.Standardize(), fs.Dense(2, "sigmoid")],
        [fs.Dense(1, use_bias=False)],
    ],
    ids=["deep", "standardized in place", "in place"],
)
def test_predict_is_the_same_bits_for_any_batch_size_and_threads(layers):
    model = stirred(fs.Sequential(layers, input_dim=30))
    x = rows(20_011, 30)
    expected = model.predict(x)
    np.testing.assert_allclose(expected, forward(model, x), **CLOSE["float32"])
    for batch_size in (3, 8, 100, 1001, 8191, 8193, 30_000):
        assert np.array_equal(model.predict(x, batch_size=batch_size), expected), batch_size
    for batch_size in (1, 2):
        assert np.array_equal(model.predict(x[:500], batch_size=batch_size), expected[:500]), batch_size
    for threads in (1, 2):
        assert np.array_equal(model.predict(x, threads=threads), expected)
    assert np.array_equal(model.predict(x[7000:]), expected[7000:])


def test_predict_streams_a_dataset(model, tmp_path):
    x = rows(1003)
    expected = model.predict(x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("X", data=x, chunks=(100, 5))
    stored = fs.HDF5Dataset(tmp_path / "x.h5", "X")
    for dataset in (stored, fs.ArrayDataset(x), fs.ArrayDataset(x, x[:, 0], weight=x[:, 1])):
        for batch_size in (1, 7, 1003, 5000):
            assert np.array_equal(model.predict(dataset, batch_size=batch_size), expected)
    assert np.array_equal(model.predict(stored, memory="1MB", raw=True), model.predict(x, raw=True))
    with pytest.raises(MemoryBudgetError, match="the least that works"):
        model.predict(stored, memory="1kB")
    _, held_out = stored.split(0.3, seed=2)
    assert np.array_equal(model.predict(held_out), model.predict(held_out.take(held_out.n_rows).x))


def test_predict_writes_to_out(model):
    x = rows(33)
    expected = model.predict(x)
    for source in (x, fs.ArrayDataset(x)):
        out = np.full((33, 2), np.nan, np.float32)
        assert model.predict(source, out=out, batch_size=10) is out
        assert np.array_equal(out, expected)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((33, 3), np.float32),
        np.empty((32, 2), np.float32),
        np.empty(66, np.float32),
        np.empty((33, 2), np.float64),
        np.empty((33, 2), ">f4"),
        np.empty((2, 33), np.float32).T,
        np.empty((33, 4), np.float32)[:, ::2],
        np.frombuffer(bytes(33 * 2 * 4), np.float32).reshape(33, 2),
        [[0.0, 0.0]] * 33,
    ],
)
def test_predict_refuses_out(model, out):
    for source in (rows(33), fs.ArrayDataset(rows(33))):
        with pytest.raises(DataError, match="predict: out"):
            model.predict(source, out=out)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 4)), "the data have 4 columns; the model takes 5"),
        (fs.ArrayDataset(np.zeros((3, 6))), "the data have 6 columns; the model takes 5"),
        (np.zeros(5), r"x has shape \(5,\); the model takes \(rows, 5\)"),
        (np.zeros((2, 3, 5)), r"x has shape \(2, 3, 5\)"),
        (3.0, r"x has shape \(\)"),
        ([["a"] * 5], "x is no array of numbers"),
        ([[1, 2], [1]], "x is no array of numbers"),
        (np.zeros((2, 5), complex), "its dtype is complex128"),
        (None, "its dtype is object"),
    ],
)
def test_predict_refuses_x(model, x, message):
    with pytest.raises(DataError, match=message):
        model.predict(x)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1.5}, {"threads": 0}, {"threads": "2"}])
def test_predict_refuses_options(model, options):
    with pytest.raises(ModelError, match=f"predict: {next(iter(options))} is"):
        model.predict(rows(3), **options)


def test_several_threads_predict_with_one_model(model):
    x = rows(4000)
    expected = model.predict(x)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: model.predict(x[i:], batch_size=500 + i), range(40)))
    assert all(np.array_equal(part, expected[i:]) for i, part in enumerate(found))


def test_summary():
    layers = [fs.Standardize(), fs.Dense(1000, "relu"), fs.Dense(3, "softmax", use_bias=False)]
    model = fs.Sequential(layers)
    assert model.summary().splitlines()[-1].split() == ["total", "float32", "?"]
    model.build(42)
    assert model.summary() == (
        "layer        outputs  activation  parameters\n"
        "--------------------------------------------\n"
        "input        42\n"
        "standardize  42                   0\n"
        "dense_0      1000     relu        43,000\n"
        "dense_1      3        softmax     3,000\n"
        "total                 float32     46,000"
    )
    assert model.n_parameters == 46_000
    assert model.n_outputs == 3


def test_work_per_row():
    model = fs.Sequential([fs.Dense(64), fs.Dense(64), fs.Dense(1)], input_dim=10)
    # Two operations a weight forward, two for its gradient, two back through each layer but the first.
    assert model.work_per_row == 4 * (640 + 4096 + 64) + 2 * (4096 + 64)


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole_and_apart(model, twin):
    x = rows(50)
    expected = model.predict(x)
    model._learned = True
    other = twin(model)
    assert repr(other) == repr(model)
    assert other.summary() == model.summary()
    assert not other.needs_standardization
    assert np.array_equal(other.predict(x), expected)
    other.parameters["dense_0/kernel"][...] = 0
    assert np.array_equal(model.predict(x), expected)
    assert other.network.parameters.ctypes.data % 64 == 0


def test_copies_of_a_model_that_is_not_built():
    model = pickle.loads(pickle.dumps(fs.Sequential([fs.Standardize(), fs.Dense(3)], seed=9)))
    assert model.input_dim is None
    assert model.needs_standardization
    model.build(4)
    expected = fs.Sequential([fs.Standardize(), fs.Dense(3)], seed=9, input_dim=4)
    assert np.array_equal(model.parameters["dense_0/kernel"], expected.parameters["dense_0/kernel"])
