"""Other processes: what is sent to them arrives whole, and one that is forked works or says why not."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from data_files import numbers_of, write_rows

import fastsgd as fs

ROWS = 120_000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "a.h5"
    x = np.random.default_rng(0).standard_normal((ROWS, 12)).astype("f4")
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=x, chunks=(2000, 12), compression="gzip", compression_opts=1)
        file["y"] = x[:, 0] * x[:, 1]
    return path


def new_trainer(threads=2, **options):
    layers = [fs.Standardize(), fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)]
    optimizer = fs.SGD(0.01, momentum=0.9, **options)
    return fs.Trainer(fs.Sequential(layers), optimizer, fs.losses.Huber(0.5), metrics=["mae"], threads=threads)


def bits(trainer):
    return (
        trainer.steps,
        trainer.optimizer_state.velocity.tobytes(),
        [(name, view.tobytes()) for name, view in trainer.model.parameters.items()],
    )


def twin(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize(
    "value",
    [
        fs.SGD(0.1, momentum=0.5, nesterov=True),
        fs.losses.Huber(0.3),
        fs.losses.Focal(gamma=1.5),
        fs.Checkpoint("run", every_steps=3, every_seconds=None, keep=4),
        fs.Dense(3, "tanh", use_bias=False),
        fs.Standardize(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_arrive_as_they_were_sent(value):
    assert twin(value) == value
    assert copy.deepcopy(value) == value


def test_a_history_arrives_as_it_was_sent():
    history = fs.History([{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 0.5, "val_loss": 0.75}])
    assert twin(history).epochs == history.epochs
    assert twin(history).to_dict() == history.to_dict()


@pytest.mark.parametrize("part", [0, 1, None], ids=["train", "validation", "all"])
@pytest.mark.parametrize("kind", ["file", "arrays"])
def test_datasets_arrive_with_their_rows_in_their_order(tmp_path, kind, part):
    dataset = fs.HDF5Dataset(write_rows(tmp_path / "a.h5", 5000, chunk=500), "X", "y", weight="w", nan="zero")
    if kind == "arrays":
        held = dataset.take(5000)
        dataset = fs.ArrayDataset(held.x, held.y, weight=held.weight, nan="zero")
    dataset = dataset if part is None else dataset.split(0.3)[part]
    next(dataset.batches(100))  # what is found out while reading does not change it
    again = twin(dataset)
    assert repr(again) == repr(dataset)
    assert again.fingerprint() == dataset.fingerprint()
    assert numbers_of(again.batches(100)).tolist() == numbers_of(dataset.batches(100)).tolist()
    assert np.array_equal(again.split(0.5)[1].take(10).x, dataset.split(0.5)[1].take(10).x)


@pytest.mark.parametrize("send", [twin, copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("trained", [False, True])
def test_a_trainer_arrives_with_its_state_and_goes_on_as_it_would_have(path, send, trained):
    dataset, trainer = fs.HDF5Dataset(path, "X", "y"), new_trainer()
    if trained:
        trainer.fit(dataset, batch_size=500)
        assert trainer.optimizer_state.velocity.any()
    again = send(trainer)
    assert again.history.epochs == trainer.history.epochs
    for one in (trainer, again) if trained else ():
        assert bits(one) == bits(trainer)
        assert one.optimizer_state.velocity.ctypes.data % 64 == 0
    for one in (trainer, again):  # each by itself
        one.fit(dataset, batch_size=500, initial_epoch=1)
    assert again.steps == (1 + trained) * ROWS // 500
    assert bits(again) == bits(trainer)
    assert again.evaluate(dataset) == trainer.evaluate(dataset)


def train_there(trainer, dataset, memory):
    trainer.fit(dataset, batch_size=500, memory=memory)
    return trainer


@pytest.mark.parametrize("memory", ["3MB", "50MB"], ids=["streamed", "in memory"])
def test_a_process_that_is_spawned_trains_on_what_it_was_sent(path, memory):
    dataset = fs.HDF5Dataset(path, "X", "y").split(0.2)[0]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(train_there, (new_trainer(), dataset, memory))
    assert bits(there) == bits(train_there(new_trainer(), dataset, memory))
    assert len(there.history.epochs) == 1


def run(program, *arguments, layer="workqueue"):
    """What the program printed, line by line."""
    done = subprocess.run(
        # To fork with threads warns from Python 3.12 on, which is what is done here.
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            f"import faulthandler, os, sys\n{program}",
            *map(str, arguments),
        ],
        env=os.environ | {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": layer},
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


IN_CHILD = """
def in_child(work):
    '''The exit code of a forked process that does some work.'''
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(100, exit=True)  # if it waits for ever
        work()
        sys.exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_works_with_an_iterator_alive_in_its_parent(path, threads):
    """Training, prediction and iteration are the same bits there; the parent's iterator says why it cannot go on."""
    lines = run(
        f"""{IN_CHILD}
import fastsgd as fs
from fastsgd.data.loader import Loader
from test_processes import bits, new_trainer

dataset = fs.HDF5Dataset(sys.argv[1], "X", "y")
held = dataset.take(dataset.n_rows)

def results():
    found = []
    for data, memory in ((dataset, "3MB"), (dataset, "50MB"), ((held.x, held.y), "50MB")):
        trainer = new_trainer({threads})
        trainer.fit(data, batch_size=500, memory=memory)
        found.append([bits(trainer), trainer.model.predict(held.x).tobytes(), trainer.evaluate(data)])
    found.append(trainer.model.predict(dataset, memory="3MB").tobytes())
    found.append([batch[0].tobytes() for batch in dataset.batches(500, memory="3MB")])
    return found

wanted = results()
assert not Loader(dataset, batch_size=500, memory="3MB").plan.whole
begun = [dataset.batches(500, memory="3MB", shuffle=shuffle) for shuffle in (True, False)]
rows = [len(next(batches)[0]) for batches in begun]

def work():
    print(results() == wanted)
    for batches in begun:
        try:
            print("rows from nobody", sum(len(x) for x, _ in batches))
        except fs.DataError as error:
            print(error)

print(in_child(work))
for batches in begun:
    print(500 + sum(len(x) for x, _ in batches))
print(results() == wanted)
""",
        path,
    )
    assert lines[0] == "True"
    assert all("begun before the process was forked" in line and "begin another" in line for line in lines[1:3])
    assert lines[3:] == ["7", str(ROWS), str(ROWS), "True"]


