"""Model files: what is saved comes back to the bit; what is no model, or a damaged one, is told apart."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save

import fastsgd as fs
from fastsgd.errors import ModelError, ModelFileError
from fastsgd.model.layers import ACTIVATIONS, INITIALIZERS

MODELS = {
    "linear": [fs.Dense(1)],
    "seed network": [fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)],
    "standardized": [fs.Standardize(), fs.Dense(6, "tanh"), fs.Dense(5, "softmax")],
    "no bias": [fs.Dense(9, "sigmoid", use_bias=False), fs.Dense(2, use_bias=False)],
    "inits": [fs.Dense(3 + i, init=init) for i, init in enumerate(INITIALIZERS)],
    "activations": [*(fs.Dense(6, name) for name in ACTIVATIONS if name != "softmax"), fs.Dense(6, "softmax")],
}


def make(layers, dtype="float32", n_in=5):
    model = fs.Sequential(layers, input_dim=n_in, seed=3, dtype=dtype)
    rng = np.random.default_rng(0)
    for name, array in model.parameters.items():
        array[...] = rng.uniform(0.5, 2, array.shape) if name.endswith("scale") else rng.normal(size=array.shape)
    return model


def content(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def model():
    return make(MODELS["standardized"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, dtype, tmp_path):
    model = make(MODELS[name], dtype)
    x = np.random.default_rng(1).normal(size=(37, 5))
    model.save(tmp_path / "a.safetensors")
    loaded = fs.load_model(str(tmp_path / "a.safetensors"))
    assert loaded.layers == model.layers
    assert repr(loaded) == repr(model)
    assert loaded.parameters.keys() == model.parameters.keys()
    for key, array in model.parameters.items():
        assert loaded.parameters[key].dtype == array.dtype
        assert loaded.parameters[key].tobytes() == array.tobytes(), key
    assert loaded.predict(x).tobytes() == model.predict(x).tobytes()
    loaded.save(os.fsencode(tmp_path / "b.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert content(tmp_path) == ["a.safetensors", "b.safetensors"]


def test_a_loaded_model_trains_on(tmp_path):
    x = np.random.default_rng(1).normal(size=(64, 5)).astype(np.float32)
    model = make(MODELS["seed network"])
    model.save(tmp_path / "m")
    loaded = fs.load_model(tmp_path / "m")
    losses = [
        [fs.Trainer(each, fs.SGD(0.01), loss="mse").train_batch(x, x[:, 0]) for _ in range(3)]
        for each in (model, loaded)
    ]
    assert losses[0] == losses[1]
    assert model.network.parameters.tobytes() == loaded.network.parameters.tobytes()


@pytest.mark.parametrize("learned", [False, True])
def test_whether_standardization_was_learned_is_saved(learned, tmp_path):
    model = fs.Sequential([fs.Standardize(), fs.Dense(1)], input_dim=2)
    if learned:
        model.learn_standardization(fs.ArrayDataset([[1, 5], [3, 5.0]]))
    model.save(tmp_path / "m")
    loaded = fs.load_model(tmp_path / "m")
    assert loaded.needs_standardization is not learned
    assert loaded.parameters["standardize/mean"].tolist() == ([2, 5] if learned else [0, 0])


def test_other_tools_read_the_file(model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path)
    arrays = load_file(path)
    assert all(np.array_equal(arrays[key], array) for key, array in model.parameters.items())
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["fastsgd"])
    assert len(about.pop("sha256")) == 64
    assert about == {
        "format": "fastsgd-model",
        "version": 2,
        "layers": [
            {"layer": "standardize"},
            {"layer": "dense", "units": 6, "activation": "tanh", "init": "glorot_uniform", "use_bias": True},
            {"layer": "dense", "units": 5, "activation": "softmax", "init": "glorot_uniform", "use_bias": True},
        ],
        "input_dim": 5,
        "seed": 3,
        "dtype": "float32",
        "standardized": False,
    }


@pytest.mark.parametrize(
    ("target", "error"),
    [("missing/m", FileNotFoundError), ("folder", IsADirectoryError), ("file/m", NotADirectoryError)],
)
def test_a_path_that_cannot_be_written(model, target, error, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(b"stays")
    (tmp_path / "file").write_bytes(b"stays")
    with pytest.raises(error) as raised:
        model.save(tmp_path / target)
    assert raised.value.filename == str(tmp_path / target)
    assert content(tmp_path) == ["file", "folder"]
    assert content(tmp_path / "folder") == ["inside"]


def test_a_full_disk_leaves_the_old_file(model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path)
    before = path.read_bytes()
    larger = make([fs.Dense(300), fs.Dense(1)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with it, so a write beyond the limit fails, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            larger.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == before
    assert content(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_not_saved(model, value, tmp_path):
    model.save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    model.parameters["dense_1/bias"][2] = value
    with pytest.raises(ModelError, match="array 'dense_1/bias' holds a value that is not finite"):
        model.save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert content(tmp_path) == ["m"]


def test_no_file(tmp_path):
    with pytest.raises(ModelFileError, match="'nowhere' does not exist"):
        fs.load_model("nowhere")
    with pytest.raises(ModelFileError, match="is a folder, not a model file"):
        fs.load_model(tmp_path)


def refused(path, data, message="model file"):
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=message) as raised:
        fs.load_model(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 8,
        b"\0" * 1000,
        b"\xff" * 1000,
        (2**63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}x",
        (2).to_bytes(8, "little") + b"[]",
        b"\x89HDF\r\n\x1a\n" + bytes(2000),
        b"PK\x03\x04" + bytes(500),
        np.random.default_rng(0).bytes(5000),
        b"epoch,loss\n0,1.5\n" * 50,
    ],
)
def test_what_is_no_safetensors_file(data, tmp_path):
    refused(tmp_path / "m", data, "is no model file, or a damaged one|but no model that fastsgd saved")


def test_truncated_at_any_length(model, tmp_path):
    model.save(tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for length in {*np.linspace(0, len(whole) - 1, 80).astype(int).tolist(), 7, 8, 9, len(whole) - 4}:
        refused(tmp_path / "cut", whole[:length])
    refused(tmp_path / "long", whole + b"\0")


ABOUT = {
    "format": "fastsgd-model",
    "version": 1,
    "layers": [
        {"layer": "standardize"},
        {"layer": "dense", "units": 3, "activation": "relu", "init": "zeros", "use_bias": True},
        {"layer": "dense", "units": 1, "activation": "linear", "init": "zeros", "use_bias": False},
    ],
    "input_dim": 2,
    "seed": 0,
    "dtype": "float32",
    "standardized": True,
}
ARRAYS = {
    "standardize/mean": np.zeros(2, np.float32),
    "standardize/scale": np.ones(2, np.float32),
    "dense_0/kernel": np.ones((2, 3), np.float32),
    "dense_0/bias": np.ones(3, np.float32),
    "dense_1/kernel": np.ones((3, 1), np.float32),
}
DENSE = ABOUT["layers"][1]


def file_of(about=None, arrays=None, **changed):
    text = about if isinstance(about, str) else json.dumps(ABOUT | changed)
    return save(ARRAYS if arrays is None else arrays, metadata={"fastsgd": text})


def test_the_file_that_is_spoilt_below_is_good(tmp_path):
    (tmp_path / "m").write_bytes(file_of())
    model = fs.load_model(tmp_path / "m")
    assert model.predict([[1, 2]]).tolist() == [[12]]


def test_safetensors_of_others(tmp_path):
    refused(tmp_path / "m", save(ARRAYS), "is a safetensors file, but no model file of fastsgd")
    refused(tmp_path / "m", save(ARRAYS, metadata={"format": "pt"}), "but no model file of fastsgd")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "null",
        "17",
        '"fastsgd-model"',
        "[]",
        "{}",
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 5000,
        json.dumps(ABOUT)[:-1],
        json.dumps({key: value for key, value in ABOUT.items() if key != "layers"}),
        json.dumps(ABOUT | {"more": 1}),
        json.dumps({"format": "fastsgd-model", "version": 1}),
    ],
)
def test_descriptions_that_are_none(text, tmp_path):
    refused(tmp_path / "m", file_of(text), "is a damaged model file")


@pytest.mark.parametrize(
    "changed",
    [
        {"format": "other"},
        {"format": None},
        {"format": ["fastsgd-model"]},
        {"version": 0},
        {"version": -1},
        {"version": "1"},
        {"version": 1.0},
        {"version": True},
        {"version": None},
        {"layers": None},
        {"layers": []},
        {"layers": {}},
        {"layers": "dense"},
        {"layers": 3},
        {"layers": [None]},
        {"layers": ["dense"]},
        {"layers": [["layer", "dense"]]},
        {"layers": [{}]},
        {"layers": [{"layer": "conv"}]},
        {"layers": [{"layer": ["dense"]}]},
        {"layers": [{"layer": "standardize"}]},
        {"layers": [{"layer": "standardize", "axis": 1}, *ABOUT["layers"][1:]]},
        {"layers": ABOUT["layers"][1:]},
        {"layers": ABOUT["layers"][:2]},
        {"layers": [*ABOUT["layers"], DENSE]},
        {"layers": ABOUT["layers"][::-1]},
        {"layers": [DENSE] * 100_000},
        {"input_dim": None},
        {"input_dim": 0},
        {"input_dim": -2},
        {"input_dim": 3},
        {"input_dim": 2.0},
        {"input_dim": "2"},
        {"input_dim": True},
        {"input_dim": [2]},
        {"input_dim": 10**30},
        {"input_dim": float("nan")},
        {"seed": -1},
        {"seed": 0.5},
        {"seed": None},
        {"seed": {}},
        {"dtype": "float64"},
        {"dtype": "float16"},
        {"dtype": "f4,f4"},
        {"dtype": None},
        {"dtype": ["float32"]},
        {"dtype": {"float32": 1}},
        {"standardized": None},
        {"standardized": 1},
        {"standardized": "true"},
    ],
    ids=lambda changed: str(changed)[:60],
)
def test_descriptions_that_are_wrong(changed, tmp_path):
    refused(tmp_path / "m", file_of(**changed), "is a damaged model file")


@pytest.mark.parametrize(
    "changed",
    [
        {"units": 4},
        {"units": 0},
        {"units": -3},
        {"units": 3.0},
        {"units": "3"},
        {"units": True},
        {"units": None},
        {"units": [3]},
        {"units": 10**15},
        {"units": 10**30},
        {"units": 1e300},
        {"activation": "softmax"},
        {"activation": "swish"},
        {"activation": 1},
        {"activation": None},
        {"activation": ["relu"]},
        {"init": "magic"},
        {"init": {}},
        {"use_bias": False},
        {"use_bias": "yes"},
        {"use_bias": 1},
        {"use_bias": None},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_layers_that_are_wrong(changed, tmp_path):
    layers = [ABOUT["layers"][0], DENSE | changed, ABOUT["layers"][2]]
    refused(tmp_path / "m", file_of(layers=layers), "is a damaged model file")


def test_a_layer_without_an_entry(tmp_path):
    for missing in DENSE:
        layer = {key: value for key, value in DENSE.items() if key != missing}
        refused(tmp_path / "m", file_of(layers=[layer]), "is a damaged model file: the layer")


@pytest.mark.parametrize("version", [3, 17, 10**300])
def test_a_newer_version(version, tmp_path):
    refused(tmp_path / "m", file_of(version=version), "reads up to 2: upgrade fastsgd" if version < 100 else "upgrade")


def test_a_file_of_the_first_version_has_no_checksum(tmp_path):
    refused(tmp_path / "m", file_of(version=2), "its checksum is missing")
    (tmp_path / "m").write_bytes(file_of(version=1))
    assert fs.load_model(tmp_path / "m").parameters["dense_0/kernel"].tobytes() == ARRAYS["dense_0/kernel"].tobytes()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("dense_0/kernel", None, "array 'dense_0/kernel' is missing"),
        ("dense_0/bias", None, "array 'dense_0/bias' is missing"),
        ("standardize/scale", None, "array 'standardize/scale' is missing"),
        ("dense_2/kernel", np.ones((1, 1), np.float32), "array 'dense_2/kernel' belongs to no layer"),
        ("dense_1/bias", np.ones(1, np.float32), "belongs to no layer"),
        ("", np.ones(1, np.float32), "belongs to no layer"),
        ("x" * 100_000, np.ones(1, np.float32), "belongs to no layer"),
        ("dense_0/kernel", np.ones((3, 2), np.float32), r"is F32 of shape \(3, 2\), not F32 of \(2, 3\)"),
        ("dense_0/kernel", np.ones(6, np.float32), r"is F32 of shape \(6,\)"),
        ("dense_0/kernel", np.ones((2, 3, 1), np.float32), r"is F32 of shape \(2, 3, 1\)"),
        ("dense_0/kernel", np.ones((0, 3), np.float32), r"is F32 of shape \(0, 3\)"),
        ("dense_0/kernel", np.ones((2, 3), np.float64), "is F64 of shape"),
        ("dense_0/kernel", np.ones((2, 3), np.float16), "is F16 of shape"),
        ("dense_0/kernel", np.ones((2, 3), np.int32), "is I32 of shape"),
        ("dense_0/bias", np.array([1, np.nan, 1], np.float32), "array 'dense_0/bias' holds a value that is not finite"),
        ("standardize/mean", np.array([1, -np.inf], np.float32), "holds a value that is not finite"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_arrays_that_are_wrong(name, array, message, tmp_path):
    arrays = {key: value for key, value in {**ARRAYS, name: array}.items() if value is not None}
    refused(tmp_path / "m", file_of(arrays=arrays), message)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("BF16", [2, 6]), ("F8_E4M3", [24]), ("F4", [48]), ("BOOL", [24]), ("F32", [6] + [1] * 70)]
)
def test_arrays_that_numpy_does_not_know(dtype, shape, tmp_path):
    arrays = {key: array for key, array in ARRAYS.items() if key != "dense_0/kernel"}
    data = file_of(arrays=arrays)
    length = int.from_bytes(data[:8], "little")
    header, end = json.loads(data[8 : 8 + length]), len(data) - 8 - length
    header["dense_0/kernel"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + 24]}
    text = json.dumps(header).encode()
    spoilt = len(text).to_bytes(8, "little") + text + data[8 + length :] + bytes(24)
    refused(tmp_path / "m", spoilt, f"array 'dense_0/kernel' is {dtype} of shape")


def test_claimed_sizes_are_not_allocated(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    layers = [DENSE | {"units": 50_000}, DENSE | {"units": 50_000, "use_bias": False}]
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        refused(tmp_path / "m", file_of(layers=layers, input_dim=10**6), "is a damaged model file: array")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A place for a damaged file, and the bytes of a good one."""
    path = tmp_path_factory.mktemp("spoilt") / "m"
    make(MODELS["standardized"]).save(path)
    return path, path.read_bytes()


