# /// script
# requires-python = ">=3.11"
# dependencies = ["click", "h5py", "numpy"]
# ///
"""Make an HDF5 file of any size, in bounded memory, for a network to learn: the rows come from a fixed random network.

``X`` is standard normal and ``y`` is what a network with one hidden layer of tanh says of it, plus noise. The rows
depend on the seed and on the shape of the task only: unless they are sorted, neither the chunks nor the number of rows
changes row i. On another kind of CPU ``y`` may differ by its rounding.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 8192
BLOCK_ELEMENTS = 2**20  # at most this many float32 in any array of a block: 4 MB
CACHE_BYTES = 64 * 2**20  # HDF5 keeps at most this much of each dataset's unfinished chunks
PROGRESS_SECONDS = 0.5
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

# Streams of random numbers under one seed.
WEIGHTS, FEATURES, NOISE = range(3)


@dataclass
class Teacher:
    """A fixed random network: ``y = tanh(x @ W1 + b1) @ W2 + b2 + noise * e``, or the index of the largest output.

    Without the noise, each output has a mean of about 0 and a standard deviation of about 1.

    Parameters
    ----------
    features, hidden, targets : int
        Widths of the layers; with `classes`, that is the number of outputs.
    noise : float
        Standard deviation of the noise on each output; for regression its square is the least possible mean squared
        error.
    seed : int
    classes : int, default 0
        Number of classes, or 0 for regression.
    """

    features: int
    hidden: int
    targets: int
    noise: float
    seed: int
    classes: int = 0

    def __post_init__(self) -> None:
        self.outputs = self.classes or self.targets
        # A function of the task and of nothing else, so that block k has the same rows in every file.
        self.block_rows = max(16, min(BLOCK_ROWS, BLOCK_ELEMENTS // max(self.features, self.hidden, self.outputs)))
        rng = self._rng(WEIGHTS, 0)
        self.W1 = rng.standard_normal((self.features, self.hidden), dtype=np.float32)
        self.W1 /= np.sqrt(self.features)
        self.b1 = rng.standard_normal(self.hidden, dtype=np.float32)
        self.W2 = rng.standard_normal((self.hidden, self.outputs), dtype=np.float32)
        self.b2 = np.zeros(self.outputs, dtype=np.float32)
        # Each output has mean 0 and standard deviation 1 over a sample: noise has a unit, classes are not too uneven.
        sample = self.outputs_of(rng.standard_normal((self.block_rows, self.features), dtype=np.float32))
        scale = sample.std(axis=0)
        self.W2 /= scale
        self.b2 -= sample.mean(axis=0) / scale

    def _rng(self, stream: int, block: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream, block)))

    def outputs_of(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs without noise.

        Parameters
        ----------
        x : ndarray, shape (rows, features), float32

        Returns
        -------
        ndarray, shape (rows, outputs), float32
        """
        h = x @ self.W1
        h += self.b1
        y: NDArray[np.float32] = np.tanh(h, out=h) @ self.W2
        y += self.b2
        return y

    def blocks(self, rows: int) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.generic]]]:
        """Yield the rows in order, block by block.

        Parameters
        ----------
        rows : int

        Yields
        ------
        start : int
            First row of the block.
        x : ndarray, shape (block, features), float32
        y : ndarray, float32 of shape (block, targets), or int32 of shape (block,) with classes
        """
        for start in range(0, rows, self.block_rows):
            block = start // self.block_rows
            # The last block is made whole and then cut: a product of fewer rows may round differently.
            x = self._rng(FEATURES, block).standard_normal((self.block_rows, self.features), dtype=np.float32)
            y = self.outputs_of(x)
            if self.noise:
                e = self._rng(NOISE, block).standard_normal(y.shape, dtype=np.float32)
                y += np.float32(self.noise) * e
            labels = y.argmax(axis=1).astype(np.int32) if self.classes else y
            stop = min(self.block_rows, rows - start)
            yield start, x[:stop], labels[:stop]


class Progress:
    """One line on stderr that is written over; off a terminal, only its last state.

    Parameters
    ----------
    label : str
    rows : int
        Rows to come.
    """

    def __init__(self, label: str, rows: int) -> None:
        self.label, self.rows = label, rows
        self.started = self.shown = time.monotonic()

    def update(self, done: int) -> None:
        """Say that `done` rows are done."""
        now = time.monotonic()
        last, terminal = done == self.rows, sys.stderr.isatty()
        if last or (terminal and now - self.shown >= PROGRESS_SECONDS):
            self.shown = now
            rate = done / max(now - self.started, 1e-9)
            line = f"{self.label}: {done:,} of {self.rows:,} rows ({100 * done // self.rows} %), {rate:,.0f} rows/s"
            click.echo(("\r\033[K" if terminal else "") + line, nl=last, err=True)


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes of a text such as ``500MB``, ``2GB`` or ``1.5GiB``; None stays None.

    Raises
    ------
    click.BadParameter
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*((?:[kmgt]i?)?)b?", value.strip().lower())
    if not match:
        raise click.BadParameter(f"{value!r} is not a size; write for example 500MB, 2GB or 1.5GiB")
    return int(float(match[1]) * UNITS[match[2]])


