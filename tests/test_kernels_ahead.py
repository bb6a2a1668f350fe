"""A cold start: another process compiles a part of the training step, for the types of arguments that the step has."""

import os
import subprocess
import sys

import pytest

from fastsgd.kernels import ahead, host

COLD_START = """
import numpy as np, fastsgd as fs
from fastsgd.kernels import ahead, jit

x = np.random.default_rng(0).random((256, 10), np.float32)
model = fs.Sequential([fs.Dense(16, activation="relu"), fs.Dense(1)])
trainer = fs.Trainer(model, fs.SGD(learning_rate=0.01), loss="mse")
trainer.fit((x, x[:, :1], x[:, 0]), validation=(x, x[:, :1]), batch_size=64, progress=False)
for kernel, arguments in ahead.parts("float32"):
    name = jit.name_of(kernel)
    assert kernel.signatures == [arguments], f"{name} was compiled for {kernel.signatures}, not for {arguments}"
    assert list(kernel.stats.cache_hits) == [arguments], f"{name} was compiled here"
literal = [jit.name_of(kernel) for kernel in jit._KEPT if "Literal" in str(kernel.signatures)]
assert not literal, f"{literal} were compiled for a single number"
"""


def test_parts_come_from_the_other_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COLD_START],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_nobody_waits_for_a_process_that_failed(monkeypatch):
    with monkeypatch.context() as without_packages:
        without_packages.setattr(sys, "path", [])
        other = ahead._Other("float64", ["multiply_columns"])
    other.wait("multiply_columns")
    assert other._process.returncode == 1


@pytest.mark.parametrize(
    ("limit", "available", "reserved", "started"),
    [
        (None, None, 0, True),
        (None, 4e9, 1e9, True),
        (None, 4e9, 3e9, False),
        (8e9, 64e9, 5e9, True),
        (8e9, 64e9, 7e9, False),
        (1e9, 64e9, 0, False),
    ],
)
def test_the_memory_of_training_is_left_to_it(limit, available, reserved, started, monkeypatch):
    asked = []
    monkeypatch.setattr(host, "memory_limit", lambda: limit)
    monkeypatch.setattr(host, "memory_available", lambda: available)
    monkeypatch.setattr(ahead, "_start", asked.append)
    monkeypatch.setattr(ahead.threads, "available_threads", lambda threads: 2)
    ahead.compile_ahead("float32", int(reserved))
    assert asked == ["float32"] * started


ENDS = """
import os, sys
import numpy as np, fastsgd as fs

class Ends:
    '''Ends the process as soon as the other one compiles.'''
    def plan(self, text):
        if text.startswith("compiling"):
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                print(children.read(), flush=True)
            END
    def start_epoch(self, *about): pass
    def advance(self, *about): pass
    def end_epoch(self, record): pass
    def close(self): pass

x = np.zeros((256, 10), np.float32)
model = fs.Sequential([fs.Dense(16, activation="relu"), fs.Dense(1)])
fs.Trainer(model, fs.SGD(0.01), "mse").fit((x, x[:, :1]), batch_size=64, progress=Ends())
"""


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [("sys.exit(3)", 3, ""), ("raise KeyError('the end')", 1, "KeyError: 'the end'\n"), ("os._exit(4)", 4, "")],
    ids=["exit", "error", "at once"],
)
def test_an_interpreter_that_ends_while_the_other_process_compiles(tmp_path, end, code, words):
    """At once, and the other with it, unless it could not be told: that one ends by itself."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS.replace("END", end)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith(words)
    assert done.stderr.count("Traceback") == bool(words)
    (other,) = done.stdout.split()
    if code != 4:
        assert not os.path.exists(f"/proc/{other}")


WAITS = """
import signal, sys, threading
from fastsgd.kernels import ahead, aside

class Output:
    def __init__(self, output):
        self.output = output
    def __getattr__(self, name):
        return getattr(self.output, name)
    def readline(self):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return self.output.readline()

other = ahead._Other("float64", ["multiply_columns"])
other._process.send_signal(signal.SIGSTOP)  # so that it says nothing
other._process.stdout = Output(other._process.stdout)
try: aside.interruptible(lambda: other.wait("multiply_columns"))
except KeyboardInterrupt: sys.exit(5)
"""


def test_an_interpreter_that_ends_while_a_thread_waits_for_the_other_process():
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (5, "")
