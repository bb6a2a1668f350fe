"""Rows swapped by several tasks at once: those of the plain loop, whatever the tasks, their order, and the slots."""

from types import SimpleNamespace

import numpy as np
import pytest

import fastsgd.data.passage as passage_module
import fastsgd.data.team as team_module
from fastsgd.data.passage import Move, Passage, run_passages
from fastsgd.data.spent import Spent
from fastsgd.data.team import Team
from fastsgd.kernels import passage as told
from fastsgd.kernels.random import random_below
from fastsgd.kernels.sharing import keep_threads, share

ROWS, KEY, POSITION = 500, 12345, 77
PARTS = [
    [("f4", 3)],
    [("f8", 1), ("u1", 1)],
    [("u1", 17), ("f4", 1), ("f8", 1)],
    [("f4", 40), ("i2", 3), ("u1", 1)],
    [("u1", 1), ("u1", 2)],
]


def some_rows(n, dtypes, start=0):
    """Parts of rows: as many columns of each dtype."""
    return [
        ((np.arange(n * width) + start + k) % 101).reshape(n, width).astype(dtype)
        for k, (dtype, width) in enumerate(dtypes)
    ]


def as_bytes(parts):
    """Rows whose parts lie one after the other."""
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8).reshape(len(part), -1) for part in parts], axis=1)


class Swaps:
    """Rows that are swapped with those of a window, and what is to become of both."""

    def __init__(self, slots, dtypes, *, tasks=1, rows=ROWS, in_place=True, position=POSITION, window=None):
        self.window = as_bytes(some_rows(slots, dtypes)) if window is None else window
        self.incoming = some_rows(rows, dtypes, start=7 + position)
        self.wanted_window, self.wanted = self.window.copy(), as_bytes(self.incoming)
        for i, row in enumerate(self.wanted.copy()):
            slot = random_below(np.uint64(KEY), position + i, slots)
            self.wanted[i], self.wanted_window[slot] = self.wanted_window[slot].copy(), row
        self.out = self.incoming if in_place else [np.zeros_like(part) for part in self.incoming]
        block = [rows]
        for pair in zip(self.incoming, self.out, strict=True):
            block += [array.__array_interface__["data"][0] for array in pair]
        widths = [part.shape[1] * part.itemsize for part in self.incoming]
        move = Move(told.SWAP, self.window, widths, KEY, position, block, (self.incoming, self.out))
        loader = SimpleNamespace(
            dataset=SimpleNamespace(row_bytes=sum(widths)), spent=Spent(), threads=lambda tasks=tasks: tasks
        )
        self.passage = Passage(rows, loader, None, move)

    def check(self):
        np.testing.assert_array_equal(as_bytes(self.out), self.wanted)
        np.testing.assert_array_equal(self.window, self.wanted_window)


def do_all(passage, order):
    """Each turn's tasks, in an order that `order` gives, or at the same time."""
    table = passage._numbers
    for turn in range(passage._turns):
        if order is None:
            share(lambda task, turn=turn: told._do(table, turn, task), int(table[told.TASKS]))
        else:
            for task in order.permutation(table[told.TASKS]):
                told._do(table, turn, task)


@pytest.fixture(autouse=True)
def small_turns(monkeypatch):
    monkeypatch.setattr(passage_module, "_MOST_ROWS", 20)


@pytest.mark.parametrize("order", [None, 1, 2])
@pytest.mark.parametrize("slots", [1, 5, 60, 5000])
@pytest.mark.parametrize("tasks", [1, 2, 3, 7, 16])
def test_tasks_in_any_order_are_the_plain_loop(tasks, slots, order):
    """In few slots most rows meet others, of their turn, the next, or the one after; in many none do."""
    swaps = Swaps(slots, PARTS[0], tasks=tasks)
    do_all(swaps.passage, None if order is None else np.random.default_rng(order))
    swaps.check()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("dtypes", PARTS)
def test_whatever_the_parts_of_a_row(dtypes, in_place):
    swaps = Swaps(31, dtypes, tasks=3, in_place=in_place)
    do_all(swaps.passage, np.random.default_rng(0))
    swaps.check()


@pytest.mark.parametrize("count", range(200))
def test_bytes_are_swapped_whatever_their_number(count):
    """In pieces of 64 bytes, and smaller ones at the end; those beside them stay."""
    swaps = Swaps(1, [("u1", count), ("u1", 201 - count)], rows=1, in_place=False)
    do_all(swaps.passage, np.random.default_rng(0))
    swaps.check()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_passages_one_after_the_other(threads, monkeypatch):
    """By fewer threads than there are tasks, as many, and more; one of few rows, and one of a single one."""
    monkeypatch.setattr(team_module, "_BYTES_A_THREAD", 1)
    first = Swaps(40, PARTS[2], tasks=3, rows=200)
    window = first.wanted_window.copy()
    second = Swaps(40, PARTS[2], tasks=3, rows=1, position=POSITION + 200, window=window)
    third = Swaps(40, PARTS[2], tasks=3, rows=30, position=POSITION + 201, window=second.wanted_window.copy())
    for one in (second, third):
        one.passage._numbers[told.WINDOW] = first.window.__array_interface__["data"][0]
    with keep_threads():
        run_passages([first.passage, second.passage, third.passage], Team(threads, Spent()))
    for one in (first, second, third):
        np.testing.assert_array_equal(as_bytes(one.out), one.wanted)
    np.testing.assert_array_equal(first.window, third.wanted_window)


def test_lists_are_little_beside_rows(monkeypatch):
    """They are in no memory plan."""
    monkeypatch.undo()
    for rows, tasks in ((10, 2), (1000, 2), (100_000, 2), (1_000_000, 16)):
        passage = Swaps(5, [("f4", 10), ("f4", 1)], tasks=tasks, rows=rows).passage
        assert passage._board.nbytes < 1_000_000 + 8 * 512 * tasks
        assert passage._board.nbytes < 0.9 * passage.nbytes + 3 * 8 * 512 * tasks
