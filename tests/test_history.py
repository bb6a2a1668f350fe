"""The history of a run, as a table, a file and a picture."""

from __future__ import annotations

import math
import struct
import subprocess
import sys

import pytest

import fastsgd as fs
from fastsgd import History
from fastsgd.errors import FastSGDError
from fastsgd.training.history import peak_rows_per_second

EPOCHS = [
    {"epoch": 0, "loss": 1.5, "val_loss": 1 / 3, "seconds": 2.0, "rows_per_second": 1e6, "waited": 0.0},
    {"epoch": 1, "loss": 1e-300, "val_loss": 0.1 + 0.2, "seconds": 0.5, "rows_per_second": 4e6, "waited": 1e-5},
]


def content(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def history():
    return History([dict(epoch) for epoch in EPOCHS])


def test_to_dict(history):
    assert history.to_dict() == {key: [epoch[key] for epoch in EPOCHS] for key in EPOCHS[0]}
    assert History().to_dict() == {}
    uneven = History([{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0, "val_loss": 3.0}])
    assert uneven.to_dict() == {"epoch": [0, 1], "loss": [2.0, 1.0], "val_loss": [None, 3.0]}
    assert repr(history).startswith("<History of 2 epochs, last: {'epoch': 1, 'loss': 1e-300")
    assert repr(History()) == "<History of 0 epochs>"


@pytest.mark.parametrize(
    "epochs",
    [
        EPOCHS,
        EPOCHS[:1],
        [],
        [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0, "val_loss": 3.0}],
        [{"epoch": 7, "loss": 5e-324}, {"epoch": 8, "loss": 1.7976931348623157e308}],
        [{"epoch": 10**15, "loss": float("inf")}, {"epoch": 2, "loss": -0.0}],
        [{"epoch": 0, "loss": 1.0, 'a, "quoted"\nname': 2.5}],
    ],
)
def test_csv_round_trip(epochs, tmp_path):
    path = tmp_path / "history.csv"
    History(epochs).to_csv(path)
    loaded = History.from_csv(str(path)).epochs
    assert loaded == epochs
    assert [[type(value) for value in epoch.values()] for epoch in loaded] == [
        [type(value) for value in epoch.values()] for epoch in epochs
    ]
    assert content(tmp_path) == ["history.csv"]


def test_csv_of_what_is_no_number(tmp_path):
    History([{"epoch": 0, "loss": float("nan")}]).to_csv(tmp_path / "h.csv")
    assert math.isnan(History.from_csv(tmp_path / "h.csv").epochs[0]["loss"])


def test_csv_text(history, tmp_path):
    history.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_bytes() == (
        b"epoch,loss,val_loss,seconds,rows_per_second,waited\n"
        b"0,1.5,0.3333333333333333,2.0,1000000.0,0.0\n"
        b"1,1e-300,0.30000000000000004,0.5,4000000.0,1e-05\n"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its first line does not name 'epoch' and 'loss'"),
        (b"\n\n", "its first line does not name"),
        (b"epoch\n0\n", "its first line does not name"),
        (b"root:x:0:0\n", "its first line does not name"),
        (b"epoch,loss\n0,low\n", "line 2 has 'low' in column 'loss', which is no number"),
        (b"epoch,loss\n0,1\n1,2,3\n", "line 3 has more or fewer fields"),
        (b"epoch,loss,more\n0,1\n", "line 2 has more or fewer fields"),
        (b"epoch,loss\n0,1\n1,\n", "line 3 has no 'loss'"),
        (b"epoch,loss\n,1\n", "line 2 has no 'epoch'"),
        (b"epoch,loss\n0,1\x00\n", "is no history file"),
        (b"epoch,loss\n0,\xff\n", "is no history file"),
        (b'epoch,loss\n0,"1\n', "is no history file"),
        (b"epoch,loss\n0," + b"9" * 200_000 + b"\n", "is no history file"),
        (bytes(range(256)) * 10, "is no history file"),
    ],
)
def test_files_that_are_no_history(data, message, tmp_path):
    path = tmp_path / "h.csv"
    path.write_bytes(data)
    with pytest.raises(FastSGDError, match=message) as raised:
        History.from_csv(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(path))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FastSGDError, match=r"nowhere\.csv' cannot be read: No such file"):
        History.from_csv("nowhere.csv")
    with pytest.raises(FastSGDError, match="cannot be read: Is a directory"):
        History.from_csv(tmp_path)


