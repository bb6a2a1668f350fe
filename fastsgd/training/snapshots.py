"""Snapshots: a run between two steps, as a safetensors file that is checked whole before any of it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import CheckpointError
from fastsgd.tensors import Kind, Shapes, encode, open_tensors

KIND = Kind("checkpoint", "fastsgd-checkpoint", 1, CheckpointError)


@dataclass
class Position:
    """How far a run is.

    Attributes
    ----------
    step : int
        Batches that the trainer has trained on.
    epoch : int
        The epoch that comes next or is under way.
    rows : int
        Rows of its order that have been trained on.
    loss_sum : float
        Of those rows.
    spent : dict
        Seconds of this epoch so far, by the names that they have in a `History`.
    standardized : bool
        Whether the model has learned its standardization.
    """

    step: int
    epoch: int
    rows: int = 0
    loss_sum: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    standardized: bool = True

    @property
    def place(self) -> tuple[int, int, int, bool]:
        """What tells it from other positions of a run."""
        return self.step, self.epoch, self.rows, self.standardized


@dataclass(frozen=True)
class Snapshot:
    """All that it takes to go on.

    Attributes
    ----------
    run : dict
        What must be the same then: model, optimizer, loss, data, order. Values that JSON has.
    position : Position
    history : list of dict
        The records of the epochs before.
    arrays : dict of arrays
        Parameters and what the optimizer keeps.
    versions : dict of str
        Of what wrote it.
    """

    run: Mapping[str, Any]
    position: Position
    history: list[dict[str, Any]]
    arrays: Mapping[str, NDArray[np.floating]]
    versions: Mapping[str, str]

    def is_finite(self) -> bool:
        """Whether all values are finite: a state where they are not is of no use."""
        return all(bool(np.isfinite(array).all()) for array in self.arrays.values())

    def encode(self) -> bytes:
        """The content of its file.

        Raises
        ------
        TypeError
            If the history holds what is no number.
        """
        about = {
            "run": self.run,
            "position": asdict(self.position),
            "history": self.history,
            "versions": self.versions,
        }
        return encode(KIND, about, self.arrays)


def read_snapshot(path: str | os.PathLike[str], run: Mapping[str, Any], expected: Shapes, dtype: str) -> Snapshot:
    """Read a snapshot of a run that is described by `run` and has arrays of these shapes.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, or a damaged one.
    OtherRunError
        If it is one of another run.
    """
    with open_tensors(path, KIND) as file:
        about = file.about
        if about.keys() != {"run", "position", "history", "versions"} or not isinstance(about["run"], dict):
            raise ValueError("its description is not one that fastsgd writes")
        differing = list(_differences(about["run"], run))
        if differing:
            file.arrays()  # unless it is damage that makes it another
            raise OtherRunError(
                f"the checkpoint {os.fsdecode(path)!r} is of another run: {'; '.join(differing[:_MOST_DIFFERENCES])}. "
                "Make them the same to go on with it; or start anew with resume=False, or in another folder"
            )
        file.require(expected, dtype)
        position, history = _position(about["position"]), _history(about["history"])
        return Snapshot(run, position, history, file.arrays(), about["versions"])


class OtherRunError(CheckpointError):
    """A checkpoint that is sound, but of other data, another model or other settings."""


_MOST_DIFFERENCES = 4
# How to say of what is only known as a digest that it differs.
_DIGESTS = {
    "data.values": "the data hold other values",
    "data.selection": "other rows of the data were taken",
    "order.blocks": "the data lie in other chunks",
}


def _differences(stored: Any, given: Any, name: str = "") -> Iterator[str]:
    """What two descriptions differ in: "batch_size is 64 here, it was 32"."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in {**given, **stored}:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(stored.get(key), given.get(key), inner)
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        for index, pair in enumerate(zip(stored, given, strict=True)):
            yield from _differences(*pair, f"{name}[{index}]")
    elif name in _DIGESTS:
        if None not in (stored, given) and stored != given:
            yield _DIGESTS[name]
    elif stored != given:
        yield f"{name} is {_short(given)} here, it was {_short(stored)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _position(given: Any) -> Position:
    """A position as it was stored, or ValueError if it is none."""
    if not isinstance(given, dict) or given.keys() != {one.name for one in fields(Position)}:
        raise ValueError("its position is not one that fastsgd writes")
    position = Position(**given)
    for name in ("step", "epoch", "rows"):
        if type(given[name]) is not int or given[name] < 0:
            raise ValueError(f"its {name} is {_short(given[name])}; it is a whole number from 0 on")
    if type(position.loss_sum) is not float or not np.isfinite(position.loss_sum):
        raise ValueError(f"its loss_sum is {_short(position.loss_sum)}; it is a finite number")
    if type(position.standardized) is not bool:
        raise ValueError(f"standardized is {_short(position.standardized)}; it is true or false")
    _history([position.spent])
    return position


def _history(given: Any) -> list[dict[str, Any]]:
    """The records of epochs as they were stored, or ValueError if they are none."""
    for record in given if isinstance(given, list) else [None]:
        if not isinstance(record, dict) or not all(type(value) in (int, float) for value in record.values()):
            raise ValueError("its history is not one that fastsgd writes")
    return list(given)
