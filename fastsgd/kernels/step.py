"""Training steps and predictions over a slab of rows, on one thread or many.

A step has two regions: rows (forward, loss, deltas), then weights (gradient and update in one). In the rows region a
block of rows runs through all layers and back while it is in cache; in the weights region each task owns some weights.
Each element has one writer and each sum one order, whoever runs it, so the bits do not depend on threads. The threads
share the tasks of one region after the other (`fastsgd.kernels.crew`), and start and end once a slab.

What computes and stores (products, losses, activations) are functions of their own; what only leads from one to the
next is inlined into the workers, which halves the time to compile them. No array of a NamedTuple may be stored to in
the body of a prange itself: Numba 0.68 stores into a copy there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from fastsgd.kernels.crew import next_task, start_tasks
from fastsgd.kernels.jit import inlined, parallel, serial, small
from fastsgd.kernels.linear import gradient_in_place, predicts_in_place, trains_in_place
from fastsgd.kernels.machine import advance, lanes_of, never_inline, pointer, region_threads
from fastsgd.kernels.network import (
    BLOCK_ROWS,
    LOSS_PARAMETERS,
    N_LAYERS,
    N_TASKS,
    ONE,
    OUTPUTS,
    RATE,
    ROWS,
    SCALE,
    SETTINGS,
    SHIFT,
    SLICE,
    THREADS,
    Arena,
    block_rows,
    bundled_groups,
    group_rows,
    rows_of,
    sub_rows,
)
from fastsgd.kernels.passes import (
    Job,
    Part,
    Rows,
    Source,
    expect_rows,
    forward,
    rows_pass,
    source_rows,
    source_size,
)
from fastsgd.kernels.scalar import like
from fastsgd.kernels.vectors import VECTOR_BYTES
from fastsgd.kernels.weights import add_pending, bits, group_gradient, pack_task, partial_gradient, weight_task

_EXPECTED_BYTES = 2**16  # of a block that is asked for while the weights before it are updated
_PREDICTED_ROWS = 128  # of a task of a prediction, or one block: a task of less is little beside taking it


@serial
def start_slab(network, workspace, rates, loss_parameters, threads):
    """Begin a slab, before any worker: no task is taken yet, and what standardizes, the rates and the parameters of the
    loss (both empty for a prediction) are copied to the workspace.

    Blocks, and lanes of tasks, are made for so many threads; the numbers of workers that predict are below it.
    """
    never_inline()
    memory, numbers = workspace.memory, workspace.numbers
    start_tasks(numbers)
    numbers[THREADS] = threads
    settings = numbers[SETTINGS]
    starts = (numbers[SHIFT], numbers[SCALE], settings + RATE, settings + LOSS_PARAMETERS)
    for start, values in zip(starts, (network.shift, network.scale, rates, loss_parameters)):
        # Element by element: what Numba needs for an assignment of slices takes two seconds to compile.
        for i in range(values.size):
            memory[start + i] = values[i]


@inlined
def _arena(network, workspace):
    """Both by their pointers; they must be kept alive."""
    parameters, memory = network.parameters, pointer(workspace.memory, 0)
    return Arena(parameters.size, pointer(parameters, 0), memory, pointer(workspace.numbers, 0), memory)


@small
def _with_own_rows(arena, worker):
    """The same, with a thread's own room for rows, where there is one."""
    rows = advance(arena.memory, worker * arena.numbers[SLICE])
    return Arena(arena.size, arena.parameters, arena.memory, arena.numbers, rows)


class Cut(NamedTuple):
    """How the rows region of a batch is cut: tasks, rows of each, and rows of a group, 0 where there are none."""

    tasks: int
    size: int
    group: int


