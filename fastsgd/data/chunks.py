"""Where the values of an HDF5 dataset lie in its file: what reading them without HDF5 takes to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.codecs import Filter, why_not_undoable
from fastsgd.data.compressors import DamagedChunkError

PIECE_BYTES = 1 << 20  # that are read at a time of what has no filters
# More chunks than this need as many bytes of the file each, or their list might be larger than what it lists.
_MANY_CHUNKS, _LEAST_CHUNK_BYTES = 1 << 20, 64
# Chunks that are looked up at most, and how many of their bytes: some at least, of more a share, and at most.
_LOOKED_UP, _LEAST_BYTES, _SHARE, _MOST_BYTES = 1 << 12, 1 << 20, 64, 1 << 25


class NotDirectError(Exception):
    """A dataset that only HDF5 itself can read; says why."""


class Piece(NamedTuple):
    """Values of a dataset that lie together: rows `first` on and columns `left` on, (height, width) of them.

    `offset` is None where nothing was ever written, and HDF5 gives the fill value. `size` bytes, filtered, are of
    `rows` rows, of which `skip` come before `first`; `columns` are those stored of each row.
    """

    first: int
    height: int
    left: int
    width: int
    offset: int | None
    size: int
    mask: int
    skip: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Layout:
    """The place of every value of a dataset of one axis or two.

    Attributes
    ----------
    rows, columns : int
    stored : numpy.dtype
        Of the values in the file.
    chunk : (int, int)
        Rows and columns of a chunk; a dataset that is not chunked is one chunk.
    filters : tuple of Filter
    offsets, sizes, masks : array (chunks down, chunks across)
        Of the chunks; offset -1 where there is none.
    fill : array (1,)
        What stands where nothing was written.
    """

    rows: int
    columns: int
    stored: np.dtype[Any]
    chunk: tuple[int, int]
    filters: tuple[Filter, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    masks: NDArray[np.uint32]
    fill: NDArray[Any]

    def pieces(self, first: int, last: int) -> Iterator[Piece]:
        """Where rows first to last lie."""
        height, width = self.chunk
        for down in range(first // height, (last - 1) // height + 1):
            top = down * height
            start, stop = max(first, top), min(last, top + height)
            for across in range(self.offsets.shape[1]):
                left = across * width
                at = int(self.offsets[down, across])
                piece = Piece(
                    start, stop - start, left, min(width, self.columns - left), None if at < 0 else at,
                    int(self.sizes[down, across]), int(self.masks[down, across]), start - top, height, width,
                )  # fmt: skip
                if piece.offset is None or self.filters:
                    yield piece
                else:
                    yield from self._parts(piece, piece.offset)

    def _parts(self, piece: Piece, offset: int) -> Iterator[Piece]:
        """The rows that are wanted of a chunk without filters: they lie one after the other, so no others are read."""
        row_bytes = piece.columns * self.stored.itemsize
        step = max(1, PIECE_BYTES // row_bytes)
        for at in range(0, piece.height, step):
            count = min(step, piece.height - at)
            yield piece._replace(
                first=piece.first + at,
                height=count,
                offset=offset + (piece.skip + at) * row_bytes,
                size=count * row_bytes,
                skip=0,
                rows=count,
            )

    def samples(self, most: int) -> list[tuple[int, int]]:
        """Rows, (first, last) of each, of at most so many bytes (but a row), that stand for all: the last of the first
        chunks, of those in the middle and of the last, so that all kinds of edges are among them."""
        height, n_chunks = self.chunk[0], -(-self.rows // self.chunk[0])
        few = max(1, most // (self.columns * self.stored.itemsize))
        ends = [min(self.rows, (number + 1) * height) for number in sorted({0, n_chunks // 2, n_chunks - 1})]
        return [(max(end - few, (end - 1) // height * height), end) for end in ends]


def find_layout(dataset: Any, file_size: int) -> Layout:
    """The layout of an h5py dataset.

    Raises
    ------
    NotDirectError
        If it has a feature that only HDF5 reads.
    DamagedChunkError
        If HDF5 does not find chunks that are there, or lists some that cannot be.
    """
    import h5py

    stored = dataset.dtype
    try:
        alike = not stored.hasobject and h5py.h5t.py_create(stored).equal(dataset.id.get_type())
    except TypeError:
        alike = False
    if not alike:
        raise NotDirectError(f"its type in the file is not that of NumPy's {stored}")
    layout = _layout(dataset, stored, file_size)
    return replace(layout, fill=_fill_value(dataset, layout.chunk, layout.offsets))


def find_bytes(dataset: Any, file_size: int) -> Layout:
    """The layout of an h5py dataset of any type, its values taken for bytes: what undoing its filters takes to know.

    Raises as `find_layout`, and for no type.
    """
    return _layout(dataset, np.dtype(f"V{dataset.id.get_type().get_size()}"), file_size)


def filters_of(dataset: Any) -> tuple[Filter, ...]:
    """The filters of an h5py dataset, in the order in which chunks pass them when they are written."""
    plist = dataset.id.get_create_plist()
    given = map(plist.get_filter, range(plist.get_nfilters()))
    return tuple(Filter(number, tuple(values)) for number, _, values, _ in given)


def _layout(dataset: Any, stored: np.dtype[Any], file_size: int) -> Layout:
    """`find_layout` for values of a type that is given, with zeros where nothing was written."""
    import h5py

    plist = dataset.id.get_create_plist()
    rows, columns = dataset.shape[0], dataset.shape[1] if len(dataset.shape) == 2 else 1
    kind = plist.get_layout()
    chunk = (rows, columns)
    filters: tuple[Filter, ...] = ()
    if kind == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None or plist.get_external_count():
            raise NotDirectError("its values lie in no one place of the file")
        size = rows * columns * stored.itemsize
        if offset + size > file_size:
            raise NotDirectError("its values reach beyond the end of the file")
        tables = (np.full((1, 1), offset), np.full((1, 1), size), np.zeros((1, 1), np.uint32))
    elif kind == h5py.h5d.CHUNKED:
        filters = filters_of(dataset)
        unknown = why_not_undoable(filters)
        if unknown is not None:
            raise NotDirectError(unknown)
        chunk = (dataset.chunks[0], dataset.chunks[1] if len(dataset.chunks) == 2 else 1)
        tables = _chunk_tables(dataset, chunk, file_size)
    else:
        raise NotDirectError("it is neither chunked nor contiguous")
    return Layout(rows, columns, stored, chunk, filters, *tables, np.zeros(1, stored))


def _fill_value(dataset: Any, chunk: tuple[int, int], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """What HDF5 gives where there is no chunk. Read from such a place: to ask for the value crashes HDF5 2.0 where a
    damaged file contradicts itself about it, while to read is an error."""
    fill = np.zeros(1, dataset.dtype)
    holes = np.argwhere(offsets < 0)
    if len(holes):
        place = tuple(int(number * size) for number, size in zip(holes[0], chunk, strict=True))
        try:
            fill[0] = dataset[place[: len(dataset.shape)]]
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise NotDirectError(f"its fill value cannot be read ({error})") from error
    return fill


def _chunk_tables(
    dataset: Any, chunk: tuple[int, int], file_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]:
    """Offsets, sizes and filter masks of all chunks, in one pass: to ask for one by one takes time that grows with the
    square of their number."""
    shape = dataset.shape if len(dataset.shape) == 2 else (dataset.shape[0], 1)
    grid = (-(-shape[0] // chunk[0]), -(-shape[1] // chunk[1]))
    if not hasattr(dataset.id, "chunk_iter"):
        raise NotDirectError("this HDF5 cannot list chunks in one pass; 1.12.3 can")
    if grid[0] * grid[1] > max(_MANY_CHUNKS, file_size // _LEAST_CHUNK_BYTES):
        raise NotDirectError(f"its {grid[0] * grid[1]} chunks are more than the file can hold")
    offsets, sizes = np.full(grid, -1, np.int64), np.zeros(grid, np.int64)
    masks = np.zeros(grid, np.uint32)
    unfit: list[Any] = []

    def note(info: Any) -> None:
        down = info.chunk_offset[0] // chunk[0]
        across = info.chunk_offset[1] // chunk[1] if len(info.chunk_offset) == 2 else 0
        if info.byte_offset is None:
            return
        if down >= grid[0] or across >= grid[1] or info.byte_offset + info.size > file_size:
            unfit.append(info)
            return
        offsets[down, across], sizes[down, across], masks[down, across] = info.byte_offset, info.size, info.filter_mask

    try:
        dataset.id.chunk_iter(note)
    except (RuntimeError, OverflowError) as error:
        raise NotDirectError(f"its chunks cannot be listed ({error})") from error
    if unfit:
        raise DamagedChunkError(f"neither the file nor the dataset has room for a chunk that it lists, {unfit[0]}")
    _require_lookup(dataset, chunk, (offsets, sizes, masks))
    return offsets, sizes, masks


def _require_lookup(dataset: Any, chunk: tuple[int, int], tables: tuple[NDArray[Any], ...]) -> None:
    """Raise DamagedChunkError unless HDF5 finds chunks that it listed: where an index is damaged it need not, and gives
    the fill value. Of many or large chunks some are looked up."""
    offsets, sizes, masks = tables
    down, across = np.nonzero(offsets >= 0)
    total = int(sizes.sum())
    step = 1 + max(len(down) // _LOOKED_UP, total // min(max(_LEAST_BYTES, total // _SHARE), _MOST_BYTES))
    axes = len(dataset.shape)
    for place in zip(down[::step].tolist(), across[::step].tolist(), strict=True):
        origin = tuple(number * size for number, size in zip(place, chunk, strict=True))[:axes]
        try:
            mask, content = dataset.id.read_direct_chunk(origin)
            there = (mask, len(content)) == (int(masks[place]), int(sizes[place]))
        except (RuntimeError, OSError, ValueError, OverflowError):
            there = False
        if not there:
            raise DamagedChunkError(f"the index of chunks does not lead to the one at {origin}")
