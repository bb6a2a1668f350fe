"""Threads that share the tasks of a slab: every task once, and the same bits, whoever comes and whenever."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from numba import njit
from steps import GROUPS, optimizer_state, problem, source_of

from fastsgd.kernels.crew import COUNTERS, MAX_THREADS, TASKS_DONE, next_task
from fastsgd.kernels.machine import fetch_add, pause, pointer, read_counter
from fastsgd.kernels.sharing import share
from fastsgd.kernels.step import forward_slab_serial, forward_worker, start_slab, train_slab_serial, train_worker

CASES = [
    ([10, 64, 64, 1], "relu", "linear", "mse", 32, True, 500),
    ([10, 64, 64, 1], "tanh", "linear", "mse", 1000, True, 2500),
    ([20, 10], "relu", "softmax", "sparse_categorical_crossentropy", 640, True, 3000),
    GROUPS["long"][0],
    ([3, 4, 2], "relu", "linear", "mse", 1, True, 300),  # blocks of one row, and nothing to share
    (
        [300, 440, 3],
        "relu",
        "linear",
        "mse",
        100,
        True,
        350,
    ),  # blocks by the number of threads
    ([600, 4000, 2], "tanh", "linear", "mse", 150, True, 200),  # the largest blocks
    ([60, 1], "relu", "linear", "mse", 130, True, 700),  # rows read where they lie
    # Seven, fifteen and eleven groups, whose last tasks have fewer than the others
    ([60, 1], "relu", "linear", "mse", 224, True, 500),
    ([60, 2], "relu", "linear", "mse", 480, True, 1000),
    ([60, 3], "relu", "linear", "mse", 352, True, 800),
]


@njit(nogil=True)
def work_through(worker, lanes, numbers, tasks, phases, times, workers, seen, come):
    """Tasks in phases: each notes who did it, and how many tasks of the phases before it were done. Threads begin
    together, when as many have come as there are to be (`come[0]` of `come[1]`)."""
    counters = pointer(numbers, 0)
    fetch_add(pointer(come, 0), 0, 1)
    while read_counter(pointer(come, 0), 0) < come[1]:
        pause()
    for phase in range(phases):
        before = phase * tasks
        while True:
            task = next_task(counters, worker, lanes, phase, tasks, before + tasks)
            if task < 0:
                break
            done = 0
            for other in range(before):
                done += times[other]
            seen[before + task] = done
            times[before + task] += 1
            workers[before + task] = worker


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("lanes", [1, 2, 7, MAX_THREADS])
def test_every_task_is_done_once_and_after_those_of_earlier_phases(threads, lanes):
    tasks, phases = 13, 40
    numbers = np.zeros(COUNTERS, np.int64)
    times, workers, seen = np.full((3, phases * tasks), [[0], [-1], [-1]])
    share(work_through, threads, lanes, numbers, tasks, phases, times, workers, seen, np.array([0, threads]))
    assert (times == 1).all()
    np.testing.assert_array_equal(seen, np.arange(phases * tasks) // tasks * tasks)
    assert set(workers) <= set(range(threads))
    assert numbers[TASKS_DONE] == tasks * phases


@njit
def tasks_of_one(worker, lanes, numbers, tasks):
    counters = pointer(numbers, 0)
    return [next_task(counters, worker, lanes, 0, tasks, tasks) for _ in range(tasks + 1)]


def test_a_thread_takes_the_tasks_of_its_own_lane_then_those_left_in_others():
    assert tasks_of_one(0, 2, np.zeros(COUNTERS, np.int64), 6) == [0, 2, 4, 1, 3, 5, -1]
    assert tasks_of_one(1, 2, np.zeros(COUNTERS, np.int64), 5) == [1, 3, 0, 2, 4, -1]
    assert tasks_of_one(3, 2, np.zeros(COUNTERS, np.int64), 4) == [1, 3, 0, 2, -1], "two threads may share a lane"
    assert sorted(tasks_of_one(2, 3, np.zeros(COUNTERS, np.int64), 7)) == [-1, 0, 1, 2, 3, 4, 5, 6]


def prepared(case):
    """(arguments of a worker after its number, what there is to compare afterwards)."""
    sizes, hidden, last, loss, batch, use_bias, rows = case
    model, x, y, weight = problem(sizes, hidden, last, loss, use_bias, rows=rows, dtype=np.float32)
    order = np.random.default_rng(3).permutation(rows)
    state, losses = optimizer_state(model, loss, 0.5), np.zeros(-(-rows // batch))
    workspace, source = model.workspace(batch), source_of(x, y, weight, order)
    arguments = model.network, state, workspace, source, batch, losses
    return arguments, lambda: (losses.tobytes(), model.network.parameters.tobytes(), state.velocity.tobytes())


def begin(arguments, threads):
    network, state, workspace = arguments[:3]
    start_slab(network, workspace, state.rates, state.loss_parameters, threads)


@pytest.fixture(scope="module")
def serial_bits():
    found = []
    for case in CASES:
        arguments, bits = prepared(case)
        train_slab_serial(*arguments)
        found.append(bits())
        assert np.isfinite(arguments[-1]).all()
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_plain_threads_give_the_bits_of_one(threads, serial_bits):
    for case, wanted in zip(CASES, serial_bits, strict=True):
        for _ in range(3):
            arguments, bits = prepared(case)
            workers = min(threads, arguments[2].workers)
            begin(arguments, workers)
            share(train_worker, workers, *arguments)
            assert bits() == wanted, case


def test_one_worker_does_the_tasks_of_all_lanes(serial_bits):
    for case, wanted in zip(CASES, serial_bits, strict=True):
        arguments, bits = prepared(case)
        begin(arguments, arguments[2].workers)
        train_worker(np.int64(0), *arguments)
        assert bits() == wanted, case


@pytest.mark.parametrize("late", ["at once", "after a task", "when all is done"])
def test_workers_that_come_late_or_not_at_all_are_not_waited_for(late, serial_bits):
    """Only workers 1 and 3 of those there is room for: one at once, the other when so much is done."""
    for case, wanted in zip(CASES, serial_bits, strict=True):
        arguments, bits = prepared(case)
        begin(arguments, 2)
        workers = [number for number in (1, 3) if number < arguments[2].workers] or [0]

        def work(number, arguments=arguments):
            train_worker(np.int64(number), *arguments)

        threads = [threading.Thread(target=work, args=(number,)) for number in workers]
        threads[0].start()
        if late == "after a task":
            while threads[0].is_alive() and arguments[2].numbers[TASKS_DONE] == 0:
                pass
        elif late == "when all is done":
            threads[0].join(60)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert bits() == wanted, case


_ANYWHERE = """
import sys, threading
from contextlib import nullcontext
from fastsgd.kernels.sharing import keep_threads, share
runs = []
def interrupted(at):
    returned, done, inside = 0, [], set()
    def work(index):
        try:
            inside.add(index)
            done.append(sum(range(3000)))
        finally:
            inside.discard(index)
    def interrupt(frame, event, argument):  # after a call of C, as Python handles signals
        nonlocal returned
        returned += event == "c_return"
        if returned == at:
            raise KeyboardInterrupt
    sys.setprofile(interrupt)
    try:
        with {context}():
            share(work, 3)
            share(work, 3)
        assert len(done) == 6
    except KeyboardInterrupt:
        pass
    sys.setprofile(None)
    assert not inside, "a thread still works"
    runs.append((done, len(done)))
    return returned >= at
