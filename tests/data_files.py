"""HDF5 files whose row i holds the value i, and what to ask of the batches that come out of them."""

import h5py
import numpy as np

from fastsgd.data import HDF5Dataset

FEATURES = 3


class ChunkByChunk(HDF5Dataset):
    """Reads each chunk by itself, however small: a small file then has many blocks, as a large one has."""

    def unit_rows(self):
        return min(self.chunk_rows, super().unit_rows())


def features_of(numbers):
    """The features of the rows of these numbers: column k holds the row's number and k quarters."""
    return (np.asarray(numbers)[:, None] + 0.25 * np.arange(FEATURES)).astype(np.float32)


def write_rows(path, rows, *, start=0, chunk=None, **options):
    """X (rows, 3), y and w of the rows from `start` on; y is the number's negative, w its half."""
    numbers = np.arange(start, start + rows)
    if chunk is not None:
        options["chunks"] = (min(chunk, rows), FEATURES)
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=features_of(numbers), **options)
        file["y"] = -numbers.astype(np.float64)
        file["w"] = (numbers / 2).astype(np.float32)
    return path


def numbers_of(batches):
    """The row numbers in the order they came, every part of every row checked against its number."""
    found = []
    for x, *others in batches:
        numbers = np.round(x[:, 0]).astype(np.int64)
        assert np.array_equal(x, features_of(numbers))
        if others:
            assert np.array_equal(others[0][:, 0], -numbers)
        if len(others) > 1:
            assert np.array_equal(others[1], (numbers / 2).astype(np.float32))
        found.append(numbers)
    return np.concatenate(found)


def write_kinds(path, rows, **options):
    """Datasets of every kind of value, in groups, each row of which holds its number; `options` are those of `X`."""
    numbers = np.arange(rows)
    table = np.zeros(rows, [("a", ">f4"), ("name", "S6"), ("pair", "i8", (2,))])
    table["a"], table["name"], table["pair"] = numbers, numbers.astype("S6"), numbers[:, None]
    with h5py.File(path, "w", track_order=True) as file:
        file.create_dataset("X", data=numbers[:, None] + 0.25 * np.arange(FEATURES), **options)
        file["group/y"] = numbers.astype(">i4")
        file["group/deep/name"] = numbers.astype("S6")
        file["even"] = numbers % 2 == 0
        file["wave"] = numbers * (1 + 2j)
        file["grid"] = (numbers[:, None, None] + np.zeros((2, 2))).astype("f2")
        file["table"] = table
        file.create_dataset("kind", data=numbers % 3, dtype=h5py.enum_dtype({"a": 0, "b": 1, "c": 2}, "u1"))
    return path


KINDS = ["X", "group/y", "group/deep/name", "even", "wave", "grid", "table", "kind"]


def datasets_of(path):
    """The values of all datasets of a file, by their names."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found
