"""Arrays, and what there is to say about them, in safetensors files. Loading runs no code from the file.

Nothing is read, and nothing allocated, before names, dtypes and shapes are known to be those that are expected. A file
carries a SHA-256 over its arrays and what is said about them, so that damage shows wherever it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsgd.errors import FastSGDError

# The dtypes of arrays, and what safetensors calls them.
DTYPES = {"float32": "F32", "float64": "F64"}

Shapes = Mapping[str, tuple[int, ...]]
Arrays = Mapping[str, NDArray[np.floating]]

_ABOUT, _CHECKSUM = "fastsgd", "sha256"


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Attributes
    ----------
    name : str
        What a file is called in an error.
    format : str
        What it calls itself.
    version : int
        Of the format, which grows when files change in a way that an earlier fastsgd cannot read.
    error : type
        Raised about a file that is no such one.
    unchecked : int
        The last version that had no checksum.
    """

    name: str
    format: str
    version: int
    error: type[FastSGDError]
    unchecked: int = 0


def encode(kind: Kind, about: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The content of a file of arrays, and of what there is to say about them, in values that JSON has."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = {"format": kind.format, "version": kind.version, **about}
    text = json.dumps({**about, _CHECKSUM: _checksum(about, arrays)})
    encoded: bytes = save(arrays, metadata={_ABOUT: text})
    return encoded


def _checksum(about: Mapping[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class TensorFile:
    """An open file.

    Attributes
    ----------
    about : dict
        What is said about the arrays, but for the format.
    """

    def __init__(self, file: Any, kind: Kind, name: str) -> None:
        self._file = file
        about = json.loads(file.metadata()[_ABOUT])
        given = about.get("format") if isinstance(about, dict) else None
        if given != kind.format or type(about.get("version")) is not int:
            raise ValueError(f"its format is {reprlib.repr(given)}, not {kind.format!r}")
        if about["version"] < 1:
            raise ValueError(f"its format version is {about['version']}")
        if about["version"] > kind.version:
            raise kind.error(
                f"{name!r} has format version {about['version']}, this fastsgd reads up to {kind.version}: upgrade "
                "fastsgd"
            )
        self._checksum = about.pop(_CHECKSUM, None)
        if self._checksum is None and about["version"] > kind.unchecked:
            raise ValueError("its checksum is missing")
        self._all_about = about
        self.about = {key: value for key, value in about.items() if key not in ("format", "version")}

    def require(self, expected: Shapes, dtype: str) -> None:
        """Raise ValueError unless the file holds exactly the arrays that are expected."""
        slices = {key: self._file.get_slice(key) for key in self._file.keys()}  # noqa: SIM118 - not a dict
        for key in sorted(expected.keys() | slices.keys()):
            if key not in slices:
                raise ValueError(f"array {key!r} is missing")
            if key not in expected:
                raise ValueError(f"array {reprlib.repr(key)} belongs to no layer")
            stored = slices[key].get_dtype(), tuple(slices[key].get_shape())
            if stored != (DTYPES[dtype], expected[key]):
                raise ValueError(
                    f"array {key!r} is {stored[0]} of shape {stored[1]}, not {DTYPES[dtype]} of {expected[key]}"
                )

    def arrays(self) -> dict[str, NDArray[np.floating]]:
        """All arrays. Raises ValueError if one holds a value that is not finite, or the file is not as it was
        written."""
        arrays = {key: self._file.get_tensor(key) for key in self._file.keys()}  # noqa: SIM118 - not a dict
        require_finite(arrays)
        if self._checksum is not None and _checksum(self._all_about, arrays) != self._checksum:
            raise ValueError("its checksum does not match its content")
        return arrays


@contextmanager
def open_tensors(path: str | os.PathLike[str], kind: Kind) -> Iterator[TensorFile]:
    """A file, open while the context lasts.

    Raises
    ------
    FastSGDError
        That of its kind, if there is no such file, it cannot be read, or is no such one. A TypeError, ValueError or
        RecursionError in the context says that it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fsdecode(path)
    if not os.path.isfile(name):
        found = f"is a folder, not a {kind.name}" if os.path.isdir(name) else "does not exist"
        raise kind.error(f"the {kind.name} {name!r} {found}")
    try:
        with safe_open(name, framework="numpy") as file:
            if _ABOUT not in (file.metadata() or {}):
                raise kind.error(f"{name!r} is a safetensors file, but no {kind.name} of fastsgd")
            yield TensorFile(file, kind, name)
    except kind.error:
        raise
    except OSError as problem:
        raise kind.error(f"the {kind.name} {name!r} cannot be read: {problem.strerror or problem}") from problem
    except SafetensorError as problem:
        raise kind.error(f"{name!r} is no {kind.name}, or a damaged one ({problem})") from problem
    except (TypeError, ValueError, RecursionError) as problem:
        raise kind.error(f"{name!r} is a damaged {kind.name}: {problem}") from problem


def require_finite(arrays: Arrays) -> None:
    """Raise ValueError if a value is NaN or infinite."""
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"array {key!r} holds a value that is not finite")
