"""Values of a dataset of an open file on their way into rows: past HDF5, several chunks at a time, where its layout
allows; else through h5py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.chunks import Layout, Piece
from fastsgd.data.codecs import undo, unshuffled
from fastsgd.data.compressors import DamagedChunkError
from fastsgd.data.conventions import is_transposed
from fastsgd.data.runs import FIRST, LAST, OUT, RUN_NUMBERS, Place, Run, address_of, is_slow
from fastsgd.data.scratch import scratch
from fastsgd.data.spent import Spent

JOB_BYTES = 256 * 1024  # decoded by a job at least: less is little beside handing it to a thread
_MOST_ASKED = 1000  # reads that are asked for ahead after many that were slow
_SPARE_BYTES = 1 << 16  # by which a chunk may be larger filtered than twice its own size

Outs = dict[str, NDArray[Any]]


class Work(NamedTuple):
    """What is left to do until rows are read: by other threads, and by the one that waits for the rows.

    To hand a job over costs more than to read values that need no decoding. `outs`, by part, may be filled in later,
    but before any of it is done.
    """

    outs: Outs
    decoding: list[Callable[[], None]]
    reading: list[Callable[[], None]]
    straight: list[Straight]

    def jobs(self) -> list[Callable[[], None]]:
        """All of it, to be done in any order and by any thread."""
        return [*self.decoding, *self.reading, *(partial(one.read, self.outs) for one in self.straight)]


class Straight(NamedTuple):
    """A run that compiled code may read into a part of the rows, and what reads the same otherwise."""

    run: Run
    part: str
    source: Direct

    def take(self, outs: Outs) -> bool:
        """Let the rows be those of the run; False where they are not as it lies in the file."""
        out = outs[self.part]
        if not self.source.lies_as(out):
            return False
        self.run.out = out
        return True

    def read(self, outs: Outs) -> None:
        """Read what did not come."""
        if self.run.came:
            self.settle()
        else:
            self.source.read_by_pieces(self.run.first, self.run.last, outs)

    def settle(self) -> None:
        """Note how it came."""
        self.source.came(slow=self.run.slow)


class Placement(NamedTuple):
    """Where a dataset's values, or one field of them, go: columns `at` to `at` + `width` of a part of the rows."""

    field: str | None
    part: str
    at: int
    width: int


class Source(Protocol):
    """A dataset of an open file."""

    def read(self, first: int, last: int, work: Work) -> None:
        """Add to the work what brings rows first to last of the dataset."""


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


class ThroughHDF5:
    """Reads in the thread that waits: HDF5 does one thing at a time.

    What `guard` cannot undo does not come before HDF5, some of whose plugins crash over damaged chunks.
    """

    def __init__(
        self, dataset: Any, placements: Sequence[Placement], spent: Spent, guard: Direct | None = None
    ) -> None:
        self._guard = guard
        self._placements = placements
        self._spent = spent
        self._transposed = is_transposed(dataset)
        self._rows_stored = dataset.shape[0]
        self._filtered = dataset.id.get_create_plist().get_nfilters() > 0
        fields = list(dict.fromkeys(placement.field for placement in placements))
        self._dataset = dataset if fields == [None] else dataset.fields(fields)

    def read(self, first: int, last: int, work: Work) -> None:
        work.reading.append(partial(self._read, first, last, work.outs))

    def _read(self, first: int, last: int, outs: Outs) -> None:
        begin = time.perf_counter()
        if self._guard is not None:
            # Rows of a matrix that lies turned are in all chunks.
            self._guard.require_sound(*((0, self._rows_stored) if self._transposed else (first, last)))
        values = self._dataset[:, first:last].T if self._transposed else self._dataset[first:last]
        taken = time.perf_counter() - begin
        self._spent.add(reading=0 if self._filtered else taken, decoding=taken if self._filtered else 0)
        if values.ndim == 1:
            values = values.reshape(-1, 1)
        _place(values, self._placements, 0, outs, 0)


