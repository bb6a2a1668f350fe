"""The command line, from a file to a picture: what each command writes, prints and returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.cli import run
from fastsgd.cli.options import LOSSES, METRICS, as_json_line
from fastsgd.training.losses import LOSSES as KNOWN_LOSSES

ROWS = 600
FILES = ["history.csv", "model.safetensors", "run.json"]
RESULTS = ["checkpoints", *FILES]


def write_data(path, start=0, stop=ROWS):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 5)).astype(np.float32)
    columns = {
        "X": x,
        "y": x @ np.arange(1, 6, dtype=np.float32) + 2,
        "label": np.digitize(x[:, 0] + x[:, 1], [-0.7, 0.7]).astype(np.int32),
        "late": (x[:, 2] > 0).astype(np.uint8),
        "weight": rng.uniform(0.5, 2, ROWS),
        "tall": x * [1, 1e3, 1e-3, 1, 1] + [0, 5e4, 0, 0, 0],
        "two": x[:, :2] * 0.5,
    }
    table = np.zeros(ROWS, [("a", "f4"), ("b", "i2")])
    table["a"], table["b"] = x[:, 3], 100 * x[:, 4]
    nan = x.copy()
    nan[37, 2] = np.nan
    with h5py.File(path, "w") as file:
        for name, values in {**columns, "table": table, "nan": nan}.items():
            file.create_dataset(name, data=values[start:stop], chunks=(50, *values.shape[1:]))
        file["group/text"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        file["short"] = np.zeros((10, 5))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "data.h5")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a small run; nobody writes to it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = ["--layers", "8", "--loss", "mae", "--epochs", "2", "--validation", "0.2", "--out", str(out), "--quiet"]
    assert run(["train", data, "-x", "X", "-y", "y", *options]) == 0
    return str(out)


def content(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def lines_of(text):
    """Objects of a line each, less the note that a first run compiles: whether one is depends on other tests."""
    return [entry for entry in map(json.loads, text.splitlines()) if entry.get("event") != "note"]


def train(data, out, *options, x="X", y="y"):
    return run(["train", data, "-x", x, "-y", y, "--out", str(out), "--json", *map(str, options)])


def test_from_a_file_to_a_picture(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = ["-x", "X", "-y", "y"]
    options = ["--layers", "16,8", "--epochs", "12", "--batch-size", "32", "--validation", "0.25", "--metric", "rmse"]
    assert run(["train", data, *source, *options, "--out", "new/run"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    # A first run says that it compiles; whether this is one depends on the tests before it.
    lines = [line for line in shown.err.splitlines() if not line.startswith("compiling")]
    assert "450 rows of 5 features" in lines[0]
    assert [line.split("  ")[0] for line in lines[1:-1]] == [f"epoch {i}/12" for i in range(1, 13)]
    assert "val_rmse" in lines[1]
    assert lines[-1].startswith("wrote new/run/model.safetensors, history.csv and run.json; peak memory ")
    assert content("new/run") == RESULTS

    history = fs.History.from_csv("new/run/history.csv")
    assert len(history.epochs) == 12
    assert history.epochs[-1]["val_loss"] < 0.2 * history.epochs[0]["val_loss"]
    about = json.loads(Path("new/run/run.json").read_text())
    assert about["fastsgd"] == fs.__version__
    assert about["finished"] is True
    assert about["epochs"] == 12
    assert about["last"] == history.epochs[-1]
    expected = {"data": [data], "features": ["X"], "target": ["y"], "layers": [16, 8], "seed": 0, "validation": 0.25}
    assert about["settings"].items() >= expected.items()
    assert about["rows_per_second"] == max(epoch["rows_per_second"] for epoch in history.epochs)

    model = fs.load_model("new/run/model.safetensors")
    dataset = fs.HDF5Dataset(data, "X", "y")
    assert run(["evaluate", "new/run", data, *source, "--metric", "mae"]) == 0
    found = fs.Trainer(model, fs.SGD(), loss="mse", metrics=["mae"]).evaluate(dataset)
    table = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line)
    assert table == {
        "figure": "value",
        "rows": "600",
        "loss (mse)": f"{found['loss']:.6g}",
        "mae": f"{found['mae']:.6g}",
    }

    assert run(["predict", "new/run/model.safetensors", data, "-x", "X", "--out", "p.csv"]) == 0
    assert run(["predict", "new/run", data, "-x", "X", "--out", "p.h5", "--batch-size", "7"]) == 0
    assert capsys.readouterr().err == "wrote 600 rows to p.csv\nwrote 600 rows to p.h5\n"
    prediction = model.predict(dataset)
    assert Path("p.csv").read_text().startswith("prediction\n")
    assert np.array_equal(np.loadtxt("p.csv", np.float32, skiprows=1)[:, None], prediction)
    with h5py.File("p.h5") as file:
        assert list(file) == ["prediction"]
        assert file["prediction"].dtype == np.float32
        assert np.array_equal(file["prediction"], prediction)

    assert run(["plot", "new/run"]) == 0
    assert run(["plot", "new/run/history.csv", "--out", "curve.svg"]) == 0
    assert capsys.readouterr().err == "wrote new/run/learning_curve.png\nwrote curve.svg\n"
    assert Path("new/run/learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("curve.svg").read_text()
    assert content(".") == ["curve.svg", "new", "p.csv", "p.h5"]


def test_json(data, trained, tmp_path, capsys):
    assert train(data, tmp_path / "run", "--epochs", 2, "--validation", 0.1) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    plan, *epochs, done = lines_of(shown.out)
    assert plan["event"] == "plan"
    assert plan["plan"].endswith("540 rows of 5 features")
    assert [(entry.pop("event"), entry["epoch"]) for entry in epochs] == [("epoch", 0), ("epoch", 1)]
    assert epochs == fs.History.from_csv(tmp_path / "run" / "history.csv").epochs
    assert done["event"] == "done"
    assert done["model"] == str(tmp_path / "run" / "model.safetensors")
    assert done["last"] == epochs[1]
    assert done["peak_memory_bytes"] > 1e7

    assert run(["evaluate", trained, data, "-x", "X", "-y", "y", "--metric", "mse", "--json"]) == 0
    (found,) = lines_of(capsys.readouterr().out)
    assert found.keys() == {"rows", "loss_name", "loss", "mse"}
    assert (found["rows"], found["loss_name"]) == (600, "mae")
    out = str(tmp_path / "p.csv")
    assert run(["predict", trained, data, "-x", "X", "--out", out, "--json"]) == 0
    assert lines_of(capsys.readouterr().out) == [{"rows": 600, "outputs": 1, "out": out}]
    out = str(tmp_path / "c.png")
    assert run(["plot", trained, "--out", out, "--json"]) == 0
    assert lines_of(capsys.readouterr().out) == [{"out": out, "epochs": 2}]
    assert run(["inspect", data, "--json"]) == 0
    shown = capsys.readouterr()
    (found,) = lines_of(shown.out)
    assert shown.err == ""
    assert found["file"] == data
    by_path = {entry["path"]: entry for entry in found["datasets"]}
    assert by_path["X"]["shape"] == [600, 5]
    assert by_path["X"]["problem"] is None
    assert "a table" in by_path["table"]["problem"]


def test_json_has_no_nan():
    text = as_json_line({"a": float("nan"), "b": [1, (float("-inf"), 2.5)], "c": {"d": float("inf"), "e": None}})
    assert json.loads(text) == {"a": None, "b": [1, [None, 2.5]], "c": {"d": None, "e": None}}


def test_inspect(data, capsys):
    assert run(["inspect", data]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{data}: 11 datasets"
    assert shown[1].split() == ["dataset", "shape", "type", "chunks", "filters", "bytes", "stored"]
    rows = {line.split()[0]: line.split() for line in shown[3:]}
    assert rows["X"] == ["X", "600x5", "float32", "50x5", "none", "12.0", "kB", "12.0", "kB"]
    assert rows["short"][3] == "contiguous"
    assert rows["table"][2] == "compound"
    assert "'table' cannot be trained on: a table; name a field, as table::a" in shown
    assert any(line.startswith("'group/text' cannot be trained on") for line in shown)
    assert not any(line != line.rstrip() for line in shown)


def test_inspect_does_not_fold_what_goes_to_a_pipe_or_read_markup(tmp_path, capsys):
    name = "a/" + "long_name_" * 20
    with h5py.File(tmp_path / "[red]f.h5", "w") as file:
        file[name] = np.zeros((3, 2))
        file["[bold]x[/bold]"] = np.zeros(3)
    assert run(["inspect", str(tmp_path / "[red]f.h5")]) == 0
    shown = capsys.readouterr().out
    assert "[red]f.h5: 2 datasets" in shown
    assert any(line.startswith("[bold]x[/bold] ") for line in shown.splitlines())
    assert any(line.startswith(f"{name} ") for line in shown.splitlines())


def test_inspect_an_empty_file(tmp_path, capsys):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_group("g")
    assert run(["inspect", str(tmp_path / "f.h5")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/f.h5: 0 datasets\n"


def test_classes_are_counted(data, tmp_path, capsys):
    options = ["--loss", "sparse_categorical_crossentropy", "--validation", 0.2, "--metric", "accuracy"]
    assert train(data, tmp_path / "run", *options, "--epochs", 30, "--learning-rate", 0.5, y="label") == 0
    epochs = lines_of(capsys.readouterr().out)[1:-1]
    assert epochs[-1]["val_accuracy"] > 0.9 > epochs[0]["val_accuracy"]
    model = fs.load_model(tmp_path / "run" / "model.safetensors")
    assert model.layers == [fs.Dense(3, "softmax")]
    out = tmp_path / "p.csv"
    assert run(["predict", str(tmp_path / "run"), data, "-x", "X", "--out", str(out)]) == 0
    assert out.read_text().startswith("prediction_0,prediction_1,prediction_2\n")
    probabilities = np.loadtxt(out, np.float32, delimiter=",", skiprows=1)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert run(["predict", str(tmp_path / "run"), data, "-x", "X", "--out", str(tmp_path / "r.h5"), "--raw"]) == 0
    with h5py.File(tmp_path / "r.h5") as file:
        assert np.array_equal(file["prediction"], model.predict(fs.HDF5Dataset(data, "X"), raw=True))
    assert run(["evaluate", str(tmp_path / "run" / "model.safetensors"), data, "-x", "X", "-y", "label", "--json"]) == 0
    assert lines_of(capsys.readouterr().out)[0]["loss_name"] == "sparse_categorical_crossentropy"


def test_classes_are_given(data, tmp_path):
    options = ["--loss", "sparse_categorical_crossentropy", "--classes", 7]
    assert train(data, tmp_path / "run", *options, y="label") == 0
    assert fs.load_model(tmp_path / "run" / "model.safetensors").n_outputs == 7


def test_binary_classification(data, tmp_path, capsys):
    options = ["--loss", "binary_crossentropy", "--validation", 0.2, "--metric", "accuracy"]
    assert train(data, tmp_path / "run", *options, "--epochs", 10, "--learning-rate", 0.5, y="late") == 0
    assert lines_of(capsys.readouterr().out)[-1]["last"]["val_accuracy"] > 0.9
    assert fs.load_model(tmp_path / "run" / "model.safetensors").layers == [fs.Dense(1, "sigmoid")]


def test_standardize(data, tmp_path, capsys):
    assert train(data, tmp_path / "run", "--epochs", 8, "--standardize", "--dtype", "float64", x="tall") == 0
    epochs = lines_of(capsys.readouterr().out)[1:-1]
    assert epochs[-1]["loss"] < 0.05 * epochs[0]["loss"]
    model = fs.load_model(tmp_path / "run" / "model.safetensors")
    tall = fs.HDF5Dataset(data, "tall").take(ROWS).x
    assert model.dtype == np.float64
    np.testing.assert_allclose(model.parameters["standardize/mean"], tall.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(model.parameters["standardize/scale"], 1 / tall.std(axis=0), rtol=1e-10)


def test_columns_weights_and_momentum(data, tmp_path, capsys):
    more = ["-x", "two", "-x", "table::a", "-y", "two", "--weight", "weight", "--momentum", 0.9, "--nesterov"]
    assert train(data, tmp_path / "run", *more, "--activation", "tanh", "--layers", 3, "--memory", "2MB") == 0
    assert "540 rows" not in capsys.readouterr().out
    model = fs.load_model(tmp_path / "run" / "model.safetensors")
    assert (model.input_dim, model.layers) == (8, [fs.Dense(3, "tanh"), fs.Dense(3)])
    options = ["-x", "X", "-x", "two", "-x", "table::a", "-y", "y", "-y", "two", "--weight", "weight", "--json"]
    assert run(["evaluate", str(tmp_path / "run"), data, *options]) == 0
    dataset = fs.HDF5Dataset(data, ["X", "two", "table::a"], ["y", "two"], weight="weight")
    expected = fs.Trainer(model, fs.SGD(), loss="mse").evaluate(dataset)["loss"]
    assert lines_of(capsys.readouterr().out)[0]["loss"] == expected


def test_several_files_are_one_table(data, tmp_path):
    write_data(tmp_path / "part0.h5", 0, 250)
    write_data(tmp_path / "part1.h5", 250, ROWS)
    parts = [str(tmp_path / f"part{i}.h5") for i in range(2)]
    assert run(["train", *parts, "-x", "X", "-y", "y", "--out", str(tmp_path / "a"), "--quiet"]) == 0
    assert (
        run(["train", str(tmp_path / "part*.h5"), "-x", "X", "-y", "y", "--out", str(tmp_path / "b"), "--quiet"]) == 0
    )
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert models[0] == models[1]
    for files, out in (([data], "p.h5"), (parts, "q.h5")):
        assert run(["predict", str(tmp_path / "a"), *files, "-x", "X", "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / "p.h5").read_bytes() == (tmp_path / "q.h5").read_bytes()


def test_a_run_is_the_same_bits_for_a_seed_and_any_threads(data, tmp_path):
    for name, options in {"a": [], "b": ["--threads", 1], "c": ["--threads", 2], "d": ["--seed", 1]}.items():
        assert train(data, tmp_path / name, "--layers", 8, "--validation", 0.1, *options) == 0
    a, b, c, d = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abcd")
    assert a == b == c
    assert a != d


def test_an_earlier_run_is_kept_unless_told(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(data, out, "--epochs", 2) == 0
    before = {name: (out / name).read_bytes() for name in FILES}
    assert train(data, out) == 2
    assert "has the checkpoints of a run; --resume goes on with it, --overwrite starts anew" in capsys.readouterr().err
    assert {name: (out / name).read_bytes() for name in FILES} == before
    assert train(data, out, "--overwrite", "--seed", 5) == 0
    assert content(out) == RESULTS
    assert all((out / name).read_bytes() != data for name, data in before.items())
    assert len(fs.History.from_csv(out / "history.csv").epochs) == 1


def test_a_model_without_checkpoints_is_not_lost(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(data, out) == 0
    shutil.rmtree(out / "checkpoints")
    before = (out / "model.safetensors").read_bytes()
    assert train(data, out, "--resume", "--seed", 5) == 2
    assert "exists and there is no checkpoint to go on from; choose another --out" in capsys.readouterr().err
    assert train(data, out, "--seed", 5) == 2
    assert (out / "model.safetensors").read_bytes() == before


def test_quiet(data, tmp_path, capsys):
    assert run(["train", data, "-x", "X", "-y", "y", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_choices_are_those_of_the_library():
    assert set(LOSSES) == set(KNOWN_LOSSES)
    model = fs.Sequential([fs.Dense(1)], input_dim=1)
    for metric in METRICS[:-1]:
        assert list(fs.Trainer(model, fs.SGD(), loss="mse", metrics=[metric]).metrics) == [metric]
    trainer = fs.Trainer(model, fs.SGD(), loss="binary_crossentropy", metrics=[METRICS[-1]])
    assert list(trainer.metrics) == ["accuracy"]


@pytest.mark.parametrize("command", [[], ["inspect"], ["train"], ["evaluate"], ["predict"], ["plot"]])
def test_help(command, capsys):
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Usage: fastsgd{''.join(' ' + word for word in command)} ")
    assert shown.err == ""
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert ("Example" if command else "Commands:\n  inspect ") in shown.out
    assert "..." not in shown.out.replace("DATA...", "").replace("[ARGS]...", "")


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"fastsgd, version {fs.__version__}\n"