def count_labels(teacher: Teacher, rows: int) -> NDArray[np.int64]:
    """Rows of each class.

    Parameters
    ----------
    teacher : Teacher
        With classes.
    rows : int

    Returns
    -------
    ndarray, shape (classes,), int64
    """
    counts = np.zeros(teacher.classes, dtype=np.int64)
    progress = Progress("counting", rows)
    for start, _, labels in teacher.blocks(rows):
        counts += np.bincount(labels, minlength=teacher.classes)
        progress.update(start + len(labels))
    return counts


def write_in_order(teacher: Teacher, X: h5py.Dataset, y: h5py.Dataset) -> None:
    """Fill the datasets with the rows as they are drawn.

    Parameters
    ----------
    teacher : Teacher
    X, y : Dataset, shapes (rows, features) and (rows,) or (rows, targets)
    """
    progress = Progress("writing", len(X))
    for start, x_block, y_block in teacher.blocks(len(X)):
        rows = slice(start, start + len(x_block))
        X[rows] = x_block.astype(X.dtype, copy=False)
        y[rows] = y_block.reshape(-1, *y.shape[1:]).astype(y.dtype, copy=False)
        progress.update(rows.stop)


def write_sorted(teacher: Teacher, X: h5py.Dataset, y: h5py.Dataset) -> None:
    """Fill the datasets with the same rows, sorted by label, each class in the order of its drawing.

    One pass counts the labels, which says where each class starts; a second pass draws the rows again and adds each to
    the end of its class.

    Parameters
    ----------
    teacher : Teacher
        With classes.
    X, y : Dataset, shapes (rows, features) and (rows,)
    """
    counts = count_labels(teacher, len(X))
    cursor = np.cumsum(counts) - counts
    progress = Progress("writing", len(X))
    for start, x_block, labels in teacher.blocks(len(X)):
        x_sorted = x_block[np.argsort(labels, kind="stable")].astype(X.dtype, copy=False)
        here = np.bincount(labels, minlength=teacher.classes)
        ends = np.cumsum(here)
        for label in np.flatnonzero(here):
            rows = slice(cursor[label], cursor[label] + here[label])
            X[rows] = x_sorted[ends[label] - here[label] : ends[label]]
            y[rows] = label
            cursor[label] = rows.stop
        progress.update(start + len(labels))


def check_free_space(directory: Path, nbytes: int) -> None:
    """Refuse a file that the disk cannot hold, before anything is written.

    Parameters
    ----------
    directory : Path
    nbytes : int
        Uncompressed size of the data: normal numbers hardly compress.

    Raises
    ------
    click.ClickException
    """
    free = shutil.disk_usage(directory).free
    needed = nbytes + nbytes // 100 + 2**20
    if needed > free:
        raise click.ClickException(
            f"the file needs {needed / 1e9:,.2f} GB and {directory} has {free / 1e9:,.2f} GB free; "
            "lower --rows or --size, or choose another disk"
        )


