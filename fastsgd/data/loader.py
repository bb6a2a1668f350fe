"""Rows from a dataset to the trainer: slabs of whole batches, shuffled, in a planned amount of memory.

Data that fit are loaded once and drawn through a random permutation. Larger data pass through the swap window on a
thread of their own, which reads, checks and exchanges while the consumer computes. That thread runs no parallel kernel,
hands every error to the consumer, and ends with the iterator.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastsgd.data.dataset import Block, Dataset, Reader, Rows
from fastsgd.data.order import block_order, drain_key, exchange_key
from fastsgd.data.plan import MemoryPlan, parse_memory, plan_memory
from fastsgd.errors import DataError


@dataclass
class Slab:
    """Whole batches of rows: x (rows, n_features), y (rows, n_targets), weight (rows,) or (0,).

    The arrays are used again for a later slab: copy what must outlive the next step of the iteration.
    """

    x: NDArray[np.floating]
    y: NDArray[np.floating]
    weight: NDArray[np.floating]

    def first(self, rows: int) -> Slab:
        """The first `rows` rows."""
        return Slab(self.x[:rows], self.y[:rows], self.weight[:rows])


# Called with the targets of a block; returns the position of the first bad one and what is wrong with it, or None.
TargetCheck = Callable[[NDArray[np.generic]], "tuple[int, str] | None"]


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
        Rows of a slab at most.

    Attributes
    ----------
    plan : MemoryPlan
    waited : float
        Seconds that the consumer waited for rows.
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
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise DataError(f"batch_size is {batch_size!r}; it is a whole number from 1 on")
        self.dataset = dataset
        self.dtype = np.dtype(dtype)
        self.seed = seed
        self.shuffle = shuffle
        self.waited = 0.0
        self._check_target = check_target
        self._blocks = dataset.blocks()
        self._arrays = _arrays_of(dataset)
        columns = dataset.n_features + dataset.n_targets + (dataset.weight_dtype is not None)
        self.plan: MemoryPlan = plan_memory(
            n_rows=dataset.n_rows,
            row_bytes=dataset.row_bytes,
            slab_row_bytes=columns * self.dtype.itemsize,
            block_rows=max(block.n_rows for block in self._blocks),
            batch_size=int(batch_size),
            budget=parse_memory(memory),
            shuffle=shuffle,
            in_memory=self._arrays is not None,
            slab_limit=slab_limit,
        )

    def epoch(self, epoch: int = 0) -> Iterator[Slab]:
        """The slabs of one epoch; every row of the dataset comes once."""
        if self.plan.whole:
            if self._arrays is None:
                self._arrays = self._load()
            elif self._check_arrays:
                self._check(self._arrays, Block(self.dataset._spans))
            self._check_arrays = False
            return self._from_memory(self._arrays, epoch)
        return self._from_stream(epoch)

    _check_arrays = True

    def _empty_slab(self) -> Slab:
        rows = self.plan.slab_rows
        x = np.empty((rows, self.dataset.n_features), self.dtype)
        y = np.empty((rows, self.dataset.n_targets), self.dtype)
        return Slab(x, y, np.empty(rows if self.dataset.weight_dtype is not None else 0, self.dtype))

    def _check(self, rows: Rows, block: Block) -> None:
        """Raise DataError for the first value that cannot be trained on, named by file, dataset, row and column."""
        from fastsgd.kernels.rows import first_nonfinite

        for name, part in rows._asdict().items():
            if part is None or part.dtype.kind != "f":
                continue
            position = first_nonfinite(part.reshape(-1))
            if position >= 0:
                row, column = divmod(int(position), part.shape[1])
                value = part[row, column]
                where = self.dataset.locate(name, _source_row(block, row), column)
                raise DataError(f"{where} is {value}; every value must be a finite number")
        if self._check_target is not None and rows.y is not None:
            wrong = self._check_target(rows.y)
            if wrong is not None:
                raise DataError(f"{self.dataset.locate('y', _source_row(block, wrong[0]), 0)}: {wrong[1]}")

    def _read(self, reader: Reader, block: Block) -> Rows:
        rows = read_block(reader, block)
        self._check(rows, block)
        return rows

    def _load(self) -> Rows:
        """All rows, in storage order and dtype."""
        n, dataset = self.dataset.n_rows, self.dataset
        x = np.empty((n, dataset.n_features), dataset.dtype)
        y = None if dataset.target_dtype is None else np.empty((n, dataset.n_targets), dataset.target_dtype)
        weight = None if dataset.weight_dtype is None else np.empty((n, 1), dataset.weight_dtype)
        whole = Rows(x, y, weight)
        at = 0
        with dataset.open() as reader:
            for block in self._blocks:
                for out, part in zip(whole, self._read(reader, block), strict=True):
                    if out is not None and part is not None:
                        out[at : at + block.n_rows] = part
                at += block.n_rows
        return whole

    def _from_memory(self, rows: Rows, epoch: int) -> Iterator[Slab]:
        from fastsgd.kernels.rows import gather, gather_serial
        from fastsgd.kernels.threads import available_threads, parallel_region

        threads = available_threads(None)
        key = drain_key(self.seed, epoch)
        slab = self._empty_slab()
        for start in range(0, self.dataset.n_rows, self.plan.slab_rows):
            part = slab.first(min(self.plan.slab_rows, self.dataset.n_rows - start))
            for source, out in zip(rows, (part.x, part.y, part.weight.reshape(-1, 1)), strict=True):
                if source is None:
                    continue
                if not self.shuffle:
                    np.copyto(out, source[start : start + len(out)], casting="unsafe")
                elif threads > 1 and out.nbytes > 1 << 16:
                    with parallel_region(threads):
                        gather(source, key, start, out)
                else:
                    gather_serial(source, key, start, out)
            yield part

    def _from_stream(self, epoch: int) -> Iterator[Slab]:
        stream = _Stream(self, epoch)
        try:
            while True:
                asked = time.perf_counter()
                slab = stream.next()
                self.waited += time.perf_counter() - asked
                if slab is None:
                    return
                yield slab
                stream.give_back()
        finally:
            stream.close()


class _Stream:
    """One epoch through the swap window, filled by a thread."""

    def __init__(self, loader: Loader, epoch: int) -> None:
        self._free: queue.SimpleQueue[Slab | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Slab | BaseException | None] = queue.SimpleQueue()
        for _ in range(loader.plan.slabs):
            self._free.put(loader._empty_slab())
        self._current: Slab | None = None
        filler = _Filler(loader, epoch, self._free, self._ready)
        thread = threading.Thread(target=filler.run, name="fastsgd-loader", daemon=True)
        # Also at the end of the interpreter: a thread that still read then would crash it.
        self.close = weakref.finalize(self, _end, self._free, filler.stop, thread)
        thread.start()

    def next(self) -> Slab | None:
        """The next slab, or None after the last; raises what the thread raised."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        self._current = item
        return item

    def give_back(self) -> None:
        """Let the slab be filled again."""
        if self._current is not None:
            self._free.put(self._current)