@pytest.mark.parametrize(
    ("name", "start"),
    [("curve.png", b"\x89PNG\r\n\x1a\n"), ("curve.PNG", b"\x89PNG"), ("curve", b"\x89PNG"), ("curve.pdf", b"%PDF-")],
)
def test_plot_writes_a_picture(history, name, start, tmp_path):
    history.plot(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(start)
    assert content(tmp_path) == [name]
    if start.startswith(b"\x89PNG"):
        assert struct.unpack(">II", data[16:24]) == (960, 600)
        assert data.endswith(b"IEND\xaeB`\x82")


def test_plot_writes_svg(history, tmp_path):
    history.plot(str(tmp_path / "curve.svg"))
    text = (tmp_path / "curve.svg").read_text()
    assert text.startswith("<?xml")
    assert "<svg" in text
    assert text.rstrip().endswith("</svg>")


def test_plot_shows_what_there_is(history):
    axes = history.plot().axes[0]
    assert [line.get_label() for line in axes.lines] == [
        "training (mean over the epoch)",
        "validation (after the epoch)",
    ]
    assert axes.lines[0].get_xdata().tolist() == [1, 2]
    assert axes.lines[1].get_ydata().tolist() == [epoch["val_loss"] for epoch in EPOCHS]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    alone = History([{"epoch": 4, "loss": 2.0}]).plot().axes[0]
    assert [line.get_xdata().tolist() for line in alone.lines] == [[5]]


@pytest.mark.parametrize(
    "epochs",
    [
        [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5, "val_loss": 2.0}],
        [{"epoch": 0, "loss": float("nan")}, {"epoch": 1, "loss": float("inf")}],
        [{"epoch": 0, "loss": 1.0, "val_loss": float("nan")}],
    ],
)
def test_plot_of_gaps(epochs, tmp_path):
    History(epochs).plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_plot_errors(history, tmp_path):
    with pytest.raises(FastSGDError, match="no epoch to plot yet"):
        History().plot(tmp_path / "curve.png")
    with pytest.raises(FastSGDError, match=r"curve\.xyz' ends in no format of pictures; there are .*png.*svg"):
        history.plot(tmp_path / "curve.xyz")
    with pytest.raises(FileNotFoundError) as raised:
        history.plot(tmp_path / "missing" / "curve.png")
    assert raised.value.filename == str(tmp_path / "missing" / "curve.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError):
        history.plot(tmp_path / "folder.png")
    assert content(tmp_path) == ["folder.png"]


def test_plot_without_matplotlib_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None; import fastsgd as fs\n"
        "try: fs.History([{'epoch': 0, 'loss': 1.0}]).plot()\n"
        "except fs.FastSGDError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "plots need matplotlib: pip install 'fastsgd[plot]'\n"


def test_peak_rows_per_second():
    assert peak_rows_per_second(EPOCHS) == 4e6


def test_the_history_of_a_fit(tmp_path):
    x = [[float(i % 7), float(i % 3)] for i in range(100)]
    y = [[row[0] - row[1]] for row in x]
    trainer = fs.Trainer(fs.Sequential([fs.Dense(1)]), fs.SGD(0.01), loss="mse", metrics=["mae"])
    history = trainer.fit((x, y), epochs=3, batch_size=10, validation=(x[:20], y[:20]))
    assert list(history.to_dict()) == [
        "epoch",
        "loss",
        "val_loss",
        "val_mae",
        "seconds",
        "rows_per_second",
        "waited",
    ]
    assert history.to_dict()["epoch"] == [0, 1, 2]
    assert history.epochs[2]["loss"] < history.epochs[0]["loss"]
    history.to_csv(tmp_path / "h.csv")
    assert History.from_csv(tmp_path / "h.csv").epochs == history.epochs
