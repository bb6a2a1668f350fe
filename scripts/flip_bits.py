"""Damage small HDF5 files, a bit here and a cut there, and read them: an error, or what h5py reads, and nothing else.

    python scripts/flip_bits.py 100000

HDF5 itself crashes on some; each is therefore read in a process that may die. Counted are files that were read alike
and those that were refused; anything else, a crash too, is printed, and is a bug.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

ADDRESS_SPACE = 4 << 30  # of the process that reads: files of some kilobytes that ask for more are refused
KINDS = {
    "contiguous": {},
    "chunked": {"chunks": (16, 4)},
    "gzip": {"chunks": (16, 4), "compression": "gzip"},
    "gzip + shuffle": {"chunks": (16, 5), "compression": "gzip", "shuffle": True},
    "lzf + shuffle": {"chunks": (16, 3), "compression": "lzf", "shuffle": True},
    "fletcher32": {"chunks": (20, 5), "fletcher32": True},
    "all": {"chunks": (20, 5), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "zstd": {"chunks": (16, 5), **hdf5plugin.Zstd()},
    "lz4": {"chunks": (16, 5), "shuffle": True, **hdf5plugin.LZ4(nbytes=128)},
    "blosc": {"chunks": (16, 5), **hdf5plugin.Blosc()},
    "bitshuffle": {"chunks": (20, 5), **hdf5plugin.Bitshuffle(nelems=32)},
    "bitshuffle + zstd": {"chunks": (20, 5), **hdf5plugin.Bitshuffle(nelems=32, cname="zstd")},
}
VERSIONS = ("earliest", "latest")


def originals() -> list[bytes]:
    """The files before the damage."""
    rng = np.random.default_rng(0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.h5"
        for options in KINDS.values():
            for version in VERSIONS:
                with h5py.File(path, "w", libver=version) as file:
                    file.create_dataset("X", data=rng.integers(-9, 9, (70, 5)).astype("f4"), **options)
                found.append(path.read_bytes())
    return found


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bits flipped, or the end cut off."""
    if rng.random() < 0.2:
        return content[: rng.integers(0, len(content))]
    changed = bytearray(content)
    for at in rng.integers(0, len(content), rng.integers(1, 5)):
        changed[at] ^= 1 << rng.integers(0, 8)
    return bytes(changed)


def read_all(seed: int, first: int, last: int) -> None:
    """Read damaged files first to last, and print what came of each, the way there being said before it is taken."""
    import warnings

    import fastsgd as fs

    # A filter's library may print where only answers should be.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    files = originals()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.h5"
        for number in range(first, last):
            rng = np.random.default_rng((seed, number))
            path.write_bytes(damaged(files[number % len(files)], rng))
            print(json.dumps([number, "fastsgd"]), file=answers, flush=True)
            outcome, found = "refused", None
            try:
                found = fs.HDF5Dataset(path, "X").take(slice(None)).x
            except fs.DataError:
                pass
            except BaseException as error:
                outcome = f"failed: {type(error).__name__}: {error}"
            if found is not None:
                print(json.dumps([number, "h5py"]), file=answers, flush=True)
                outcome = compared(found, path)
            print(json.dumps([number, outcome]), file=answers, flush=True)


def compared(found: np.ndarray, path: Path) -> str:
    """What rows that were read are beside those that h5py reads."""
    try:
        with h5py.File(path) as file:
            wanted = np.asarray(file["X"][...])
    except Exception as error:
        return f"read, while h5py raises {error}"
    alike = found.astype(wanted.dtype).tobytes() == wanted.reshape(len(wanted), -1).tobytes()
    return "read alike" if alike else "read differently"


def run(count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Read so many damaged files; returns how many ended how, and what is a bug."""
    outcomes: Counter[str] = Counter()
    bugs = []
    first = 0
    while first < count:
        command = [sys.executable, __file__, str(count), "--seed", str(seed), "--first", str(first)]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()
        if not lines:
            raise RuntimeError("the process that reads did not start; its errors are above")
        for line in lines:
            number, stage = json.loads(line)
            if stage in ("read alike", "refused"):
                outcomes[stage] += 1
            elif stage not in ("h5py", "fastsgd"):
                bugs.append(f"file {number}: {stage}")
        crashed = stage in ("fastsgd", "h5py")
        if crashed and number > first:
            # By itself it may be harmless: some of HDF5's plugins write beyond their memory where h5py reads damaged
            # chunks, and the process crashes over a later file.
            first = number
            continue
        if crashed:
            bugs.append(f"file {number}: {'crashed' if stage == 'fastsgd' else 'read, while h5py crashes'}")
        first = number + 1
    return outcomes, bugs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="how many files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, help="read from this file on, in this process")
    options = parser.parse_args()
    if options.first is not None:
        read_all(options.seed, options.first, options.count)
        return
    outcomes, bugs = run(options.count, options.seed)
    print(", ".join(f"{count} {what}" for what, count in sorted(outcomes.items())))
    print("\n".join(bugs) if bugs else "no bug")
    sys.exit(1 if bugs else 0)


if __name__ == "__main__":
    main()
