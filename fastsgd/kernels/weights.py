"""The weights region of a step: gradients of kernels and biases, and their update.

Each task owns a rectangle of a kernel, or a bias: it sums their gradient over the batch in registers, updates them on
the spot and copies them to where the next rows region reads them. No gradient vector exists, except for long batches of
small networks and of single layers: there each group of rows has one, summed while its rows are in cache, and a task
adds those up.
"""

from __future__ import annotations

from numba import config

from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.machine import advance, begins_vector, lanes_of, never_inline, view
from fastsgd.kernels.matmul import Ending, Panel, from_column, multiply_columns, strip_width
from fastsgd.kernels.network import (
    ALL_BIAS,
    BACKWARD,
    BACKWARD_STRIP,
    BIAS_START,
    CHUNK_ROWS,
    DELTAS,
    FORWARD,
    FORWARD_STRIP,
    GRADIENTS,
    KERNEL,
    KERNEL_ROW,
    MOMENTUM_RATE,
    MOST_PENDING,
    N_IN,
    N_LAYERS,
    N_OUT,
    NO_BIAS,
    NOT_PACKED,
    ONE,
    OUTPUTS,
    PACKED,
    PARTIALS,
    RATE,
    SCRATCH,
    SCRATCH_SIZE,
    SETTINGS,
    SUMS_ROW,
    TASK_COLUMN,
    TASK_COLUMN_END,
    TASK_LAYER,
    TASK_ROW,
    TASK_ROW_END,
    TRANSPOSED,
    ZEROS,
    gradient_size,
    layer_field,
    panel_field,
    panel_of,
    stored_shape,
    task_field,
    zero_panel,
)
from fastsgd.kernels.tile import MOMENTUM, STORE, UPDATE
from fastsgd.kernels.updates import momentum_update_serial, nesterov_update_serial, sgd_update_serial
from fastsgd.kernels.vectors import (
    copy_strip_row,
    copy_strip_row_past_caches,
    transpose_square,
    transpose_square_past_caches,
)

# Weights of a kernel from which its strips are written past the caches: these would not hold them until they are read,
# and would first bring what is overwritten. 256-2048-2048-256 takes 0.95 of the time.
_PAST_CACHES = 2**20


def _copy_across_plain(parameters, start, stored, rectangle, packed, place, past_caches):
    """Columns of a stored kernel's rectangle become rows of packed strips."""
    first, last, left, right = rectangle
    at, strip = place
    width = strip_width(packed)
    for r in range(first, last):
        row = at + r // width * strip + r % width
        for c in range(left, right):
            packed[row + c * width] = parameters[start + r * stored + c]


def _copy_across_squares(parameters, start, stored, rectangle, packed, place, past_caches):
    """`_copy_across_plain` in squares of vector registers, and element by element at the edges. Past the caches goes
    what lies at multiples of a vector: not so where somebody has copied a workspace."""
    never_inline()
    first, last, left, right = rectangle
    at, strip = place
    width = strip_width(packed)
    lanes = lanes_of(packed)
    for r in range(first, last, lanes):
        row = at + r // width * strip + r % width
        past = past_caches and begins_vector(packed, row)
        c = left
        if r + lanes <= last:
            while c + lanes <= right:
                source, out = advance(parameters, start + r * stored + c), advance(packed, row + c * width)
                if past:
                    transpose_square_past_caches(source, stored, out, width)
                else:
                    transpose_square(source, stored, out, width)
                c += lanes
        for i in range(r, min(r + lanes, last)):
            for k in range(c, right):
                packed[row + i - r + k * width] = parameters[start + i * stored + k]


copy_across = serial(_copy_across_plain if config.DISABLE_JIT else _copy_across_squares)


