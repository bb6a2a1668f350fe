"""The passage of rows from files through the window: what the compiled code of `fastsgd.kernels.passage` is told, and
what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.runs import address_of, calls_of, is_slow

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader
    from fastsgd.data.readers import Straight
    from fastsgd.data.team import Team

_TASK_BYTES = 1 << 18  # of a task's rows in a turn: in cache until the next one, and much beside a call of the system
_MOST_ROWS = 1 << 11  # of a task in a turn: what it notes of more would take is in no plan
_TASKS_A_THREAD = 2  # where all rows are of one turn: who is late leaves one to another
_PIECE_BYTES = 1 << 26  # done in one compiled call, which no interrupt ends
_NONE = np.zeros(0, np.int64)
_NEVER = 2**63 - 1  # a turn that does not come
_MOST_PARTS = 3  # of a row: features, target, weight


class Move(NamedTuple):
    """What becomes of rows in a window.

    Attributes
    ----------
    kind : int
        Whether they are put into its slots or swapped with those there, as `fastsgd.kernels.passage` numbers it.
    window : array (slots, bytes of a row), uint8
    widths : sequence of int
        Bytes of each part of a row.
    key, position : int
        Name the slots, `key` in 64 bits with a sign; `position` is the number of the first row among those that are put
        or swapped.
    block : list of int
        How many rows; then for each part the address of where its rows come from, and of where they go, which may be
        the same.
    kept : tuple
        What has the memory at these addresses.
    """

    kind: int
    window: NDArray[np.uint8]
    widths: Sequence[int]
    key: int
    position: int
    block: list[int]
    kept: tuple[Sequence[NDArray[Any]], ...]


class Passage:
    """Rows that are read, moved, or both.

    Parameters
    ----------
    rows : int
    loader : Loader
    straight : Straight or None
        What reads them.
    move : Move or None
        None where they stay where they are read.

    Attributes
    ----------
    nbytes : int
        Of all rows.
    """

    def __init__(self, rows: int, loader: Loader, straight: Straight | None, move: Move | None) -> None:
        from fastsgd.kernels import passage as told

        row_bytes = loader.dataset.row_bytes
        self.nbytes = rows * row_bytes
        self._rows = rows
        self._straight, self._move = straight, move  # whose memory the compiled code has the addresses of
        self._spent = loader.spent
        self._threads = loader.threads()
        if move is None:  # a single turn, as nothing is done with rows when they are in the cache
            self._tasks = min(_TASKS_A_THREAD * self._threads, told.MOST_TASKS)
            part_rows = _PIECE_BYTES // self._tasks // row_bytes
        else:
            self._tasks = min(self._threads, told.MOST_TASKS)
            part_rows = min(_MOST_ROWS, _TASK_BYTES // row_bytes)
        self._turn_rows = self._tasks * max(1, min(part_rows, -(-rows // self._tasks)))
        lag = told.LAGS[told.STAY if move is None else move.kind]
        self._turns = -(-rows // self._turn_rows) + lag
        self._board = self._empty_board() if lag else _NONE
        self._numbers = self._tell(row_bytes)

    def _empty_board(self) -> NDArray[np.int64]:
        from fastsgd.kernels.swaps import board_size, make_board

        return np.zeros(board_size(make_board(0, self._tasks, self._turn_rows // self._tasks)), np.int64)

    def _tell(self, row_bytes: int) -> NDArray[np.int64]:
        """The numbers that the compiled code takes."""
        from fastsgd.kernels import passage as told
        from fastsgd.kernels.reading import SINGLE

        move, table = self._move, _NONE if self._straight is None else self._straight.table
        head = [0] * told.HEADER
        head[told.ROWS], head[told.TURN_ROWS], head[told.ROW_BYTES] = self._rows, self._turn_rows, row_bytes
        head[told.TASKS], head[told.FAILED] = self._tasks, _NEVER
        head[told.OUTCOMES : told.OUTCOMES + told.MOST_TASKS] = [SINGLE] * told.MOST_TASKS
        about_move = list[int]()
        if move is not None:
            head[told.MOVE], head[told.BOARD] = move.kind, address_of(self._board)
            head[told.WINDOW], head[told.SLOTS] = address_of(move.window), len(move.window)
            head[told.KEY], head[told.POSITION], head[told.PARTS] = move.key, move.position, len(move.widths)
            about_move = [*move.widths, *move.block]
        head[told.RUNS], head[told.N_RUNS] = len(head) + len(about_move), len(table)
        head[told.SIZE] = head[told.RUNS] + table.size
        return np.concatenate([np.array(head + about_move, np.int64), table.reshape(-1)])

    def pieces(self) -> list[tuple[int, int, int]]:
        """All turns, in pieces: address, first, and end."""
        step = max(1, _PIECE_BYTES * self._turns // max(1, self.nbytes))
        address, turns = address_of(self._numbers), range(0, self._turns, step)
        return [(address, first, min(first + step, self._turns)) for first in turns]

    def run(self, team: Team) -> None:
        """Bring the rows to their end, by all of a team."""
        run_passages([self], team)

    @property
    def moved(self) -> int:
        """Rows that all was done with: those before the first that did not come."""
        from fastsgd.kernels import passage as told

        return min(self._rows, int(self._numbers[told.FAILED]) * self._turn_rows)

    @property
    def outcome(self) -> int:
        """The least that became of any of the rows that were read."""
        from fastsgd.kernels import passage as told

        return int(self._numbers[told.OUTCOMES : told.OUTCOMES + told.MOST_TASKS].min())

    def count_seconds(self) -> bool:
        """Count what reading and moving took; returns whether what was read came from no memory."""
        from fastsgd.kernels import passage as told

        reading, whole = (float(self._numbers[at]) * 1e-9 for at in (told.READING, told.MOVING))
        threads = min(self._threads, self._tasks)
        self._spent.add(reading=reading / threads, shuffling=(whole - reading) / threads)
        if self._straight is None:
            return False
        calls = _MOST_PARTS * self._tasks * self._turns + calls_of(self._straight.table)
        return is_slow(self.nbytes, calls, reading)


def run_passages(passages: Sequence[Passage], team: Team) -> None:
    """Bring the rows of some passages to their end, one after the other, by all of a team."""
    from fastsgd.kernels import passage as told
    from fastsgd.kernels.crew import COUNTERS

    pieces, nbytes = [piece for one in passages for piece in one.pieces()], sum(one.nbytes for one in passages)
    # Small ones together, as threads have to wake for each call.
    for some in [pieces] if nbytes <= _PIECE_BYTES else [[piece] for piece in pieces]:
        team.go_on()
        table, counters = np.array(some, np.int64).reshape(-1, 3), np.zeros(COUNTERS, np.int64)
        told.run_passages(0, 1, table[:0], counters)  # compiled before the threads, which would wait for one another
        team.move(nbytes // max(1, len(pieces)) * len(some), _run, passages, table, counters)


def _run(thread: int, threads: int, kept: object, table: NDArray[np.int64], counters: NDArray[np.int64]) -> None:
    """A thread's share; `kept` has the memory, also where an interrupt ends the wait for the thread."""
    from fastsgd.kernels.passage import run_passages

    run_passages(thread, threads, table, counters)
