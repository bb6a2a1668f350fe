"""What training shows while it runs, where stderr is no terminal; `test_cli_process.py` has the bar."""

from __future__ import annotations

import numpy as np
import pytest

import fastsgd as fs
from fastsgd.errors import ModelError
from fastsgd.training.progress import Progress, Silent, summary_line


def fit(progress):
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    trainer = fs.Trainer(fs.Sequential([fs.Dense(1)]), fs.SGD(0.01), loss="mse")
    return trainer.fit((x, x[:, 0]), epochs=2, batch_size=10, validation=(x, x[:, 0]), progress=progress)


class Kept:
    """Keeps what it is told."""

    def __init__(self, fails_at=None):
        self.told = []
        self.fails_at = fails_at

    def _tell(self, name, *what):
        self.told.append((name, *what))
        if name == self.fails_at:
            raise RuntimeError(name)

    def plan(self, text):
        self._tell("plan", text)

    def start_epoch(self, epoch, epochs, rows):
        self._tell("start", epoch, epochs, rows)

    def advance(self, rows, loss):
        self._tell("advance", rows, loss)

    def end_epoch(self, record):
        self._tell("end", record)

    def close(self):
        self._tell("close")


@pytest.mark.parametrize("progress", [False, "auto"])
def test_silence(progress, capsys):
    fit(progress)
    assert capsys.readouterr() == ("", "")


def test_a_line_an_epoch(capsys):
    history = fit(True)
    shown = capsys.readouterr()
    assert shown.out == ""
    # A first run says that it compiles; whether this is one depends on the tests before it.
    lines = [line for line in shown.err.splitlines() if not line.startswith("compiling")]
    assert lines[0].endswith("100 rows of 3 features")
    assert lines[1:] == [f"epoch {i + 1}/2  {summary_line(record)}" for i, record in enumerate(history.epochs)]


def test_an_object_is_told_everything():
    kept = Kept()
    assert isinstance(kept, Progress)
    history = fit(kept)
    names = [what[0] for what in kept.told]
    assert names[0] == "plan"
    assert names[-1] == "close"
    assert [what[1:] for what in kept.told if what[0] == "start"] == [(0, 2, 100), (1, 2, 100)]
    assert [what[1] for what in kept.told if what[0] == "end"] == history.epochs
    for start, end in zip(
        *([i for i, name in enumerate(names) if name == which] for which in ("start", "end")), strict=True
    ):
        parts = kept.told[start + 1 : end]
        assert {what[0] for what in parts} == {"advance"}
        assert sum(rows for _, rows, _ in parts) == 100
        mean = sum(rows * loss for _, rows, loss in parts) / 100
        assert mean == pytest.approx(kept.told[end][1]["loss"], rel=1e-12)


@pytest.mark.parametrize("where", ["plan", "start", "advance", "end"])
def test_it_is_closed_when_training_fails(where):
    kept = Kept(fails_at=where)
    with pytest.raises(RuntimeError, match=where):
        fit(kept)
    assert [what[0] for what in kept.told][-2:] == [where, "close"]


@pytest.mark.parametrize("progress", ["off", None, 1, "True", object()])
def test_what_is_no_progress(progress):
    with pytest.raises(ModelError, match=r"fit: progress is .*; it is True, False, 'auto'"):
        fit(progress)


def test_silent_is_a_progress():
    assert isinstance(Silent(), Progress)


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (0.5, "0.5"),
        (999.4, "999"),
        (999.6, "1 k"),
        (211_135, "211 k"),
        (999_600, "1 M"),
        (2.04e6, "2.04 M"),
        (3e12, "3e+03 G"),
    ],
)
def test_summary_line(rate, shown):
    record = {
        "epoch": 3,
        "loss": 1995.123456,
        "val_loss": 2e-9,
        "seconds": 1.25,
        "rows_per_second": rate,
        "waited": 1.0,
    }
    assert summary_line(record) == f"loss 1995.1  val_loss 2e-09  {shown} rows/s  1.2 s"
