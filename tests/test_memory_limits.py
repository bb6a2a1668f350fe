"""A hard limit of memory: an error that tells the plan, a model that is as it was, and a smaller budget that works."""

import gc
import json
import os
import resource
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest

import fastsgd as fs
import fastsgd.data.stream as stream_module
from fastsgd.data import ArrayDataset
from fastsgd.data.loader import Loader
from fastsgd.errors import MemoryBudgetError
from fastsgd.kernels import host

ROWS, COLUMNS = 1_200_000, 20  # 100 MB: more than the allocator of the C library takes from what it kept

PROGRAM = """
import json, resource, sys, threading
import numpy as np
import fastsgd as fs

def mapped():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

def limit(extra):
    '''The address space that is mapped now, and so much more.'''
    most = resource.RLIM_INFINITY if extra is None else mapped() + int(extra)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

class Late:
    '''Sets the limit when all is planned, so that what is planned is not to be had.'''
    def __init__(self, extra):
        self.extra = extra
    def plan(self, text):
        limit(self.extra)
    def start_epoch(self, *about): pass
    def advance(self, *about): pass
    def end_epoch(self, record): pass
    def close(self):
        limit(None)

def new():
    layers = [fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)]
    return fs.Trainer(fs.Sequential(layers), fs.SGD(1e-4, momentum=0.9), "mse", threads=2)

def state(trainer):
    return trainer.model.network.parameters.tobytes(), trainer.optimizer_state.velocity.tobytes(), trainer.steps

def failure(trainer, *arguments, **options):
    '''What `fit` says, if it fails; the model must then be as it was.'''
    before = state(trainer)
    try:
        trainer.fit(*arguments, batch_size=1024, **options)
    except fs.MemoryBudgetError as error:
        assert state(trainer) == before
        return str(error)

plain, packed = (fs.HDF5Dataset(sys.argv[1], name, "y") for name in ("plain", "packed"))
trainer = new()
for dataset in (plain, packed):  # what is compiled or loaded once
    for memory in ("12MB", "150MB"):
        trainer.fit(dataset, batch_size=1024, memory=memory)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("limits") / "a.h5"
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype("f4")
    with h5py.File(path, "w") as file:
        file.create_dataset("plain", data=x, chunks=(10_000, COLUMNS))
        file.create_dataset("packed", data=x, chunks=(10_000, COLUMNS), compression="gzip", compression_opts=1)
        file["y"] = x[:, 0]
    return path


def run(path, program):
    """What the program printed last."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, path],
        env=os.environ | {"NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_plan_beyond_the_limit_is_refused_before_anything_is_read(path):
    message, again = run(
        path,
        """
limit(40e6)
message = failure(trainer, plain, memory="900MB")
limit(40e6)
print(json.dumps([message, failure(trainer, plain, memory="12MB")]))
""",
    )
    assert message.startswith("memory is 900.0 MB, of which ")
    assert "the limit of this process's address space (ulimit -v) leaves 40.0 MB" in message
    assert 'Give memory="30MB"' in message
    assert again is None


@pytest.mark.parametrize(("dataset", "memory"), [("plain", "150MB"), ("plain", "30MB"), ("packed", "150MB")])
def test_what_is_planned_and_not_to_be_had(path, dataset, memory):
    """However much or little is left when the allocations begin: the error, or all rows; never a wait for ever."""
    found = run(
        path,
        f"""
found = []
for extra in (0, 50e3, 1e6, 9e6, 13e6, 17e6, 21e6, 99e6, 115e6, 130e6, 300e6):
    found.append(failure(trainer, {dataset}, memory="{memory}", progress=Late(extra)))
    assert threading.enumerate() == [threading.main_thread()]
limit(40e6)
found.append(failure(trainer, {dataset}, memory="12MB"))
print(json.dumps(found))
""",
    )
    assert found[0] is not None or memory == "30MB"
    assert found[-2:] == [None, None]
    for message in filter(None, found):
        assert message.startswith(("memory ran out: ", "memory or the number of threads has reached a limit: "))
        assert f"Planned was memory {memory[:-2]}.0 MB: " in message
        assert " held (" in message
        assert "(ulimit -v) leaves " in message
        assert "Give a smaller memory=" in message


def test_whoever_keeps_the_error_can_try_with_less(path):
    """One of two large arrays is there when memory ends; the error does not hold it."""
    held, rows = run(
        path,
        """
both = fs.HDF5Dataset(sys.argv[1], "packed", "plain")
other = fs.Trainer(fs.Sequential([fs.Dense(20)]), fs.SGD(1e-4), "mse", threads=2)
other.fit(both, batch_size=1024, memory="14MB")
before, held = mapped(), []
for extra in (112e6, 150e6):
    try:
        other.fit(both, batch_size=1024, memory="300MB", progress=Late(extra))
    except fs.MemoryBudgetError as error:
        held.append((mapped() - before, str(error)))
        limit(40e6)
        trainer.fit(packed, batch_size=1024, memory="12MB")
        limit(None)
print(json.dumps([held, plain.nbytes]))
""",
    )
    assert len(held) == 2
    assert max(size for size, _ in held) < rows / 4


def test_work_for_which_there_is_no_thread_is_done_by_the_one_there_is(path):
    """The same bits, for arrays in memory: shuffled, trained on and predicted."""
    assert run(
        path,
        """
held = plain.take(50000)
bits = []
for extra in (None, 8e6):
    own = new()
    own.fit((held.x, held.y), batch_size=1024, progress=Late(extra))
    limit(extra)
    bits.append([state(own), own.model.predict(held.x).tobytes()])
    limit(None)
print(json.dumps(bits[0] == bits[1]))
""",
    )


def test_rows_in_memory_go_with_the_run_that_held_them(tmp_path):
    """At once, and not when the garbage collector comes by: the next run has its budget too."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = np.zeros((200_000, 10), "f4")
        file["y"] = np.zeros(200_000, "f4")
    dataset = fs.HDF5Dataset(tmp_path / "a.h5", "X", "y")
    trainer = fs.Trainer(fs.Sequential([fs.Dense(1)]), fs.SGD(0.01), "mse")
    trainer.fit(dataset.take(1000), batch_size=1000)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        trainer.fit(dataset, batch_size=1000, checkpoint=tmp_path / "run")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert peak > dataset.nbytes
    assert held < dataset.nbytes / 4


def test_a_thread_that_ended_without_a_word(monkeypatch):
    monkeypatch.setattr(stream_module._Filling, "run", lambda self: None)
    loader = Loader(ArrayDataset(np.zeros(400_000)).split(0.2)[0], batch_size=100, memory="2MB")
    assert not loader.plan.whole
    with pytest.raises(MemoryBudgetError, match="the thread that reads has ended"):
        next(loader.epoch())


def test_address_space_left(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/statm").write_text("1000 500 100 1 0 400 0\n")
    before = resource.getrlimit(resource.RLIMIT_AS)
    assert host.address_space_left(tmp_path) is None
    most = 1 << 46
    try:
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
        assert host.address_space_left(tmp_path) == most - 1000 * resource.getpagesize()
        assert 0 < host.address_space_left() < most
        assert host.address_space_left(tmp_path / "nowhere") is None
        (tmp_path / "proc/self/statm").write_text(f"{1 << 40} 0\n")
        assert host.address_space_left(tmp_path) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
