"""The file that is written: whole or not at all, where there is room for it, with all that is not rows as it was."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastsgd.atomic import replacing
from fastsgd.data.plan import as_bytes
from fastsgd.data.rewriting.table import (
    DATASET,
    DATATYPE,
    GROUP,
    LINK,
    Entry,
    RawRows,
    Table,
    is_fixed,
    lies_elsewhere,
    shown,
)
from fastsgd.data.schema import READ_ERRORS
from fastsgd.data.walk import address
from fastsgd.errors import DataError

# Attributes of more than 64 KiB, and names in the order they were made, came with HDF5 1.8.
_VERSIONS = ("v108", "latest")
_COPY_BYTES = 1 << 20
_OVERHEAD_BYTES = 1 << 16  # that HDF5 itself takes of a small file


@contextmanager
def new_file(out: str, needed: int, *, like: Any = None, **options: Any) -> Iterator[Any]:
    """An HDF5 file to write, which takes the place of `out` when the block ends.

    Parameters
    ----------
    out : str
    needed : int
        Bytes that it will have; known before anything is written, or 0.
    like : h5py.File, optional
        Whose user block is copied, and whose root keeps the order of its names.
    **options
        For `h5py.File`.

    Raises
    ------
    OSError
        If it cannot be written; names `out`.
    """
    import h5py

    block = 0
    if like is not None:
        block = int(like.userblock_size)
        options |= {"track_order": _is_ordered(like["/"]), "userblock_size": block}
    with replacing(out) as temporary:
        _require_space(os.path.dirname(temporary), out, needed + block)
        with about(out), h5py.File(temporary, "w", libver=_VERSIONS, **options) as file:
            yield file
        if block:
            with about(out), open(like.filename, "rb") as source, open(temporary, "r+b") as target:
                target.write(source.read(block))


@contextmanager
def about(out: str) -> Iterator[None]:
    """Make an error of HDF5 in writing one about `out`; those that say what is wrong already pass."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if getattr(error, "filename", None) is not None:
            raise
        number = getattr(error, "errno", None) or errno.EIO
        text = f"{os.strerror(number)}: it cannot be written ({error})"
        raise OSError(number, text, out) from error


def _require_space(folder: str, out: str, needed: int) -> None:
    free = shutil.disk_usage(folder or ".").free
    if needed > free:
        text = f"{os.strerror(errno.ENOSPC)}: {as_bytes(needed)} are needed, {as_bytes(free)} are free"
        raise OSError(errno.ENOSPC, text, out)


def bytes_beside(file: Any, table: Table) -> int:
    """Bytes that what is no rows of the table takes in a copy of a file."""
    rows = {dataset.path for dataset in table.datasets}
    others = [
        file[entry.path].id
        for entry in table.entries
        if entry.kind == DATASET and entry.path == entry.first and entry.path not in rows
    ]
    return _OVERHEAD_BYTES + sum(int(item.get_storage_size()) for item in others)


def copy_structure(source: Any, path: str, target: Any, table: Table, create: Callable[[bytes], None]) -> None:
    """Make everything of `source` in `target` but for the rows of the table.

    Parameters
    ----------
    source, target : h5py.File
    path : str
        The name of `source`, for errors.
    table : Table
        Of `source`.
    create : callable
        Makes a dataset for rows of the table in `target`, by its path.

    Raises
    ------
    DataError
        If something cannot be read, or holds what has no meaning in another file.
    """
    rows = {dataset.path for dataset in table.datasets}
    made: dict[int, bytes] = {address(source): b"/"}
    for entry in table.entries:
        with _reading(path, entry):
            if entry.kind == LINK or entry.path != entry.first:
                _link(source, target, entry)
                continue
            item = source[entry.path]
            made[address(item)] = entry.path
            if entry.kind == GROUP:
                target.create_group(entry.path, track_order=_is_ordered(item))
            elif entry.kind == DATATYPE:
                source.copy(entry.path, target, entry.path, without_attrs=True)
            elif entry.path in rows:
                create(entry.path)
            else:
                _copy_dataset(source, path, target, entry.path)
    # References lead to what has been made by now.
    translate = _Translation(source, target, made)
    for name in made.values():
        with _reading(path, Entry(name, "object", name)):
            _copy_attributes(source[name], target[name], translate)
            if name not in rows:
                _copy_references(source[name], target[name], translate)


@contextmanager
def _reading(path: str, entry: Entry) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(
            f"{path}: {entry.kind} {shown(entry.path)!r} cannot be copied ({error}); the file may be damaged, or "
            "there is no room for the copy"
        ) from error


def _is_ordered(group: Any) -> bool:
    """Whether a group keeps its names in the order they were made."""
    return bool(group.id.get_create_plist().get_link_creation_order())