def write_file(
    path: Path,
    teacher: Teacher,
    rows: int,
    dtype: np.dtype[Any],
    *,
    chunk_rows: int | None,
    compression: str | None,
    by_label: bool,
) -> None:
    """Write the file, under another name until it is whole.

    Parameters
    ----------
    path : Path
    teacher : Teacher
    rows : int
    dtype : dtype
        Of X, and of y unless there are classes.
    chunk_rows : int or None
        None for a contiguous layout.
    compression : {"gzip", "lzf"} or None
    by_label : bool
        Sort the rows by label.
    """
    cache: dict[str, Any] = {}
    if chunk_rows:
        # Sorted, the classes grow side by side, each in a chunk of its own. Finished chunks leave first (w0 of 1).
        open_chunks = teacher.classes + 2 if by_label else 2
        nbytes = open_chunks * chunk_rows * teacher.features * dtype.itemsize
        cache = {"rdcc_nbytes": min(max(nbytes, 2**20), CACHE_BYTES), "rdcc_nslots": 10_007, "rdcc_w0": 1.0}

    def dataset(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
        chunks = (chunk_rows, *shape[1:]) if chunk_rows else None
        shuffle = True if compression else None
        return file.create_dataset(
            name, shape, dtype, chunks=chunks, compression=compression, shuffle=shuffle, track_times=False
        )

    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(partial, "w", **cache) as file:
            file.attrs["title"] = "Rows of a fixed random network with one hidden layer of tanh"
            file.attrs["created_by"] = Path(__file__).name
            for name in ("hidden", "noise", "seed", "classes"):
                file.attrs[name] = getattr(teacher, name)
            file.attrs["sorted"] = by_label
            X = dataset("X", (rows, teacher.features), dtype)
            if teacher.classes:
                y = dataset("y", (rows,), np.dtype(np.int32))
            else:
                y = dataset("y", (rows, teacher.targets) if teacher.targets > 1 else (rows,), dtype)
            (write_sorted if by_label else write_in_order)(teacher, X, y)
        with partial.open("rb+") as whole:
            os.fsync(whole.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@click.command(context_settings={"show_default": True})
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--rows", type=click.IntRange(min=1), help="Rows to make; this or --size.")
@click.option("--size", metavar="SIZE", callback=parse_size, help="Uncompressed size of the data instead, such as 2GB.")
@click.option("--features", type=click.IntRange(min=1), default=10, help="Columns of X.")
@click.option("--hidden", type=click.IntRange(min=1), default=64, help="Hidden units of the network.")
@click.option("--targets", type=click.IntRange(min=1), default=1, help="Columns of y; with one, y is 1-D.")
@click.option(
    "--noise", type=click.FloatRange(min=0), default=0.1, help="Standard deviation of the noise on an output."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all random numbers.")
@click.option("--classes", type=click.IntRange(min=0), default=0, help="Make int32 labels of this many classes.")
@click.option("--sorted", "by_label", is_flag=True, help="Sort the rows by label; needs --classes.")
@click.option("--chunk-rows", type=click.IntRange(min=1), default=8192, help="Rows of a chunk.")
@click.option("--layout", type=click.Choice(["chunked", "contiguous"]), default="chunked", help="Layout of X and y.")
@click.option("--filter", "filter_", type=click.Choice(["none", "gzip", "lzf"]), default="none", help="Compression.")
@click.option(
    "--dtype", type=click.Choice(["float16", "float32", "float64"]), default="float32", help="Type of X and y."
)
def main(
    *,
    out: Path,
    rows: int | None,
    size: int | None,
    features: int,
    hidden: int,
    targets: int,
    noise: float,
    seed: int,
    classes: int,
    by_label: bool,
    chunk_rows: int,
    layout: str,
    filter_: str,
    dtype: str,
) -> None:
    """Make the HDF5 file OUT, with datasets X and y, for a network to learn.

    An existing OUT is replaced once the new file is whole.
    """
    if (rows is None) == (size is None):
        raise click.UsageError("give --rows or --size, one of the two")
    if classes == 1:
        raise click.UsageError("--classes 1 leaves nothing to tell apart; give 2 or more, or 0 for regression")
    if classes and targets != 1:
        raise click.UsageError("--targets is for regression; leave it out with --classes")
    if by_label and not classes:
        raise click.UsageError("--sorted sorts by label; give --classes as well")
    if layout == "contiguous" and filter_ != "none":
        raise click.UsageError(f"--filter {filter_} needs --layout chunked: HDF5 compresses chunks")
    kind = np.dtype(dtype)
    row_bytes = features * kind.itemsize + (4 if classes else targets * kind.itemsize)
    n_rows = rows if rows is not None else (size or 0) // row_bytes
    if n_rows < 1:
        raise click.UsageError(f"--size {size} is less than one row of {row_bytes} bytes")
    if layout == "chunked" and min(chunk_rows, n_rows) * row_bytes > CACHE_BYTES:
        raise click.UsageError(
            f"a chunk of {chunk_rows} rows of {row_bytes} bytes is over {CACHE_BYTES // 2**20} MiB; lower --chunk-rows"
        )
    if not out.parent.is_dir():
        raise click.ClickException(f"there is no directory {out.parent}")
    stored_rows = n_rows
    if layout == "chunked":
        chunk_rows = min(chunk_rows, n_rows)
        stored_rows = -(-n_rows // chunk_rows) * chunk_rows  # HDF5 stores the last chunk whole
    check_free_space(out.parent, stored_rows * row_bytes)
    teacher = Teacher(features, hidden, targets, noise, seed, classes)
    # Turned into an exception, so that the unfinished file goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        write_file(
            out,
            teacher,
            n_rows,
            kind,
            chunk_rows=chunk_rows if layout == "chunked" else None,
            compression=None if filter_ == "none" else filter_,
            by_label=by_label,
        )
    except OSError as error:
        raise click.ClickException(f"could not write {out}: {error}") from error
    click.echo(f"{out}: {n_rows:,} rows, {out.stat().st_size:,} bytes", err=True)


if __name__ == "__main__":
    main()
