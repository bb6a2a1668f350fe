"""The arrays that a network, its optimizer and its scratch memory are made of.

All parameters are one flat vector. A layer is a row of integers: its sizes, its activation, and where its parameters
lie. A kernel (n_in, n_out) lies row by row, except that a layer of at most `NARROW` outputs lies column by column
(`TRANSPOSED`): its rows would be too short for the vector registers, its columns are not. What is stored as a row fills
whole strips (`KERNEL_ROW`), as a bias does: no tile has an edge, and what is beyond the row stays zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.kernels.activations import has_slope
from fastsgd.kernels.crew import COUNTERS, MAX_THREADS
from fastsgd.kernels.jit import inlined, serial, small
from fastsgd.kernels.losses import default_parameters
from fastsgd.kernels.matmul import Matrix, Panel, strip_width
from fastsgd.kernels.tile import MOMENTUM, NESTEROV, UPDATE
from fastsgd.kernels.vectors import TILE_VECTORS, VECTOR_BYTES

# Columns of the layer table.
N_IN, N_OUT, ACTIVATION, KERNEL, BIAS_START, TRANSPOSED, KERNEL_ROW = range(7)
_COLUMNS = 7
NO_BIAS = -1
NARROW = 15
_LINE = 16  # parameters start on multiples of this many elements, so on cache lines
_STRIP = max(_LINE, TILE_VECTORS * VECTOR_BYTES // 4)  # elements of a strip of float32; float64 has half
# Rows of a kernel that are a multiple of so many elements apart would meet in few sets of the cache: products of 512
# columns of float32 took 1.2 to 1.5 times as long.
_COLLIDING = 128

# Columns of the table of packed kernels: where a layer's strips start, and how far they are apart.
FORWARD, FORWARD_STRIP, BACKWARD, BACKWARD_STRIP = range(4)
NOT_PACKED = -1
FAR_ROWS = 4096  # bytes from row to row, about a page, from which a kernel is read packed
DOT_OUTPUTS = 2  # up to so many outputs are dot products with the kernel as it is stored
# Elements of a row from which rows are stored strip after strip: the rows of a strip, which is what a product takes of
# them at a time, lie in one piece.
_WIDE = 256

# Columns of the table of weight tasks: a layer, and a rectangle of its kernel as it is stored (ALL_BIAS: its bias).
TASK_LAYER, TASK_ROW, TASK_ROW_END, TASK_COLUMN, TASK_COLUMN_END = range(5)

# Where things lie in `Workspace.numbers`, after the counters: first of the four tables, and how long some are; then
# where the parts of `Workspace.memory` start, threads that will work, and rows that there is room for. Where batches
# are in groups, OUTPUTS to ROW_WEIGHTS are the first thread's room for rows, and SLICE is how far the next one's is.
(
    LAYERS, LAYOUT, PANELS, TASKS, N_LAYERS, N_TASKS,
    OUTPUTS, DELTAS, SLOPES, TARGETS, ROW_WEIGHTS, PACKED, GRADIENTS, PARTIALS, SCRATCH, ZEROS, ONE, SHIFT, SCALE,
    SETTINGS, COUNT_UP, THREADS, ROWS, SLICE,
) = range(COUNTERS, COUNTERS + 24)  # fmt: skip
_TABLES = COUNTERS + 24
# Elements that lie between what one thread writes and what another does. Processors ask for lines beyond those that are
# read or written in order, and a line that another core asked for must be won back.
APART = 1024
COUNT_UP_SIZE = 128  # numbers from 0 on: the order of rows that have none
RATE, MOMENTUM_RATE, LOSS_PARAMETERS = 0, 1, 2  # where in SETTINGS, which end with the two parameters of the loss
ALL_BIAS = -1
MAX_TASK_COLUMNS = 512
_TASK_SIZE = 2048  # elements of a kernel that are worth a task

# A batch of a small network is taken in groups of rows, each with a gradient of its own: the threads then exchange
# gradients, which are smaller than what all rows leave in the layers. The figures: rows of a group that are in the
# workspace together, rows of a batch from which it pays, parameters up to which it does; all three also for a network
# of a single layer, which reads its rows twice and must find them in a cache again.
_GROUP_ROWS, _GROUPED_BATCH, _GROUPED_SIZE = 64, 128, 2**15
_LINEAR_GROUP_ROWS, _LINEAR_BATCH, _LINEAR_SIZE = 32, 32, 2**17
MOST_BUNDLED, MOST_PENDING = 8, 3  # groups that are one task at most, and gradients of those that wait for others
TASK_ROWS = 96  # rows of a kernel that one task updates at most: whole tiles and strips
# Those of small kernels, and of others that are not large: whole squares of vectors, as one that began in the rows of a
# task would end in those of another, and few enough that two threads find as many. 28-300-300-2 lost a quarter with 96.
_SMALL_TASK_ROWS, _USUAL_TASK_ROWS = 32 if VECTOR_BYTES == 64 else 24, 48
_LARGE_KERNEL = 2**18  # elements from which a task has all its rows, as its columns then are read from far away
BLOCK_ROWS = 16  # rows of the smallest blocks, and of those a loss is summed over
CHUNK_ROWS = 192  # rows whose products are summed before the next are read, in long sums
SUMS_ROW = MAX_TASK_COLUMNS + 16  # from row to row of sums in scratch memory; no power of two
SCRATCH_SIZE = SUMS_ROW * TASK_ROWS  # elements of a thread's scratch memory


class Network(NamedTuple):
    """What every kernel takes: parameters (1-D), layers (n_layers, 7) int64, and the input's shift and scale.

    Inputs enter as ``(x - shift) * scale``; both are empty where nothing is standardized.
    """

    parameters: np.ndarray
    layers: np.ndarray
    shift: np.ndarray
    scale: np.ndarray


class OptimizerState(NamedTuple):
    """Loss code and the loss's two parameters, kind of update, rates = [learning rate, momentum], and the velocity
    (empty for plain SGD)."""

    loss: int
    loss_parameters: np.ndarray
    mode: int
    rates: np.ndarray
    velocity: np.ndarray


class Workspace(NamedTuple):
    """Scratch memory of one caller for batches of up to `max_rows` rows; no two threads may share one.

    Two arrays hold it all, since every array that is passed between compiled functions is seven words: `memory` has
    inputs, outputs, deltas and slopes of a batch, packed kernels and what else is of the network's dtype; `numbers` the
    counters of the threads' tasks, where each part lies, and the tables of layers, their rows, their strips and the
    weight tasks.
    """

    max_rows: int
    workers: int  # threads that it has room for
    memory: np.ndarray
    numbers: np.ndarray
    block_loss: np.ndarray


class Arena(NamedTuple):
    """What every part of a step works on: pointers to the parameters, to memory and numbers of a workspace, and to the
    room for rows in that memory: a thread's own where a batch is in groups."""

    size: int  # of the parameters
    parameters: Any
    memory: Any
    numbers: Any
    rows: Any


