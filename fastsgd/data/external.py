"""Other files that the values of an HDF5 dataset lie in: sources of a virtual dataset, and external files.

HDF5 gives fill values or zeros for what is missing there, in silence.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from fastsgd.data.links import linked_files
from fastsgd.data.places import Home, external_places, virtual_places
from fastsgd.data.schema import READ_ERRORS, opened
from fastsgd.errors import DataError

# In names of sources, as in H5Pset_virtual: "%b" is the number of the block, "%%" a percent sign.
_MARKS = re.compile("%%|%b")
# Sources of sources count each time: HDF5 goes through all of them to read a value.
_MOST_SOURCES = 1 << 17


def other_files(file: Any, path: str, name: str, home: Home) -> Iterator[str]:
    """The other files that what is called `name` in an open file lies in: those that links lead into, and those of
    `source_files`. To be gone through before the dataset is looked at: HDF5 opens some of them to tell its shape.

    Raises
    ------
    DataError
        As `source_files`. If there is no such dataset, there is no error.
    """
    yield from _Search(home).named(file, path, name)


def source_files(dataset: Any, path: str, home: Home) -> Iterator[str]:
    """The other files that values of an h5py dataset of the file at `path` lie in.

    Raises
    ------
    DataError
        If a file, or a dataset in it, is missing, may not be read, or lacks values that are drawn on; names it.
    """
    yield from _Search(home).sources(dataset, path, ())


class _Search:
    """A search for files, which datasets that draw on each other do not make endless."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._left = _MOST_SOURCES
        self._found: dict[tuple[str, str], int] = {}  # sources of the datasets that were searched, and of those

    def named(self, file: Any, path: str, name: str, above: tuple[Any, ...] = ()) -> Iterator[str]:
        """The files of the dataset of that name in an open file; `above` are the virtual datasets that draw on it."""
        import h5py

        linked = list(linked_files(file, path, name, self._home))
        yield from linked
        item = file.get(name.encode(errors="surrogateescape"))
        if isinstance(item, h5py.Dataset):
            yield from self.sources(item, linked[-1] if linked else path, above)

    def sources(self, dataset: Any, path: str, above: tuple[Any, ...]) -> Iterator[str]:
        """The files that values of a dataset of the file at `path` lie in."""
        what, here = f"{path}: dataset {dataset.name!r}", (os.path.realpath(path), dataset.name)
        if here in above:
            raise DataError(f"{what} draws on itself")
        if here in self._found:
            self._spend(self._found[here], what)
            return
        before = self._left
        try:
            if dataset.is_virtual:
                what = f"{path}: the virtual dataset {dataset.name!r}"
                mappings = dataset.virtual_sources()
                _require_cover(dataset, mappings, what)
                for mapping in mappings:
                    yield from self._mapped(mapping, dataset, path, what, (*above, here))
            elif dataset.chunks is None and dataset.shape is not None:
                yield from self._external(dataset, path, what)
        except DataError:
            raise
        except READ_ERRORS as error:
            raise DataError(f"{what} draws on other data, which cannot be looked at ({error})") from error
        self._found[here] = before - self._left

    def _spend(self, sources: int, what: str) -> None:
        self._left -= sources
        if self._left < 0:
            raise DataError(f"{what} draws on others, and these on others, more than {_MOST_SOURCES} times")

    def _mapped(self, mapping: Any, dataset: Any, path: str, what: str, above: tuple[Any, ...]) -> Iterator[str]:
        """The files of one of the mappings that make up a virtual dataset."""
        lengths = []
        axis = _endless_axis(mapping.vspace)
        for number, file_name in self._numbered_files(mapping.file_name, path, what):
            own = file_name == "."
            found = path if own else self._home.find(file_name, virtual_places(file_name, path), what)
            if not own:
                yield found
            with nullcontext(dataset.file) if own else opened(found) as file:
                for name in self._numbered_datasets(mapping.dset_name, number, file, found, what):
                    self._spend(1, what)
                    yield from self.named(file, found, name, above)
                    source = _source(file, found, name, mapping, what)
                    if axis is not None:
                        lengths.append(_selected(mapping, source.shape, axis))
        if axis is not None:
            start, stride, _, block = (numbers[axis] for numbers in mapping.vspace.get_regular_hyperslab())
            whole, rest = divmod(sum(lengths), block)
            if start + whole * stride + rest < dataset.shape[axis]:
                raise DataError(
                    f"{what} has {dataset.shape[axis]} rows, and {mapping.file_name!r} has values for "
                    f"{start + whole * stride + rest} of them; HDF5 would make up the others"
                )

    def _numbered_files(self, pattern: str, path: str, what: str) -> Iterator[tuple[int | None, str]]:
        """The number and the name of each file that a name with "%b" stands for; None and the name, if it has none."""
        if not _is_numbered(pattern):
            yield None, _filled(pattern, 0)
            return
        for folder, name in virtual_places(pattern, path):
            if self._home.outside((folder, _filled(name, 0))) is not None:
                break
            place = os.path.join(folder.replace("%", "%%"), name)
            count = _count(place, glob.glob(_MARKS.sub("*", glob.escape(place))), what)
            if count:
                yield from ((number, _filled(place, number)) for number in range(count))
                return
        yield 0, _filled(pattern, 0)

    def _numbered_datasets(self, pattern: str, number: int | None, file: Any, path: str, what: str) -> Iterator[str]:
        """The names of the datasets that a name stands for: with the number of the file, if that has one."""
        if number is not None or not _is_numbered(pattern):
            yield _filled(pattern, number or 0)
            return
        folder = os.path.dirname(pattern)
        for _ in linked_files(file, path, folder, self._home):
            pass
        names = [f"{folder.rstrip('/')}/{name}" if folder else name for name in file[folder or "/"]]
        count = _count(pattern, names, f"{what}, in {path!r},")
        yield from (_filled(pattern, each) for each in range(max(1, count)))

    def _external(self, dataset: Any, path: str, what: str) -> Iterator[str]:
        """The external files of a dataset."""
        plist = dataset.id.get_create_plist()
        left = dataset.size * dataset.id.get_type().get_size()
        for index in range(plist.get_external_count()):
            given, offset, size = plist.get_external(index)
            name = os.fsdecode(given)
            found = self._home.find(name, external_places(name, path), what)
            needed = min(left, size)
            if os.path.getsize(found) < offset + needed:
                raise DataError(
                    f"{what} lies in {found!r}, which is cut short: it has {os.path.getsize(found)} bytes of "
                    f"{offset + needed}; HDF5 would read zeros for the others"
                )
            left -= needed
            yield found


