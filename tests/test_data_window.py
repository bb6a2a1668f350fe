"""The swap window, beside what it holds: rows that a user lent."""

import numpy as np
import pytest

import fastsgd.data.window as window_module
from fastsgd.data import ArrayDataset
from fastsgd.data.loader import Loader

ROWS, CHUNK = 6000, 50


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("at_once", [1, 100, 10**6])
def test_arrays_that_pass_through_a_window_stay_as_they_are(dtype, at_once, monkeypatch):
    """Also where what comes out of the window is cast: of a file, in the place of what comes in."""
    monkeypatch.setattr(window_module, "_LANDING_BYTES", at_once)
    monkeypatch.setattr(ArrayDataset, "unit_rows", lambda self: CHUNK)
    x, y = np.arange(2 * ROWS, dtype=dtype).reshape(ROWS, 2), np.arange(ROWS).astype("u2")
    before = x.copy(), y.copy()
    train, _ = ArrayDataset(x, y).split(0.2)
    loader = Loader(train, batch_size=8, memory="30kB" if dtype == "f4" else "60kB")
    assert not loader.plan.whole
    slabs = [(slab.x.copy(), slab.y.copy()) for slab in loader.epoch()]
    rows, targets = (np.concatenate(part) for part in zip(*slabs, strict=True))
    assert np.array_equal(rows, x[targets[:, 0].astype(int)])
    assert sorted(targets[:, 0]) == sorted(train.y[:, 0])
    assert not np.array_equal(np.sort(targets[:, 0]), targets[:, 0])
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])
