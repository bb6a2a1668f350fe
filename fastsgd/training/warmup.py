"""Every way to train, evaluate and predict, run once on a few rows: what it compiles is kept for later processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from fastsgd.data import HDF5Dataset
from fastsgd.model import Dense, Sequential, Standardize
from fastsgd.model.layers import Layer
from fastsgd.training.optimizers import SGD
from fastsgd.training.trainer import Trainer

# What data are held in; float16 and booleans are widened when they are read.
STORAGE = ("float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
USUAL_STORAGE = ("float32", "float64", "int64")

_ROWS = 200_000  # enough for gathers that are worth several threads
_FEATURES = 10
_BATCH = {1: 32, 2: 4096}
_STREAMING = "2MB"  # less than the bytes of any of the files, so that they are streamed


def warmup_steps(
    dtypes: Sequence[str], storages: Sequence[str], *, several: bool
) -> Iterator[tuple[str, Callable[[], None]]]:
    """What there is to run, and what to call it.

    Parameters
    ----------
    dtypes : sequence of str
        To compute in: "float32", "float64".
    storages : sequence of str
        What data are held in, as in `STORAGE`.
    several : bool
        Whether kernels on several threads are run too.
    """
    for dtype in dtypes:
        yield f"{dtype}: training, evaluation and prediction on one thread", partial(_train, dtype, 1)
        if several:
            yield f"{dtype}: training, evaluation and prediction on several threads", partial(_train, dtype, 2)
        for storage in storages:
            yield f"{dtype}: data that are {storage}", partial(_read, dtype, storage, several)


def _train(dtype: str, threads: int) -> None:
    x = np.random.default_rng(0).random((_ROWS, _FEATURES)).astype(dtype)
    data = x, x[:, :1], x[:, 0]
    trainer = _trainer(dtype, threads, [Dense(64, "relu")])
    trainer.fit(data, batch_size=_BATCH[threads], validation=data, progress=False)
    trainer.train_batch(x[:100], x[:100, :1])
    trainer.model.predict(x, threads=threads)


def _read(dtype: str, storage: str, several: bool) -> None:
    """Draw rows held in `storage`: from arrays, whose values are looked at otherwise than those of files; from a file
    that fits into memory, on one thread and several; and from one that is streamed."""
    import h5py

    values = (np.arange(_ROWS * _FEATURES).reshape(_ROWS, -1) % 2).astype(storage)
    _trainer(dtype, 1, []).fit((values, values[:, 0].copy()), batch_size=_BATCH[2], progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.h5")
        with h5py.File(path, "w") as file:
            for name, part in {"X": values, "y": values[:, 0], "weight": values[:, 1]}.items():
                file.create_dataset(name, data=part, chunks=(100, *part.shape[1:]))
        dataset = HDF5Dataset(path, features="X", target="y", weight="weight")
        for threads in (1, 2) if several else (1,):
            _trainer(dtype, threads, []).fit(dataset, batch_size=_BATCH[2], progress=False)
        _trainer(dtype, 1, []).fit(dataset, batch_size=_BATCH[1], memory=_STREAMING, progress=False)


def _trainer(dtype: str, threads: int, hidden: list[Layer]) -> Trainer:
    model = Sequential([Standardize(), *hidden, Dense(1)], dtype=dtype)
    return Trainer(model, SGD(1e-6), "mse", metrics=["mae"], threads=threads)