class Direct:
    """Reads at the places that a layout names, decoding as the filters say."""

    def __init__(self, descriptor: int, layout: Layout, placements: Sequence[Placement], spent: Spent) -> None:
        self._descriptor = descriptor
        self._spent = spent
        self._layout = layout
        self._placements = placements
        stored = layout.stored
        self._asking = 0  # of how many reads more the system is told before
        self._swapped = stored.names is None and not stored.isnative
        self._native = stored.newbyteorder("=") if stored.names is None else stored
        whole_rows = len(placements) == 1 and placements[0].field is None and layout.chunk[1] == layout.columns
        as_stored = stored.names is None and not self._swapped and not layout.filters
        self._place: Place | None = None
        if whole_rows and as_stored and (layout.offsets >= 0).all():
            self._place = Place(
                descriptor, np.ascontiguousarray(layout.offsets[:, 0]), layout.chunk[0], layout.columns, stored
            )

    def read(self, first: int, last: int, work: Work) -> None:
        if self._asking:
            for piece in self._layout.pieces(first, last):
                self._expect(piece)
        if self._place is not None:
            work.straight.append(Straight(Run(self._place, first, last), self._placements[0].part, self))
            return
        pieces = list(self._layout.pieces(first, last))
        if not self._layout.filters:
            work.reading.append(partial(self._read_pieces, pieces, first, work.outs))
            return
        size = self._layout.chunk[0] * self._layout.chunk[1] * self._layout.stored.itemsize
        step = -(-JOB_BYTES // size)
        for at in range(0, len(pieces), step):
            work.decoding.append(partial(self._read_pieces, pieces[at : at + step], first, work.outs))

    def straight_part(self, outs: Outs) -> str | None:
        """The part of some rows whose values all lie here as they will in memory, if there is one."""
        if self._place is None or not self.lies_as(outs[self._placements[0].part]):
            return None
        return self._placements[0].part

    def tell(self, spans: NDArray[np.int64], out: NDArray[Any], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ranges (k, 2) of rows, and the first of the rows of `out` (k,) that each goes to, as compiled code takes
        them, with those rows' numbers at last (k, 9)."""
        assert self._place is not None
        if self._asking:
            for first, last in spans.tolist():
                for piece in self._layout.pieces(first, last):
                    self._expect(piece)
        table = np.empty((len(spans), RUN_NUMBERS + 1), np.int64)
        table[:, : len(self._place.numbers)] = self._place.numbers
        table[:, FIRST : LAST + 1] = spans
        table[:, OUT] = address_of(out) + places * out.strides[0]
        table[:, RUN_NUMBERS] = places
        return table

    @property
    def asks(self) -> bool:
        """Whether the system is told of the next reads before."""
        return self._asking > 0

    def came(self, *, slow: bool, reads: int = 1) -> None:
        """Note whether what was read came from no memory. Some of the next reads are then asked for ahead, the more the
        oftener that was: they may come fast for just that, while a single one may have waited for a core. To ask costs
        a fifth of a read from memory."""
        if not slow:
            self._asking = max(0, self._asking - reads)
            return
        while reads > 0 and self._asking < _MOST_ASKED:
            self._asking = min(_MOST_ASKED, 2 * self._asking + 8)
            reads -= 1

    def lies_as(self, out: NDArray[Any]) -> bool:
        """Whether rows in memory are as those in the file."""
        return out.dtype == self._native and out.shape[1] == self._layout.columns and out.flags.c_contiguous

    def read_by_pieces(self, first: int, last: int, outs: Outs) -> None:
        """Read rows first to last in Python, which says why where it cannot."""
        self._read_pieces(list(self._layout.pieces(first, last)), first, outs)

    def _expect(self, piece: Piece) -> None:
        """Let the system read a piece ahead."""
        if piece.offset is not None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, piece.offset, piece.size, os.POSIX_FADV_WILLNEED)

    def _read_pieces(self, pieces: Sequence[Piece], first: int, outs: Outs) -> None:
        begin = time.perf_counter()
        reading = sum(self._read_piece(piece, piece.first - first, outs) for piece in pieces)
        decoding = time.perf_counter() - begin - reading
        self._spent.add(shared=bool(self._layout.filters), reading=reading, decoding=decoding)

    def _read_piece(self, piece: Piece, row: int, outs: Outs) -> float:
        """Bring a piece into the rows from `row` on; returns the seconds that the system took to read it."""
        layout = self._layout
        if piece.offset is None:
            values = np.broadcast_to(layout.fill, (piece.height, piece.width))
            _place(values, self._placements, piece.left, outs, row)
            return 0.0
        target = self._target(piece, row, outs)
        if target is not None and not layout.filters and not self._swapped:
            return self._fill(target.view(np.uint8), piece.offset)
        data, element, reading = self._undone(piece, piece.offset, None if self._swapped else target)
        if target is not None and address_of(data) == address_of(target):
            return reading
        whole = element == layout.stored.itemsize and layout.stored.names is None
        if whole and target is not None:
            unshuffled(data, element, target, swapped=self._swapped)
            return reading
        if element:
            data = unshuffled(data, element, swapped=whole and self._swapped)
        values = data.view(self._native if whole else layout.stored).reshape(piece.rows, piece.columns)
        values = values[piece.skip : piece.skip + piece.height, : piece.width]
        _place(values, self._placements, piece.left, outs, row)
        return reading

    def _undone(
        self, piece: Piece, offset: int, target: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.uint8], int, float]:
        """A piece as it was before its filters, as `undo` gives it, in `target` where it may be, and the seconds that
        the system took to read it."""
        size = piece.rows * piece.columns * self._layout.stored.itemsize
        if piece.size > 2 * size + _SPARE_BYTES:
            raise DamagedChunkError(f"a chunk of {size} bytes takes {piece.size} in the file")
        raw = scratch("read", piece.size)
        reading = self._fill(raw, offset)
        out = None if target is None else target.view(np.uint8)
        return *undo(self._layout.filters, piece.mask, raw, size, out), reading

    def require_sound(self, first: int, last: int) -> None:
        """Raise DamagedChunkError unless the filters of all pieces of rows first to last can be undone."""
        for piece in self._layout.pieces(first, last):
            if piece.offset is not None:
                self._undone(piece, piece.offset)

    def _target(self, piece: Piece, row: int, outs: Outs) -> NDArray[Any] | None:
        """The place of a piece's values in the rows, flat, where they can be decoded straight into it."""
        if len(self._placements) > 1 or piece.height < piece.rows:
            return None
        field, part, _, _ = self._placements[0]
        out = outs[part][row : row + piece.height]
        if field is not None or out.dtype != self._native or out.shape[1] != piece.columns:
            return None
        return out.reshape(-1)

    def _fill(self, out: NDArray[np.uint8], offset: int) -> float:
        """Bytes of the file from `offset` on; returns the seconds that took."""
        view = out.data
        begin = time.perf_counter()
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise OSError("the file was cut short while it was read")
            view, offset = view[count:], offset + count
        seconds = time.perf_counter() - begin
        self.came(slow=is_slow(len(out), 1, seconds))
        return seconds
