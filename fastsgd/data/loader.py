"""Rows from a dataset to the trainer: slabs of whole batches, shuffled, in a planned amount of memory.

Data that fit are loaded once and drawn through a random permutation. Larger data pass through the swap window: in turns
with the consumer, whose threads then read, decode, check and exchange rows; or on a thread beside it, which hands every
error to the consumer, and ends with the iterator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastsgd.data.blocks import Block, Known, Reader, Rows
from fastsgd.data.checks import RowCheck, TargetCheck
from fastsgd.data.dataset import Dataset
from fastsgd.data.frames import let_go
from fastsgd.data.incoming import comes_in_groups, read_blocks
from fastsgd.data.order import as_seed, drain_key
from fastsgd.data.plan import BlockCost, MemoryPlan, parse_memory, plan_memory, require_memory, shortage
from fastsgd.data.runs import address_of
from fastsgd.data.slab import Slab
from fastsgd.data.spent import Spent
from fastsgd.data.stream import stream
from fastsgd.data.team import Team
from fastsgd.data.together import Together
from fastsgd.errors import DataError

_ROWS_A_THREAD = 8192  # ordered and gathered in about the time that a thread takes to start


def _where_they_lie(rows: Rows, dtype: np.dtype[Any]) -> Slab:
    """All rows of a dataset as a slab. Targets and weights of another dtype are copied."""
    x, y, weight = (None if part is None else np.require(part, dtype, ["C", "A", "W"]) for part in rows)
    assert x is not None
    none = np.empty((len(x), 0), dtype)
    return Slab(x, none if y is None else y, none.reshape(-1) if weight is None else weight[:, 0])


def checked_batch_size(batch_size: int) -> int:
    """The number of rows in a batch.

    Raises
    ------
    DataError
        If it is none.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise DataError(f"batch_size is {batch_size!r}; it is a whole number from 1 on")
    return int(batch_size)


class Room(NamedTuple):
    """Memory of an epoch that is streamed.

    Attributes
    ----------
    window : array (slots, bytes of a row), uint8
    slab : Slab
    coming, going : Rows
        As they are stored: where rows are read to, and where those go that come out of the window. These are the parts
        of the slab where they are of its dtype; and rows come to where they go, but for targets that are looked at, as
        that is done when some have gone.
    rest : Rows or None
        For a block that is decoded once although a slab takes a part of it; None where nothing is to be decoded, or
        there is no memory for it.
    """

    window: NDArray[np.uint8]
    slab: Slab
    coming: Rows
    going: Rows
    rest: Rows | None

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        rest = [] if self.rest is None else self.rest.parts()
        parts = [*self.slab.parts(0, len(self.slab)).parts(), *self.coming.parts(), *self.going.parts(), *rest]
        return self.window.nbytes + sum({address_of(part): part.nbytes for part in parts}.values())