at = 1
while interrupted(at):
    at += 1
for thread in threading.enumerate():
    if thread is not threading.main_thread() and thread.is_alive():
        thread.join(10)
assert all(len(done) == then for done, then in runs), "a thread began when nobody waited any more"
print(at > 50)
"""


@pytest.mark.parametrize("context", ["nullcontext", "keep_threads"])
def test_an_interrupt_anywhere_is_one_and_nobody_goes_on(context):
    program = _ANYWHERE.replace("{context}", context)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_predictions_of_plain_threads_have_the_bits_of_one():
    for case in CASES:
        sizes, hidden, last, loss, batch, use_bias, rows = case
        model, x, _, _ = problem(sizes, hidden, last, loss, use_bias, rows=rows, dtype=np.float32)
        outs, workspace = np.zeros((5, rows, sizes[-1]), np.float32), model.workspace(batch)
        assert 1 <= workspace.workers <= MAX_THREADS
        forward_slab_serial(model.network, workspace, x, False, outs[0])
        for out, threads in zip(outs[1:], (1, 2, 3, 5), strict=True):
            workers = min(threads, workspace.workers)
            start_slab(model.network, workspace, workspace.memory[:0], workspace.memory[:0], workers)
            share(forward_worker, workers, model.network, workspace, x, False, out)
            np.testing.assert_array_equal(out, outs[0])


def test_an_order_gives_the_bits_of_the_same_rows_gathered():
    for case in CASES:
        arguments, bits = prepared(case)
        train_slab_serial(*arguments)
        ordered = bits()
        arguments, bits = prepared(case)
        source = arguments[3]
        gathered = source_of(*(part[source.order] for part in source[:3]))
        train_slab_serial(*arguments[:3], gathered, *arguments[4:])
        assert bits() == ordered, case


def test_an_order_may_be_shorter_than_the_data():
    arguments, bits = prepared(CASES[0])
    source = arguments[3]
    order = np.concatenate([source.order[:70], source.order[:3]])
    losses = np.zeros(3)
    train_slab_serial(*arguments[:3], source._replace(order=order), 32, losses)
    ordered = bits(), losses.tobytes()
    arguments, bits = prepared(CASES[0])
    gathered = source_of(*(part[order] for part in source[:3]))
    losses = np.zeros(3)
    train_slab_serial(*arguments[:3], gathered, 32, losses)
    assert (bits(), losses.tobytes()) == ordered


_BITS = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, numba
from steps import GROUPS, optimizer_state, problem
from fastsgd import kernels
found = []
for case in (*json.loads(sys.argv[2]), GROUPS["long"][0]):
    sizes, hidden, last, loss, batch, use_bias, rows = case
    model, x, y, _ = problem(sizes, hidden, last, loss, use_bias, rows=rows, dtype=np.float32)
    state, workspace = optimizer_state(model, loss, 0.5), kernels.make_workspace(model.network, batch)
    out = np.empty((rows, sizes[-1]), np.float32)
    for train, predict in ((kernels.train_batches_serial, kernels.predict_serial),
                           (kernels.train_batches, kernels.predict)):
        start = model.network.parameters.copy()
        for _ in range(3):
            loss = train(model.network, state, workspace, x, y, batch)
        predict(model.network, x, workspace, out)
        bits = model.network.parameters.tobytes() + state.velocity.tobytes() + out.tobytes()
        found.append([hashlib.sha256(bits).hexdigest(), loss])
        model.network.parameters[:] = start
        state.velocity[:] = 0
assert found[::2] == found[1::2], "one thread and several"
print(json.dumps([numba.threading_layer(), numba.get_num_threads(), found]))
"""


def test_users_kernels_give_the_same_bits_for_any_number_of_threads_and_any_layer():
    """`train_batches`, whose threads are Numba's, its twin for one thread, and `predict`."""
    first, here = None, os.path.dirname(__file__)
    for layer in ("omp", "workqueue"):
        for threads in (1, 2, 3, 16):
            environment = os.environ | {"NUMBA_NUM_THREADS": str(threads), "NUMBA_THREADING_LAYER": layer}
            command = [sys.executable, "-c", _BITS, here, json.dumps([*CASES[:3], *CASES[-2:]])]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            used, count, found = json.loads(done.stdout)
            assert (used, count) == (layer, threads)
            first = first or found
            assert found == first, (layer, threads)
