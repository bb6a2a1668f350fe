"""What the threads of a training step do for others: each task once, in its turn, and the step is none the worse."""

import ctypes
import threading

import numpy as np
import pytest
from steps import optimizer_state, problem, source_of

from fastsgd.kernels.errands import ASKED, LISTED, PLACES, tell_errand
from fastsgd.kernels.sharing import share
from fastsgd.kernels.step import start_slab, train_slab_serial, train_worker

ROWS, BATCH = 1000, 100
STEPS = ROWS // BATCH


def prepared(hidden):
    model, x, y, weight = problem([6, hidden, 1], "relu", "linear", "mse", True, rows=ROWS, dtype=np.float32)
    state, losses = optimizer_state(model, "mse", 0.5), np.zeros(STEPS)
    source = source_of(x, y, weight, np.empty(0, np.int64))
    return (model.network, state, model.workspace(BATCH), source, BATCH, losses), model


@pytest.mark.parametrize("hidden", [8, 600])  # rows in groups, and in blocks
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("every", "before", "tasks"), [(1, 0, 3), (3, 0, 2), (4, 2, 6), (50, 1, 2), (2, 3, 1)])
def test_each_task_is_done_once_in_its_turn(hidden, threads, every, before, tasks):
    wanted, alone = prepared(hidden)
    train_slab_serial(*wanted)
    arguments, model = prepared(hidden)
    done, lock = [], threading.Lock()

    @ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)
    def note(argument, turn, task):
        with lock:
            done.append((argument, turn, task))

    lists, memory = np.zeros((tasks, PLACES + 40), np.int64), np.zeros(4000, np.uint8)
    lists[:, LISTED], lists[:, PLACES:] = 40, 100 * np.arange(40)
    errand = tell_errand(
        ctypes.cast(note, ctypes.c_void_p).value,
        77,
        every=every,
        tasks=tasks,
        before=before,
        memory=memory.__array_interface__["data"][0],
        place_bytes=100,
        lists=lists,
        portion=1,
    )
    network, state, workspace = arguments[:3]
    start_slab(network, workspace, state.rates, state.loss_parameters, threads, errand)
    share(train_worker, threads, *arguments)
    turns = [step // every for step in range(before, before + STEPS) if step % every == 0]
    assert sorted(done) == [(77, turn, task) for turn in turns for task in range(tasks)]
    assert [turn for _, turn, _ in done] == sorted(turn for _, turn, _ in done)
    assert arguments[-1].tobytes() == wanted[-1].tobytes()
    assert model.network.parameters.tobytes() == alone.network.parameters.tobytes()
    # Places of all lists are asked for, but where threads found no task that asks.
    assert (lists[:, ASKED] <= 40).all()
    if threads == 1:
        assert (lists[:, ASKED] == 40).all()


def test_the_errand_of_one_slab_is_none_of_the_next():
    arguments, _ = prepared(8)
    done = []
    note = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(lambda *numbers: done.append(numbers))
    network, state, workspace = arguments[:3]
    address, nothing = ctypes.cast(note, ctypes.c_void_p).value, np.zeros((0, 0), np.int64)
    errand = tell_errand(address, 0, every=1, tasks=1, before=0, memory=0, place_bytes=1, lists=nothing, portion=0)
    start_slab(network, workspace, state.rates, state.loss_parameters, 1, errand)
    train_worker(np.int64(0), *arguments)
    assert len(done) == STEPS
    train_slab_serial(*arguments)
    assert len(done) == STEPS
