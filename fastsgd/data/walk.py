"""All names in an HDF5 file, each opened from the group that it is in: h5py opens every one from the root, which in two
thousand groups within each other took a minute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fastsgd.errors import DataError

_LONGEST = 4096  # bytes of a path, as of those of files; else a small file has names that fill all memory


class Found(NamedTuple):
    """A name, and what it stands for.

    Attributes
    ----------
    path : bytes
        From the group on, whose names are gone through.
    item : h5py.Group, Dataset or Datatype, or None
        None where a link leads on by a name.
    kind : int
        Of the link, as of HDF5: TYPE_HARD of `h5py.h5l`, or of a link that leads on.
    first : bytes
        The path under which the object was met first: it may have several.
    """

    path: bytes
    item: Any
    kind: int
    first: bytes


def walk(group: Any) -> Iterator[Found]:
    """The names in an h5py group and the groups in it, each after the group that it is in; an object of several names
    is entered once.

    Raises
    ------
    DataError
        If a path is absurdly long.
    """
    import h5py

    wrap = {h5py.h5g.GroupID: h5py.Group, h5py.h5d.DatasetID: h5py.Dataset}
    met = {address(group): b""}
    groups = [(b"", group, iter(list(group)))]
    while groups:
        prefix, parent, names = groups[-1]
        name = next(names, None)
        if name is None:
            groups.pop()
            continue
        name = name if isinstance(name, bytes) else name.encode()
        path = prefix + name
        if len(path) > _LONGEST:
            start = text_of(path)[:40]
            raise DataError(
                f"{group.file.filename}: a name has more than {_LONGEST} characters, {start!r}...; the file is "
                "damaged, or made to mislead"
            )
        kind = parent.id.links.get_info(name).type
        if kind != h5py.h5l.TYPE_HARD:
            yield Found(path, None, kind, path)
            continue
        opened = h5py.h5o.open(parent.id, name)
        item = wrap.get(type(opened), h5py.Datatype)(opened)
        first = met.setdefault(address(item), path)
        yield Found(path, item, kind, first)
        if isinstance(item, h5py.Group) and first == path:
            groups.append((path + b"/", item, iter(list(item))))


def address(item: Any) -> int:
    """Where an object of a file lies in it; each object has a place of its own."""
    import h5py

    return int(h5py.h5o.get_info(item.id).addr)


def text_of(name: str | bytes) -> str:
    """A name as h5py gives it: in bytes, where it is no UTF-8."""
    return name if isinstance(name, str) else name.decode("utf-8", "replace")
