"""The swap window: rows that wait for others to push them out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Block, Reader, Rows, cut_blocks
from fastsgd.data.order import drain_key, exchange_key
from fastsgd.data.passage import Move, Passage, run_passages
from fastsgd.data.runs import address_of
from fastsgd.data.team import Team, copy_shares

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader

_LANDING_BYTES = 1 << 18  # little beside any budget

_Cast = tuple[NDArray[Any], NDArray[Any]]  # what comes out of the window, and where it goes in another dtype


class Window:
    """Rows in their storage dtype that wait to be pushed out by others. Its bytes are moved by a team, in new memory
    where none is given.

    Attributes
    ----------
    slots : int
        Rows that there is room for.
    held : int
        Rows that are in it.
    exchanged : int
        Rows that came and pushed others out.
    """

    def __init__(self, loader: Loader, epoch: int, team: Team, memory: NDArray[np.uint8] | None = None) -> None:
        self._loader = loader
        dataset, self.slots = loader.dataset, loader.plan.window_rows
        parts = (
            (dataset.n_features, dataset.dtype),
            (dataset.n_targets, dataset.target_dtype),
            (1, dataset.weight_dtype),
        )
        self._parts = [(width, dtype) for width, dtype in parts if dtype is not None]
        self._widths = np.array([width * dtype.itemsize for width, dtype in self._parts], np.int64)
        self._bytes = np.empty((self.slots, int(self._widths.sum())), np.uint8) if memory is None else memory
        self._exchange_key, self._drain_key = exchange_key(loader.seed, epoch), drain_key(loader.seed, epoch)
        self._team = team
        casts = any(dtype != loader.dtype for _, dtype in self._parts)
        # Rows that are exchanged, and drained, at a time. What comes out of a window in another dtype than it goes on
        # in takes the place of what comes in, which no user may have lent, or in the end that of a block.
        row_bytes = self._bytes.shape[1]
        self._lent = casts and dataset.lends_views
        self._most_exchanged = max(1, _LANDING_BYTES // row_bytes) if self._lent else dataset.n_rows
        self._most_drained = loader.blocks.largest if casts else dataset.n_rows
        self.held = 0
        self.exchanged = 0

    @property
    def admitted(self) -> int:
        """Rows that have come."""
        return self.held + self.exchanged

    def _move(self, kernel: Any, kept: Any, rows: int, *arguments: Any) -> None:
        """Let a kernel move so many rows, at addresses in `kept`: where an interrupt comes between, no thread that goes
        on may find their memory let go."""
        nbytes = rows * self._bytes.shape[1]
        self._team.move(nbytes, _run, kernel, kept, self._bytes, self._widths, *arguments)

    def _places(self, first: int, last: int, taken: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The slots in which rows `first` to `last` of those that came are after all exchanges, or -1; see
        `find_places`."""
        from fastsgd.kernels.slots import find_places

        places = np.empty(max(0, last - first), np.int64)
        find_places(self._exchange_key, first, self.slots, taken, places)
        return places

    def _put_to(self, rows: Rows, places: NDArray[np.int64]) -> None:
        """Put the first of some rows to their places, those left out that have none."""
        if len(places):
            self._put([rows.cut(0, len(places))], places)
            self.held += int(np.count_nonzero(places >= 0))

    def restore(self, reader: Reader, order: NDArray[np.int64], exchanged: int) -> None:
        """Read what it holds after so many exchanges of an epoch whose blocks come in some order, from the last row
        that came to the first.

        The places of the rows of blocks that are read ahead take memory of slabs, none of which is filled yet.
        """
        loader, found = self._loader, deque[NDArray[np.int64]]()
        blocks = loader.blocks
        before = np.minimum(blocks.rows_before(order), self.slots + exchanged)

        def wanted() -> Iterator[Block]:
            missing, taken = self.slots, np.zeros(self.slots // 8 + 1, np.uint8)
            for index, first, last in zip(order[::-1], before[-2::-1], before[:0:-1], strict=True):
                places = self._places(int(first), int(last), taken)
                here = int((places >= 0).sum())
                if here:
                    found.append(places)
                    yield blocks[index]
                missing -= here
                if not missing:
                    return

        self.exchanged = exchanged
        for rows in loader.read(reader, wanted()):
            self._team.go_on()
            self._put_to(rows, found.popleft())
            del rows

    def admit(self, blocks: Sequence[Rows]) -> list[Rows]:
        """Put rows into the slots that are still free; returns the others."""
        free = self.slots - self.held
        entering = list(cut_blocks(blocks, 0, free))
        if entering:
            self._put(entering, np.empty(0, np.int64))
            self.held += sum(len(rows.x) for rows in entering)
        return list(cut_blocks(blocks, free))

    def _put(self, blocks: Sequence[Rows], places: NDArray[np.int64]) -> None:
        from fastsgd.kernels.slots import put_rows

        table = np.array([_numbers(rows.parts(), rows.parts()) for rows in blocks], np.int64)
        self._move(put_rows, blocks, int(table[:, 0].sum()), table, self.held, places)

    def exchange(self, blocks: Sequence[Rows], outs: Rows) -> None:
        """Swap rows of some blocks, one after the other, with random slots; what was there goes to `outs`."""
        n, step = len(outs.x), self._most_exchanged
        for first in range(0, n, step):
            some = outs.cut(first, min(first + step, n))
            self._exchange(list(cut_blocks(blocks, first, len(some.x))), some)

    def _exchange(self, blocks: Sequence[Rows], outs: Rows) -> None:
        swaps, casts, at = [], list[_Cast](), 0
        for rows in blocks:
            parts, end = rows.parts(), at + len(rows.x)
            landings = []
            for part, out in zip(parts, outs.cut(at, end).parts(), strict=True):
                landing = out
                if part.dtype != out.dtype:
                    landing = np.empty_like(part) if self._lent else part
                    casts.append((landing, out))
                landings.append(landing)
            swaps.append(Passage(len(rows.x), self._loader, None, self._swap(parts, landings)))
            self.exchanged += len(rows.x)
            at = end
        run_passages(swaps, self._team)
        self._cast(casts)

    def _swap(self, parts: Sequence[NDArray[Any]], landings: Sequence[NDArray[Any]]) -> Move:
        from fastsgd.kernels.passage import SWAP

        numbers, kept = _numbers(parts, landings), (parts, landings)
        return Move(
            SWAP, self._bytes, self._widths.tolist(), _signed(self._exchange_key), self.exchanged, numbers, kept
        )

    def swapping(self, places: Rows, outs: Rows) -> Move:
        """An exchange, of rows in places from which they are taken as they are stored, to be done elsewhere."""
        return self._swap(places.parts(), outs.parts())

    def putting(self, places: Rows) -> Move:
        """What `admit` does with rows that all find room, to be done elsewhere."""
        from fastsgd.kernels.passage import PUT

        parts = places.parts()
        return Move(PUT, self._bytes, self._widths.tolist(), 0, self.held, _numbers(parts, parts), (parts,))

    def drain(self, first: int, outs: Rows) -> None:
        """Once no more come in, rows of a random order from number `first` on."""
        from fastsgd.kernels.slots import drain

        n, step = len(outs.x), self._most_drained
        for start in range(0, n, step):
            some = outs.cut(start, min(start + step, n))
            landings, casts = [], list[_Cast]()
            for out, (width, dtype) in zip(some.parts(), self._parts, strict=True):
                landing = out
                if out.dtype != dtype:
                    landing = np.empty((len(out), width), dtype)
                    casts.append((landing, out))
                landings.append(landing)
            places = np.array(list(map(address_of, landings)), np.int64)
            self._move(drain, landings, len(some.x), places, self.held, self._drain_key, first + start, len(some.x))
            self._cast(casts)

    def _cast(self, casts: Sequence[_Cast]) -> None:
        if casts:
            self._team.move(sum(landing.nbytes for landing, _ in casts), copy_shares, casts)


def _signed(key: np.uint64) -> int:
    return int(key.astype(np.int64))


def _run(thread: int, threads: int, kernel: Any, kept: Any, *arguments: Any) -> None:
    kernel(thread, threads, *arguments)


def _numbers(parts: Sequence[NDArray[Any]], landings: Sequence[NDArray[Any]]) -> list[int]:
    """What kernels take for a block: its rows; of each part where it lies, and where what comes out goes."""
    found = [len(parts[0])]
    for part, landing in zip(parts, landings, strict=True):
        found += [address_of(part), address_of(landing)]
    return found
