"""Model files: safetensors, with the architecture as JSON in the metadata. Loading runs no code from the file."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from fastsgd.atomic import write_whole
from fastsgd.errors import ModelError, ModelFileError
from fastsgd.model.layers import Dense, Layer, Standardize
from fastsgd.model.sequential import Sequential

_FORMAT = "fastsgd-model"
_VERSION = 1


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


def _layer(description: dict[str, Any]) -> Layer:
    fields = dict(description)
    kind = fields.pop("layer")
    if kind == "standardize" and not fields:
        return Standardize()
    if kind == "dense" and fields.keys() == {"units", "activation", "init", "use_bias"}:
        return Dense(fields["units"], fields["activation"], init=fields["init"], use_bias=fields["use_bias"])
    raise ValueError(f"unknown layer {description!r}")


def save_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model; the file appears whole or not at all."""
    from safetensors.numpy import save

    architecture = {
        "format": _FORMAT,
        "version": _VERSION,
        "layers": [_described(layer) for layer in model.layers],
        "input_dim": model.network.layers[0, 0].item(),
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

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise ModelFileError(f"there is no model file {name!r}")
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "fastsgd" not in metadata:
                raise ModelFileError(f"{name!r} is a safetensors file, but no model that fastsgd saved")
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{name!r} is no model file, or a damaged one ({error})") from error
    return _assembled(name, metadata["fastsgd"], arrays)


def _assembled(name: str, architecture: str, arrays: dict[str, Any]) -> Sequential:
    try:
        about = json.loads(architecture)
        if about["format"] != _FORMAT or not isinstance(about["version"], int):
            raise ValueError("its format is not known")
        if about["version"] > _VERSION:
            raise ModelFileError(
                f"{name!r} has format version {about['version']}, this fastsgd reads up to {_VERSION}: upgrade fastsgd"
            )
        layers = [_layer(description) for description in about["layers"]]
        model = Sequential(layers, seed=about["seed"], dtype=about["dtype"])
        _check_tensors(layers, about["input_dim"], np.dtype(about["dtype"]), arrays)
        model.build(about["input_dim"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ModelError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{name!r} is a damaged model file: {error}") from error
    for key, view in model.parameters.items():
        view[...] = arrays[key]
    model._learned = bool(about.get("standardized", True))
    return model


def _check_tensors(layers: list[Layer], input_dim: int, dtype: np.dtype[Any], arrays: dict[str, Any]) -> None:
    """Raise ValueError unless the file holds exactly the arrays of these layers; nothing is allocated before."""
    expected: dict[str, tuple[int, ...]] = {}
    n_in, index = input_dim, 0
    for layer in layers:
        if isinstance(layer, Dense):
            expected[f"dense_{index}/kernel"] = (n_in, layer.units)
            if layer.use_bias:
                expected[f"dense_{index}/bias"] = (layer.units,)
            n_in, index = layer.units, index + 1
        else:
            expected["standardize/mean"] = expected["standardize/scale"] = (n_in,)
    for key in expected.keys() | arrays.keys():
        if key not in arrays:
            raise ValueError(f"array {key!r} is missing")
        if key not in expected:
            raise ValueError(f"array {key!r} belongs to no layer")
        if arrays[key].shape != expected[key] or arrays[key].dtype != dtype:
            raise ValueError(
                f"array {key!r} is {arrays[key].dtype} of shape {arrays[key].shape}, not {dtype} of {expected[key]}"
            )
