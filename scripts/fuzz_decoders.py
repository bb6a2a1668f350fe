"""Fuzz what undoes the filters of chunks: so many bytes as are claimed, or DamagedChunkError, and nothing else.

    pip install atheris    # in an environment that has fastsgd with the extra [test]; of it nothing else needs this
    python scripts/fuzz_decoders.py --seeds corpus
    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=bounds python scripts/fuzz_decoders.py corpus -max_total_time=300
    NUMBA_DISABLE_JIT=1 python scripts/fuzz_decoders.py corpus -max_total_time=300    # sees into the kernels, slowly
    python scripts/fuzz_decoders.py -merge=1 tests/fuzz_corpus corpus                 # keeps what tells apart
    python scripts/fuzz_decoders.py --replay tests/fuzz_corpus                        # without atheris

Folders, and options of one dash, are those of libFuzzer. A compiled kernel that leaves its arrays says nothing: hence
the checks of bounds, for which compiled code must come from a cache of its own, and the run without the compiler.
What libraries read and write beyond the ends of arrays is found by a page that nobody may touch, and by a pattern.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import struct
import sys
import tempfile
import types
from contextlib import suppress
from pathlib import Path

import numpy as np

from fastsgd.data import codecs, compressors
from fastsgd.data.codecs import CHECKSUM_BYTES, FLETCHER32, SHUFFLE, Filter, undo, unshuffled
from fastsgd.data.compressors import BITSHUFFLE, BLOSC, DEFLATE, LZ4, LZF, ZSTD, DamagedChunkError
from fastsgd.data.scratch import scratch
from fastsgd.kernels import storage

NUMBERS = (DEFLATE, SHUFFLE, FLETCHER32, LZF, BLOSC, LZ4, BITSHUFFLE, ZSTD)
MOST_FILTERS, MOST_VALUES, MOST_BYTES = 4, 8, 1 << 14  # of a case; so many bytes are claimed at most
MOST_MEMORY = 64 << 20  # that a case may take
GUARD, PATTERN = 64, 0xA5
PURPOSES = ("decompressed", "framed", "unbitshuffled")  # of memory that libraries write to


class Case:
    """A chunk, its filters, and how many bytes it claims to have been, as bytes that a fuzzer can change.

    A byte for the number of filters; of each a byte that says which, one for the number of its parameters, and these in
    four bytes each; a byte for the mask, four for the size, and the rest is the chunk. Each byte means something.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0
        count = self._number(1) % (MOST_FILTERS + 1)
        self.filters = tuple(self._filter() for _ in range(count))
        self.mask = self._number(1)
        self.size = self._number(4) % (MOST_BYTES + 1)
        self.chunk = content[self._at :]

    def _number(self, width: int) -> int:
        found = self._content[self._at : self._at + width]
        self._at += width
        return int.from_bytes(found, "little")

    def _filter(self) -> Filter:
        number = NUMBERS[self._number(1) % len(NUMBERS)]
        return Filter(number, tuple(self._number(4) for _ in range(self._number(1) % MOST_VALUES)))

    @staticmethod
    def content(filters: tuple[Filter, ...], mask: int, size: int, chunk: bytes) -> bytes:
        """The bytes of a case."""
        parts = [bytes([len(filters)])]
        for one in filters:
            parts.append(struct.pack(f"<BB{len(one.values)}I", NUMBERS.index(one.number), len(one.values), *one.values))
        return b"".join([*parts, struct.pack("<BI", mask, size), chunk])


class Guarded:
    """Memory that ends where a page begins that nobody may read."""

    def __init__(self, size: int) -> None:
        self._end = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, self._end + mmap.PAGESIZE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        page = ctypes.c_void_p(self._bytes.ctypes.data + self._end)
        if libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, content: bytes) -> np.ndarray:
        """An array of these bytes, before the end."""
        if len(content) > self._end:
            return np.frombuffer(content, np.uint8)
        out = self._bytes[self._end - len(content) : self._end]
        out[:] = np.frombuffer(content, np.uint8)
        return out


