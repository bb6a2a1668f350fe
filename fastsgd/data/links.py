"""Links in HDF5 files that lead into others: followed by hand, as HDF5 would open whatever they name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from fastsgd.data.places import Home, link_places
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.errors import DataError

_MOST_LINKS = 16  # that HDF5 follows for one name


def linked_files(file: Any, path: str, name: str, home: Home) -> Iterator[str]:
    """The other files that links on the way to an object lead into; the last is that which holds it.

    A name that leads nowhere ends the way: whoever opens the object finds out.

    Parameters
    ----------
    file : h5py.File
    path : str
        Its name.
    name : str
        Of the object.
    home : Home

    Raises
    ------
    DataError
        If such a file is missing, outside, or cannot be read.
    """
    try:
        what = f"{path}: dataset {name!r}, behind a link,"
        yield from _followed(file, path, name.encode(errors="surrogateescape"), home, what, _MOST_LINKS)
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(f"{path}: dataset {name!r} cannot be followed ({error}); the file may be damaged") from error


def _followed(file: Any, path: str, name: bytes, home: Home, what: str, left: int) -> Iterator[str]:
    """`linked_files`, with at most so many links left to follow."""
    import h5py

    root = group = file["/"].id
    parts = _parts(name)
    while parts and isinstance(group, h5py.h5g.GroupID) and group.links.exists(parts[0]):
        part = parts.pop(0)
        kind = group.links.get_info(part).type
        if kind == h5py.h5l.TYPE_HARD:
            group = h5py.h5o.open(group, part)
            continue
        if left == 0:
            raise DataError(f"{what} leads through more than {_MOST_LINKS} links, which HDF5 does not follow")
        left -= 1
        if kind == h5py.h5l.TYPE_SOFT:
            target = group.links.get_val(part)
            group = root if target.startswith(b"/") else group
            parts = _parts(target) + parts
            continue
        if kind == h5py.h5l.TYPE_EXTERNAL:
            given, inner = group.links.get_val(part)
            other = os.fsdecode(given)
            found = home.find(other, link_places(other, path), what)
            yield found
            with opened(found) as linked:
                yield from _followed(linked, found, b"/".join([inner, *parts]), home, what, left)
        return


def _parts(name: bytes) -> list[bytes]:
    return [part for part in name.split(b"/") if part not in (b"", b".")]
