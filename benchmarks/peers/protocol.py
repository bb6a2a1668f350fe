"""What a process that trains says and hears, and the problem it is given.

The process prints ``{"ready": true, "version": ...}`` once it is compiled and warm; it answers each line ``go`` on its
standard input with ``{"seconds": ..., "loss": ...}`` of one turn, and ends at ``quit``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

import numpy as np
import numpy.typing as npt

MSE = "mse"
LOGISTIC = "binary_crossentropy"
CLASSES = "sparse_categorical_crossentropy"

TRIAL_STEPS = 96
TRIALS = 3

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Problem:
    """What every library is given.

    Attributes
    ----------
    path : path, of the file that this comes from
    x, y : arrays (rows, n_in) and (rows, n_targets), of one dtype; rows is a multiple of the batch. Of an HDF5 file its
        datasets, all rows, left where they are
    rows : int, of an epoch
    start : list of (kernel (n_in, n_out), bias (n_out,)), the weights to start from
    batch : int, rows of a training step
    epochs : int, of one turn
    threads : int, threads to train with
    loss : str, one of `MSE`, `LOGISTIC`, `CLASSES`, each of raw outputs
    learning_rate : float
    """

    path: Path
    x: Array
    y: Array
    rows: int
    start: list[tuple[Array, Array]]
    batch: int
    epochs: int
    threads: int
    loss: str
    learning_rate: float

    @property
    def layers(self) -> list[int]:
        """Widths from the inputs to the outputs."""
        return [self.x.shape[1], *(bias.size for _, bias in self.start)]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Classes (rows,)."""
        return self.y[:, 0].astype(np.int64)


class Learner(Protocol):
    """A library ready to train."""

    version: str

    def reset(self) -> None:
        """Go back to the weights of the problem."""

    def train(self) -> Sequence[SupportsFloat]:
        """Train the epochs of one turn to their end; the mean of what is returned is the mean loss of the last."""


class EpochLearner:
    """A learner that is called once an epoch."""

    version: str
    problem: Problem

    def epoch(self) -> Sequence[SupportsFloat]:
        """Train one epoch to its end; the mean of what is returned is its mean loss."""
        raise NotImplementedError

    def train(self) -> Sequence[SupportsFloat]:
        """Train the epochs of one turn."""
        losses: Sequence[SupportsFloat] = ()
        for _ in range(self.problem.epochs):
            losses = self.epoch()
        return losses


def fastest(candidates: Sequence[dict[str, Any]], prepare: Callable[..., None], trial: Callable[[], object]) -> str:
    """Prepare with each set of settings, time some steps, and leave the one prepared that was fastest.

    Which setting a library is fastest with differs from network to network, and its users would try.

    Returns
    -------
    str
        The settings taken, as in ``fused=True``.
    """
    seconds = []
    for settings in candidates:
        prepare(**settings)
        trial()  # compiles
        times = []
        for _ in range(TRIALS):
            begin = time.perf_counter()
            trial()
            times.append(time.perf_counter() - begin)
        seconds.append(min(times))
    chosen = candidates[seconds.index(min(seconds))]
    prepare(**chosen)
    return ", ".join(f"{key}={value}" for key, value in chosen.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every process of the protocol takes."""
    parser.add_argument("--data", type=Path, required=True, help="problem file with X, y, kernel_0, bias_0, ...")
    parser.add_argument("--batch", type=int, required=True, help="rows of a step")
    parser.add_argument("--rows", type=int, required=True, help="rows of an epoch, a multiple of the batch")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="threads to train with (default: all cores)")
    parser.add_argument("--loss", choices=(MSE, LOGISTIC, CLASSES), default=MSE)
    parser.add_argument("--learning-rate", type=float, default=0.01)


def read_problem(options: argparse.Namespace) -> Problem:
    """Read the problem, and keep this process to as many cores as it may have threads."""
    cores = sorted(os.sched_getaffinity(0))
    threads = min(options.threads or len(cores), len(cores))
    # Not every library can be told a number of threads once it is loaded, but all of them count the cores they may use.
    os.sched_setaffinity(0, cores[:threads])
    if options.data.suffix == ".npz":
        with np.load(options.data) as file:
            arrays = dict(file)
        x, y = (arrays[name][: options.rows] for name in ("X", "y"))
    else:
        import h5py

        arrays = h5py.File(options.data)
        x, y = arrays["X"], arrays["y"]
    depth = sum(name.startswith("kernel_") for name in arrays)
    return Problem(
        options.data,
        x,
        y,
        options.rows,
        [(arrays[f"kernel_{i}"][...], arrays[f"bias_{i}"][...]) for i in range(depth)],
        options.batch,
        options.epochs,
        threads,
        options.loss,
        options.learning_rate,
    )


def serve(make_learner: Callable[[Problem], Learner], options: argparse.Namespace) -> None:
    """Answer the runner until it says quit.

    The warm-up is one whole turn, undone by a reset: what is compiled depends on the number of batches in some.
    """
    # Only answers may go to the standard output; whatever a library prints there joins the errors.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    learner = make_learner(read_problem(options))
    learner.train()
    learner.reset()
    answer(ready=True, version=learner.version)
    for line in sys.stdin:
        word = line.strip()
        if word == "quit":
            return
        if word != "go":
            raise SystemExit(f"unknown word {word!r}; go and quit are known")
        begin = time.perf_counter()
        losses = learner.train()
        seconds = time.perf_counter() - begin
        answer(seconds=seconds, loss=float(np.mean([float(loss) for loss in losses])))