def _copy_along_plain(parameters, start, stored, rectangle, packed, place, past_caches):
    """Rows of a stored kernel's rectangle become rows of packed strips."""
    first, last, left, right = rectangle
    at, strip = place
    width = strip_width(packed)
    for r in range(first, last):
        for c in range(left, right):
            packed[at + c // width * strip + r * width + c % width] = parameters[start + r * stored + c]


def _copy_along_strips(parameters, start, stored, rectangle, packed, place, past_caches):
    """`_copy_along_plain` by whole rows of strips, and element by element at the edge; past the caches as above."""
    never_inline()
    first, last, left, right = rectangle
    at, strip = place
    width = strip_width(packed)
    for c in range(left, right, width):
        source, out = start + c, at + c // width * strip
        if c + width <= right and past_caches and begins_vector(packed, out):
            for r in range(first, last):
                copy_strip_row_past_caches(advance(parameters, source + r * stored), advance(packed, out + r * width))
        elif c + width <= right:
            for r in range(first, last):
                copy_strip_row(advance(parameters, source + r * stored), advance(packed, out + r * width))
        else:
            for r in range(first, last):
                for k in range(right - c):
                    packed[out + r * width + k] = parameters[source + r * stored + k]


copy_along = serial(_copy_along_plain if config.DISABLE_JIT else _copy_along_strips)


@small
def _stored(arena, layer):
    """Rows and columns of a layer's kernel as it is stored."""
    return stored_shape(
        layer_field(arena, layer, N_IN), layer_field(arena, layer, N_OUT), layer_field(arena, layer, TRANSPOSED)
    )


@small
def _rectangle(arena, task):
    """First row, end of the rows, first column and end of the columns that a task owns."""
    return (
        task_field(arena, task, TASK_ROW),
        task_field(arena, task, TASK_ROW_END),
        task_field(arena, task, TASK_COLUMN),
        task_field(arena, task, TASK_COLUMN_END),
    )


@inlined
def pack_task(arena, task):
    """Copy what a weight task owns to where the rows region reads it: kernels in strips under their bias, and the
    strips of their transposes."""
    layer = task_field(arena, task, TASK_LAYER)
    rectangle = _rectangle(arena, task)
    width = strip_width(arena.memory)
    packed = arena.numbers[PACKED]
    forward_strip, backward_strip = panel_field(arena, layer, FORWARD_STRIP), panel_field(arena, layer, BACKWARD_STRIP)
    forward = packed + panel_field(arena, layer, FORWARD)
    backward = packed + panel_field(arena, layer, BACKWARD)
    if rectangle[0] == ALL_BIAS:
        start, stored, rectangle = layer_field(arena, layer, BIAS_START), 0, (0, 1, 0, layer_field(arena, layer, N_OUT))
        along, along_strip, across, across_strip = forward, forward_strip, 0, NOT_PACKED
    else:
        start, stored = layer_field(arena, layer, KERNEL), layer_field(arena, layer, KERNEL_ROW)
        along, along_strip, across, across_strip = forward + width, forward_strip, backward, backward_strip
        if layer_field(arena, layer, TRANSPOSED):
            along, along_strip, across, across_strip = across, across_strip, along, along_strip
    past_caches = layer_field(arena, layer, N_IN) * layer_field(arena, layer, N_OUT) >= _PAST_CACHES
    if along_strip != NOT_PACKED:
        copy_along(arena.parameters, start, stored, rectangle, arena.memory, (along, along_strip), past_caches)
    if across_strip != NOT_PACKED:
        copy_across(arena.parameters, start, stored, rectangle, arena.memory, (across, across_strip), past_caches)


@small
def _factors(arena, layer, at, first, left):
    """What a kernel's gradient, as it is stored, is the product of, from row `first` and column `left` on: inputs and
    deltas of the rows of the workspace from `at` on."""
    a, b = panel_of(arena, OUTPUTS, layer, at), panel_of(arena, DELTAS, layer + 1, at)
    if layer_field(arena, layer, TRANSPOSED):
        a, b = b, a
    return from_column(a, first), from_column(b, left)


@small
def _bias_factors(arena, layer, at):
    """What a bias' gradient is the product of: a row of ones, and the deltas of the rows of the workspace from `at`
    on."""
    ones = Panel(arena.memory, arena.numbers[ONE], 0, strip_width(arena.memory))
    return ones, panel_of(arena, DELTAS, layer + 1, at)


@small
def _update(arena, velocity, mode, init, position, stride):
    """How a product over the batch ends in the parameters at `position`: as their gradient, at once applied."""
    moving = arena.parameters if mode == UPDATE else velocity
    at = arena.numbers[SETTINGS]
    rate, momentum = arena.memory[at + RATE], arena.memory[at + MOMENTUM_RATE]
    return Ending(mode, init, Panel(moving, position, stride, strip_width(moving)), rate, momentum)


@inlined
def _gradient_task(arena, velocity, mode, worker, m, task):
    """Gradient over m rows and update of a rectangle of a kernel, or a bias. Long sums go chunk by chunk, so that what
    is read for one strip is still in cache for the next."""
    layer = task_field(arena, task, TASK_LAYER)
    first, last, left, right = _rectangle(arena, task)
    is_bias = first == ALL_BIAS
    stored = layer_field(arena, layer, KERNEL_ROW)
    start, height, across = layer_field(arena, layer, KERNEL) + first * stored + left, last - first, right - left
    if is_bias:
        start, height, across = layer_field(arena, layer, BIAS_START), 1, layer_field(arena, layer, N_OUT)
    zero, width = arena.memory[arena.numbers[ZEROS]], strip_width(arena.memory)
    target = Panel(arena.parameters, start, stored, width)
    sums = Panel(arena.memory, arena.numbers[SCRATCH] + worker * SCRATCH_SIZE, SUMS_ROW, width)
    chunk = m if is_bias else CHUNK_ROWS
    for begin in range(0, m, chunk):
        k = min(chunk, m - begin)
        a, b = _bias_factors(arena, layer, begin) if is_bias else _factors(arena, layer, begin, first, left)
        init = zero_panel(arena) if begin == 0 else sums
        out, ending = target, _update(arena, velocity, mode, init, start, stored)
        if begin + k < m:
            out, ending = sums, Ending(STORE, init, sums, zero, zero)
        multiply_columns(a, b, out, height, across, k, ending)


@small
def bits(number):
    """How many bits of a number are one."""
    count = 0
    while number > 0:
        count += number & 1
        number >>= 1
    return count


@small
def partial_gradient(arena, worker, task, pending):
    """Where in memory the gradient of a task's next group starts, so many sums of groups before it being there: the
    first is what other threads will read, the others are the worker's own."""
    if pending == 0:
        return arena.numbers[GRADIENTS] + task * gradient_size(arena.size)
    return arena.numbers[PARTIALS] + (worker * MOST_PENDING + pending - 1) * gradient_size(arena.size)


@inlined
def group_gradient(arena, at, m, gradient, is_first, first_part):
    """Add the gradient over m rows of the workspace from `at` on to that which starts at `gradient`, or set it where
    `is_first`. The parts are each layer's kernel, then its bias."""
    width = strip_width(arena.parameters)
    zero = arena.memory[arena.numbers[ZEROS]]
    for part in range(first_part, 2 * arena.numbers[N_LAYERS]):
        layer = part // 2
        height, across = _stored(arena, layer)
        start, stored = gradient + layer_field(arena, layer, KERNEL), layer_field(arena, layer, KERNEL_ROW)
        a, b = _factors(arena, layer, at, 0, 0)
        if part % 2 == 1:
            if layer_field(arena, layer, BIAS_START) == NO_BIAS:
                continue
            height, across = 1, layer_field(arena, layer, N_OUT)
            start = gradient + layer_field(arena, layer, BIAS_START)
            a, b = _bias_factors(arena, layer, at)
        sums = Panel(arena.memory, start, stored, width)
        init = zero_panel(arena) if is_first else sums
        multiply_columns(a, b, sums, height, across, m, Ending(STORE, init, sums, zero, zero))


@serial
def _add(memory, total, part, size):
    """memory[total:total + size] += memory[part:part + size]"""
    never_inline()
    total, part = view(memory, total, size), view(memory, part, size)
    for i in range(size):
        total[i] += part[i]


@inlined
def add_pending(arena, worker, task, pending, wanted):
    """Add the last of a task's pending sums of groups to the one before it until so many are left; returns `wanted`.

    Groups are added in pairs, then pairs of those: after n groups as many sums are pending as n has bits. Tasks of any
    power of two of groups so make the same tree.
    """
    while pending > wanted:
        total = partial_gradient(arena, worker, task, pending - 2)
        part = partial_gradient(arena, worker, task, pending - 1)
        _add(arena.memory, total, part, arena.size)
        pending -= 1
    return wanted


@serial
def add_and_update(parameters, velocity, mode, rate, momentum, gradients, size, tasks, at, count):
    """Add what the tasks' gradients, `size` elements apart, have for `count` parameters from `at` on, in pairs, then
    pairs of those, and update these parameters."""
    never_inline()
    step = 1
    while step < tasks:
        for left in range(0, tasks - step, 2 * step):
            _add(gradients, left * size + at, (left + step) * size + at, count)
        step *= 2
    total = view(gradients, at, count)
    changed = view(parameters, at, count)
    if mode == UPDATE:
        sgd_update_serial(changed, total, rate)
    elif mode == MOMENTUM:
        momentum_update_serial(changed, total, view(velocity, at, count), rate, momentum)
    else:
        nesterov_update_serial(changed, total, view(velocity, at, count), rate, momentum)


@inlined
def _grouped_task(arena, velocity, mode, rows_tasks, task):
    """Update what a task owns from the gradients of so many tasks of the rows region."""
    layer = task_field(arena, task, TASK_LAYER)
    first, last, left, right = _rectangle(arena, task)
    at, count, stored, height = layer_field(arena, layer, BIAS_START), layer_field(arena, layer, N_OUT), 0, 1
    if first != ALL_BIAS:
        stored = layer_field(arena, layer, KERNEL_ROW)
        at, count, height = layer_field(arena, layer, KERNEL) + first * stored + left, right - left, last - first
        if count == _stored(arena, layer)[1]:
            count, height = stored * height, 1
    settings = arena.numbers[SETTINGS]
    rate, momentum = arena.memory[settings + RATE], arena.memory[settings + MOMENTUM_RATE]
    gradients = advance(arena.memory, arena.numbers[GRADIENTS])
    for r in range(height):
        add_and_update(
            arena.parameters, velocity, mode, rate, momentum, gradients, gradient_size(arena.size), rows_tasks,
            at + r * stored, count,
        )  # fmt: skip


@inlined
def weight_task(arena, velocity, mode, worker, m, rows_tasks, task):
    """Update what a task owns, from the m rows of a batch in the workspace or, where they are in groups, from the
    gradients of so many tasks of the rows region."""
    if rows_tasks > 0:
        _grouped_task(arena, velocity, mode, rows_tasks, task)
    else:
        _gradient_task(arena, velocity, mode, worker, m, task)
    pack_task(arena, task)