def _end(free: queue.SimpleQueue[Slab | None], stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    free.put(None)
    thread.join()


class _Filler:
    """The thread's side of a stream. Holds no reference to the stream, whose end it must not delay."""

    def __init__(
        self,
        loader: Loader,
        epoch: int,
        free: queue.SimpleQueue[Slab | None],
        ready: queue.SimpleQueue[Slab | BaseException | None],
    ) -> None:
        self.stop = threading.Event()
        self._loader = loader
        self._epoch = epoch
        self._free = free
        self._ready = ready
        self._slab: Slab | None = None
        self._filled = 0

    def run(self) -> None:
        """Fill slabs until the rows or the consumer end."""
        try:
            self._fill_all()
            self._ready.put(None)
        except _StoppedError:
            pass
        except BaseException as error:
            self._ready.put(error)

    def _fill_all(self) -> None:
        loader = self._loader
        with loader.dataset.open() as reader:
            if not loader.shuffle:
                for block in loader._blocks:
                    self._emit(loader._read(reader, block), _copy_rows)
            else:
                self._through_window(reader)
        self._hand_over()

    def _through_window(self, reader: Reader) -> None:
        from fastsgd.kernels.rows import exchange, gather_serial

        loader, epoch = self._loader, self._epoch
        dataset, slots = loader.dataset, loader.plan.window_rows
        widths = (dataset.n_features, dataset.n_targets, 1)
        dtypes = (dataset.dtype, dataset.target_dtype, dataset.weight_dtype)
        window = [None if t is None else np.empty((slots, w), t) for w, t in zip(widths, dtypes, strict=True)]
        key = exchange_key(loader.seed, epoch)
        held, position = 0, 0
        for index in block_order(len(loader._blocks), loader.seed, epoch):
            rows = loader._read(reader, loader._blocks[index])
            entering = min(slots - held, len(rows.x))
            for slot, part in zip(window, rows, strict=True):
                if slot is not None and part is not None:
                    slot[held : held + entering] = part[:entering]
            held += entering
            rest = Rows(*(None if part is None else part[entering:] for part in rows))  # type: ignore[arg-type]
            start = position

            def swap(
                part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating], start: int = start
            ) -> None:
                exchange(window[part], rows, out, key, start + at)

            self._emit(rest, swap)
            position += len(rest.x)
        key = drain_key(loader.seed, epoch)
        emptied = Rows(*window)  # type: ignore[arg-type]

        def drain(part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating]) -> None:
            gather_serial(window[part], key, at, out)

        self._emit(emptied, drain)

    def _emit(self, rows: Rows, move: Callable[[int, NDArray[np.generic], int, NDArray[np.floating]], None]) -> None:
        """Append rows to the slabs: `move(part, its rows, position of the first, out)` brings each stretch over."""
        at, n = 0, len(rows.x)
        while at < n:
            if self.stop.is_set():
                raise _StoppedError
            if self._slab is None:
                self._slab = self._free.get()
                if self._slab is None:
                    raise _StoppedError
                self._filled = 0
            slab = self._slab
            count = min(n - at, len(slab.x) - self._filled)
            span = slice(self._filled, self._filled + count)
            outs = (slab.x[span], slab.y[span], slab.weight[span].reshape(-1, 1))
            for part, (source, out) in enumerate(zip(rows, outs, strict=True)):
                if source is not None:
                    move(part, source[at : at + count], at, out)
            at += count
            self._filled += count
            if self._filled == len(slab.x):
                self._hand_over()

    def _hand_over(self) -> None:
        if self._slab is not None:
            self._ready.put(self._slab if self._filled == len(self._slab.x) else self._slab.first(self._filled))
            self._slab = None