def layer_table(
    sizes: Sequence[int], activations: Sequence[int], use_bias: Sequence[bool]
) -> tuple[NDArray[np.int64], int]:
    """Layer table of a dense network (int64), and the length of its parameter vector.

    Parameters
    ----------
    sizes : sequence of int
        Inputs of the first layer, then the outputs of each.
    activations : sequence of int
        Activation code of each layer.
    use_bias : sequence of bool
        Whether each layer has a bias.
    """
    table = np.zeros((len(activations), _COLUMNS), np.int64)
    end = 0
    for row, n_in, n_out, activation, bias in zip(table, sizes[:-1], sizes[1:], activations, use_bias, strict=True):
        transposed = n_out <= NARROW
        rows, columns = (n_out, n_in) if transposed else (n_in, n_out)
        long = columns + -columns % _STRIP
        if long % _COLLIDING == 0 and rows > 1:
            long += _LINE
        row[N_IN], row[N_OUT], row[ACTIVATION], row[KERNEL] = n_in, n_out, activation, end
        row[TRANSPOSED], row[KERNEL_ROW] = transposed, long
        end += rows * long + -(rows * long) % _STRIP
        row[BIAS_START] = end if bias else NO_BIAS
        end += n_out + -n_out % _STRIP if bias else 0
    return table, end


@serial
def aligned_zeros(size, like):
    """1-D array of zeros of the dtype of `like`, on a cache line: vectors across two lines cost half the speed."""
    spare = 64 // like.itemsize
    memory = np.zeros(size + spare, like.dtype)
    skip = (-memory.ctypes.data % 64) // like.itemsize
    return memory[skip : skip + size]


@small
def layer_field(arena, layer, column):
    """An entry of the layer table."""
    return arena.numbers[arena.numbers[LAYERS] + _COLUMNS * layer + column]


@small
def panel_field(arena, layer, column):
    """An entry of the table of packed kernels."""
    return arena.numbers[arena.numbers[PANELS] + 4 * layer + column]