def check_damaged(path, data, good=None):
    """Load a file: a ModelFileError, or a model that works, that of the file `good` if there is one; nothing else."""
    path.write_bytes(data)
    try:
        model = fs.load_model(path)
    except ModelFileError:
        return False
    assert np.isfinite(model.network.parameters).all()
    if good is not None:
        model.save(path)
        assert path.read_bytes() == good
    return True


def test_every_byte_of_the_header_damaged(spoilt):
    path, good = spoilt
    length = 8 + int.from_bytes(good[:8], "little")
    loaded = 0
    for position in range(length):
        for value in (good[position] ^ 1, 0x00, 0x22, 0x39, 0xFF):
            data = good[:position] + bytes([value]) + good[position + 1 :]
            loaded += check_damaged(path, data, good)
    assert loaded < length  # most are found out


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8))
def test_bytes_damaged_anywhere(spoilt, flips):
    path, good = spoilt
    data = bytearray(good)
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    check_damaged(path, bytes(data), good)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    about=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ABOUT, *DENSE]), inner),
        max_leaves=20,
    ),
    entry=st.sampled_from([*ABOUT, None]),
)
def test_any_json_for_a_description(spoilt, about, entry):
    text = json.dumps(about if entry is None else ABOUT | {entry: about})
    check_damaged(spoilt[0], file_of(text))


def test_mutated_files():
    """The short form of scripts/mutate_models.py, of which 100,000 files of each kind take some minutes."""
    script = Path(__file__).parents[1] / "scripts" / "mutate_models.py"
    spec = importlib.util.spec_from_file_location("mutate_models", script)
    mutate_models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutate_models)
    found = mutate_models.run(6000, seed=2)
    assert sum(found.values()) == 6000
    assert min(found["model: refused"], found["checkpoint: refused"]) > 2500
    assert min(found["model: the same"], found["checkpoint: the same"]) > 0
