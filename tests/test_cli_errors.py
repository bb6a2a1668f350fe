"""What goes wrong on the command line: exit codes, one clear line, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.cli import _described, run

ROWS = 200
USAGE = "Usage: fastsgd"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a model, and files of other kinds."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 5)).astype(np.float32)
    nan = x.copy()
    nan[37, 2] = np.nan
    with h5py.File(folder / "data.h5", "w") as file:
        file["X"], file["y"], file["nan"] = x, x[:, 0], nan
        file["huge"] = 1e6 * x[:, 0]
        file["label"] = np.arange(ROWS) % 3
        file["negative"] = np.arange(ROWS) % 3 - 1
        file["half"] = np.arange(ROWS) % 3 + 0.5
        file["many"] = np.full(ROWS, 2**40)
        file["short"] = np.zeros(10)
        file["group/text"] = np.array(["a", "b"], dtype=h5py.string_dtype())
    model = fs.Sequential([fs.Dense(1)], input_dim=5)
    (folder / "run").mkdir()
    model.save(folder / "run" / "model.safetensors")
    fs.History([{"epoch": 0, "loss": 1.0}]).to_csv(folder / "run" / "history.csv")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("some\ntext\n")
    (folder / "truncated.h5").write_bytes((folder / "data.h5").read_bytes()[:5000])
    return folder


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def unharmed(place, monkeypatch):
    """Each test runs in the place, and leaves it as it was."""
    monkeypatch.chdir(place)
    before, folders = listing(place), sorted(path for path in place.rglob("*") if path.is_dir())
    yield
    assert listing(place) == before
    assert sorted(path for path in place.rglob("*") if path.is_dir()) == folders


TRAIN = "train data.h5 -x X -y y --out new --quiet"
CLASSES = "--loss sparse_categorical_crossentropy"
FAILURES = [
    ("inspect nowhere.h5", "there is no file 'nowhere.h5'"),
    ("inspect data.h", "there is no file 'data.h'"),
    ("inspect notes.txt", "'notes.txt' is not an HDF5 file"),
    ("inspect truncated.h5", "'truncated.h5' is truncated"),
    ("inspect empty", "'empty' is a folder"),
    ("train nowhere.h5 -x X -y y --out new", "there is no file 'nowhere.h5'"),
    ("train *.hdf -x X -y y --out new", "no file matches the pattern '*.hdf'"),
    ("train data.h5 -x Z -y y --out new", "data.h5: there is no dataset 'Z'; the file has"),
    ("train data.h5 -x group -y y --out new", "data.h5: 'group' is a group, not a dataset"),
    ("train data.h5 -x group/text -y y --out new", "holds text or objects"),
    ("train data.h5 -x X -y short --out new", "'X' has 200 rows, 'short' has 10"),
    ("train data.h5 -x nan -y y --out new --quiet", "data.h5: dataset 'nan', row 37, column 2 is nan"),
    ("train data.h5 -x X -y nan --out new --quiet", "data.h5: dataset 'nan', row 37, column 2 is nan"),
    (f"train data.h5 -x X -y negative {CLASSES} --out new --quiet", "dataset 'negative', row 0, column 0"),
    (f"train data.h5 -x X -y half {CLASSES} --out new --quiet", "the label is 0.5; a class is a whole number"),
    (f"train data.h5 -x X -y many {CLASSES} --out new --quiet", "largest label in 'many' is 1.09951e+12"),
    (f"train data.h5 -x X -y label {CLASSES} --classes 2 --out new --quiet", "a class is a whole number from 0 to 1"),
    ("train data.h5 -x X -y y --loss binary_crossentropy --out new --quiet", "is from 0 to 1"),
    (f"{TRAIN} --validation 0.001", "leaves a part empty"),
    (f"{TRAIN} --memory 1furlong", "memory is '1furlong'"),
    (f"{TRAIN} --memory 1kB", "the least that works"),
    (f"{TRAIN} --metric accuracy --validation 0.5", "the metric 'accuracy' goes with a cross-entropy"),
    (f"{TRAIN} --learning-rate nan", "learning_rate is nan"),
    (f"{TRAIN} --layers 999999999999999", "more than a machine holds"),
    ("train data.h5 -x X -y huge --learning-rate 1000 --out new/er/folder --epochs 9 --quiet", "the loss is"),
    ("train data.h5 -x X -y y --out notes.txt/new", "notes.txt/new: Not a directory"),
    ("evaluate nowhere data.h5 -x X -y y", "the model file 'nowhere' does not exist"),
    ("evaluate empty data.h5 -x X -y y", "the folder 'empty' holds no model.safetensors"),
    ("evaluate notes.txt data.h5 -x X -y y", "'notes.txt' is no model file"),
    ("evaluate run data.h5 -x y -y y", "the data have 1 columns; the model takes 5"),
    ("evaluate run data.h5 -x X -y X", "the target has 5 columns"),
    ("evaluate run data.h5 -x nan -y y", "dataset 'nan', row 37, column 2 is nan"),
    (
        "evaluate run data.h5 -x X -y label --loss sparse_categorical_crossentropy",
        "needs 'softmax' or 'linear'|one output",
    ),
    ("predict run data.h5 -x nan --out p.csv", "dataset 'nan', row 37, column 2 is nan"),
    ("predict run data.h5 -x nan --out p.h5", "dataset 'nan', row 37, column 2 is nan"),
    ("predict run data.h5 -x y --out p.csv", "the data have 1 columns; the model takes 5"),
    ("predict run data.h5 -x X --out missing/p.csv", "missing/p.csv: No such file or directory"),
    ("predict run data.h5 -x X --out notes.txt/p.h5", "notes.txt/p.h5: Not a directory"),
    ("predict run data.h5 -x X --out p.h5 --memory 1kB", "the least that works"),
    ("predict data.h5 data.h5 -x X --out p.h5", "'data.h5' is no model file"),
    ("plot empty", "the history file 'empty/history.csv' cannot be read: No such file"),
    ("plot notes.txt", "'notes.txt' is no history file"),
    ("plot run --out curve.xyz", "'curve.xyz' ends in no format of pictures"),
    ("plot run --out missing/curve.png", "missing/curve.png: No such file or directory"),
]


@pytest.mark.parametrize(("command", "message"), FAILURES, ids=[command for command, _ in FAILURES])
def test_failures_are_one_line(command, message, capsys):
    assert run(command.split()) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.startswith(("memory ", "compiling "))]
    assert len(lines) == 1
    assert lines[0].startswith("fastsgd: ")
    assert any(part in lines[0] for part in message.split("|"))
    assert "an error in fastsgd" not in lines[0]


MISUSES = [
    ("", "Commands:"),
    ("trian data.h5", "No such command 'trian'"),
    ("inspect", "Missing argument"),
    ("inspect data.h5 --colour", "No such option"),
    ("inspect data.h5 more.h5", "unexpected extra argument"),
    ("train -x X -y y --out new", "Missing argument 'DATA...'"),
    ("train data.h5 -y y --out new", "Missing option '-x'"),
    ("train data.h5 -x X --out new", "Missing option '-y'"),
    ("train data.h5 -x X -y y", "Missing option '--out'"),
    ("train data.h5 -x X -y y --out notes.txt", "is a file"),
    ("train data.h5 -x X -y y --out run", "run/model.safetensors exists; choose another --out, or give --overwrite"),
    (f"{TRAIN} --layers 64,,64", "Invalid value for --layers: '64,,64' is no list"),
    (f"{TRAIN} --layers 8,0", "Invalid value for --layers: '8,0' is no list"),
    (f"{TRAIN} --layers 8x2", "Invalid value for --layers: '8x2' is no list"),
    (f"{TRAIN} --loss mes", "'mes' is not one of 'mse'"),
    (f"{TRAIN} --metric r2", "'r2' is not one of 'mse'"),
    (f"{TRAIN} --metric mae", "needs --validation above 0"),
    (f"{TRAIN} --activation softmax", "'softmax' is not one of 'relu'"),
    (f"{TRAIN} --epochs 0", "Invalid value for '--epochs'"),
    (f"{TRAIN} --epochs many", "Invalid value for '--epochs'"),
    (f"{TRAIN} --batch-size -1", "Invalid value for '--batch-size'"),
    (f"{TRAIN} --validation 1", "Invalid value for '--validation'"),
    (f"{TRAIN} --learning-rate 0", "Invalid value for '--learning-rate'"),
    (f"{TRAIN} --momentum 1", "Invalid value for '--momentum'"),
    (f"{TRAIN} --nesterov", "--nesterov needs --momentum above 0"),
    (f"{TRAIN} --classes 3", "--classes goes with --loss sparse_categorical_crossentropy"),
    (f"{TRAIN} --threads 0", "Invalid value for '--threads'"),
    (f"{TRAIN} --seed -1", "Invalid value for '--seed'"),
    (f"{TRAIN} --dtype float16", "Invalid value for '--dtype'"),
    ("evaluate run", "Missing argument 'DATA...'"),
    ("evaluate run data.h5 -x X -y y --loss foo", "'foo' is not one of"),
    ("predict run data.h5 -x X --out p.txt", "ends in neither .h5, .hdf5 nor .csv"),
    ("predict run data.h5 -x X --out p", "ends in neither .h5, .hdf5 nor .csv"),
    ("predict run data.h5 -x X --out data.h5", "would replace a file that is read"),
    ("predict run data.h5 -x X --out empty/../data.h5", "would replace a file that is read"),
]


@pytest.mark.parametrize(("command", "message"), MISUSES, ids=[command for command, _ in MISUSES])
def test_misuse_shows_the_usage(command, message, capsys):
    assert run(command.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(USAGE)
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_debug_shows_where(capsys):
    assert run(["inspect", "notes.txt", "--debug"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any("fastsgd" in line and re.search(r"line \d+", line) for line in lines)
    assert lines[-1] == "fastsgd: 'notes.txt' is not an HDF5 file"


def test_a_line_feed_in_a_name_does_not_break_the_line(capsys):
    assert run(["inspect", "no\nsuch\r\nfile"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (fs.DataError("a\n b"), "a b"),
        (FileNotFoundError(2, "No such file or directory", "f.h5"), "f.h5: No such file or directory"),
        (OSError("unable to read"), "unable to read"),
        (MemoryError(), "out of memory"),
        (MemoryError("1 TB"), "out of memory (1 TB)"),
        (OSError(), "OSError: (an error in fastsgd; --debug shows where)"),
        (KeyError("x"), "KeyError: 'x' (an error in fastsgd; --debug shows where)"),
    ],
)
def test_how_errors_are_described(error, text):
    assert _described(error) == text


def test_a_failed_run_keeps_the_folder_and_what_is_in_it(tmp_path, capsys):
    (tmp_path / "keep").write_text("mine")
    command = ["train", "data.h5", "-x", "nan", "-y", "y", "--out", str(tmp_path), "--json"]
    assert run(command) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
    (tmp_path / "keep").unlink()
    assert run(command) == 1
    assert tmp_path.is_dir()


def test_prediction_refuses_to_replace_its_input_behind_a_link(tmp_path, capsys):
    (tmp_path / "link.h5").symlink_to(Path("data.h5").resolve())
    assert run(["predict", "run", "data.h5", "-x", "X", "--out", str(tmp_path / "link.h5")]) == 2
    assert "would replace a file that is read" in capsys.readouterr().err


def test_a_failed_prediction_keeps_the_earlier_one(tmp_path, capsys):
    out = tmp_path / "p.csv"
    assert run(["predict", "run", "data.h5", "-x", "X", "--out", str(out)]) == 0
    before = out.read_bytes()
    assert run(["predict", "run", "data.h5", "-x", "nan", "--out", str(out), "--batch-size", "1"]) == 1
    assert out.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.csv"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"settings": 3}', '{"settings": {"loss": ["mse"]}}', '{"settings": {"loss": "x"}}']
)
def test_a_spoilt_run_file_does_not_stop_an_evaluation(text, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(Path("run/model.safetensors").read_bytes())
    (tmp_path / "run.json").write_text(text)
    assert run(["evaluate", str(tmp_path), "data.h5", "-x", "X", "-y", "y", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss_name"] == "mse"