def _require_cover(dataset: Any, mappings: Sequence[Any], what: str) -> None:
    """Raise DataError where values have no source. What has no end is looked at mapping by mapping."""
    if any(_endless_axis(mapping.vspace) is not None for mapping in mappings):
        return
    drawn = sum(mapping.vspace.get_select_npoints() for mapping in mappings)
    if drawn < dataset.size:
        raise DataError(f"{what} has {dataset.size} values and says where {drawn} of them lie; the others are nowhere")


def _endless_axis(space: Any) -> int | None:
    """The axis along which a selection goes on as far as there are values, if there is one."""
    import h5py

    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return None
    counts, blocks = space.get_regular_hyperslab()[2:]
    endless = [axis for axis, pair in enumerate(zip(counts, blocks, strict=True)) if h5py.h5s.UNLIMITED in pair]
    return endless[0] if endless else None


def _selected(mapping: Any, shape: Sequence[int], axis: int) -> int:
    """Values along an axis that a mapping without an end takes from a source of that shape."""
    if _endless_axis(mapping.src_space) is None:
        return int(mapping.vspace.get_regular_hyperslab()[3][axis])  # a block for each source
    start, stride, count, block = (numbers[axis] for numbers in mapping.src_space.get_regular_hyperslab())
    after = max(0, shape[axis] - start)
    if count == 1:  # it is the block that has no end
        return int(after)
    whole, rest = divmod(after, stride)
    return int(whole * block + min(rest, block))


def _source(file: Any, path: str, name: str, mapping: Any, what: str) -> Any:
    """The source dataset of that name, if what is drawn from it is there."""
    import h5py

    item, space = file.get(name), mapping.src_space
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{what} draws on {name!r} of {path!r}, and there is no such dataset")
    shape, needed, axis = item.shape or (), tuple(space.shape), _endless_axis(space)
    if space.get_select_type() == h5py.h5s.SEL_ALL:  # the file does not say of which shape
        count = _block_size(mapping.vspace)
        if item.size != count:
            raise DataError(f"{what} draws on {count} values of {name!r} of {path!r}, which has shape {shape}")
        return item
    if axis is None:
        needed = tuple(int(last) + 1 for last in space.get_select_bounds()[1])
    if len(shape) != len(needed) or any(
        size < need for at, (size, need) in enumerate(zip(shape, needed, strict=True)) if at != axis
    ):
        raise DataError(f"{what} draws on values {needed} of {name!r} of {path!r}, which has shape {shape}")
    return item


def _block_size(space: Any) -> int:
    """Values that a selection takes from one source."""
    if _endless_axis(space) is None:
        return int(space.get_select_npoints())
    _, _, counts, blocks = space.get_regular_hyperslab()
    return math.prod(
        block * (1 if axis == _endless_axis(space) else count)
        for axis, (count, block) in enumerate(zip(counts, blocks, strict=True))
    )


def _count(pattern: str, names: Sequence[str], what: str) -> int:
    """How many names are the pattern's; DataError if their numbers have gaps, at which HDF5 would end the dataset."""
    first, *others = map(re.escape, pattern.replace("%%", "\0").split("%b"))
    regex = (first + r"(0|[1-9]\d*)" + r"\1".join(others)).replace("\0", "%")
    numbers = {int(match[1]) for name in names if (match := re.fullmatch(regex, name))}
    missing = set(range(max(numbers, default=0))) - numbers
    if missing:
        raise DataError(
            f"{what} draws on {_filled(pattern, min(missing))!r}, which is missing, while there is "
            f"{_filled(pattern, max(numbers))!r}"
        )
    return len(numbers)


def _is_numbered(pattern: str) -> bool:
    return "%b" in _MARKS.findall(pattern)


def _filled(pattern: str, number: int) -> str:
    return _MARKS.sub(lambda mark: "%" if mark[0] == "%%" else str(number), pattern)