KERNEL = f"""{IN_CHILD}
import numpy as np
import fastsgd as fs
from fastsgd import kernels

def train():
    network = fs.Sequential([fs.Dense(64, "relu"), fs.Dense(1)], input_dim=10).network
    x = np.linspace(-1, 1, 20000, dtype="f4").reshape(2000, 10)
    state = kernels.make_optimizer_state(network, kernels.MSE, 0.01, 0.0, False)
    kernels.train_batches(network, state, kernels.make_workspace(network, 500), x, x[:, :1].copy(), 500)
    return network.parameters.tobytes()

def work():
    try:
        print(train() == wanted)
    except RuntimeError as error:
        print(error)

wanted = train()
print(in_child(work))
print(train() == wanted)
"""


def test_parallel_kernels_in_a_forked_process():
    assert run(KERNEL) == ["True", "7", "True"]


def test_parallel_kernels_on_openmp_in_a_forked_process_say_why_they_cannot_run():
    message, *others = run(KERNEL, layer="omp")
    assert message.startswith("parallel kernels ran on GNU OpenMP before this process was forked")
    assert "'spawn'" in message
    assert others == ["7", "True"]


def test_a_process_forked_while_another_thread_compiles():
    """It has none of the parent's threads, and must not wait for what they hold."""
    assert run(
        f"""{IN_CHILD}
import threading
import numba
import numpy as np
import fastsgd.kernels
from numba.core.compiler_lock import global_compiler_lock

def compiled(name):
    function = numba.njit(lambda x: x.sum() + x.mean() + x.std() + x.min())
    assert function(np.ones(4)) == 6
    print(name, flush=True)

other = threading.Thread(target=compiled, args=("thread",))
other.start()
while other.is_alive() and global_compiler_lock._lock.acquire(blocking=False):
    global_compiler_lock._lock.release()
print(in_child(lambda: compiled("child")))
other.join()
"""
    )[-2:] == ["child", "7"]


def test_a_forked_process_leaves_the_second_compiler_to_its_parent(tmp_path):
    environment = f"os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}"
    assert run(
        f"""{environment}
{IN_CHILD}
from fastsgd.kernels import ahead

other = ahead._Other("float32", ["multiply_rows"])
print(in_child(lambda: other.wait("multiply_rows")))
print(other._process.poll(), other._missing)
"""
    ) == ["7", "None {'multiply_rows'}"]