class Loader:
    """Draws the rows of a dataset, epoch after epoch.

    Parameters
    ----------
    dataset : Dataset
    batch_size : int
        A slab holds whole batches, but for the last of an epoch.
    dtype : dtype
        Of the slabs: float32 or float64.
    memory : int, str or None
        Budget; None is 1 GB.
    seed : int
        With the epoch's number, fixes the order.
    shuffle : bool
        Where false, rows come as they are stored.
    check_target : callable, optional
        Says what is wrong with a block of targets.
    slab_limit : int, optional
        Rows of a slab at most (but at least a batch), where a row is much work. Their order does not depend on it.
    threads : int, optional
        That read, decode and move rows; all, if not given.
    takes_order : bool
        Whether the consumer takes slabs that are all rows and an order, instead of gathered rows.
    takes_turns : bool
        Whether rows are read, decoded and moved only while the consumer waits for them, by its threads; but of blocks
        that lack rows, what is to be decoded is, by others, meanwhile.

    Attributes
    ----------
    plan : MemoryPlan
    check : RowCheck
    takes_turns : bool
    waited : float
        Seconds that the consumer waited for rows.
    spent : Spent
        Seconds that reading, decoding and shuffling took meanwhile.

    Raises
    ------
    DataError
        If an argument is none of these; from an epoch, if the data cannot be read or hold a value that is not finite.
    MemoryBudgetError
        If `memory` is too small, or more than the process can have.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        dtype: DTypeLike = np.float32,
        memory: int | str | None = None,
        seed: int = 0,
        shuffle: bool = True,
        check_target: TargetCheck | None = None,
        slab_limit: int | None = None,
        threads: int | None = None,
        takes_order: bool = False,
        takes_turns: bool = False,
    ) -> None:
        batch_size = checked_batch_size(batch_size)
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise DataError(f"dtype is {np.dtype(dtype)}; batches are float32 or float64")
        self.dataset = dataset
        self.dtype = np.dtype(dtype)
        self.seed = as_seed(seed)
        self.shuffle = shuffle
        self.waited = 0.0
        self.blocks = dataset.blocks()
        self.check = RowCheck(dataset, self.dtype, check_target)
        self._threads = threads
        self._takes_order = takes_order
        self.takes_turns = takes_turns
        self.batch_size = min(batch_size, dataset.n_rows)
        whole_batches = dataset.n_rows + self.batch_size - 1  # the last may lack some rows
        self._most_rows = whole_batches if slab_limit is None else min(slab_limit, whole_batches)
        self._room: Room | None = None
        self._arrays = dataset.held()
        self._arrays_are_checked = False
        columns = dataset.n_features + dataset.n_targets + (dataset.weight_dtype is not None)
        picked = self.blocks.largest * dataset.row_bytes if self.blocks.scattered else 0
        self.plan_for: Callable[..., MemoryPlan] = partial(
            plan_memory,
            n_rows=dataset.n_rows,
            row_bytes=dataset.row_bytes,
            slab_row_bytes=columns * self.dtype.itemsize,
            cost=BlockCost(
                self.blocks.largest,
                dataset.block_bytes(self.blocks.widest),
                dataset.reading_bytes(self.blocks.widest) + picked,
                dataset.decoder_bytes(),
            ),
            batch_size=batch_size,
            shuffle=shuffle,
            in_memory=self._arrays is not None,
        )
        self.plan = self.plan_for(budget=parse_memory(memory))
        require_memory(self.plan)
        self.spent = Spent(self.decoders())

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Slab]:
        """The slabs of one epoch; every row of the dataset comes once, but for the first `start` of the epoch's order.

        To go on in the middle costs the reading of the rows that were in the window then; with ``nan="skip"``, of all
        before.

        Raises
        ------
        DataError
            If there are not so many rows.
        MemoryBudgetError
            From the epoch, if memory that is planned, or a thread, is not to be had.
        """
        a_number = isinstance(start, (int, np.integer)) and not isinstance(start, bool)
        if not a_number or not 0 <= start <= self.dataset.n_rows:
            raise DataError(f"start is {start!r}; it is a number of rows, from 0 to {self.dataset.n_rows}")
        return self._slabs(epoch, int(start))

    def _slabs(self, epoch: int, start: int) -> Iterator[Slab]:
        with self.within_plan():
            if not self.plan.whole:
                yield from stream(self, epoch, start)
                return
            if self._arrays is None:
                self._arrays = self._load()
            elif not self._arrays_are_checked:
                self._arrays = self.check(Block(self.dataset._spans), self._arrays, self._look_at(self._arrays))
            self._arrays_are_checked = True
            yield from self._from_memory(self._arrays, epoch, start)

    @contextmanager
    def within_plan(self) -> Iterator[None]:
        """Say what was planned where memory or a thread is not to be had; rows that were loaded are let go."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            short = shortage(error, self.plan)
            if short is None:
                raise
            let_go(error)  # the way out is to try with less
            self._arrays, self._arrays_are_checked = self.dataset.held(), False
            raise short from error

    def order_fingerprint(self) -> dict[str, Any]:
        """What fixes the order of the rows beside the dataset, in values that JSON has."""
        found = {"seed": self.seed, "shuffle": self.shuffle, "window_rows": self.plan.window_rows}
        return found if self.plan.whole else {**found, "blocks": self.blocks.digest()}

    def stream_slabs(self) -> list[Slab]:
        """Slabs to be filled: a single one in the memory of all, where consumer and reader take turns, as threads wait
        for each other at each change."""
        plan = self.plan
        if not self.takes_turns:
            return [self.empty_slab(self.slab_rows(plan.slab_rows)) for _ in range(plan.slabs)]
        return [self.empty_slab(self.slab_rows(plan.slabs * plan.slab_rows))]

    def slab_rows(self, room: int) -> int:
        """Rows of a slab, whole batches and at least one, where there is room for so many."""
        return self.batch_size * max(1, min(room, self._most_rows) // self.batch_size)

    def take_room(self) -> Room:
        """The memory of an epoch whose rows go straight: what the last one had, or new."""
        room, self._room = self._room, None
        return room or self._new_room()

    def _new_room(self) -> Room:
        """A single slab, and what lies beside it, in the memory of all, and of the blocks that would be read ahead."""
        plan, row_bytes, rest = self.plan, self._empty_room(1, 0).nbytes, None
        block_bytes = self.dataset.block_bytes(self.blocks.widest)
        memory = plan.slab_bytes + (1 + plan.blocks_ahead) * block_bytes
        if self.dataset.decodes() and memory - block_bytes >= self.batch_size * row_bytes:
            rest, memory = self.empty_rows(self.blocks.largest), memory - block_bytes
        return self._empty_room(self.slab_rows(memory // row_bytes), plan.window_rows)._replace(rest=rest)

    def _empty_room(self, rows: int, slots: int) -> Room:
        slab, stored = self.empty_slab(rows), self.empty_rows(0)._asdict()
        going = slab.parts(0, rows)
        for name, part in going._asdict().items():
            if part is not None and stored[name].dtype != part.dtype:
                going = going._replace(**{name: np.empty(part.shape, stored[name].dtype)})
        coming = going
        if self.shuffle and self.check.looks_at_targets and going.y is not None:
            coming = going._replace(y=np.empty_like(going.y))
        return Room(np.empty((slots, self.dataset.row_bytes), np.uint8), slab, coming, going, None)

    def keep_room(self, room: Room | None) -> None:
        """Keep memory for the next epoch, or let go what is kept."""
        self._room = room

    def open(self) -> AbstractContextManager[Reader]:
        """The dataset, opened to be read beside what its rows are for."""
        return self.dataset.open(self.decoders(), self.spent, beside=True)

    def empty_slab(self, rows: int) -> Slab:
        """Room for rows that go on."""
        x = np.empty((rows, self.dataset.n_features), self.dtype)
        y = np.empty((rows, self.dataset.n_targets), self.dtype)
        return Slab(x, y, np.empty(rows if self.dataset.weight_dtype is not None else 0, self.dtype))

    def require_some(self, n_rows: int) -> None:
        """Raise DataError unless there are rows to train on."""
        if n_rows == 0:
            raise DataError(
                f'{self.dataset}: each row holds a value that is not finite, so nan="skip" leaves none; look at the '
                'columns, or use nan="zero"'
            )

    def decoders(self) -> int:
        """Threads that decode what is read."""
        return min(self.plan.decoders, self.threads())

    def read(self, reader: Reader, blocks: Iterable[Block], *, unchecked: bool = False) -> Iterator[Rows]:
        """The rows of each block, every value of them fit to be trained on unless `unchecked`, until the next are asked
        for. Some are read ahead of their turn."""
        team = self._team()
        # What is to be decoded is, by others, while a block is used.
        if not unchecked and comes_in_groups(self):
            yield from read_blocks(self, reader, team, blocks)
            return
        room = 1 if self.dataset.decodes() else 1 + self.plan.blocks_ahead
        together = Together(self, reader, team, lambda: room, apart=True, checks=not unchecked)
        for rows in together.read(blocks):
            rows.reverse()
            while rows:
                yield rows.pop()

    def _team(self) -> Team:
        """Those who read alone."""
        from fastsgd.kernels.sharing import keeps_threads

        # Others would have to be started first.
        return Team(self.threads() if keeps_threads() else 1, self.spent)

    def _look_at(self, rows: Rows) -> Known:
        """What is known of rows in memory when all threads have looked at them."""
        from fastsgd.kernels.reading import SINGLE, look_at_share

        team, known = self._team(), dict[str, int]()
        for name, part in rows._asdict().items():
            if part is not None and part.dtype in (np.float32, np.float64) and part.flags.c_contiguous:
                values, outcomes = part.reshape(-1), np.full(team.threads, SINGLE)
                look_at_share(0, 1, values[:0], outcomes)  # compiled here: threads would wait for one another
                team.move(part.nbytes, look_at_share, values, outcomes)
                known[name] = int(outcomes.min())
        return known

    def _load(self) -> Rows:
        """All rows, in storage order and dtype."""
        dataset, at = self.dataset, 0
        whole = self.empty_rows(dataset.n_rows)
        with dataset.open(self.decoders(), self.spent) as reader:
            if comes_in_groups(self):
                for _ in read_blocks(self, reader, self._team(), self.blocks, whole):
                    pass
                return whole
            for rows in self.read(reader, self.blocks):
                for out, part in zip(whole, rows, strict=True):
                    if out is not None and part is not None:
                        out[at : at + len(part)] = part
                at += len(rows.x)
                del rows
        return whole.each(lambda part: part[:at])

    def empty_rows(self, n: int) -> Rows:
        """Room for rows as they are stored."""
        dataset = self.dataset
        x = np.empty((n, dataset.n_features), dataset.dtype)
        y = None if dataset.target_dtype is None else np.empty((n, dataset.n_targets), dataset.target_dtype)
        return Rows(x, y, None if dataset.weight_dtype is None else np.empty((n, 1), dataset.weight_dtype))

    def _from_memory(self, rows: Rows, epoch: int, begin: int) -> Iterator[Slab]:
        """Slabs of rows that lie in memory: where they lie, if the consumer takes them so, else gathered."""
        from fastsgd.kernels.rows import fill_order, gather
        from fastsgd.kernels.sharing import share

        n, key = len(rows.x), drain_key(self.seed, epoch)
        self.require_some(n)
        whole = _where_they_lie(rows, self.dtype) if self._in_place(rows) else None
        # Of rows that stay where they lie only the order is stored, in 8 bytes each.
        step = self.slab_rows(self.plan.slab_rows if whole is None else self.plan.slab_bytes // 8)
        order = np.empty(step if self.shuffle else 0, np.int64)
        slab = self.empty_slab(step) if whole is None else None
        for start in range(begin, n, step):
            count = min(step, n - start)
            workers = self.workers(count)
            if self.shuffle:
                share(fill_order, workers, workers, key, n, start, order[:count])
            if slab is None:
                assert whole is not None
                yield replace(whole, order=order[:count]) if self.shuffle else whole.rows(start, start + count)
                continue
            filled = slab.first(count)
            for source, out in zip(rows, (filled.x, filled.y, filled.weight.reshape(-1, 1)), strict=True):
                if source is None:
                    continue
                if self.shuffle:
                    share(gather, workers, workers, source, order[:count], out)
                else:
                    np.copyto(out, source[start : start + count], casting="unsafe")
            yield filled

    def _in_place(self, rows: Rows) -> bool:
        """Whether the consumer can take the rows where they lie: targets and weights are copied if they must be."""
        return self._takes_order and rows.x.dtype == self.dtype and rows.x.flags.carray

    def threads(self) -> int:
        """Threads that move rows, at most."""
        from fastsgd.kernels.threads import available_threads

        return available_threads(self._threads)

    def workers(self, rows: int) -> int:
        """Threads that move so many rows: one for each that its start is worth."""
        return max(1, min(self.threads(), rows // _ROWS_A_THREAD))