def _link(source: Any, target: Any, entry: Entry) -> None:
    import h5py

    links = source.id.links
    if entry.kind != LINK:
        target.id.links.create_hard(entry.path, target.id, entry.first)
        return
    kind = links.get_info(entry.path).type
    if kind == h5py.h5l.TYPE_SOFT:
        target.id.links.create_soft(entry.path, links.get_val(entry.path))
    elif kind == h5py.h5l.TYPE_EXTERNAL:
        target.id.links.create_external(entry.path, *links.get_val(entry.path))
    else:
        raise TypeError("a link of a kind of its own")


def create_dataset(target: Any, like: Any, path: bytes, **settings: Any) -> None:
    """Make a dataset for the values of another; `settings` change shape, type and storage, which else is contiguous.

    Parameters
    ----------
    target : h5py.File
    like : h5py.Dataset
    path : bytes
    **settings
        `kind`, an HDF5 type; `chunks`; `compression`, "lzf" or "gzip"; `level`, of gzip.
    """
    import h5py

    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    # All is written, so that nothing is to be filled before.
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    order = like.id.get_create_plist().get_attr_creation_order()
    if order:
        plist.set_attr_creation_order(order)
    limits = None
    if settings.get("chunks"):
        plist.set_chunk(settings["chunks"])
        limits = tuple(h5py.h5s.UNLIMITED if length is None else length for length in like.maxshape)
    compression = settings.get("compression")
    if compression:
        plist.set_shuffle()
    if compression == "gzip":
        plist.set_deflate(settings["level"])
    elif compression == "lzf":
        plist.set_filter(h5py.h5z.FILTER_LZF, h5py.h5z.FLAG_OPTIONAL)
    names = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    names.set_char_encoding(h5py.h5t.CSET_UTF8)
    kind = settings.get("kind") or like.id.get_type().copy()
    h5py.h5d.create(target.id, path, kind, h5py.h5s.create_simple(like.shape, limits), plist, names)


def _copy_dataset(source: Any, path: str, target: Any, name: bytes) -> None:
    """Copy a dataset as it is stored; the values of one that lies in other files come into this one."""
    item = source[name]
    if not lies_elsewhere(item):
        source.copy(name, target, name, without_attrs=True)
        return
    if not item.shape:
        raise DataError(f"{path}: dataset {shown(name)!r} lies in another file and has no axis; it cannot be copied")
    create_dataset(target, item, name)
    if not item.size:
        return
    rows_in, rows_out = RawRows(item), RawRows(target[name])
    row_bytes = item.size // item.shape[0] * item.id.get_type().get_size()
    step = max(1, _COPY_BYTES // row_bytes)
    for first in range(0, item.shape[0], step):
        rows = np.empty((min(step, item.shape[0] - first), row_bytes), np.uint8)
        rows_in.read(first, rows)
        rows_out.write(first, rows)


class _Translation:
    """References of one file as references to the same objects of its copy."""

    def __init__(self, source: Any, target: Any, made: dict[int, bytes]) -> None:
        self._source = source
        self._target = target
        self._made = made

    def __call__(self, value: Any) -> Any:
        import h5py

        if isinstance(value, h5py.RegionReference):
            raise DataError(f"{self._source.filename}: there is a reference to a region, which cannot be kept")
        if isinstance(value, h5py.Reference):
            return self._target[self._made[address(self._source[value])]].ref if value else value
        if isinstance(value, np.ndarray) and value.dtype.names is not None:
            found = value.copy()
            for field in value.dtype.names:
                found[field] = self(value[field])
            return found
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            found = np.empty_like(value)
            for place in np.ndindex(value.shape):
                found[place] = self(value[place])
            return found
        return value


def _copy_attributes(item: Any, copy: Any, translate: _Translation) -> None:
    import h5py

    for found in item.attrs:
        name = found if isinstance(found, bytes) else found.encode()
        given = h5py.h5a.open(item.id, name)
        kind, space = given.get_type().copy(), given.get_space()
        made = h5py.h5a.create(copy.id, name, kind, space)
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            continue
        if is_fixed(kind):
            values = np.empty(given.shape, f"V{kind.get_size()}")
            given.read(values, kind)
            made.write(values, kind)
        else:
            values = np.empty(given.shape, given.dtype)
            given.read(values)
            made.write(translate(values))


def _copy_references(item: Any, copy: Any, translate: _Translation) -> None:
    """HDF5 copies references to other objects as references to nothing."""
    import h5py

    if isinstance(item, h5py.Dataset) and item.size and item.id.get_type().detect_class(h5py.h5t.REFERENCE):
        copy[...] = translate(item[...])
