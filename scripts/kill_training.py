"""Kill training again and again, at random moments, and see that it ends in the same bits as if nothing had happened.

Each run of `fastsgd train --resume` is killed with SIGKILL until one comes to its end; then its model and history are
compared with those of a run that was left alone, and the next begins, until there were as many kills as were asked for.

    python scripts/kill_training.py --kills 1000
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

import fastsgd as fs

ROWS, EPOCHS = 20_000, 3
RUN = ["--layers", "16", "--momentum", "0.9", "--standardize", "--batch-size", "20", "--epochs", str(EPOCHS)]
RECORD = ["--checkpoint-steps", "100", "--validation", "0.1", "--quiet"]
# Streamed through a window, and in memory.
MEMORIES = ("2MB", "1GB")


def write_data(path: Path) -> Path:
    """A table that both budgets suit."""
    x = np.random.default_rng(0).normal(size=(ROWS, 20)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=x, chunks=(500, 20))
        file.create_dataset("y", data=np.sin(x[:, 0]), chunks=(500,))
    return path


def command(data: Path, out: Path, memory: str) -> list[str]:
    """What trains, or goes on with it."""
    source = [str(data), "-x", "X", "-y", "y", "--out", str(out), "--memory", memory]
    return [sys.executable, "-m", "fastsgd", "train", *source, *RUN, *RECORD, "--resume"]


def outcome(out: Path) -> tuple[bytes, list[tuple[int, float, float]]]:
    """What a run left, but for how long it took."""
    epochs = fs.History.from_csv(out / "history.csv").epochs
    return (out / "model.safetensors").read_bytes(), [(e["epoch"], e["loss"], e["val_loss"]) for e in epochs]


def kill_until_done(words: list[str], longest: float, most: int, chance: random.Random) -> int:
    """Start a run over and over; returns how often it was killed before it came to its end."""
    kills = 0
    while True:
        with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
            try:
                _, told = process.communicate(timeout=chance.uniform(0, longest) if kills < most else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
        if process.returncode == 0:
            return kills
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"a run ended with {process.returncode} after {kills} kills: {told.decode()}")
        kills += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, kills, runs = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_data(folder / "data.h5")
        wanted, took = {}, 0.0
        for memory in MEMORIES:
            subprocess.run(command(data, folder / memory, memory), check=True)
            begin = time.perf_counter()
            subprocess.run(command(data, folder / f"{memory} again", memory), check=True)
            took = time.perf_counter() - begin
            wanted[memory] = outcome(folder / memory)
        while kills < options.kills:
            memory = MEMORIES[runs % len(MEMORIES)]
            out = folder / f"run {runs}"
            # No longer than a whole run takes: some are killed while they start, some while they write the model.
            here = kill_until_done(command(data, out, memory), took, options.kills - kills, chance)
            assert outcome(out) == wanted[memory], f"{out} ended in other bits after {here} kills"
            assert not [left for left in os.listdir(out / "checkpoints") if left.startswith(".")]
            kills, runs = kills + here, runs + 1
            print(f"{kills} kills, {runs} runs that came to their end in the same bits", flush=True)


if __name__ == "__main__":
    main()
