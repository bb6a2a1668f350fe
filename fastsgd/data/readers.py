"""Rows of one open HDF5 file: read past HDF5, several chunks at a time, where its layout allows; else through h5py."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.chunks import Layout, NotDirectError, Piece, find_layout
from fastsgd.data.codecs import undo, unshuffled
from fastsgd.data.compressors import DamagedChunkError
from fastsgd.data.conventions import is_transposed
from fastsgd.data.schema import READ_ERRORS, opened

JOB_BYTES = 256 * 1024  # decoded by a job at least: less is little beside handing it to a thread
_SAMPLE_BYTES = 1 << 20
_SPARE_BYTES = 1 << 16  # by which a chunk may be larger filtered than twice its own size
_KEPT_BYTES = 1 << 22  # of scratch memory of a thread
_NICENESS = 10
_PAGE_CACHE_RATE = 2e9  # bytes a second at least; disks are slower

Outs = Mapping[str, NDArray[Any]]


class Work(NamedTuple):
    """What is left to do until rows are read: by other threads, and by the one that waits for the rows.

    To hand a job over costs more than to read values that need no decoding.
    """

    decoding: list[Callable[[], None]]
    reading: list[Callable[[], None]]


def yield_to_others() -> None:
    """Lower the priority of this thread, where a thread has one of its own.

    Threads that read have slabs to spare, while those that compute wait for each other at the end of each region: on
    two cores a streamed epoch of the seed network took 1.4 times the epoch in memory without this, and 1.1 times with
    it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class Placement(NamedTuple):
    """Where a dataset's values, or one field of them, go: columns `at` to `at` + `width` of a part of the rows."""

    field: str | None
    part: str
    at: int
    width: int


class Source(Protocol):
    """A dataset of an open file."""

    def read(self, first: int, last: int, outs: Outs, work: Work) -> None:
        """Bring rows first to last of the dataset into `outs`, at once or by what is added to `work`."""


def _place(values: NDArray[Any], placements: Sequence[Placement], left: int, outs: Outs, row: int) -> None:
    """Values (rows, columns), of the dataset's columns from `left` on, into the rows from `row` on.

    NumPy converts: HDF5 does it at a third to a tenth of that speed.
    """
    for field, part, at, width in placements:
        out = outs[part][row : row + len(values)]
        if field is None:
            out[:, at + left : at + left + values.shape[1]] = values
        else:
            out[:, at : at + width] = values[field].reshape(len(values), width)


class _ThroughHDF5:
    """Reads in the thread that asks: HDF5 does one thing at a time."""

    def __init__(self, dataset: Any, placements: Sequence[Placement]) -> None:
        self._placements = placements
        self._transposed = is_transposed(dataset)
        fields = list(dict.fromkeys(placement.field for placement in placements))
        self._dataset = dataset if fields == [None] else dataset.fields(fields)

    def read(self, first: int, last: int, outs: Outs, work: Work) -> None:
        values = self._dataset[:, first:last].T if self._transposed else self._dataset[first:last]
        if values.ndim == 1:
            values = values.reshape(-1, 1)
        _place(values, self._placements, 0, outs, 0)


_THREADS_OWN = threading.local()


def _scratch(size: int) -> NDArray[np.uint8]:
    """Memory of this thread, until the next call; much of it is not kept."""
    if size > _KEPT_BYTES:
        return np.empty(size, np.uint8)
    memory: NDArray[np.uint8] | None = getattr(_THREADS_OWN, "memory", None)
    if memory is None or memory.size < size:
        memory = _THREADS_OWN.memory = np.empty(size, np.uint8)
    return memory[:size]


class Direct:
    """Reads at the places that a layout names, decoding as the filters say."""

    def __init__(self, descriptor: int, layout: Layout, placements: Sequence[Placement]) -> None:
        self._descriptor = descriptor
        self._layout = layout
        self._placements = placements
        stored = layout.stored
        self._slow = False  # whether what was read last came from no memory: to ask ahead costs a fifth of reading that
        self._swapped = stored.names is None and not stored.isnative
        self._native = stored.newbyteorder("=") if stored.names is None else stored

    def read(self, first: int, last: int, outs: Outs, work: Work) -> None:
        pieces = list(self._layout.pieces(first, last))
        if self._slow:
            for piece in pieces:
                self._expect(piece)
        if not self._layout.filters:
            work.reading.append(partial(self._read_pieces, pieces, first, outs))
            return
        size = self._layout.chunk[0] * self._layout.chunk[1] * self._layout.stored.itemsize
        step = -(-JOB_BYTES // size)
        for at in range(0, len(pieces), step):
            work.decoding.append(partial(self._read_pieces, pieces[at : at + step], first, outs))

    def _expect(self, piece: Piece) -> None:
        """Let the system read a piece ahead."""
        if piece.offset is not None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, piece.offset, piece.size, os.POSIX_FADV_WILLNEED)

    def _read_pieces(self, pieces: Sequence[Piece], first: int, outs: Outs) -> None:
        for piece in pieces:
            self._read_piece(piece, piece.first - first, outs)

    def _read_piece(self, piece: Piece, row: int, outs: Outs) -> None:
        layout = self._layout
        if piece.offset is None:
            values = np.broadcast_to(layout.fill, (piece.height, piece.width))
            _place(values, self._placements, piece.left, outs, row)
            return
        target = self._target(piece, row, outs)
        size = piece.rows * piece.columns * layout.stored.itemsize
        if target is not None and not layout.filters and not self._swapped:
            self._fill(target.view(np.uint8), piece.offset)
            return
        if piece.size > 2 * size + _SPARE_BYTES:
            raise DamagedChunkError(f"a chunk of {size} bytes takes {piece.size} in the file")
        raw = _scratch(piece.size)
        self._fill(raw, piece.offset)
        data, element = undo(layout.filters, piece.mask, raw, size)
        whole = element == layout.stored.itemsize and layout.stored.names is None
        if whole and target is not None:
            unshuffled(data, element, target, swapped=self._swapped)
            return
        if element:
            data = unshuffled(data, element, swapped=whole and self._swapped)
        values = data.view(self._native if whole else layout.stored).reshape(piece.rows, piece.columns)
        values = values[piece.skip : piece.skip + piece.height, : piece.width]
        _place(values, self._placements, piece.left, outs, row)

    def _target(self, piece: Piece, row: int, outs: Outs) -> NDArray[Any] | None:
        """The place of a piece's values in the rows, flat, where they can be decoded straight into it."""
        if len(self._placements) > 1 or piece.height < piece.rows:
            return None
        field, part, _, _ = self._placements[0]
        out = outs[part][row : row + piece.height]
        if field is not None or out.dtype != self._native or out.shape[1] != piece.columns:
            return None
        return out.reshape(-1)

    def _fill(self, out: NDArray[np.uint8], offset: int) -> None:
        """Bytes of the file from `offset` on."""
        view = out.data
        begin = time.perf_counter()
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise OSError("the file was cut short while it was read")
            view, offset = view[count:], offset + count
        self._slow = len(out) < _PAGE_CACHE_RATE * (time.perf_counter() - begin)


