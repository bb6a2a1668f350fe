"""The command line, end to end: what it writes, what it says, and how it ends."""

import json
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.cli import run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a file of 2,000 rows."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 4)).astype("f4")
    with h5py.File("data.h5", "w") as file:
        file["X"], file["y"] = x, x[:, 0] - x[:, 1]
        file["positive"] = (x[:, 0] > 0).astype("u1")
        file["kind"] = (x[:, 0] > 0).astype("i8") + (x[:, 1] > 0)
        file["group/text"] = ["a"] * 2000
    return tmp_path


TRAIN = ["train", "data.h5", "-x", "X", "--batch-size", "32", "--learning-rate", "0.1", "--out", "run"]


def lines(capsys):
    """Objects on stdout, one a line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_from_file_to_predictions(folder, capsys):
    arguments = [
        "-y",
        "y",
        "--layers",
        "16,16",
        "--epochs",
        "4",
        "--validation",
        "0.1",
        "--metric",
        "mae",
        "--standardize",
    ]
    assert run([*TRAIN, *arguments]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert [line for line in told.err.splitlines() if line.startswith("epoch 4/4  loss")]
    assert sorted(os.listdir("run")) == ["history.csv", "model.safetensors", "run.json"]
    about = json.loads((folder / "run" / "run.json").read_text())
    assert about["finished"]
    assert about["epochs"] == 4
    assert about["last"]["val_loss"] < 0.05
    assert about["peak_memory_bytes"] > 1e7
    assert len(fs.History.from_csv("run/history.csv").epochs) == 4

    assert run(["evaluate", "run", "data.h5", "-x", "X", "-y", "y", "--metric", "rmse", "--json"]) == 0
    (found,) = lines(capsys)
    assert found["rows"] == 2000
    assert found["rmse"] == pytest.approx(found["loss"] ** 0.5)
    assert found["loss"] < 0.05

    model = fs.load_model("run/model.safetensors")
    with h5py.File("data.h5") as file:
        wanted = model.predict(file["X"][:])
    assert run(["predict", "run", "data.h5", "-x", "X", "--out", "p.h5", "--batch-size", "300"]) == 0
    assert run(["predict", "run/model.safetensors", "data.h5", "-x", "X", "--out", "p.csv", "--json"]) == 0
    with h5py.File("p.h5") as file:
        np.testing.assert_array_equal(file["prediction"][:], wanted)
    np.testing.assert_array_equal(np.loadtxt("p.csv", skiprows=1, dtype="f4"), wanted[:, 0])
    assert run(["plot", "run", "--out", "curve.svg"]) == 0
    assert run(["plot", "run"]) == 0
    assert (folder / "run" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("target", "loss", "last"),
    [("positive", "binary_crossentropy", 1), ("kind", "sparse_categorical_crossentropy", 3)],
)
def test_classification(folder, capsys, target, loss, last):
    assert run([*TRAIN, "-y", target, "--loss", loss, "--layers", "8", "--epochs", "5", "--json"]) == 0
    events = lines(capsys)
    assert [event["event"] for event in events if event["event"] != "plan"] == ["epoch"] * 5 + ["done"]
    assert fs.load_model("run/model.safetensors").n_outputs == last
    assert run(["evaluate", "run", "data.h5", "-x", "X", "-y", target, "--metric", "accuracy", "--json"]) == 0
    (found,) = lines(capsys)
    assert found["loss_name"] == loss
    assert found["accuracy"] > 0.9
    assert run(["predict", "run", "data.h5", "-x", "X", "--out", "p.csv"]) == 0
    header = (folder / "p.csv").read_text().splitlines()[0]
    assert header == ("prediction" if last == 1 else "prediction_0,prediction_1,prediction_2")


def test_a_run_is_not_overwritten_unless_asked(folder, capsys):
    assert run([*TRAIN, "-y", "y", "--quiet"]) == 0
    before = (folder / "run" / "model.safetensors").read_bytes()
    assert run([*TRAIN, "-y", "y", "--quiet", "--seed", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "run" / "model.safetensors").read_bytes() == before
    assert run([*TRAIN, "-y", "y", "--quiet", "--seed", "1", "--overwrite"]) == 0
    assert (folder / "run" / "model.safetensors").read_bytes() != before


def test_inspect(folder, capsys):
    assert run(["inspect", "data.h5", "--json"]) == 0
    (found,) = lines(capsys)
    entries = {entry["path"]: entry for entry in found["datasets"]}
    assert entries["X"]["shape"] == [2000, 4]
    assert entries["X"]["problem"] is None
    assert "text or objects" in entries["group/text"]["problem"]
    assert run(["inspect", "data.h5"]) == 0
    assert "float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "missing.h5", "-x", "X", "-y", "y", "--out", "run"], ["no file 'missing.h5'"]),
        (["train", "data.h5", "-x", "Y", "-y", "y", "--out", "run"], ["data.h5", "no dataset 'Y'", "'y'"]),
        (["train", "data.h5", "-x", "group", "-y", "y", "--out", "run"], ["'group' is a group", "'group/text'"]),
        (["train", "data.h5", "-x", "group/text", "-y", "y", "--out", "run"], ["text or objects"]),
        ([*TRAIN, "-y", "y", "--memory", "1kB"], ["memory is 1.0 kB", 'memory="']),
        ([*TRAIN, "-y", "y", "--memory", "much"], ["memory is 'much'"]),
        ([*TRAIN, "-y", "y", "--layers", "8,8", "--activation", "rleu"], ["did you mean 'relu'"]),
        ([*TRAIN, "-y", "y", "--learning-rate", "1e9"], ["the loss is", "Lower the learning rate"]),
        (["evaluate", "data.h5", "data.h5", "-x", "X", "-y", "y"], ["'data.h5' is no model file"]),
        (["evaluate", ".", "data.h5", "-x", "X", "-y", "y"], ["holds no model.safetensors"]),
        (["inspect", "missing.h5"], ["no file 'missing.h5'"]),
        (["plot", "."], ["is no history file"]),
    ],
)
def test_failures_are_one_line_and_leave_nothing(folder, capsys, arguments, words):
    assert run(arguments) == 1
    told = capsys.readouterr().err.splitlines()
    last = told[-1]
    assert last.startswith("fastsgd: ")
    assert all(word in last for word in words), last
    assert not any("Traceback" in line for line in told)
    assert os.listdir() == ["data.h5"] or os.listdir("run") == []


def test_debug_shows_where(folder, capsys):
    assert run(["inspect", "missing.h5", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train", "data.h5", "-x", "X", "-y", "y"],
        [*TRAIN, "-y", "y", "--epochs", "0"],
        [*TRAIN, "-y", "y", "--layers", "64,many"],
        ["predict", "run", "data.h5", "-x", "X", "--out", "p.txt"],
    ],
)
def test_wrong_usage(folder, capsys, arguments):
    if arguments[0] == "predict":
        assert run([*TRAIN, "-y", "y", "--quiet"]) == 0
    assert run(arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_help_and_version(capsys):
    for command in ("", "train", "evaluate", "predict", "inspect", "plot"):
        assert run([*command.split(), "--help"]) == 0
        assert "Usage: fastsgd" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert fs.__version__ in capsys.readouterr().out


def test_wrong_feature_count_at_predict(folder, capsys):
    assert run([*TRAIN, "-y", "y", "--quiet"]) == 0
    assert run(["predict", "run", "data.h5", "-x", "X", "-x", "y", "--out", "p.csv"]) == 1
    assert "the data have 5 columns; the model takes 4" in capsys.readouterr().err
    assert not os.path.exists("p.csv")


def test_a_bad_row_stops_predict_and_leaves_no_file(folder, capsys):
    assert run([*TRAIN, "-y", "y", "--quiet"]) == 0
    with h5py.File("data.h5", "r+") as file:
        file["X"][1500, 2] = np.inf
    assert run(["predict", "run", "data.h5", "-x", "X", "--out", "p.h5", "--batch-size", "100"]) == 1
    assert "data.h5: dataset 'X', row 1500, column 2 is inf" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["data.h5", "run"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_training_with_a_model(folder, number, code):
    command = [sys.executable, "-m", "fastsgd", *TRAIN, "-y", "y", "--epochs", "1000000", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if json.loads(line)["event"] == "epoch":
            process.send_signal(number)
            break
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "stopped" in told
    assert "Traceback" not in told
    assert sorted(os.listdir("run")) == ["history.csv", "model.safetensors", "run.json"]
    assert fs.load_model("run/model.safetensors").input_dim == 4
    assert not json.loads((folder / "run" / "run.json").read_text())["finished"]


def test_the_reader_of_our_output_may_leave(folder):
    command = f"{sys.executable} -m fastsgd {' '.join(TRAIN)} -y y --epochs 50 --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["event"] == "plan"
    assert "Traceback" not in done.stderr
