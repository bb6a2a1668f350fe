"""Other files that HDF5 reads for the sake of one: where it looks for them, and which of them may be read."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastsgd.errors import DataError

Place = tuple[str, str]  # a folder, and a name there

WAY_OUT = "allow_external=True (--allow-external at the command line)"


class Home:
    """The folder that a file was given in: only from there and from below may it draw on others, since a file from a
    stranger could show what else this user may read.

    Parameters
    ----------
    path : str
        The file.
    allow_external : bool
        Whether it may draw on files anywhere.
    """

    def __init__(self, path: str, allow_external: bool) -> None:
        self._allow_external = allow_external
        folder = os.path.dirname(_absolute("", path))
        self._folder, self._real = os.path.normpath(folder), os.path.realpath(folder)

    def outside(self, place: Place) -> str | None:
        """The path that may not be read, where a place is outside."""
        path = _absolute(*place)
        plain = os.path.normpath(path)
        if self._allow_external:
            return None
        # Of a place that is outside by its name, not even links are looked at.
        if not (_is_below(plain, self._folder) or _is_below(plain, self._real)):
            return plain
        real = os.path.realpath(path)
        return None if _is_below(real, self._real) else real

    def find(self, name: str, places: Sequence[Place], what: str) -> str:
        """The file that HDF5 takes for `name`: the first that is there. Those outside are not looked at, so that an
        error does not tell whether they are there.

        Parameters
        ----------
        name : str
        places : sequence of Place
            Where HDF5 looks for it, in order.
        what : str
            Draws on it, for errors.

        Raises
        ------
        DataError
            If there is none, or HDF5 would look for it outside.
        """
        missing: list[str] = []
        for place in places:
            path, outside = _absolute(*place), self.outside(place)
            if outside is not None and missing:
                raise DataError(
                    f"{what} draws on {name!r}, and there is no such file; HDF5 looks for {_listed(missing)}, and then "
                    f"outside the file's folder, for {outside!r}; if it may, give {WAY_OUT}"
                )
            if outside is not None:
                raise DataError(
                    f"{what} draws on {name!r}, and so would read {outside!r}, which is outside the file's folder "
                    f"{self._real!r}; if it may, give {WAY_OUT}"
                )
            if os.path.isfile(path):
                return path
            if os.path.exists(path) and not os.path.isdir(path):
                raise DataError(f"{what} draws on {path!r}, which is a device or a pipe and no file")
            if path not in missing:
                missing.append(path)
        raise DataError(f"{what} draws on {name!r}, and there is no such file; HDF5 looks for {_listed(missing)}")


def external_places(name: str, path: str) -> list[Place]:
    """Where HDF5 looks for an external file of a dataset of the file at `path`: in the working directory, if the
    environment does not say otherwise."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    return [("" if os.path.isabs(name) or prefix == "." else _with_origin(prefix, path), name)]


def virtual_places(name: str, path: str) -> list[Place]:
    """Where HDF5 looks for a source of a virtual dataset, in order."""
    return _shared_places(name, path, "HDF5_VDS_PREFIX")


def link_places(name: str, path: str) -> list[Place]:
    """Where HDF5 looks for the file that an external link leads to, in order."""
    return _shared_places(name, path, "HDF5_EXT_PREFIX")


def _shared_places(name: str, path: str, variable: str) -> list[Place]:
    relative = os.path.basename(name) if os.path.isabs(name) else name
    prefixes = [_with_origin(prefix, path) for prefix in os.environ.get(variable, "").split(":") if prefix]
    folders = [*prefixes, os.path.dirname(path), "", os.path.dirname(os.path.realpath(path))]
    return [("", name)] * os.path.isabs(name) + [(folder, relative) for folder in folders]


def _with_origin(prefix: str, path: str) -> str:
    return prefix.replace("${ORIGIN}", os.path.dirname(os.path.abspath(path)))


def _absolute(folder: str, name: str) -> str:
    """A place as HDF5 opens it: behind a link to a folder, '..' is not the folder before."""
    return os.path.join(os.getcwd(), folder, name)


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(map(repr, paths))
