"""Signals while `fit` runs: between two steps, as they were handled before, and with a checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastsgd as fs
from fastsgd.training.checkpoint_folder import CheckpointFolder
from fastsgd.training.interrupts import Interrupts

PATIENCE = 120

TRAINING = """
import os, signal, sys
import numpy as np
import fastsgd as fs

class Signals(fs.training.progress.Silent):
    def advance(self, rows, loss):
        if trainer.steps == 10:
            os.kill(os.getpid(), signal.{name})

x = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
trainer = fs.Trainer(fs.Sequential([fs.Dense(1)]), fs.SGD(0.01), "mse")
{before}
trainer.fit((x, x[:, :1]), batch_size=100, checkpoint=fs.Checkpoint(sys.argv[1], every_steps=1), progress=Signals())
print(trainer.steps)
"""


def train(folder, name, before=""):
    code = TRAINING.format(name=name, before=before)
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False, timeout=PATIENCE
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_that_ends_a_process_ends_it_after_a_checkpoint(tmp_path, name):
    done = train(tmp_path / "c", name)
    assert (done.returncode, done.stdout, done.stderr) == (-getattr(signal, name), "", "")
    assert CheckpointFolder(tmp_path / "c").steps()[-1] == 10


def test_an_interrupt_is_one_of_python_after_a_checkpoint(tmp_path):
    done = train(tmp_path / "c", "SIGINT")
    assert done.returncode == -signal.SIGINT  # as Python ends where nobody catches it
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert CheckpointFolder(tmp_path / "c").steps()[-1] == 10


class SignalsInAStep(fs.Trainer):
    """Sends itself a signal when a slab is computed and not yet counted."""

    def _train(self, slab, batch_size):
        losses = super()._train(slab, batch_size)
        if self.steps == 4:
            signal.raise_signal(signal.SIGINT)
        return losses


def test_a_signal_in_the_first_slab_of_a_later_epoch(tmp_path):
    """Of small data it is the only one of an epoch."""
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    trainer = SignalsInAStep(fs.Sequential([fs.Dense(1)]), fs.SGD(0.01), "mse")
    with pytest.raises(KeyboardInterrupt):
        trainer.fit((x, x[:, :1]), epochs=9, batch_size=100, checkpoint=tmp_path / "c")
    assert CheckpointFolder(tmp_path / "c").steps() == [0, 4]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_handler_of_the_user_decides(tmp_path, name):
    """One that returns lets training go on."""
    done = train(tmp_path / "c", name, f"signal.signal(signal.{name}, lambda *_: print('handled'))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\n20\n", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_what_is_ignored_stays_so(tmp_path, name):
    done = train(tmp_path / "c", name, f"signal.signal(signal.{name}, signal.SIG_IGN)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "20\n", "")


def held_through(interrupts, seen):
    with interrupts.held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        seen.append("whole")


def test_a_signal_waits_until_the_end_of_a_step():
    seen, before = [], signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            held_through(interrupts, seen)
        assert seen == ["whole"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_on_another_thread(tmp_path):
    """Where no handler can be set, and no signal comes."""
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    failures = []

    def run():
        try:
            trainer = fs.Trainer(fs.Sequential([fs.Dense(1)]), fs.SGD(0.01), "mse")
            trainer.fit((x, x[:, :1]), batch_size=100, checkpoint=tmp_path / "c")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failures == []
    assert CheckpointFolder(tmp_path / "c").steps() == [0, 2]
