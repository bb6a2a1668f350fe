"""Cycle datasets, loaders and iterators of all kinds for some minutes, and show whether anything is left behind.

Prints the memory of the process and the slope of its second half by least squares, threads and open descriptors. Exits
with 1 if a thread or descriptor is left, or the slope is above 1 MiB an hour. Over some minutes, the allocator's noise
is more than that: then with 1 if the second half added more than 4 MiB.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

import fastsgd as fs

ROWS, COLUMNS, CHUNK = 120_000, 8, 2_000
STREAMED, WHOLE = "1800kB", "20MB"
MOST_MIB_AN_HOUR, MOST_MIB = 1.0, 4.0


def resident() -> int:
    """Bytes of memory of this process that belong to no file, after the C library gave back what it can."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


def descriptors() -> set[str]:
    """What the open descriptors are of."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


class Cycle:
    """One of each kind of use.

    Parameters
    ----------
    folder : path
        Of its files.
    """

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((ROWS, COLUMNS)).astype("f4")
        self._folder = folder
        packed = {"compression": "gzip"}
        for name, options in (("plain", {}), ("nan", {}), ("gzip", packed), ("damaged", packed)):
            with h5py.File(folder / f"{name}.h5", "w") as file:
                data = file.create_dataset("X", data=x, chunks=(CHUNK, COLUMNS), **options)
                file["y"] = x[:, 0]
                if name == "nan":
                    data[ROWS * 3 // 4, 1] = np.nan
                place = data.id.get_chunk_info(45)
        with open(folder / "damaged.h5", "r+b") as damaged:
            damaged.seek(place.byte_offset + place.size // 2)
            damaged.write(b"\0" * 64)
        self._arrays = x, x[:, 0].copy()

    def _open(self, *names: str, **options: str) -> fs.HDF5Dataset:
        return fs.HDF5Dataset([self._folder / f"{name}.h5" for name in names], "X", "y", **options)

    def kinds(self) -> list[Callable[[], object]]:
        """What to call, one after the other."""
        return [
            lambda: self._all(self._open("plain"), STREAMED),
            lambda: self._all(self._open("plain"), WHOLE),
            lambda: self._all(self._open("plain"), STREAMED, shuffle=False),
            lambda: self._all(self._open("gzip"), STREAMED),
            lambda: self._all(self._open("gzip", "plain").split(0.2)[0], STREAMED),
            lambda: self._all(self._open("nan", nan="skip"), STREAMED),
            lambda: self._all(fs.ArrayDataset(*self._arrays), WHOLE),
            self._abandon,
            self._close_early,
            self._two_at_once,
            lambda: self._fail("nan"),
            lambda: self._fail("damaged"),
            lambda: self._train(self._open("plain"), STREAMED),
            lambda: self._train(self._open("gzip"), WHOLE),
            self._train_on_nan,
        ]

    def _batches(self, dataset: fs.Dataset, memory: str, **options: bool) -> Iterator[tuple[np.ndarray, ...]]:
        return dataset.batches(500, memory=memory, **options)

    def _all(self, dataset: fs.Dataset, memory: str, **options: bool) -> None:
        for _ in self._batches(dataset, memory, **options):
            pass

    def _abandon(self) -> None:
        batches = self._batches(self._open("gzip"), STREAMED)
        next(batches)
        cycle = [batches]
        cycle.append(cycle)  # type: ignore[arg-type]

    def _close_early(self) -> None:
        with closing(self._batches(self._open("plain"), STREAMED)) as batches:  # type: ignore[type-var]
            for _ in islice(batches, 5):
                pass

    def _two_at_once(self) -> None:
        dataset = self._open("plain")
        for _ in zip(self._batches(dataset, STREAMED), islice(self._batches(dataset, STREAMED), 9), strict=False):
            pass

    def _fail(self, name: str) -> None:
        try:
            self._all(self._open(name), STREAMED)
        except fs.DataError:
            return
        raise RuntimeError(f"{name}.h5 was read")

    def _trainer(self) -> fs.Trainer:
        layers = [fs.Standardize(), fs.Dense(16, "relu"), fs.Dense(1)]
        return fs.Trainer(fs.Sequential(layers), fs.SGD(0.01, momentum=0.9), "mse")

    def _train(self, dataset: fs.Dataset, memory: str) -> None:
        checkpoint = fs.Checkpoint(self._folder / "run", every_steps=100)
        trainer = self._trainer()
        trainer.fit(dataset, batch_size=500, memory=memory, checkpoint=checkpoint, resume=False, progress=False)
        trainer.model.predict(dataset, memory=memory)

    def _train_on_nan(self) -> None:
        with suppress(fs.DataError):
            self._train(self._open("nan"), STREAMED)


def slope(seconds: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Growth in MiB an hour by least squares, and its standard error."""
    hours, mebibytes = (seconds - seconds.mean()) / 3600, sizes / 2**20
    spread = float((hours**2).sum())
    rate = float((hours * mebibytes).sum()) / spread
    rest = mebibytes - mebibytes.mean() - rate * hours
    return rate, float(np.sqrt((rest**2).sum() / max(1, len(rest) - 2) / spread))


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    parser.add_argument(
        "--cycles", type=int, help="how many cycles of all kinds instead; prints memory after each half"
    )
    options = parser.parse_args()
    if "MALLOC_ARENA_MAX" not in os.environ:
        # The C library's default is several, of which each keeps the most that any thread had that came to it: which
        # those are is chance, and hides what grows.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"MALLOC_ARENA_MAX": "1"})
    with tempfile.TemporaryDirectory() as folder:
        kinds = Cycle(Path(folder)).kinds()
        for kind in kinds * 2:  # what is compiled, imported and kept once
            kind()
        before_size, before_threads, before_files = resident(), threading.active_count(), descriptors()
        begin, found = time.monotonic(), [(0.0, before_size)]
        while len(found) <= options.cycles if options.cycles else found[-1][0] < options.minutes * 60:
            for kind in kinds:
                kind()
            found.append((time.monotonic() - begin, resident()))
        left_threads, left_files = threading.active_count() - before_threads, descriptors() - before_files
    second_half = np.array(found[min(len(found) // 2, len(found) - 3) :])
    rate, error = slope(*second_half.T)
    print(f"{len(found) - 1} cycles of {len(kinds)} kinds in {found[-1][0] / 60:.1f} minutes")
    for name, at in (("start", 0), ("half", len(found) // 2), ("end", -1)):
        print(f"memory at {name}: {found[at][1] / 2**20:.2f} MiB")
    print(f"slope of the second half: {rate:.2f} MiB an hour (standard error {error:.2f})")
    print(f"threads: {before_threads} at the start, {before_threads + left_threads} at the end")
    print(f"open descriptors: {len(before_files)} at the start, {len(left_files)} of others at the end")
    grows = rate > MOST_MIB_AN_HOUR
    if 2 * error > MOST_MIB_AN_HOUR:
        added = (found[-1][1] - found[len(found) // 2][1]) / 2**20
        print(f"too short to tell {MOST_MIB_AN_HOUR:g} MiB an hour from noise; the second half added {added:.2f} MiB")
        grows = added > MOST_MIB
    return int(grows or bool(left_threads) or bool(left_files))


if __name__ == "__main__":
    sys.exit(main())
