"""The trainer: for each epoch, for each slab of batches, one kernel call."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsgd.data import ArrayDataset, Dataset
from fastsgd.data.loader import Loader, checked_batch_size
from fastsgd.data.plan import parse_memory
from fastsgd.data.slab import Slab
from fastsgd.errors import DataError, ModelError
from fastsgd.losses import Loss
from fastsgd.model import Sequential
from fastsgd.model.layers import whole_number
from fastsgd.training.checkpoint import Checkpoint, as_checkpoint
from fastsgd.training.history import History
from fastsgd.training.losses import find_loss, target_check, target_columns
from fastsgd.training.metrics import find_metrics, finished
from fastsgd.training.optimizers import SGD
from fastsgd.training.progress import Progress, make_progress
from fastsgd.training.run import Resume, Run, checked_resume, steps_too_large

Data = Dataset | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]

# A slab is at most about a third of a second of work on a slow core, a fiftieth on a fast one, so that signals and
# progress stay live; each costs about a third of a millisecond beside it.
_SLAB_WORK = 6e9
_OPERATIONS_A_BYTE = 4  # that a core does while it reads a byte from memory
# And while it brings one from a file through the window, at least.
_OPERATIONS_TO_BRING_A_BYTE = 10
# Rows that are evaluated or looked at together, at most, and the part of the budget that they may take.
_TOGETHER, _PART = 8192, 32


def as_dataset(data: Data, what: str) -> Dataset:
    """A dataset, or one of (x, y) or (x, y, weight).

    Raises
    ------
    DataError
        If it is neither, or has no target.
    """
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        return ArrayDataset(data[0], data[1], weight=data[2] if len(data) == 3 else None)
    if not isinstance(data, Dataset):
        raise DataError(f"{what} is {type(data).__name__}; it is a dataset, (x, y) or (x, y, weight)")
    if data.target_dtype is None:
        raise DataError(f"{what} has no target: name one, as in HDF5Dataset(path, features='X', target='y')")
    return data


class Trainer:
    """Trains a model.

    Parameters
    ----------
    model : Sequential
    optimizer : SGD
    loss : str or object of `fastsgd.losses`
        "mse", "mae", "huber", "log_cosh", "quantile", "epsilon_insensitive", "poisson"; "binary_crossentropy", "focal",
        "hinge", "squared_hinge", "modified_huber"; "sparse_categorical_crossentropy", "categorical_crossentropy". An
        object of `fastsgd.losses` carries parameters, as in ``fs.losses.Huber(delta=0.5)``. A last layer with "sigmoid"
        or "softmax" under its cross-entropy is merged into it; with "linear", the outputs are taken as logits.
    metrics : sequence of str
        Also computed by `evaluate` and on validation data: "mse", "mae", "rmse", "accuracy".
    threads : int, optional
        As many as the process is granted, if not given: the least of affinity, quota of the control groups,
        SLURM_CPUS_PER_TASK and NUMBA_NUM_THREADS. A number goes before all but the last. The results are the same
        bits for any number.

    Attributes
    ----------
    steps : int
        Batches trained on.
    history : History
        Of the last `fit`, as far as it has come.

    Raises
    ------
    ModelError
        If loss, metrics and model do not go together.
    """

    def __init__(
        self,
        model: Sequential,
        optimizer: SGD,
        loss: str | Loss,
        *,
        metrics: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        if not isinstance(model, Sequential):
            raise ModelError(f"Trainer: model is {type(model).__name__}; it is a Sequential")
        if not isinstance(optimizer, SGD):
            raise ModelError(f"Trainer: optimizer is {optimizer!r}; it is an SGD(...)")
        self.model = model
        self.optimizer = optimizer
        self.loss = find_loss(loss, model)
        self.metrics = find_metrics(tuple(metrics) if not isinstance(metrics, str) else metrics, self.loss)
        self.threads = threads if threads is None else whole_number(threads, "Trainer: threads")
        self.steps = 0
        self.history = History()
        self._state: Any = None
        self._none = np.empty(0, model.dtype)
        self._paces: dict[tuple[int, int], Any] = {}  # by batch size and threads at most

    def __getstate__(self) -> dict[str, Any]:
        # Memory that is laid out for vectors is made again; how fast threads were is known of this machine alone.
        velocity = None if self._state is None else self._state.velocity.copy()
        return self.__dict__ | {"_state": None, "_paces": {}, "_velocity": velocity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        velocity = state.pop("_velocity")
        self.__dict__.update(state)
        if velocity is not None:
            self.optimizer_state.velocity[:] = velocity

    @property
    def optimizer_state(self) -> Any:
        """The NamedTuple of arrays that `fastsgd.kernels.train_batch` takes beside the network."""
        from fastsgd.kernels.network import make_optimizer_state

        if self._state is None:
            optimizer = self.optimizer
            self._state = make_optimizer_state(
                self.model.network, self.loss.code, optimizer.learning_rate, optimizer.momentum, optimizer.nesterov
            )
            self._state.loss_parameters[:] = self.loss.parameters
        return self._state

    def fit(
        self,
        dataset: Data,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation: Data | None = None,
        shuffle: bool = True,
        seed: int = 0,
        memory: int | str | None = None,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
        resume: Resume = "auto",
        initial_epoch: int = 0,
        progress: bool | Literal["auto"] | Progress = "auto",
    ) -> History:
        """Train.

        Parameters
        ----------
        dataset : dataset, (x, y) or (x, y, weight)
        epochs : int
            Passes over the data.
        batch_size : int
            Rows of a step; the last step of an epoch takes what is left.
        validation : likewise, optional
            Evaluated after each epoch.
        shuffle : bool
            Whether each epoch has a random order of its own, fixed by `seed`, the epoch's number and `memory`.
        seed : int
        memory : int or str, optional
            Budget for data in bytes, or like "512MB"; 1 GB if not given. Data that fit are read once and stay.
        checkpoint : Checkpoint or path, optional
            Where checkpoints are written: first before the first step, then every 300 seconds or as a `Checkpoint`
            says, and at the end, also where SIGINT, SIGTERM or SIGUSR1 ends the run.
        resume : "auto" or bool
            "auto" goes on from the newest sound checkpoint in that folder, if there is one, and says so: the results
            are the same bits as without interruption, for any number of threads. True demands one; False starts anew,
            in place of those that are there.
        initial_epoch : int
            The number of the first epoch, where a model that is trained already is trained on.
        progress : bool or "auto"
            "auto" shows a bar on a terminal and nothing elsewhere; True shows a line an epoch elsewhere.

        Returns
        -------
        History

        Raises
        ------
        DataError
            If the data do not go with the model, or hold a value that is no number or no class.
        MemoryBudgetError
            If `memory` is too small, and names the least that works; or if the process cannot have what is planned.
            The model is then as after the last step.
        NonFiniteError
            If the loss stops being finite. The parameters are then those of the last whole epoch, and checkpoints of
            what came before it are still there.
        CheckpointError
            If checkpoints cannot be written, those that are there are of another run, or another run writes to their
            folder.
        """
        from fastsgd.kernels.sharing import keep_threads

        train = as_dataset(dataset, "the training data")
        held_out = None if validation is None else as_dataset(validation, "the validation data")
        first, last = whole_number(initial_epoch, "fit: initial_epoch", 0), whole_number(epochs, "fit: epochs", 0)
        self._prepare(train)
        if held_out is not None:
            self._require_fit(held_out)
        loader = self._loader(train, batch_size, memory=memory, seed=seed, shuffle=shuffle)
        display, batch = make_progress(progress), min(int(batch_size), train.n_rows)
        run = Run(self, loader, held_out, range(first, first + last), batch, display)
        settings = None if checkpoint is None else as_checkpoint(checkpoint)
        resume = checked_resume(resume, recorded=settings is not None)
        with contextlib.closing(display), keep_threads():
            display.plan(str(loader.plan) + f"; {train.n_rows} rows of {train.n_features} features")
            with loader.within_plan(), contextlib.nullcontext() if settings is None else run.recorded(settings, resume):
                _warn_of_clustering(loader)
                to_compile = self._compile_ahead(batch, loader.plan.total_bytes)
                if to_compile:
                    display.plan(to_compile)
                run.learn_standardization()
                return run.go()

    def _undo(self, parameters: NDArray[np.floating], steps: int) -> None:
        """Go back to earlier parameters; the optimizer's velocity, where it has one, starts from 0 again."""
        self.model.network.parameters[:] = parameters
        self.steps = steps
        if self._state is not None:
            self._state.velocity[:] = 0

    def _prepare(self, dataset: Dataset) -> None:
        self.model.build(dataset.n_features)
        self._require_fit(dataset)

    def _require_fit(self, dataset: Dataset) -> None:
        """Raise DataError unless a dataset has the columns that model and loss take."""
        self.model._require_features(dataset.n_features)
        wanted = target_columns(self.loss, self.model)
        if dataset.n_targets != wanted:
            raise DataError(
                f"the target has {dataset.n_targets} columns; loss {self.loss.name!r} with "
                f"{self.model.n_outputs} outputs takes {wanted}{self._about_columns(dataset.n_targets)}"
            )

    def _about_columns(self, given: int) -> str:
        """A hint for class numbers where there should be a column a class."""
        if self.loss.name == "categorical_crossentropy" and given == 1:
            return "; for class numbers in one column there is 'sparse_categorical_crossentropy'"
        return ""

    def _loader(self, dataset: Dataset, batch_size: int, **options: Any) -> Loader:
        from fastsgd.kernels.threads import available_threads

        batch_size, threads = checked_batch_size(batch_size), available_threads(self.threads)
        slab_limit = max(1, int(_SLAB_WORK / self._cost_per_row) * threads)
        return Loader(
            dataset,
            batch_size=batch_size,
            dtype=self.model.dtype,
            check_target=target_check(self.loss, self.model),
            slab_limit=slab_limit,
            threads=self.threads,
            takes_order=True,
            takes_turns=self._takes_turns(dataset, batch_size, slab_limit),
            **options,
        )

    def _takes_turns(self, dataset: Dataset, batch_size: int, slab_rows: int) -> bool:
        """Whether to train and to read in turns, each on all cores.

        Where training computes on all of them, its threads meet at the end of each region of a step, and lose several
        times what a thread beside takes from one of them. Where it is less work than bringing the rows, it is this work
        that is to be shared.
        """
        from fastsgd.kernels.threads import available_threads, worth_threads

        cores = available_threads(None)
        computing = worth_threads(
            self._cost_per_row * batch_size, slab_rows / batch_size, available_threads(self.threads)
        )
        is_light = self._cost_per_row < _OPERATIONS_TO_BRING_A_BYTE * dataset.row_bytes
        return cores > 1 and (computing >= cores or (is_light and available_threads(self.threads) >= cores))

    @property
    def _cost_per_row(self) -> float:
        """Time of a row on one thread, in floating-point operations: at least that of bringing it from memory."""
        row_bytes = self.model.dtype.itemsize * int(self.model.network.layers[0, 0])
        return float(max(self.model.work_per_row, _OPERATIONS_A_BYTE * row_bytes))

    def _arguments(self, slab: Slab, batch_size: int) -> tuple[Any, ...]:
        """What a worker takes after its number; the last holds the losses afterwards."""
        from fastsgd.kernels.passes import Source

        model, losses = self.model, np.empty(-(-len(slab) // batch_size))
        source = Source(slab.x, slab.y, slab.weight, slab.order)
        return model.network, self.optimizer_state, model.workspace(batch_size), source, batch_size, losses

    def _to_compile(self, batch_size: int) -> str:
        """What to say before the training kernel is compiled; nothing if it is there already."""
        from fastsgd.kernels.jit import cache_folder, must_compile
        from fastsgd.kernels.step import train_worker

        def arguments() -> tuple[Any, ...]:
            no_rows = np.empty((0, 1), self.model.dtype)
            return np.int64(0), *self._arguments(Slab(no_rows, no_rows, self._none), batch_size)

        if not must_compile(train_worker, arguments):
            return ""
        folder = cache_folder(train_worker)
        if folder is None:
            kept = "for this process alone, as no folder can be written to: set NUMBA_CACHE_DIR to one"
        else:
            kept = f"once; kept in {folder} (`fastsgd warmup` does it ahead)"
        return f"compiling the kernels for this processor, a quarter to half a minute, {kept}"

    def _compile_ahead(self, batch_size: int, reserved: int = 0) -> str:
        """`_to_compile`; where there is something, another process begins to compile a part of it, if there is the
        memory for that beside the bytes `reserved`."""
        from fastsgd.kernels.ahead import compile_ahead

        to_compile = self._to_compile(batch_size)
        if to_compile:
            compile_ahead(str(self.model.dtype), reserved)
        return to_compile

    def _train(self, slab: Slab, batch_size: int) -> NDArray[np.float64]:
        """One step for each batch of a slab; the mean loss of each."""
        from fastsgd.kernels.sharing import share
        from fastsgd.kernels.step import start_slab, train_worker
        from fastsgd.kernels.threads import Pace, available_threads, worth_threads

        arguments = self._arguments(slab, batch_size)
        network, state, workspace, losses = *arguments[:3], arguments[-1]
        work = self._cost_per_row * min(batch_size, len(slab))
        most = min(worth_threads(work, len(losses), available_threads(self.threads)), workspace.workers)
        pace = self._paces.setdefault((batch_size, most), Pace(most))
        threads, begin = pace.threads(), time.perf_counter()
        start_slab(network, workspace, state.rates, state.loss_parameters, threads)
        share(train_worker, threads, *arguments)
        pace.did(threads, self._cost_per_row * len(slab), time.perf_counter() - begin)
        self.steps += len(losses)
        return losses  # type: ignore[no-any-return]

    def train_batch(self, x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> float:
        """Take one step on a batch.

        Parameters
        ----------
        x : array (rows, n_features)
        y : array (rows, n_targets) or (rows,)
        weight : array (rows,), optional

        Returns
        -------
        float
            Mean loss over the rows, before the step.

        Raises
        ------
        DataError
            If the shapes do not go with the model.
        NonFiniteError
            If the loss is not finite; no step is then kept.
        """
        batch = ArrayDataset(x, y, weight=weight)
        self._prepare(batch)
        if self._state is None:  # the first batch of all
            self._compile_ahead(len(batch))
        if self.model.needs_standardization:
            self.model.learn_standardization(batch)
        dtype = self.model.dtype
        weights = self._none if batch.weight is None else batch.weight[:, 0].astype(dtype)
        check = target_check(self.loss, self.model)
        assert batch.y is not None
        wrong = None if check is None else check(batch.y)
        if wrong is not None:
            raise DataError(f"{batch.locate('y', wrong[0], 0)}: {wrong[1]}")
        before = self.model.network.parameters.copy(), self.steps
        x, y = (np.require(part, dtype, ["C", "A", "W"]) for part in (batch.x, batch.y))
        losses = self._train(Slab(x, y, weights), len(batch))
        if not np.isfinite(losses[0]):
            self._undo(*before)
            raise steps_too_large(f"the loss is {losses[0]}", self, "batch")
        return float(losses[0])

    def evaluate(self, dataset: Data, *, memory: int | str | None = None) -> dict[str, float]:
        """Loss and metrics over a dataset, which is streamed.

        Parameters
        ----------
        dataset : dataset, (x, y) or (x, y, weight)
        memory : int or str, optional
            Budget for data.

        Returns
        -------
        dict
            "loss", and each metric by name: means over the rows. With ``nan="skip"``, "skipped": rows left out, where
            there are any.
        """
        data = as_dataset(dataset, "the data")
        self._prepare(data)
        return self._evaluate(data, memory)

    def _rows_together(self, dataset: Dataset, memory: int | str | None) -> int:
        """Rows that are evaluated or looked at together: the result does not depend on how many, but for rounding."""
        row_bytes = self.model.dtype.itemsize * (dataset.n_features + dataset.n_targets + 1)
        return max(1, min(_TOGETHER, dataset.n_rows, parse_memory(memory) // (_PART * row_bytes)))

    def _evaluate(self, dataset: Dataset, memory: int | str | None) -> dict[str, float]:
        from fastsgd.kernels.losses import loss_sum
        from fastsgd.kernels.sharing import keep_threads

        model = self.model
        batch = self._rows_together(dataset, memory)
        loader = self._loader(dataset, batch, memory=memory, shuffle=False)
        sums, rows = dict.fromkeys(["loss", *self.metrics], 0.0), 0
        grad = np.empty((1, model.n_outputs), model.dtype)
        parameters = np.array(self.loss.parameters, model.dtype)
        with loader.within_plan(), contextlib.closing(loader.epoch()) as slabs, keep_threads():  # type: ignore[type-var]
            for slab in slabs:
                rows += len(slab)
                raw = model.predict(slab.x, batch_size=batch, raw=self.loss.merged, threads=self.threads)
                sums["loss"] += float(loss_sum(self.loss.code, parameters, raw, slab.y, slab.weight, grad))
                if self.metrics:
                    outputs = (
                        raw if not self.loss.merged else model.predict(slab.x, batch_size=batch, threads=self.threads)
                    )
                    for name, metric in self.metrics.items():
                        sums[name] += float(metric(outputs, slab.y).sum())
        skipped = dataset.n_rows - rows
        means = {name: finished(name, total / rows) for name, total in sums.items()}
        return means | ({"skipped": skipped} if skipped else {})


def _warn_of_clustering(loader: Loader) -> None:
    """Say so, once, where the window is too small for a file that is sorted or clustered."""
    from fastsgd.data.clustering import advice, holds_enough, sample

    if not holds_enough(loader):
        text = advice(loader, sample(loader).clustering)
        if text is not None:
            warnings.warn(text, UserWarning, stacklevel=3)
