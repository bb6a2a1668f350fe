"""Model files: safetensors, with the architecture as JSON in the metadata. Loading runs no code from the file."""

from __future__ import annotations

import os
import reprlib
from typing import Any

from fastsgd.atomic import write_whole
from fastsgd.errors import ModelError, ModelFileError
from fastsgd.model.layers import Dense, Layer, Standardize, whole_number
from fastsgd.model.sequential import Sequential
from fastsgd.tensors import DTYPES, Kind, TensorFile, encode, open_tensors, require_finite

_KIND = Kind("model file", "fastsgd-model", 2, ModelFileError, unchecked=1)
_ENTRIES = {"layers", "input_dim", "seed", "dtype", "standardized"}


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


def architecture(model: Sequential) -> dict[str, Any]:
    """What a model is made of, in values that JSON has."""
    return {
        "layers": [_described(layer) for layer in model.layers],
        "input_dim": model.input_dim,
        "seed": model.seed,
        "dtype": model.dtype.name,
    }


def save_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model; the file appears whole or not at all."""
    try:
        require_finite(model.parameters)
    except ValueError as error:
        raise ModelError(f"the model is not saved: {error}") from None
    about = {**architecture(model), "standardized": not model.needs_standardization}
    write_whole(path, encode(_KIND, about, model.parameters))


def load_model(path: str | os.PathLike[str]) -> Sequential:
    """Read a model that `Sequential.save` wrote.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not a model of this package, or damaged.
    """
    with open_tensors(path, _KIND) as file:
        return _read_model(file)


def _read_model(file: TensorFile) -> Sequential:
    """The model that a file describes; nothing is allocated before its arrays are known to be those of the layers."""
    about = file.about
    if about.keys() != _ENTRIES or not isinstance(about["layers"], list) or about["dtype"] not in [*DTYPES]:
        raise ValueError("its description of the network is not one that fastsgd writes")
    if not isinstance(about["standardized"], bool):
        raise ValueError(f"standardized is {reprlib.repr(about['standardized'])}; it is true or false")
    input_dim = whole_number(about["input_dim"], "input_dim")
    model = Sequential([_layer(entry) for entry in about["layers"]], seed=about["seed"], dtype=about["dtype"])
    file.require(model.expected_arrays(input_dim), model.dtype.name)
    arrays = file.arrays()
    model._allocate(input_dim)
    for key, view in model.parameters.items():
        view[...] = arrays[key]
    model.standardization_is_learned(about["standardized"])
    return model
