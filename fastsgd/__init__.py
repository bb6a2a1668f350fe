"""Stochastic gradient descent for dense networks and linear models on HDF5 files larger than memory.

>>> import fastsgd as fs
>>> model = fs.Sequential([fs.Dense(64, activation="relu"), fs.Dense(64, activation="relu"), fs.Dense(1)])
>>> trainer = fs.Trainer(model, fs.SGD(learning_rate=0.01), loss="mse")
>>> history = trainer.fit(fs.HDF5Dataset("train.h5", features="X", target="y"), epochs=10, batch_size=256)

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsgd import data, datasets, errors, kernels, losses, model, training
    from fastsgd.data import ArrayDataset, Dataset, HDF5Dataset
    from fastsgd.errors import (
        CheckpointError,
        DataError,
        FastSGDError,
        MemoryBudgetError,
        ModelError,
        ModelFileError,
        NonFiniteError,
    )
    from fastsgd.model import Dense, Sequential, Standardize, load_model
    from fastsgd.training import SGD, Checkpoint, History, Trainer

__version__ = "0.1.0"

_HOMES = {
    "fastsgd.data": ("ArrayDataset", "Dataset", "HDF5Dataset"),
    "fastsgd.errors": (
        "CheckpointError",
        "DataError",
        "FastSGDError",
        "MemoryBudgetError",
        "ModelError",
        "ModelFileError",
        "NonFiniteError",
    ),
    "fastsgd.model": ("Dense", "Sequential", "Standardize", "load_model"),
    "fastsgd.training": ("SGD", "Checkpoint", "History", "Trainer"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("data", "datasets", "errors", "kernels", "losses", "model", "training")

__all__ = [
    "SGD",
    "ArrayDataset",
    "Checkpoint",
    "CheckpointError",
    "DataError",
    "Dataset",
    "Dense",
    "FastSGDError",
    "HDF5Dataset",
    "History",
    "MemoryBudgetError",
    "ModelError",
    "ModelFileError",
    "NonFiniteError",
    "Sequential",
    "Standardize",
    "Trainer",
    "__version__",
    "data",
    "datasets",
    "errors",
    "kernels",
    "load_model",
    "losses",
    "model",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"fastsgd.{name}")
    else:
        raise AttributeError(f"module 'fastsgd' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
