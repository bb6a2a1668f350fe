"""Files whose row i holds the value i, of several kinds, and epochs of their rows in turns with who consumes them."""

from contextlib import closing

import h5py
import numpy as np
from data_files import ChunkByChunk, features_of, numbers_of

import fastsgd.data.stream as stream_module
from fastsgd.data.loader import Loader
from fastsgd.kernels.sharing import keep_threads

ROWS, CHUNK, BATCH = 3000, 50, 16
MEMORY = "30kB"


def write(folder, *, files=1, dtype=np.float32, change=lambda numbers, parts: None, **options):
    """Rows that hold their numbers, in so many files; `change` may spoil them."""
    paths = []
    for index, numbers in enumerate(np.array_split(np.arange(ROWS), files)):
        parts = {"X": features_of(numbers).astype(dtype), "y": -numbers.astype(dtype), "w": (numbers / 2).astype(dtype)}
        change(numbers, parts)
        paths.append(folder / f"part{index}.h5")
        with h5py.File(paths[-1], "w") as file:
            for name, part in parts.items():
                file.create_dataset(name, data=part, chunks=(CHUNK, *part.shape[1:]), **options)
    return ChunkByChunk(paths, "X", "y", weight="w")


def rows_of(loader, start=0, *, found=None):
    """The rows of an epoch, put into `found`."""
    found = [] if found is None else found
    with closing(loader.epoch(0, start)) as slabs, keep_threads():
        found.extend((slab.x.copy(), slab.y.copy(), slab.weight.copy()) for slab in slabs)
    return found


def loader_of(dataset, *, batch_size=BATCH, memory=MEMORY, **options):
    return Loader(dataset, batch_size=batch_size, memory=memory, takes_turns=True, **options)


def plainly(dataset, monkeypatch, **options):
    """The numbers of the rows as they come by blocks."""
    with monkeypatch.context() as patch:
        patch.setattr(stream_module, "goes_straight", lambda loader: False)
        return numbers_of(rows_of(loader_of(dataset, **options)))
