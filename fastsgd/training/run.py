"""One run of `fit`: its epochs, slab by slab, from any batch of them on; between two slabs it can be stopped and
recorded."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastsgd.data import Dataset
from fastsgd.data.loader import Loader
from fastsgd.data.slab import Slab
from fastsgd.errors import CheckpointError, ModelError, NonFiniteError
from fastsgd.model.files import architecture
from fastsgd.training.checkpoint import Checkpoint, Recorder
from fastsgd.training.checkpoint_folder import CheckpointFolder
from fastsgd.training.history import History
from fastsgd.training.interrupts import Interrupts
from fastsgd.training.progress import BUSY, Progress, Silent
from fastsgd.training.snapshots import Position, Snapshot, read_snapshot

if TYPE_CHECKING:
    from fastsgd.training.trainer import Trainer

Resume = bool | Literal["auto"]
Before = tuple[NDArray[np.floating], int]  # parameters, and how many steps led to them
# Errors that no checkpoint is to be written after: none is wanted of such a state, or none can be written.
_FINAL = (NonFiniteError, CheckpointError)


def checked_resume(resume: Resume, *, recorded: bool) -> Resume:
    """What `fit` takes as `resume`, or ModelError."""
    if not isinstance(resume, bool) and resume != "auto":
        raise ModelError(f"fit: resume is {resume!r}; it is True, False or 'auto'")
    if resume is True and not recorded:
        raise ModelError("fit: resume=True goes on from a checkpoint; say where they are, with checkpoint=")
    return resume


def steps_too_large(what: str, trainer: Trainer, since: str) -> NonFiniteError:
    """The error about numbers that stopped being finite; the parameters are as they were before that."""
    return NonFiniteError(
        f"{what}: the steps are too large. Lower the learning rate (it is {trainer.optimizer.learning_rate:g}), or "
        "bring the inputs to a like scale with Standardize() as the first layer. The parameters are as they were "
        f"before this {since}"
    )


class Run:
    """Epochs over a loader.

    Parameters
    ----------
    trainer : Trainer
    loader : Loader
    validation : Dataset, optional
        Evaluated after each epoch.
    epochs : range
        Numbers of the epochs.
    batch_size : int
    display : Progress
    """

    def __init__(
        self,
        trainer: Trainer,
        loader: Loader,
        validation: Dataset | None,
        epochs: range,
        batch_size: int,
        display: Progress,
    ) -> None:
        self._trainer = trainer
        self._loader = loader
        self._validation = validation
        self._epochs = epochs
        self._batch_size = batch_size
        self._display = display
        self._recorder: Recorder | None = None
        self._held: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self._marks: dict[str, float] = {}  # the clocks when `at.spent` was reckoned last
        self._whole = True  # whether parameters and position are of the same moment
        self._compiled = False  # which takes long: an interrupt must not wait for it
        trainer.history = History()
        self.at = Position(trainer.steps, epochs.start, standardized=not trainer.model.needs_standardization)
        self._start: tuple[object, ...] | None = self.at.place  # but of a run that is gone on with

    @contextlib.contextmanager
    def recorded(self, settings: Checkpoint, resume: Resume) -> Iterator[None]:
        """Go on from the newest checkpoint, as `resume` says, and write checkpoints while the context lasts: at its
        begin, when they are due, and at its end, whatever ends it, unless numbers stopped being finite. Where it ends
        before anything was learned, it leaves nothing.

        Raises
        ------
        CheckpointError
            If there is none that it can go on from, or none can be written.
        """
        with Interrupts() as interrupts, contextlib.closing(CheckpointFolder(settings.directory)) as folder:
            self._held = interrupts.held
            try:
                with interrupts.held():
                    folder.open()
                self._resume(folder, resume)
                self._recorder = Recorder(settings, folder, self.snapshot)
                self._recorder.first()
                if resume is False:
                    folder.forget_all_but(self.at.step)
                yield
                self._recorder.save()
            except BaseException as error:
                if self.at.place == self._start:
                    folder.discard()
                elif self._recorder is not None and self._whole and not isinstance(error, _FINAL):
                    self._recorder.save_what_can_be()
                raise
            finally:
                if self._recorder is not None:
                    self._recorder.wait()
                # It refers to this run, and so to the rows in memory: they are to go with the last reference to it.
                self._recorder = None

    def _resume(self, folder: CheckpointFolder, resume: Resume) -> None:
        expected = {name: view.shape for name, view in self._state().items()}

        def read(path: str) -> Snapshot:
            return read_snapshot(path, self._description, expected, self._trainer.model.dtype.name)

        snapshot = folder.newest(read) if resume is not False else None
        if snapshot is not None:
            at, end = snapshot.position, self._epochs.stop
            if (at.epoch, at.rows) > (end, 0):
                raise CheckpointError(
                    f"the checkpoint {folder.path(at.step)!r} is past the end of epoch {end}, where this run ends: "
                    "give more epochs to go on with it; or start anew with resume=False, or in another folder"
                )
            self._start = None
            self._restore(snapshot)
            self._announce(folder.path(self.at.step))
        elif resume is True:
            raise CheckpointError(
                f"there is no checkpoint in {folder.directory!r} to go on from; resume='auto' starts anew where there "
                "is none"
            )

    def _announce(self, path: str) -> None:
        epochs, at = self._epochs.stop, self.at
        where = f"epoch {at.epoch + 1} of {epochs}, row {at.rows}" if at.epoch < epochs else f"all {epochs} epochs done"
        text = f"resumed from {path}: {where}, step {at.step}"
        if isinstance(self._display, Silent) and sys.stderr is not None:
            print(f"fastsgd: {text}", file=sys.stderr, flush=True)
        self._display.plan(text)

    def _state(self) -> dict[str, NDArray[np.floating]]:
        """Views of the arrays that training changes, by name."""
        model, velocity = self._trainer.model, self._trainer.optimizer_state.velocity
        velocities = model.views(velocity) if len(velocity) else {}
        return model.parameters | {f"velocity/{name}": view for name, view in velocities.items()}

    @cached_property
    def _description(self) -> dict[str, Any]:
        """What must be the same for a run to be this one, in values that JSON has."""
        trainer, loader = self._trainer, self._loader
        return {
            "model": architecture(trainer.model),
            "optimizer": {"name": type(trainer.optimizer).__name__, **asdict(trainer.optimizer)},
            "loss": {"name": trainer.loss.name, "parameters": list(trainer.loss.parameters)},
            "batch_size": self._batch_size,
            "initial_epoch": self._epochs.start,
            "order": loader.order_fingerprint(),
            "data": loader.dataset.fingerprint(),
        }

    def snapshot(self) -> Snapshot:
        """The run as it is now."""
        from fastsgd import __version__

        return Snapshot(
            self._description,
            replace(self.at, spent=dict(self.at.spent)),
            list(self._trainer.history.epochs),
            {name: view.copy() for name, view in self._state().items()},
            {"fastsgd": __version__, "numpy": np.__version__},
        )

    def _restore(self, snapshot: Snapshot) -> None:
        for name, view in self._state().items():
            view[...] = snapshot.arrays[name]
        self.at = snapshot.position
        self._trainer.history.epochs[:] = snapshot.history
        self._trainer.steps = self.at.step
        self._trainer.model.standardization_is_learned(self.at.standardized)

    def learn_standardization(self) -> None:
        """Learn it in a pass over the data, if the model has one to learn."""
        model = self._trainer.model
        if model.needs_standardization:
            dataset, budget = self._loader.dataset, self._loader.plan.budget
            batch_size = self._trainer._rows_together(dataset, budget)
            model.learn_standardization(dataset, batch_size=batch_size, memory=budget)
            self.at.standardized = True
            if self._recorder is not None:
                self._recorder.save()

    def go(self) -> History:
        """Train all epochs that are left."""
        while self.at.epoch < self._epochs.stop:
            self._epoch()
        return self._trainer.history

    def _epoch(self) -> None:
        at = self.at
        self._display.start_epoch(at.epoch, self._epochs.stop, self._loader.dataset.n_rows)
        if at.rows:
            self._display.advance(at.rows, at.loss_sum / at.rows)
        self._train_rows()
        record = self._record()
        if self._validation is not None:
            self._loader.keep_room(None)  # which is to be had for the other data
            found = self._trainer._evaluate(self._validation, self._loader.plan.budget)
            record |= {f"val_{name}": value for name, value in found.items()}
        record = _ordered(record)
        with self._held():
            self._trainer.history.epochs.append(record)
            self.at = Position(at.step, at.epoch + 1)
        self._display.end_epoch(dict(record))
        if self._recorder is not None:
            self._recorder.record(at.step)

    def _train_rows(self) -> None:
        """Train on what is left of the rows of an epoch."""
        at, loader = self.at, self._loader
        before = self._trainer.model.network.parameters.copy(), at.step
        self._marks = self._clocks()
        with contextlib.closing(loader.epoch(at.epoch, at.rows)) as slabs:  # type: ignore[type-var]
            for slab in slabs:
                for piece in self._pieces(slab):
                    with self._held() if self._compiled else contextlib.nullcontext():
                        loss = self._train_piece(piece, before)
                    self._compiled = True
                    self._display.advance(len(piece), loss)
                    if self._recorder is not None:
                        self._recorder.record(at.step)
        if not all(np.isfinite(values).all() for values in self._trainer.model.parameters.values()):
            self._stop("the parameters are not finite after", before, -(-at.rows // self._batch_size))

    def _pieces(self, slab: Slab) -> Iterator[Slab]:
        """A slab, cut where checkpoints are due by their step."""
        first = 0
        while first < len(slab):
            left = None if self._recorder is None else self._recorder.batches_left(self.at.step)
            last = len(slab) if left is None else min(len(slab), first + left * self._batch_size)
            yield slab.rows(first, last)
            first = last

    def _train_piece(self, piece: Slab, before: Before) -> float:
        """Train on whole batches, and count them; returns their mean loss."""
        at, batch_size = self.at, self._batch_size
        self._whole = False
        losses = self._trainer._train(piece, batch_size)
        if not np.isfinite(losses).all():
            first = int(np.isfinite(losses).argmin())
            self._stop(f"the loss is {losses[first]} in", before, at.rows // batch_size + first + 1)
        counts = np.full(len(losses), batch_size)
        counts[-1] = len(piece) - batch_size * (len(losses) - 1)
        # One after the other, so that the sum is the same bits however the epoch is cut into slabs.
        sums = np.cumsum(np.concatenate([[at.loss_sum], losses * counts]))
        mean = float(sums[-1] - at.loss_sum) / len(piece)
        at.loss_sum, at.rows, at.step = float(sums[-1]), at.rows + len(piece), self._trainer.steps
        marks = self._clocks()
        for name, seconds in marks.items():
            at.spent[name] = at.spent.get(name, 0.0) + seconds - self._marks[name]
        self._marks = marks
        self._whole = True
        return mean

    def _stop(self, what: str, before: Before, batch: int) -> None:
        """Raise NonFiniteError about a batch of this epoch, the parameters as they were before."""
        self._trainer._undo(*before)
        # Where nothing was learned, no checkpoint will be left.
        kept = None if self._recorder is None or self.at.place == self._start else self._recorder.newest
        raise steps_too_large(
            f"{what} epoch {self.at.epoch + 1}, batch {batch}",
            self._trainer,
            "epoch" + (f", and the newest checkpoint, {kept}, is sound" if kept else ""),
        )

    def _clocks(self) -> dict[str, float]:
        loader = self._loader
        busy = {} if loader.plan.whole else loader.spent.total()
        return {"seconds": time.perf_counter(), "waited": loader.waited, **busy}

    def _record(self) -> dict[str, Any]:
        """The figures of an epoch all of whose rows were trained on."""
        at = self.at
        skipped = self._loader.dataset.n_rows - at.rows
        return {
            "epoch": at.epoch,
            "loss": at.loss_sum / at.rows,
            **({"skipped": skipped} if skipped else {}),
            **at.spent,
            "rows_per_second": at.rows / at.spent["seconds"],
        }


def _ordered(record: dict[str, Any]) -> dict[str, Any]:
    """The figures first that a reader looks for first."""
    late = ("seconds", "rows_per_second", "waited", *BUSY)
    first = {key: value for key, value in record.items() if key not in late}
    return first | {key: record[key] for key in late if key in record}