class _StoppedError(Exception):
    """The consumer has ended the epoch."""


def _copy_rows(part: int, rows: NDArray[np.generic], at: int, out: NDArray[np.floating]) -> None:
    np.copyto(out, rows, casting="unsafe")


def _arrays_of(dataset: Dataset) -> Rows | None:
    """The rows of a dataset that lies in memory."""
    from fastsgd.data.arrays import ArrayDataset

    return Rows(dataset.x, dataset.y, dataset.weight) if isinstance(dataset, ArrayDataset) else None


def _source_row(block: Block, row: int) -> int:
    """The source row that is row `row` of a block."""
    lengths = block.spans[:, 1] - block.spans[:, 0]
    ends = np.cumsum(lengths)
    span = int(np.searchsorted(ends, row, side="right"))
    return int(block.spans[span, 0] + row - (ends[span] - lengths[span]))


def read_block(reader: Reader, block: Block) -> Rows:
    """The rows of a block; one read from its first to its last row, of which those between its spans are dropped."""
    first = int(block.spans[0, 0])
    rows = reader.read(first, int(block.spans[-1, 1]))
    if len(block.spans) == 1:
        return rows
    keep = np.concatenate([np.arange(start, stop) for start, stop in (block.spans - first).tolist()])
    return Rows(*(None if part is None else part[keep] for part in rows))  # type: ignore[arg-type]


def read_rows(dataset: Dataset, numbers: NDArray[np.int64]) -> Rows:
    """Some source rows, in the order given."""
    order = np.argsort(numbers, kind="stable")
    wanted = numbers[order]
    runs = np.flatnonzero(np.concatenate([[True], np.diff(wanted) > 1, [True]]))
    files = dataset._files()
    found: list[Rows] = []
    with dataset.open() as reader:
        for begin, end in itertools.pairwise(runs.tolist()):
            start, stop = int(wanted[begin]), int(wanted[end - 1]) + 1
            cuts = [start, *(int(cut) for cut in files if start < cut < stop), stop]
            for first, last in itertools.pairwise(cuts):
                rows = reader.read(first, last)
                keep = wanted[begin:end]
                keep = keep[(keep >= first) & (keep < last)] - first
                found.append(Rows(*(None if part is None else part[keep] for part in rows)))  # type: ignore[arg-type]
    back = np.argsort(order, kind="stable")
    parts = [None if part[0] is None else np.concatenate(part)[back] for part in zip(*found, strict=True)]
    return Rows(*parts)  # type: ignore[arg-type]