@small
def task_field(arena, task, column):
    """An entry of the table of weight tasks."""
    return arena.numbers[arena.numbers[TASKS] + 5 * task + column]


@small
def stored_shape(n_in, n_out, transposed):
    """Rows and columns of a layer's kernel as it is stored."""
    if transposed:
        return n_out, n_in
    return n_in, n_out


@inlined
def _leading(n, like):
    """Elements from row to row for rows of n: whole strips, and an odd number of cache lines, since neighbouring rows
    would otherwise meet in few sets of the cache."""
    line = 64 // like.itemsize
    unit = max(line, strip_width(like))
    padded = (n + unit - 1) // unit * unit
    return padded + line * (1 - padded // line % 2)


@small
def block_rows(n_parameters, rows, threads):
    """Rows of `rows` that go through all layers together while they are in cache: as many times `BLOCK_ROWS` as give
    each thread its part, up to 4, or 8 where kernels fill the cache, which are read once for each block."""
    most = 4 if n_parameters < 2**18 else 8
    parts = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    turns = max(1, (parts + threads * most - 1) // (threads * most))
    blocks = threads * turns
    size = BLOCK_ROWS * max(1, (parts + blocks - 1) // blocks)
    # Smaller ones and a short last one may be done sooner: 100 rows are 64 and 36 for two threads, or 48, 48 and 4.
    smaller = size - BLOCK_ROWS
    left = rows - smaller * blocks
    if 0 <= left < smaller and smaller * turns + left < min(rows, size * turns):
        return smaller
    return size


@small
def sub_rows(n_layers):
    """Rows of a group that go through the network, and into its gradient, at a time."""
    return _LINEAR_GROUP_ROWS if n_layers == 1 else _GROUP_ROWS


@small
def group_rows(n_layers, n_parameters, rows):
    """Rows of each of the groups that a batch is taken in: whole blocks, or whole parts of a single layer, as memory is
    asked for a part at a time; 0 where the whole batch is in the workspace at once. A function of network and batch
    alone: sums over groups must not depend on threads."""
    least, largest = _GROUPED_BATCH, _GROUPED_SIZE
    if n_layers == 1:
        least, largest = _LINEAR_BATCH, _LINEAR_SIZE
    if rows < least or n_parameters > largest:
        return 0
    size = sub_rows(n_layers)
    groups = min(MAX_THREADS, (rows + size - 1) // size)
    whole = size if n_layers == 1 else BLOCK_ROWS
    return ((rows + groups - 1) // groups + whole - 1) // whole * whole


@small
def bundled_groups(groups, threads):
    """How many groups, a power of two, are one task: as many as keep the threads as busy as single groups would. Who
    does it adds their gradients by itself, and the other threads read only the sum."""
    longest = (groups + threads - 1) // threads
    bundled = 1
    while 2 * bundled <= MOST_BUNDLED:
        twice = 2 * bundled
        tasks = (groups + twice - 1) // twice
        longest_lane = (tasks + threads - 1) // threads * twice
        if (tasks - 1) % threads == 0:  # it has the last task, which may be short, and one more than the others
            longest_lane = max(longest_lane - (tasks * twice - groups), longest_lane - twice)
        if longest_lane > longest:
            break
        bundled = twice
    return bundled


@small
def most_groups(n_layers, n_parameters, max_rows):
    """Groups of a batch of up to `max_rows` rows at most: groups are whole blocks, so that the largest batch may have
    fewer than a smaller one."""
    if group_rows(n_layers, n_parameters, max_rows) == 0:
        return 0
    size = sub_rows(n_layers)
    return min(MAX_THREADS, (max_rows + size - 1) // size)


@inlined
def _task_shape(rows, columns, width):
    """Rows and columns of a stored kernel that one task updates: whole tiles and squares of a transpose, and whole
    strips where the inputs are in such. Those of small kernels are whole rows, so that what threads write does not
    interleave; of larger ones at most about 32 a layer."""
    unit = width if rows >= _WIDE else 1
    if rows * columns <= 2**14 and columns <= MAX_TASK_COLUMNS:
        return (_SMALL_TASK_ROWS + unit - 1) // unit * unit, columns
    height = TASK_ROWS if rows * columns >= _LARGE_KERNEL else (_USUAL_TASK_ROWS + unit - 1) // unit * unit
    across = (columns + width - 1) // width
    wanted = max(1, min(across, 32 // ((rows + height - 1) // height), rows * columns // _TASK_SIZE))
    strips = (across + wanted - 1) // wanted
    return height, min(strips * width, MAX_TASK_COLUMNS // width * width)


@small
def _put_weight_tasks(layers, width, table):
    """Fill the table of weight tasks, as far as it goes; returns how many there are."""
    count = 0
    for layer in range(layers.shape[0] - 1, -1, -1):
        row = layers[layer]
        rows, columns = stored_shape(row[N_IN], row[N_OUT], row[TRANSPOSED])
        height, across = _task_shape(rows, columns, width)
        for first in range(0, rows, height):
            for left in range(0, columns, across):
                if count < table.shape[0]:
                    table[count, TASK_LAYER], table[count, TASK_ROW] = layer, first
                    table[count, TASK_ROW_END] = min(rows, first + height)
                    table[count, TASK_COLUMN], table[count, TASK_COLUMN_END] = left, min(columns, left + across)
                count += 1
    for layer in range(layers.shape[0]):
        if layers[layer, BIAS_START] != NO_BIAS:
            if count < table.shape[0]:
                table[count, :] = ALL_BIAS
                table[count, TASK_LAYER] = layer
            count += 1
    return count


@inlined
def _read_as_stored(row, like):
    """Whether forward products can read a kernel and its bias in the parameters themselves: rows are so near to each
    other that page tables do not run short."""
    return not row[TRANSPOSED] and row[KERNEL_ROW] * like.itemsize < FAR_ROWS


@inlined
def _panel_table(layers, like, width):
    """Where the packed kernels lie, and how many elements they are."""
    panels = np.empty((layers.shape[0], 4), np.int64)
    end = 0
    for layer in range(layers.shape[0]):
        n_in, n_out = layers[layer, N_IN], layers[layer, N_OUT]
        for column in range(4):
            panels[layer, column] = NOT_PACKED
        if n_out > DOT_OUTPUTS and not _read_as_stored(layers[layer], like):
            panels[layer, FORWARD], panels[layer, FORWARD_STRIP] = end, (n_in + 1) * width
            end += (n_out + width - 1) // width * (n_in + 1) * width
        if layer > 0:
            panels[layer, BACKWARD], panels[layer, BACKWARD_STRIP] = end, n_out * width
            end += (n_in + width - 1) // width * n_out * width
    return panels, end


@inlined
def _lies_in_strips(layers, level):
    """Whether the rows of a level (0 is the inputs, 1 the first layer) are stored strip after strip."""
    if level == layers.shape[0]:
        return False
    return layers[level, N_IN] >= _WIDE and layers[level, N_OUT] > DOT_OUTPUTS


@inlined
def _layout_table(layers, rows, like):
    """Where the inputs and each layer's outputs start, elements from row to row, and from strip to strip; and how many
    they are in all."""
    layout = np.empty((layers.shape[0] + 1, 3), np.int64)
    width, line = strip_width(like), 64 // like.itemsize
    end = 0
    for level in range(layers.shape[0] + 1):
        n = layers[0, N_IN] if level == 0 else layers[level - 1, N_OUT]
        layout[level, 0] = end
        if _lies_in_strips(layers, level):
            # Strips are an odd number of lines apart: the same rows of all of them would meet in few sets of the cache.
            strip = (rows * width + line - 1) // line * line
            layout[level, 1], layout[level, 2] = width, strip + line * (1 - strip // line % 2)
            end += (n + width - 1) // width * layout[level, 2]
        else:
            layout[level, 1], layout[level, 2] = _leading(n, like), width
            end += rows * layout[level, 1]
    return layout, end


@inlined
def _place(numbers, part, end, size):
    """Let a part of the memory start at `end`; returns where the next one may, on a cache line."""
    numbers[part] = end
    return end + (size + _LINE - 1) // _LINE * _LINE


@inlined
def _put_table(numbers, part, at, table):
    numbers[part] = at
    for row in table:
        for value in row:
            numbers[at] = value
            at += 1
    return at


@serial
def make_workspace(network, max_rows):
    """Scratch memory for `train_batch`, `train_batches` and `predict` with batches of up to `max_rows` rows."""
    layers, like = network.layers, network.parameters
    n_layers, width = layers.shape[0], strip_width(like)
    # A batch in groups needs room for some rows of each thread, one that is not has fewer rows; else the room is for a
    # whole batch, of which threads take blocks.
    groups = most_groups(n_layers, like.size, max_rows)
    short = _LINEAR_BATCH if n_layers == 1 else _GROUPED_BATCH
    rows = short if groups > 0 else max(max_rows, BLOCK_ROWS)
    least = short // sub_rows(n_layers)
    workers = min(MAX_THREADS, max(least, groups) if groups > 0 else rows // BLOCK_ROWS)
    layout, row_elements = _layout_table(layers, rows, like)
    panels, packed = _panel_table(layers, like, width)
    tasks = np.empty((0, 5), np.int64)
    tasks = np.empty((_put_weight_tasks(layers, width, tasks), 5), np.int64)
    _put_weight_tasks(layers, width, tasks)
    tables = layers.size + layout.size + panels.size + tasks.size
    numbers = np.zeros(_TABLES + tables + COUNT_UP_SIZE, np.int64)
    at = _put_table(numbers, LAYERS, _TABLES, layers)
    at = _put_table(numbers, LAYOUT, at, layout)
    at = _put_table(numbers, PANELS, at, panels)
    numbers[COUNT_UP] = _put_table(numbers, TASKS, at, tasks)
    for i in range(COUNT_UP_SIZE):
        numbers[numbers[COUNT_UP] + i] = i
    numbers[N_LAYERS], numbers[N_TASKS], numbers[ROWS] = n_layers, tasks.shape[0], rows
    end = _place(numbers, OUTPUTS, 0, row_elements)
    # Nobody needs the deltas and slopes of the inputs, the level that comes first.
    inputs = layout[1, 0]
    end = _place(numbers, DELTAS, end, row_elements - inputs)
    sloped = False
    for layer in range(n_layers):
        sloped = sloped or has_slope(layers[layer, ACTIVATION])
    end = _place(numbers, SLOPES, end, row_elements - inputs if sloped else 0)
    numbers[DELTAS] -= inputs
    numbers[SLOPES] -= inputs
    end = _place(numbers, TARGETS, end, rows * layers[n_layers - 1, N_OUT])
    end = _place(numbers, ROW_WEIGHTS, end, rows)
    end += APART
    if groups > 0:
        numbers[SLICE] = end
        end *= workers
    end = _place(numbers, PACKED, end, packed)
    end = _place(numbers, GRADIENTS, end, groups * gradient_size(like.size))
    end = _place(numbers, PARTIALS, end, workers * MOST_PENDING * gradient_size(like.size) if groups > 0 else 0)
    end = _place(numbers, SCRATCH, end, workers * SCRATCH_SIZE)
    end = _place(numbers, ZEROS, end, 8 * width)
    end = _place(numbers, ONE, end, 1)
    end = _place(numbers, SHIFT, end, network.shift.size)
    end = _place(numbers, SCALE, end, network.scale.size)
    end = _place(numbers, SETTINGS, end, 4)
    memory = aligned_zeros(end, like)
    memory[numbers[ONE]] = 1
    block_loss = np.zeros(max_rows // BLOCK_ROWS + groups + 1, np.float64)
    return Workspace(max_rows, workers, memory, numbers, block_loss)


@small
def panel_of(arena, part, level, first):
    """Rows of OUTPUTS, DELTAS or SLOPES from `first` on; level 0 is the inputs, 1 the first layer."""
    at = arena.numbers[LAYOUT] + 3 * level
    row = arena.numbers[at + 1]
    return Panel(arena.rows, arena.numbers[part] + arena.numbers[at] + first * row, row, arena.numbers[at + 2])


@small
def rows_of(arena, part, level, first):
    """`panel_of` a level whose rows lie in one piece each, as those of the last and of what is read for dot products
    do."""
    panel = panel_of(arena, part, level, first)
    return Matrix(panel.data, panel.start, panel.row, 1)


@small
def gradient_size(n_parameters):
    """Elements from one gradient of a group to the next."""
    return n_parameters + APART


@small
def standardizes(arena):
    """Whether inputs are shifted and scaled."""
    return arena.numbers[SCALE] > arena.numbers[SHIFT]


@small
def zero_panel(arena):
    """What sums that start from nothing start from."""
    return Panel(arena.memory, arena.numbers[ZEROS], 0, 0)


@serial
def make_optimizer_state(network, loss, learning_rate, momentum, nesterov):
    """State of stochastic gradient descent: plain where `momentum` is 0, else with a velocity of zeros.

    The loss has its default parameters: put others into the array `loss_parameters`.
    """
    like = network.parameters
    rates = np.empty(2, like.dtype)
    rates[0] = learning_rate
    rates[1] = momentum
    mode = UPDATE if momentum == 0 else (NESTEROV if nesterov else MOMENTUM)
    velocity = aligned_zeros(0 if momentum == 0 else like.size, like)
    return OptimizerState(loss, default_parameters(loss, like), mode, rates, velocity)
