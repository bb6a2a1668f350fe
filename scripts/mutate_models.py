"""Damage model files and checkpoints, and load them: a clear error, or the same model, and nothing else.

    python scripts/mutate_models.py 100000

Bytes change, stretches go, come twice or are swapped, the end is cut off, words of the description are exchanged.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastsgd as fs
from fastsgd.training.snapshots import Position, Snapshot, read_snapshot

ADDRESS_SPACE = 4 << 30  # files of some kilobytes that ask for more are refused
WORDS = [b"fastsgd", b"dense", b"relu", b"tanh", b"units", b"F32", b"F64", b"shape", b"data_offsets", b"true", b"false"]
WORDS += [
    b"null",
    b"0",
    b"1",
    b"-1",
    b"1e999",
    b"NaN",
    b"99999999999999999999",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
]
RUN = {"batch_size": 32, "model": {"layers": [{"units": 3}]}}


def model_file(path: Path) -> bytes:
    """A good model file."""
    layers = [fs.Standardize(), fs.Dense(3, "relu"), fs.Dense(2, "tanh", use_bias=False)]
    fs.Sequential(layers, input_dim=4, seed=1).save(path)
    return path.read_bytes()


def checkpoint_file() -> bytes:
    """A good checkpoint."""
    position = Position(7, 1, rows=64, loss_sum=1.5, spent={"seconds": 0.5})
    history = [{"epoch": 0, "loss": 0.25}]
    return Snapshot(RUN, position, history, {"a": np.arange(12, dtype=np.float32)}, {"fastsgd": "0"}).encode()


def outcome_of_model(path: Path, good: bytes) -> str:
    """What loading a model file comes to; AssertionError if it is another model."""
    try:
        model = fs.load_model(path)
    except fs.ModelFileError:
        return "refused"
    model.save(path)
    assert path.read_bytes() == good, "another model"
    return "the same"


def outcome_of_checkpoint(path: Path, good: bytes) -> str:
    """Likewise of a checkpoint."""
    try:
        snapshot = read_snapshot(path, RUN, {"a": (12,)}, "float32")
    except fs.CheckpointError:
        return "refused"
    assert snapshot.encode() == good, "another state"
    return "the same"


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to four things changed, most of them in its header."""
    data = bytearray(good)
    header = 8 + int.from_bytes(good[:8], "little")
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, (header if rng.random() < 0.7 else len(data)) or 1))
        length = int(rng.integers(1, 20))
        kind = rng.integers(0, 7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and data:
            data[at % len(data)] = int(rng.integers(0, 256))
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            other = int(rng.integers(0, max(1, len(data))))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
        elif kind == 5:
            del data[int(rng.integers(0, len(data) + 1)) :]
        else:
            word, new = (WORDS[int(rng.integers(0, len(WORDS)))] for _ in range(2))
            data = data.replace(word, new, int(rng.integers(1, 3)))
    if rng.random() < 0.5:  # as long as it says that it is, so that more than that is looked at
        data[:8] = (len(data) - (len(good) - header) - 8 & 0xFFFF).to_bytes(8, "little")
    return bytes(data)


def run(count: int, seed: int) -> Counter[str]:
    """Mutate so many files in turn, of both kinds; counts of what came of it."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        kinds: list[tuple[str, bytes, Callable[[Path, bytes], str]]] = [
            ("model", model_file(path), outcome_of_model),
            ("checkpoint", checkpoint_file(), outcome_of_checkpoint),
        ]
        for number in range(count):
            name, good, outcome = kinds[number % len(kinds)]
            rng = np.random.default_rng((seed, number))
            path.write_bytes(mutated(good, rng))
            try:
                found[f"{name}: {outcome(path, good)}"] += 1
            except BaseException as error:
                error.add_note(f"file {number} of seed {seed}")
                raise
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for name, times in sorted(run(options.count, options.seed).items()):
        print(f"{name}: {times}")


if __name__ == "__main__":
    main()