def peak_memory() -> int:
    """The most bytes that this process has held; what getrusage tells goes on from the process that started it."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def decode(content: bytes, memory: Guarded) -> str:
    """What comes of a case: "decoded" or "refused"; all else is raised."""
    case = Case(content)
    chunk, claimed = memory.put(case.chunk), case.size + MOST_FILTERS * CHECKSUM_BYTES
    guards = []
    for purpose in PURPOSES:
        guards.append(scratch(purpose, max(claimed, chunk.size) + GUARD)[max(claimed, chunk.size) :])
        guards[-1][:] = PATTERN
    before = peak_memory()
    try:
        data, element = undo(case.filters, case.mask, chunk, case.size)
        found = unshuffled(data, element) if element else data
        outcome = "decoded"
    except DamagedChunkError:
        outcome = "refused"
    grown = peak_memory() - before
    if grown > MOST_MEMORY:
        raise AssertionError(f"{grown} bytes of memory for {case.size}")
    if any((guard != PATTERN).any() for guard in guards):
        raise AssertionError("written beyond the end")
    if chunk.tobytes() != case.chunk:
        raise AssertionError("the chunk was written to")
    if outcome == "decoded" and (found.dtype, found.shape) != (np.uint8, (case.size,)):
        raise AssertionError(f"{found.dtype} of shape {found.shape}, {case.size} bytes were claimed")
    return outcome


def write_seeds(folder: Path) -> None:
    """Chunks as HDF5 writes them, by each filter and some together."""
    import h5py
    import hdf5plugin

    kinds = {
        "none": {},
        "shuffle": {"shuffle": True},
        "fletcher32": {"fletcher32": True},
        "gzip": {"compression": "gzip"},
        "lzf": {"compression": "lzf"},
        "lzf-all": {"compression": "lzf", "shuffle": True, "fletcher32": True},
        "gzip-all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
        "zstd": hdf5plugin.Zstd(),
        "lz4": hdf5plugin.LZ4(nbytes=256),
        "lz4-one": {"shuffle": True, **hdf5plugin.LZ4()},
        **{f"blosc-{name}": hdf5plugin.Blosc(cname=name) for name in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")},
        "blosc-bits": hdf5plugin.Blosc(shuffle=hdf5plugin.Blosc.BITSHUFFLE),
        "blosc-stored": hdf5plugin.Blosc(clevel=0),
        **{f"bits-{name}": hdf5plugin.Bitshuffle(nelems=32, cname=name) for name in ("none", "lz4", "zstd")},
        "bits-usual": hdf5plugin.Bitshuffle(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place, h5py.File(Path(place) / "a.h5", "w") as file:
        for name, options in kinds.items():
            for dtype in ("f4", "i2", "V3"):
                rows = rng.integers(0, 9, (83, 5)).astype("i2").astype("f4")
                values = rows.astype(dtype) if dtype != "V3" else np.frombuffer(rows.tobytes()[:1245], "V3")
                made = file.create_dataset(name + dtype, data=values, chunks=values.shape, **options)
                plist = made.id.get_create_plist()
                found = map(plist.get_filter, range(plist.get_nfilters()))
                filters = tuple(Filter(number, tuple(given[: MOST_VALUES - 1])) for number, _, given, _ in found)
                mask, chunk = made.id.read_direct_chunk((0,) * values.ndim)
                (folder / f"{name}-{dtype}").write_bytes(Case.content(filters, mask, values.nbytes, bytes(chunk)))


def prepared() -> Guarded:
    """Memory for chunks, all that is loaded or compiled once being so: it is no memory of a case."""
    for number in NUMBERS:
        for compression in (0, 2, 3):
            with suppress(DamagedChunkError):
                undo((Filter(number, (4, 0, 4, 0, compression)),), 0, np.zeros(64, np.uint8), 64)
    return Guarded(1 << 16)


def replay(folder: Path) -> dict[str, str]:
    """What comes of each case in a folder, by name; each is named on stderr before, in case it crashes."""
    memory, found = prepared(), {}
    for path in sorted(folder.iterdir()):
        print(path.name, file=sys.stderr, flush=True)
        found[path.name] = decode(path.read_bytes(), memory)
    return found


def fuzz(arguments: list[str]) -> None:
    """Change cases until one is a bug."""
    import atheris

    memory = prepared()
    for module in (codecs, compressors, storage):
        for function in vars(module).values():
            if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                atheris.instrument_func(function)
    command = f"{sys.executable} {sys.argv[0]}"  # that merging starts anew, by the shell
    atheris.Setup([command, "-max_len=4096", "-timeout=10", *arguments], lambda content: decode(content, memory))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=Path, metavar="DIR", help="write cases to start from")
    parser.add_argument("--replay", type=Path, metavar="DIR", help="print what comes of each case")
    options, others = parser.parse_known_args()
    if options.seeds:
        write_seeds(options.seeds)
    elif options.replay:
        print(json.dumps(replay(options.replay)))
    else:
        fuzz(others)


if __name__ == "__main__":
    main()