class Fingerprint(NamedTuple):
    """What changes where a file is written to, or another takes its place."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, file: str | int) -> Fingerprint:
        found = os.stat(file)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    @classmethod
    def of_any(cls, path: str) -> Fingerprint | None:
        """Of a file that may be there no longer."""
        try:
            return cls.of(path)
        except OSError:
            return None


class OpenFile:
    """A file, open until it is closed, and its datasets.

    Parameters
    ----------
    path : str
    cache_bytes : int
        Of HDF5's chunk cache for each dataset.
    placements : mapping of str to list of Placement
        What is read, by the datasets' names.
    layouts : dict of str to Layout or str
        Of the datasets as found when the file was opened before; why HDF5 reads, where it does. Filled where empty.
    """

    def __init__(
        self,
        path: str,
        cache_bytes: int,
        placements: Mapping[str, Sequence[Placement]],
        layouts: dict[str, Layout | str],
    ) -> None:
        self._stack = ExitStack()
        self.path = path
        self.file = self._stack.enter_context(opened(path, rdcc_nbytes=cache_bytes))
        self.descriptor = self.file.id.get_vfd_handle()
        self._placements = placements
        self._layouts = layouts
        self._sources: dict[str, Source] = {}
        self._jobs: set[Future[None]] = set()

    def sources(self) -> Iterator[Source]:
        """All that is read."""
        for name, placements in self._placements.items():
            if name not in self._sources:
                self._sources[name] = self._source(name, placements)
            yield self._sources[name]

    def _source(self, name: str, placements: Sequence[Placement]) -> Source:
        dataset = self.file[name]
        if name not in self._layouts:
            self._layouts[name] = checked_layout(dataset, self.descriptor, self.path)
        layout = self._layouts[name]
        if isinstance(layout, str):
            return _ThroughHDF5(dataset, placements)
        return Direct(self.descriptor, layout, placements)

    def started(self, job: Future[None]) -> Future[None]:
        """Let the file stay open until a job has ended."""
        self._jobs = {other for other in self._jobs if not other.done()} | {job}
        return job

    def close(self) -> None:
        # One that was cancelled with its pool counts as unfinished to `wait`.
        wait([job for job in self._jobs if not job.cancelled()])
        self._sources.clear()
        self._stack.close()


def checked_layout(dataset: Any, descriptor: int, path: str) -> Layout | str:
    """The layout of a dataset, if it can be read past HDF5 and samples of it are the same bits both ways; else why
    not.

    Raises DamagedChunkError or OSError where the file is damaged. HDF5 is asked after that: it gives fill values or
    what lies in memory where chunks are missing or short, and crashes where one is shorter than its checksum.
    """
    if is_transposed(dataset):
        return "MATLAB stored its rows as columns"
    try:
        layout = find_layout(dataset, os.fstat(descriptor).st_size)
    except NotDirectError as error:
        return str(error)
    name, dtype = "sample", layout.stored.newbyteorder("=") if layout.stored.names is None else layout.stored
    direct = Direct(descriptor, layout, [Placement(None, name, 0, layout.columns)])
    for first, last in layout.samples(_SAMPLE_BYTES):
        out = np.empty((last - first, layout.columns), dtype)
        work = Work([], [])
        direct.read(first, last, {name: out}, work)
        for job in work.decoding + work.reading:
            job()
        try:
            wanted = dataset[first:last].reshape(out.shape)
        except READ_ERRORS as error:
            return f"HDF5 cannot read it ({error})"  # which is said again when these rows are asked for
        if not _same_bits(out, wanted):
            warnings.warn(
                f"{path}: dataset {dataset.name!r} is read through HDF5, which is slower: past it, rows {first} to "
                f"{last - 1} had other values",
                stacklevel=2,
            )
            return "past HDF5 it had other values"
    return layout


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype.names is not None:
        return all(_same_bits(one[name], other[name]) for name in one.dtype.names)
    return bool(one.astype(other.dtype, copy=False).tobytes() == other.tobytes())
