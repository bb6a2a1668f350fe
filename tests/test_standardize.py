"""The mean and scale that a Standardize layer learns."""

from __future__ import annotations

import numpy as np
import pytest

import fastsgd as fs
from fastsgd.errors import DataError, ModelError


def standardized(x, dtype="float64"):
    model = fs.Sequential([fs.Standardize(), fs.Dense(1)], input_dim=np.shape(x)[1], dtype=dtype)
    assert model.needs_standardization
    model.learn_standardization(fs.ArrayDataset(x))
    assert not model.needs_standardization
    return model.parameters["standardize/mean"], model.parameters["standardize/scale"]


def test_standardize_learns_mean_and_deviation():
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(20_000, 4))
    x = noise * [1, 1e-3, 1e6, 1e-12] + [0, 1e9, -5, 1e-9]
    mean, scale = standardized(x)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12, atol=1e-14)
    # Less a constant first, which is exact: NumPy's own deviation of 1e9 + 0.001 * noise is right to six digits only.
    deviation = (x - [0, 1e9, 0, 0]).std(axis=0)
    np.testing.assert_allclose(scale, 1 / deviation, rtol=1e-10)
    z = (x - mean) * scale
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=2e-4)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-7)


def test_standardize_learns_from_what_a_float32_model_sees():
    x = 1e9 + np.random.default_rng(5).normal(size=(10_000, 1)) * [1e-3, 100]
    mean, scale = standardized(x, "float32")
    seen = x.astype(np.float32).astype(np.float64)
    # One part in 1e12 is below the resolution: a column that does not vary. The other is rounded to multiples of 64.
    assert (mean[0], scale[0]) == (1e9, 1)
    np.testing.assert_allclose(scale[1], 1 / seen[:, 1].std(), rtol=1e-6)
    np.testing.assert_allclose(mean[1], seen[:, 1].mean(), rtol=1e-7)


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -1e-300, 0, 1e300])
@pytest.mark.parametrize("count", [1, 3, 20_001])
def test_a_constant_column_is_only_shifted(value, count):
    mean, scale = standardized(np.full((count, 2), value))
    assert (mean == value).all()
    assert (scale == 1).all()


def test_standardize_extremes():
    mean, scale = standardized(np.array([[0, 1.0], [1e-310, 2.0]]))
    assert np.isfinite(mean).all()
    assert scale.tolist() == [1, 2]
    with pytest.raises(DataError, match="column 1 of the features spreads too far"):
        standardized(np.array([[0, -1e300], [1, 1e300]]))
    with pytest.raises(DataError, match=r"row|\[1, 0\]"):
        standardized(np.array([[0.0], [np.nan]]))


def test_standardize_refuses():
    x = fs.ArrayDataset(np.zeros((4, 5)))
    with pytest.raises(ModelError, match=r"no Standardize\(\) layer"):
        fs.Sequential([fs.Dense(1)], input_dim=5).learn_standardization(x)
    with pytest.raises(DataError, match="the data have 5 columns; the model takes 4"):
        fs.Sequential([fs.Standardize(), fs.Dense(1)], input_dim=4).learn_standardization(x)


def test_learning_in_many_stretches_is_learning_at_once():
    rng = np.random.default_rng(6)
    drift = np.linspace(-3, 3, 30_000)[:, None] + rng.normal(size=(30_000, 3))
    mean, scale = standardized(drift)
    np.testing.assert_allclose(mean, drift.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(scale, 1 / drift.std(axis=0), rtol=1e-13)


def test_training_learns_it_once_and_from_the_training_rows():
    rng = np.random.default_rng(7)
    x = (rng.normal(size=(500, 3)) * [1, 50, 1e-3] + [7, -1000, 0]).astype(np.float32)
    model = fs.Sequential([fs.Standardize(), fs.Dense(1)])
    trainer = fs.Trainer(model, fs.SGD(0.001), loss="mse")
    trainer.fit((x, x[:, 0]), epochs=1, validation=(x * 2, x[:, 0]))
    mean, scale = (model.parameters[f"standardize/{name}"].copy() for name in ("mean", "scale"))
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scale, 1 / x.std(axis=0, dtype=np.float64), rtol=1e-6)
    trainer.fit((x * 1.1, x[:, 0]), epochs=1)
    assert np.array_equal(model.parameters["standardize/mean"], mean)
    assert np.array_equal(model.parameters["standardize/scale"], scale)
