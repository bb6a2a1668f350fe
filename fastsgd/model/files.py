"""Model files: safetensors, with the architecture as JSON in the metadata. Loading runs no code from the file."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsgd.atomic import write_whole
from fastsgd.errors import ModelError, ModelFileError
from fastsgd.model.layers import Dense, Layer, Standardize, whole_number
from fastsgd.model.sequential import Sequential

_FORMAT = "fastsgd-model"
_VERSION = 1
_ENTRIES = {"format", "version", "layers", "input_dim", "seed", "dtype", "standardized"}
# The dtypes of a model, and what safetensors calls them.
_DTYPES = {"float32": "F32", "float64": "F64"}


def _described(layer: Layer) -> dict[str, Any]:
    if isinstance(layer, Dense):
        return {
            "layer": "dense",
            "units": layer.units,
            "activation": layer.activation,
            "init": layer.init,
            "use_bias": layer.use_bias,
        }
    return {"layer": "standardize"}


def _layer(description: Any) -> Layer:
    if not isinstance(description, dict):
        raise ValueError(f"{reprlib.repr(description)} describes no layer")
    fields = dict(description)
    kind = fields.pop("layer", None)
    if kind == "standardize" and not fields:
        return Standardize()
    if kind == "dense" and fields.keys() == {"units", "activation", "init", "use_bias"}:
        return Dense(fields["units"], fields["activation"], init=fields["init"], use_bias=fields["use_bias"])
    raise ValueError(f"the layer {reprlib.repr(description)} is not known")


def save_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model; the file appears whole or not at all."""
    from safetensors.numpy import save

    _require_finite(model)
    architecture = {
        "format": _FORMAT,
        "version": _VERSION,
        "layers": [_described(layer) for layer in model.layers],
        "input_dim": model.input_dim,
        "seed": model.seed,
        "dtype": model.dtype.name,
        "standardized": not model.needs_standardization,
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in model.parameters.items()}
    write_whole(path, save(tensors, metadata={"fastsgd": json.dumps(architecture)}))


def load_model(path: str | os.PathLike[str]) -> Sequential:
    """Read a model that `Sequential.save` wrote.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not a model of this package, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fsdecode(path)
    if not os.path.isfile(name):
        what = "is a folder, not a model file" if os.path.isdir(name) else "does not exist"
        raise ModelFileError(f"the model file {name!r} {what}")
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "fastsgd" not in metadata:
                raise ModelFileError(f"{name!r} is a safetensors file, but no model that fastsgd saved")
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            stored = {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
            model = _empty_model(name, metadata["fastsgd"], stored)
            for key, view in model.parameters.items():
                view[...] = file.get_tensor(key)
    except OSError as error:
        raise ModelFileError(f"the model file {name!r} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ModelFileError(f"{name!r} is no model file, or a damaged one ({error})") from error
    try:
        _require_finite(model)
    except ModelError as error:
        raise ModelFileError(f"{name!r} is a damaged model file: {error}") from error
    return model


def _require_finite(model: Sequential) -> None:
    """Raise ModelError if a parameter is NaN or infinite: such a model is neither saved nor loaded."""
    for key, view in model.parameters.items():
        if not np.isfinite(view).all():
            raise ModelError(f"array {key!r} holds a value that is not finite")


def _empty_model(name: str, architecture: str, stored: Mapping[str, tuple[str, tuple[int, ...]]]) -> Sequential:
    """The model that a file describes, with room for its arrays; nothing is allocated before they are checked."""
    try:
        about = json.loads(architecture)
        if not isinstance(about, dict) or about.get("format") != _FORMAT or type(about.get("version")) is not int:
            raise ValueError("its format is not known")
        if about["version"] < 1:
            raise ValueError(f"its format version is {about['version']}")
        if about["version"] > _VERSION:
            raise ModelFileError(
                f"{name!r} has format version {about['version']}, this fastsgd reads up to {_VERSION}: upgrade fastsgd"
            )
        if about.keys() != _ENTRIES or not isinstance(about["layers"], list) or about["dtype"] not in [*_DTYPES]:
            raise ValueError("its description of the network is not one that fastsgd writes")
        if not isinstance(about["standardized"], bool):
            raise ValueError(f"standardized is {reprlib.repr(about['standardized'])}; it is true or false")
        input_dim = whole_number(about["input_dim"], "input_dim")
        model = Sequential([_layer(entry) for entry in about["layers"]], seed=about["seed"], dtype=about["dtype"])
        _check_arrays(model, input_dim, stored)
        model._allocate(input_dim)
    except ModelFileError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{name!r} is a damaged model file: {error}") from error
    model._learned = about["standardized"]
    return model


def _check_arrays(model: Sequential, input_dim: int, stored: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise ValueError unless the file holds exactly the arrays of a model with that many inputs."""
    expected: dict[str, tuple[int, ...]] = {}
    if model.standardizes:
        expected["standardize/mean"] = expected["standardize/scale"] = (input_dim,)
    n_in = input_dim
    for index, layer in enumerate(model.dense):
        expected[f"dense_{index}/kernel"] = (n_in, layer.units)
        if layer.use_bias:
            expected[f"dense_{index}/bias"] = (layer.units,)
        n_in = layer.units
    dtype = _DTYPES[model.dtype.name]
    for key in sorted(expected.keys() | stored.keys()):
        if key not in stored:
            raise ValueError(f"array {key!r} is missing")
        if key not in expected:
            raise ValueError(f"array {reprlib.repr(key)} belongs to no layer")
        if stored[key] != (dtype, expected[key]):
            raise ValueError(
                f"array {key!r} is {stored[key][0]} of shape {stored[key][1]}, not {dtype} of {expected[key]}"
            )
