"""One open HDF5 file, and whether it is still the one that it was."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.chunks import Layout, NotDirectError, filters_of, find_bytes, find_layout
from fastsgd.data.compressors import is_of_plugin
from fastsgd.data.conventions import is_transposed
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.data.spent import Spent
from fastsgd.data.transfer import Direct, Outs, Placement, Source, ThroughHDF5, Work

_SAMPLE_BYTES = 1 << 20


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
    spent : Spent
        Told how long reading and decoding take.
    """

    def __init__(
        self,
        path: str,
        cache_bytes: int,
        placements: Mapping[str, Sequence[Placement]],
        layouts: dict[str, Layout | str],
        spent: Spent,
    ) -> None:
        self._stack = ExitStack()
        self.path = path
        self.file = self._stack.enter_context(opened(path, rdcc_nbytes=cache_bytes))
        self.descriptor = self.file.id.get_vfd_handle()
        self._placements = placements
        self._layouts = layouts
        self._spent = spent
        self._sources: dict[str, Source] = {}

    def sources(self) -> Iterator[Source]:
        """All that is read."""
        for name, placements in self._placements.items():
            if name not in self._sources:
                self._sources[name] = self._source(name, placements)
            yield self._sources[name]

    def straight(self, outs: Outs) -> dict[str, Direct]:
        """What reads each part of some rows, if all of them lie in the file as they will in memory; else nothing."""
        found = dict[str, Direct]()
        for source in self.sources():
            if not isinstance(source, Direct) or (part := source.straight_part(outs)) is None:
                return {}
            found[part] = source
        return found

    def _source(self, name: str, placements: Sequence[Placement]) -> Source:
        dataset = self.file[name]
        if name not in self._layouts:
            self._layouts[name] = checked_layout(dataset, self.descriptor, self.path)
        layout = self._layouts[name]
        if isinstance(layout, str):
            return ThroughHDF5(dataset, placements, self._spent, self._guard(dataset))
        return Direct(self.descriptor, layout, placements, self._spent)

    def _guard(self, dataset: Any) -> Direct | None:
        """What undoes the chunks of a dataset before a plugin of HDF5 does, where there is one to do so."""
        if not any(is_of_plugin(one.number) for one in filters_of(dataset)):
            return None
        descriptor = dataset.file.id.get_vfd_handle()  # of another file, where a link leads into one
        try:
            layout = find_bytes(dataset, os.fstat(descriptor).st_size)
        except NotDirectError:
            return None
        return Direct(descriptor, layout, [], self._spent)

    def close(self) -> None:
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
    if dataset.file.id.get_vfd_handle() != descriptor:
        return "it lies in another file, which a link leads into"
    try:
        layout = find_layout(dataset, os.fstat(descriptor).st_size)
    except NotDirectError as error:
        return str(error)
    name, dtype = "sample", layout.stored.newbyteorder("=") if layout.stored.names is None else layout.stored
    direct = Direct(descriptor, layout, [Placement(None, name, 0, layout.columns)], Spent())
    for first, last in layout.samples(_SAMPLE_BYTES):
        out = np.empty((last - first, layout.columns), dtype)
        work = Work({name: out}, [], [], [])
        direct.read(first, last, work)
        for job in work.jobs():
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
