"""A slab that is filled while the one before it is trained on: what the compiled code of `fastsgd.kernels.refill` is
told, and how far it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.runs import address_of, calls_of, is_slow

if TYPE_CHECKING:
    from fastsgd.data.blocks import Rows
    from fastsgd.data.loader import Loader
    from fastsgd.data.readers import Straight

_TURN_BYTES = 1 << 16  # of a turn at least: less is little beside the calls of the system that it takes
_NONE = np.zeros(0, np.int64)
MOST_LISTED = 1 << 13  # rows of a turn at most: what lists of more would take is in no plan
_MOST_PARTS = 3  # of a row: features, target, weight
_THREADS_A_SHARE = 4  # for which one that reads and one that swaps are enough


class Move(NamedTuple):
    """What becomes of rows in a window: swapped with those of its slots, or drained from them.

    Attributes
    ----------
    window : array (slots, bytes of a row), uint8
    widths : array (parts,), int64
        Bytes of each part of a row.
    key, position : int
        Name the slots; `position` is the number of the first row among those that are swapped, or drained.
    drains : bool
    places : list of int
        For each part the address of where its rows come from, unless they are drained, and of where they go.
    kept : tuple
        What has the memory at these addresses.
    """

    window: NDArray[np.uint8]
    widths: NDArray[np.int64]
    key: np.uint64
    position: int
    drains: bool
    places: list[int]
    kept: tuple[Rows, ...]


class Refill:
    """How a slab is filled between the tasks of training steps, in turns.

    Parameters
    ----------
    rows : int
        That are to be read, or drained.
    loader : Loader
    straight : Straight or None
        What reads them.
    move : Move or None
        None where rows go on as they are read.
    batches : int
        That will be trained on meanwhile.
    read_later : float
        The share of a turn's rows that those read who swap.
    """

    def __init__(
        self, rows: int, loader: Loader, straight: Straight | None, move: Move | None, batches: int, read_later: float
    ) -> None:
        self._rows = rows
        self._row_bytes, self._batch_size = loader.dataset.row_bytes, loader.batch_size
        self._straight, self._move = straight, move  # whose memory the compiled code has the addresses of
        self._table = _NONE if straight is None else straight.table
        self._lag = 0 if move is None else 1  # turns from reading, or listing, to moving
        least = max(1, _TURN_BYTES // self._row_bytes)
        self._every = max(1, -(-least * batches // rows))
        turns = max(0, -(-batches // self._every) - self._lag)
        self._turn_rows = -(-rows // max(1, turns))
        self._read_later = read_later
        self._lists = np.zeros((0, 0), np.int64)
        self._function = 0
        self._numbers = self._tell() if turns and (move is None or self._turn_rows <= MOST_LISTED) else None
        self._batches = 0

    def _tell(self) -> NDArray[np.int64]:
        """The numbers that the compiled code takes."""
        from fastsgd.kernels import refill as told
        from fastsgd.kernels.reading import FINITE

        self._function = told.refill.address  # compiled here, where nobody measures how fast training is
        head, move = np.zeros(told.HEADER, np.int64), self._move
        head[told.ROWS], head[told.TURN_ROWS], head[told.ROW_BYTES] = self._rows, self._turn_rows, self._row_bytes
        head[told.READ_LATER] = int(self._read_later * told.WHOLE)
        head[told.FAILED], head[told.OUTCOMES : told.OUTCOMES + told.MOST_TASKS] = np.iinfo(np.int64).max, FINITE
        about_parts = _NONE
        if move is not None:
            head[told.WINDOW], head[told.SLOTS] = address_of(move.window), len(move.window)
            head[told.KEY], head[told.POSITION] = move.key.astype(np.int64), move.position
            head[told.DRAINS], head[told.PARTS] = move.drains, len(move.widths)
            about_parts = np.concatenate([move.widths, np.array(move.places, np.int64)])
        head[told.RUNS], head[told.N_RUNS] = len(head) + len(about_parts), len(self._table)
        head[told.SIZE] = head[told.RUNS] + self._table.size
        return np.concatenate([head, about_parts, self._table.reshape(-1)])

    def errand(self, threads: int) -> NDArray[np.int64]:
        """What so many threads are told that train, as `fastsgd.kernels.errands` has it."""
        from fastsgd.kernels import refill as told
        from fastsgd.kernels.errands import NO_ERRAND, tell_errand

        numbers = self._numbers
        if numbers is None:
            return NO_ERRAND
        if not len(self._lists):
            shares = min(told.MOST_TASKS // 2, 1 + (threads - 1) // _THREADS_A_SHARE)
            size = told.list_size(self._turn_rows)
            self._lists = np.zeros((0 if self._move is None else 2 * shares, size), np.int64)
            numbers[told.SHARES], numbers[told.LISTS] = shares, address_of(self._lists)
            numbers[told.LIST_SIZE] = size
        return tell_errand(
            self._function,
            address_of(numbers),
            every=self._every,
            # So many that those of a step fall to the same threads with and without them.
            tasks=-(-2 * int(numbers[told.SHARES]) // threads) * threads,
            before=self._batches,
            memory=int(numbers[told.WINDOW]),
            place_bytes=self._row_bytes,
            lists=self._lists,
            portion=-(-self._turn_rows * threads // (self._batch_size * self._every)),
        )

    def did(self, batches: int) -> None:
        """Count batches that were trained on with its errand."""
        self._batches += batches

    def _done(self, lag: int) -> int:
        """Rows that went through what begins so many turns after the first."""
        from fastsgd.kernels import refill as told

        if self._numbers is None:
            return 0
        turns = min(-(-self._batches // self._every) - lag, int(self._numbers[told.FAILED]))
        return min(self._rows, max(0, turns) * self._turn_rows)

    @property
    def read(self) -> int:
        """Rows that were read."""
        return self._done(0)

    @property
    def even_share(self) -> float:
        """What `read_later` would have made those who read, and those who swap, be done at the same time."""
        reading, moving = self.seconds
        if not self.moved or not reading:
            return self._read_later
        reading, moving = reading / self.read, moving / self.moved
        return min(0.5, max(0.0, (reading - moving) / (2 * reading)))

    @property
    def moved(self) -> int:
        """Rows that were swapped, or drained."""
        return self._done(self._lag)

    @property
    def outcome(self) -> int:
        """The least that became of any of the rows."""
        from fastsgd.kernels import refill as told
        from fastsgd.kernels.reading import FINITE

        if self._numbers is None:
            return FINITE
        return int(self._numbers[told.OUTCOMES : told.OUTCOMES + told.MOST_TASKS].min())

    @property
    def seconds(self) -> tuple[float, float]:
        """That reading took, and swapping or draining, of all threads."""
        from fastsgd.kernels import refill as told

        if self._numbers is None:
            return 0.0, 0.0
        reading, whole = float(self._numbers[told.READING]) * 1e-9, float(self._numbers[told.MOVING]) * 1e-9
        return reading, whole - reading

    @property
    def is_slow(self) -> bool:
        """Whether what was read came from no memory."""
        calls = _MOST_PARTS * (self.read // self._turn_rows + 1)
        if self._straight is not None:
            calls += calls_of(self._straight.table)
        return is_slow(self.read * self._row_bytes, calls, self.seconds[0])
