"""Model files: what is written is read back to the bit, and nothing else is taken for a model."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

import fastsgd as fs

LAYERS = [fs.Standardize(), fs.Dense(6, "tanh", init="he_normal"), fs.Dense(2, "softmax", use_bias=False)]


@pytest.fixture
def valid(tmp_path):
    """The bytes of a valid file, and where it lies."""
    path = tmp_path / "model.safetensors"
    fs.Sequential(LAYERS, input_dim=3, seed=5).save(path)
    return path.read_bytes(), path


def rewritten(content, change_metadata=None, change_arrays=None):
    """The file with its description or its arrays changed."""
    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["fastsgd"])
    arrays = load(content)
    if change_metadata is not None:
        about = change_metadata(about)
    if change_arrays is not None:
        change_arrays(arrays)
    return save(arrays, metadata={"fastsgd": about if isinstance(about, str) else json.dumps(about)})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [1, 3, 40])
def test_round_trip(tmp_path, dtype, last):
    layers = [fs.Standardize(), fs.Dense(7, "relu"), fs.Dense(last, "sigmoid", use_bias=False)]
    model = fs.Sequential(layers, input_dim=5, seed=9, dtype=dtype)
    x = np.random.default_rng(0).random((20, 5))
    model.learn_standardization(fs.ArrayDataset(x))
    path = tmp_path / "model.safetensors"
    model.save(path)
    twin = fs.load_model(path)
    assert repr(twin) == repr(model)
    assert twin.needs_standardization == model.needs_standardization
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    assert os.listdir(tmp_path) == ["model.safetensors"]
    unlearned = fs.Sequential(layers, input_dim=5)
    unlearned.save(path)
    assert fs.load_model(path).needs_standardization


def test_a_failed_save_keeps_the_old_file(valid, tmp_path):
    content, path = valid
    model = fs.Sequential([fs.Dense(1)], input_dim=2)
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "missing" / "model.safetensors")
    with pytest.raises(IsADirectoryError):
        model.save(tmp_path)
    model.parameters["dense_0/kernel"][0] = np.nan
    with pytest.raises(fs.ModelError, match="not finite"):
        model.save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_what_is_no_model_file(tmp_path, valid):
    content, path = valid
    with pytest.raises(fs.ModelFileError, match="does not exist"):
        fs.load_model(tmp_path / "missing")
    with pytest.raises(fs.ModelFileError, match="is a folder"):
        fs.load_model(tmp_path)
    for wrong in (b"", b"hello", os.urandom(1000), b"\x89HDF\r\n\x1a\n" + bytes(100)):
        path.write_bytes(wrong)
        with pytest.raises(fs.ModelFileError, match="model file, or a damaged one"):
            fs.load_model(path)
    path.write_bytes(save({"a": np.zeros(3)}))
    with pytest.raises(fs.ModelFileError, match="no model that fastsgd saved"):
        fs.load_model(path)
    for cut in range(0, len(content), 7):
        path.write_bytes(content[:cut])
        with pytest.raises(fs.ModelFileError):
            fs.load_model(path)


def test_wrong_descriptions_are_refused(valid):
    content, path = valid

    def change(**entries):
        return lambda about: about | entries

    def layer(**entries):
        return lambda about: about | {"layers": [about["layers"][0] | entries, *about["layers"][1:]]}

    wrong = {
        "upgrade fastsgd": change(version=99),
        "format version is 0": change(version=0),
        "format is not known": change(format="other"),
        "layer .* is not known": layer(layer="conv"),
        "is damaged|damaged model": lambda about: "no json",
        "is a damaged model file": lambda about: "[" * 100_000,
        "input_dim is": change(input_dim="3"),
        "of shape": change(input_dim=4),
        "standardized is": change(standardized=1),
        "not one that fastsgd writes": change(layers=3),
        "describes no layer": change(layers=[3]),
        "belongs to no layer": lambda about: about | {"layers": about["layers"][1:]},
    }
    for message, edit in wrong.items():
        path.write_bytes(rewritten(content, edit))
        with pytest.raises(fs.ModelFileError, match=message):
            fs.load_model(path)
    huge = {"layer": "dense", "units": 2**60, "activation": "relu", "init": "zeros", "use_bias": True}
    path.write_bytes(rewritten(content, lambda about: about | {"layers": [huge]}))
    with pytest.raises(fs.ModelFileError, match="damaged"):
        fs.load_model(path)


def test_wrong_arrays_are_refused(valid):
    content, path = valid

    def nan(arrays):
        arrays["dense_0/bias"][2] = np.nan

    wrong = {
        "array 'dense_0/bias' is missing": lambda arrays: arrays.pop("dense_0/bias"),
        "belongs to no layer": lambda arrays: arrays.update(extra=np.zeros(1)),
        "is F64 of shape": lambda arrays: arrays.update({"dense_0/bias": np.zeros(6)}),
        "of shape": lambda arrays: arrays.update({"dense_0/bias": np.zeros(7, "f4")}),
        "not finite": nan,
    }
    for message, edit in wrong.items():
        path.write_bytes(rewritten(content, change_arrays=edit))
        with pytest.raises(fs.ModelFileError, match=message):
            fs.load_model(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bytes_give_an_error_or_a_model(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    fs.Sequential(LAYERS, input_dim=3, seed=5).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        model = fs.load_model(path)
    except fs.ModelFileError:
        return
    assert model.predict(np.zeros((1, 3))).shape == (1, 2)
