"""Seconds from the start of a process: to the import, to the first trained batch with compiled code at hand, and
without any.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner import print_table, take_turns

PEERS: tuple[str, ...] = ()

# Ends each line at what it is to be timed to; the clock is the system's, the same in parent and child.
SAY = "; import time; print(time.monotonic())"
IMPORT = "import fastsgd as fs; fs.Sequential, fs.Dense, fs.SGD, fs.Trainer, fs.HDF5Dataset"
FIRST_BATCH = """
import numpy as np, fastsgd as fs
model = fs.Sequential([fs.Dense(64, activation="relu"), fs.Dense(64, activation="relu"), fs.Dense(1)])
trainer = fs.Trainer(model, fs.SGD(learning_rate=0.01), loss="mse")
x = np.ones((256, 10), np.float32)
trainer.train_batch(x, x[:, :1])"""


def seconds_to(code: str, cache: Path) -> float:
    """From the start of a new interpreter to the end of `code` in it."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code + SAY],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1]) - begin


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start processes in turns; a quick run leaves out those that compile."""
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder) / "warm"
        seconds_to(FIRST_BATCH, warm)

        def cold() -> Mapping[str, float]:
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                return {"seconds": seconds_to(FIRST_BATCH, Path(empty))}

        turns: dict[str, Callable[[], Mapping[str, float]]] = {
            "interpreter alone": lambda: {"seconds": seconds_to("pass", warm)},
            "import": lambda: {"seconds": seconds_to(IMPORT, warm)},
            "first batch with compiled code at hand": lambda: {"seconds": seconds_to(FIRST_BATCH, warm)},
        }
        if not options.quick:
            turns["first batch with nothing compiled"] = cold
        measured = take_turns(turns, dict.fromkeys(turns, 1), rounds=options.rounds, pause=options.pause)
    return {
        "seconds": {
            name: {
                "median": round(statistics.median(one.seconds), 3),
                "all": [round(seconds, 3) for seconds in one.seconds],
            }
            for name, one in measured.items()
        }
    }


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    print_table(
        ["from the start to", "s"], [[name, f"{one['median']:.2f}"] for name, one in content["seconds"].items()]
    )


def complaints(_content: dict[str, Any]) -> list[str]:
    """Nothing here can disagree."""
    return []