@small
def _cut(arena, m):
    """The cut of a batch of m rows. Groups, and the order in which their gradients are added, do not depend on the
    number of threads; how many of them are one task does, and so do the rows of a block."""
    threads = arena.numbers[THREADS]
    group = group_rows(arena.numbers[N_LAYERS], arena.size, m)
    if group > 0:
        size = group * bundled_groups((m + group - 1) // group, threads)
    else:
        size = block_rows(arena.size, m, threads)
    return Cut((m + size - 1) // size, size, group)


@small
def _loss_rows_together(cut):
    """Rows of a batch whose losses are one sum, whatever the blocks."""
    return cut.group if cut.group > 0 else BLOCK_ROWS


@small
def _rows_together(arena, cut):
    """Rows that pass through the layers together: a block, or those of a group that are in the workspace at a time."""
    return min(cut.group, sub_rows(arena.numbers[N_LAYERS])) if cut.group > 0 else cut.size


@small
def _next_rows(arena, cut, start, m, n_rows, task, row, group_last, last):
    """(position, rows) of what the thread of a task of the rows region likely takes after the rows before `row`: more
    of their group, which ends at `group_last`, or of the task, which ends at `last`, or the next task of its lane.

    After the last of a step those of groups go on with the next step, which other batches ask for as they update: by
    then the products of a large network would have driven the rows out of the cache.
    """
    left = group_last - row if row < group_last else last - row
    if left > 0:
        return start + row, min(_rows_together(arena, cut), left)
    threads = arena.numbers[THREADS]
    following = task + threads
    begin = start + following * cut.size
    if following < cut.tasks:
        return begin, min(BLOCK_ROWS if cut.group == 0 else _rows_together(arena, cut), start + m - begin)
    begin = start + m + task % threads * cut.size
    if cut.group == 0 or begin >= n_rows:
        return start, 0
    return begin, min(_rows_together(arena, cut), n_rows - begin)


@inlined
def _rows_task(arena, loss, rows, sums, worker, cut, start, m, n_rows, task):
    """One block or some groups of the batch of m rows at position `start` of the slab's n_rows; groups pass through
    their thread's own room."""
    if cut.group > 0:
        arena = _with_own_rows(arena, worker)
    first = task * cut.size
    last = min(m, first + cut.size)
    one = arena.memory[arena.numbers[ONE]]
    unit, in_place = _loss_rows_together(cut), trains_in_place(arena, cut.group)
    job = Job(loss, one / like(one, m), sums, unit, worker, in_place)
    for index in range(first // unit, (last + unit - 1) // unit):
        sums[index] = 0.0
    together, group = _rows_together(arena, cut), cut.group if cut.group > 0 else cut.size
    pending = 0
    for group_first in range(first, last, group):
        group_last = min(last, group_first + group)
        gradient = partial_gradient(arena, worker, task, pending)
        for begin in range(group_first, group_last, together):
            count = min(together, group_last - begin)
            ahead, expected = _next_rows(arena, cut, start, m, n_rows, task, begin + count, group_last, last)
            if in_place:
                if expected < count:
                    ahead = start + begin
                expect_rows(rows, ahead, count, False)
            at = 0 if cut.group > 0 else begin
            part = Part(begin, start + begin, at, count, ahead, expected)
            rows_pass(arena, rows, job, part)
            if in_place:
                gradient_in_place(arena, rows, part, gradient, begin == group_first)
            if cut.group > 0:
                group_gradient(arena, at, count, gradient, begin == group_first, 1 if in_place else 0)
        if cut.group > 0:
            done = (group_last - first + group - 1) // group
            pending = add_pending(arena, worker, task, pending + 1, 1 if group_last == last else bits(done))


@inlined
def _expect_next(arena, rows, cut, start, n_rows, task):
    """Ask memory for a few rows of a block of the next step's rows region, as long as this one's: all at once would
    wait for one another. The whole of a block of wide rows would be too much beside the products of a large network:
    784-512-512-10 at batch 128 lost 5%."""
    most = max(BLOCK_ROWS, _EXPECTED_BYTES // (rows.n_in * (VECTOR_BYTES // lanes_of(arena.memory))))
    begin = task // cut.tasks * BLOCK_ROWS
    first = start + task % cut.tasks * cut.size + begin
    count = min(BLOCK_ROWS, min(cut.size, most) - begin, n_rows - first)
    if cut.group == 0 and count > 0:
        expect_rows(rows, first, count, True)


@small
def _mean_loss(block_loss, count, m):
    total = 0.0
    for i in range(count):
        total += block_loss[i]
    return total / m


@serial
def train_worker(worker, network, state, workspace, source, batch_size, losses):
    """Take tasks of a slab until none is left: first all kernels are packed, then come the two regions of each step.

    `worker` is a number of its own below `workspace.workers` for each thread.
    """
    never_inline()
    arena, rows = _arena(network, workspace), source_rows(source)
    velocity, loss, mode = pointer(state.velocity, 0), state.loss, state.mode
    sums = pointer(workspace.block_loss, 0)
    n_rows, n_weights, threads = source_size(source), arena.numbers[N_TASKS], arena.numbers[THREADS]
    cut = _cut(arena, batch_size)
    end = phase = 0
    # The packing is the weights region of a step before the first.
    for step in range(-1, (n_rows + batch_size - 1) // batch_size):
        start = step * batch_size
        m = min(batch_size, n_rows - start)
        if m < batch_size:
            cut = _cut(arena, m)
        if step >= 0:
            end += cut.tasks
            phase += 1
            while True:
                task = next_task(arena.numbers, worker, threads, phase, cut.tasks, end)
                if task < 0:
                    break
                _rows_task(arena, loss, rows, sums, worker, cut, start, m, n_rows, task)
        end += n_weights
        phase += 1
        while True:
            task = next_task(arena.numbers, worker, threads, phase, n_weights, end)
            if task < 0:
                break
            if step < 0:
                pack_task(arena, task)
                continue
            if task == 0:
                unit = _loss_rows_together(cut)
                losses[step] = _mean_loss(sums, (m + unit - 1) // unit, m)
            _expect_next(arena, rows, cut, start + batch_size, n_rows, task)
            weight_task(arena, velocity, mode, worker, m, cut.tasks if cut.group > 0 else 0, task)


@parallel
def train_slab(network, state, workspace, source, batch_size, losses):
    """One step for each `batch_size` rows of a slab, the last on what is left; losses[i] := mean loss of batch i."""
    threads = min(workspace.workers, region_threads())
    start_slab(network, workspace, state.rates, state.loss_parameters, threads)
    for worker in prange(threads):
        train_worker(np.int64(worker), network, state, workspace, source, batch_size, losses)


@serial
def train_slab_serial(network, state, workspace, source, batch_size, losses):
    """The one-thread twin of `train_slab`."""
    start_slab(network, workspace, state.rates, state.loss_parameters, 1)
    train_worker(np.int64(0), network, state, workspace, source, batch_size, losses)


@serial
def _put_rows(rows, m, n, out, first):
    """out[first:first + m] := rows (m, n_outputs)"""
    never_inline()
    for i in range(m):
        for j in range(n):
            out[(first + i) * n + j] = rows.data[rows.start + i * rows.row + j]


@small
def _rows_of_one(arena):
    """Rows that a thread has room for in a prediction."""
    rows = arena.numbers[ROWS]
    return rows if arena.numbers[SLICE] > 0 else rows // arena.numbers[THREADS] // BLOCK_ROWS * BLOCK_ROWS


@small
def _predicted_together(arena, n_rows, in_place):
    """(rows of a prediction that go through all layers at a time, rows of a task: several times as many where there are
    enough). A thread has a part of the workspace of its own."""
    threads = arena.numbers[THREADS]
    block = sub_rows(1) if in_place else block_rows(arena.size, n_rows, threads)
    block = min(block, _rows_of_one(arena))
    return block, block * max(1, min(_PREDICTED_ROWS // block, n_rows // (4 * threads * block)))


@serial
def forward_worker(worker, network, workspace, x, raw, out):
    """Take tasks of a prediction until none is left: first all kernels are packed, then come blocks of rows."""
    never_inline()
    arena, result = _with_own_rows(_arena(network, workspace), worker), pointer(out, 0)
    nothing = pointer(workspace.memory, 0)
    rows = Rows(pointer(x, 0), x.shape[1], nothing, 0, nothing, False, pointer(workspace.numbers, 0), False)
    n_rows, n_weights, in_place = x.shape[0], arena.numbers[N_TASKS], predicts_in_place(arena)
    block, size = _predicted_together(arena, n_rows, in_place)
    n_blocks, threads = (n_rows + size - 1) // size, arena.numbers[THREADS]
    at = 0 if arena.numbers[SLICE] > 0 else worker * _rows_of_one(arena)
    end = 0
    for phase in range(2):
        tasks = n_weights if phase == 0 else n_blocks
        end += tasks
        while True:
            task = next_task(arena.numbers, worker, threads, phase, tasks, end)
            if task < 0:
                break
            if phase == 0:
                pack_task(arena, task)
                continue
            begin = task * size
            last = min(n_rows, begin + size)
            for first in range(begin, last, block):
                m = min(block, last - first)
                ahead = first + m if first + 2 * m <= n_rows else first
                forward(arena, rows, Part(first, first, at, m, ahead, 0), in_place, raw)
                _put_rows(rows_of(arena, OUTPUTS, arena.numbers[N_LAYERS], at), m, out.shape[1], result, first)


@parallel
def forward_slab(network, workspace, x, raw, out):
    """out (rows, n_outputs) := the network's outputs for x (rows, n_in), without the last activation where `raw`."""
    threads = min(workspace.workers, region_threads())
    start_slab(network, workspace, workspace.memory[:0], workspace.memory[:0], threads)
    for worker in prange(threads):
        forward_worker(np.int64(worker), network, workspace, x, raw, out)


@serial
def forward_slab_serial(network, workspace, x, raw, out):
    """The one-thread twin of `forward_slab`."""
    start_slab(network, workspace, workspace.memory[:0], workspace.memory[:0], 1)
    forward_worker(np.int64(0), network, workspace, x, raw, out)


@serial
def predict(network, x, workspace, out):
    """Outputs of a network, on all threads.

    Parameters
    ----------
    network : Network
        As `Sequential.network` gives it.
    x : array (rows, n_inputs), C-contiguous, of the network's dtype
    workspace : Workspace
        From `make_workspace`; its `max_rows` bounds the rows taken at a time, not those of x.
    out : array (rows, n_outputs), C-contiguous
        Overwritten.
    """
    forward_slab(network, workspace, x, False, out)


@serial
def predict_serial(network, x, workspace, out):
    """The one-thread twin of `predict`, for use inside your own `prange`."""
    forward_slab_serial(network, workspace, x, False, out)


@inlined
def _train(slab, network, optimizer_state, workspace, x, y, batch_size):
    n_rows = x.shape[0]
    losses = np.empty((n_rows + batch_size - 1) // batch_size, np.float64)
    source = Source(x, y, workspace.memory[:0], workspace.numbers[:0])
    slab(network, optimizer_state, workspace, source, batch_size, losses)
    total = 0.0
    for step in range(losses.size):
        total += losses[step] * min(batch_size, n_rows - step * batch_size)
    return total / n_rows


@serial
def train_batches(network, optimizer_state, workspace, x, y, batch_size):
    """Take one step of gradient descent for every `batch_size` rows, with no Python in between.

    Parameters
    ----------
    network : Network
        Its parameters are updated in place.
    optimizer_state : OptimizerState
        From `make_optimizer_state`; names the loss. The velocity is updated in place.
    workspace : Workspace
        From `make_workspace`, for at least `batch_size` rows.
    x : array (rows, n_inputs), C-contiguous, of the network's dtype
    y : array (rows, n_targets), C-contiguous, of the network's dtype
        Class numbers in one column for the sparse categorical cross-entropy.
    batch_size : int
        The last step takes what is left.

    Returns
    -------
    float
        Mean loss over all rows, each row's taken before its own step.
    """
    return _train(train_slab, network, optimizer_state, workspace, x, y, batch_size)


@serial
def train_batches_serial(network, optimizer_state, workspace, x, y, batch_size):
    """The one-thread twin of `train_batches`, for use inside your own `prange`."""
    return _train(train_slab_serial, network, optimizer_state, workspace, x, y, batch_size)


@serial
def train_batch(network, optimizer_state, workspace, x, y):
    """One step of gradient descent on all rows of x: `train_batches` with a single batch."""
    return _train(train_slab, network, optimizer_state, workspace, x, y, x.shape[0])


@serial
def train_batch_serial(network, optimizer_state, workspace, x, y):
    """The one-thread twin of `train_batch`, for use inside your own `prange`."""
    return _train(train_slab_serial, network, optimizer_state, workspace, x, y, x.shape[0])
