"""The README's examples run, in the order a reader meets them."""

import ast
import re
import shlex
from pathlib import Path

import h5py
import numpy as np

import fastsgd as fs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
API_EXAMPLE = """import fastsgd as fs

model = fs.Sequential([
    fs.Dense(64, activation="relu"),
    fs.Dense(64, activation="relu"),
    fs.Dense(1),
])
optimizer = fs.SGD(learning_rate=0.01)
train_dataset = fs.HDF5Dataset("train.h5", features="X", target="y")
trainer = fs.Trainer(model, optimizer, loss="mse")

history = trainer.fit(train_dataset, epochs=10, batch_size=256)      # the whole job

for x_batch, y_batch in train_dataset.batches(256, seed=0):          # or the explicit loop
    loss_value = trainer.train_batch(x_batch, y_batch)
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def write_table(path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 10)).astype("f4")
    with h5py.File(path, "w") as file:
        file["X"], file["y"] = x, x[:, :1] * 0.5 + x[:, 1:2]


def test_python_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table("train.h5")
    examples = blocks("python")
    assert examples[0] == API_EXAMPLE
    names = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert len(names["history"].epochs) == 10
    assert names["history"].epochs[-1]["loss"] < 0.1 * names["history"].epochs[0]["loss"]
    assert names["loss_value"] < 0.2 * names["history"].epochs[0]["loss"]
    assert names["prediction"].shape == (3000, 1)
    x = np.random.default_rng(1).standard_normal((512, 10)).astype("f4")
    y = np.ascontiguousarray(x[:, :1] * 0.5 + x[:, 1:2])
    assert names["train_until"](names["model"].network, names["state"], names["workspace"], x, y, 1e-3) >= 0


def test_command_line_example(tmp_path, monkeypatch):
    from fastsgd.cli import run

    monkeypatch.chdir(tmp_path)
    write_table("train.h5")
    commands = [line.split()[1:] for line in blocks("sh")[1].splitlines()]
    assert [command[0] for command in commands] == ["inspect", "train", "plot", "evaluate", "predict"]
    for command in commands:
        assert run([word.strip("'") for word in command]) == 0, command
    assert {path.name for path in Path("run").iterdir()} == {
        "model.safetensors",
        "checkpoints",
        "history.csv",
        "run.json",
        "learning_curve.png",
    }
    assert len(Path("predictions.csv").read_text().splitlines()) == 3001
    assert fs.load_model("run/model.safetensors").input_dim == 10


def test_a_long_run_goes_on(tmp_path, monkeypatch):
    from fastsgd.cli import run

    monkeypatch.chdir(tmp_path)
    write_table("train.h5")
    (command,) = (shlex.split(line)[1:] for line in blocks("sh")[2].splitlines())
    assert run(command) == 0
    before = Path("long/model.safetensors").read_bytes()
    assert run(command) == 0
    assert Path("long/model.safetensors").read_bytes() == before


def test_every_proof_in_the_table_of_faults_is_there():
    """A test that is named is one of that file, and a script is a script."""
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+)(?:::(\w+))?)?`", text)
    assert len(named) > 20
    for file, *path in named:
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        for name in filter(None, path):
            (tree,) = (node for node in tree.body if getattr(node, "name", None) == name)
    for script in re.findall(r"`(scripts/\w+\.py)", text):
        assert (ROOT / script).is_file()


def test_file_examples(tmp_path, monkeypatch):
    from fastsgd.cli import run

    monkeypatch.chdir(tmp_path)
    for part in range(2):
        lines = [f"{10 * part + i},{i / 2},{('red', 'blue')[i % 2]},{i * 3}" for i in range(10)]
        Path(f"part{part}.csv").write_text("\n".join(["id,size,colour,price", *lines]))
    commands = [shlex.split(line, comments=True)[1:] for line in blocks("sh")[3].splitlines()]
    assert [command[0] for command in commands] == ["convert", "shuffle", "repack"]
    for command in commands:
        assert run(command) == 0, command
    x, y = next(fs.HDF5Dataset("small.h5", "X", "y").batches(20, shuffle=False))
    assert np.array_equal(6 * x[:, 0], y[:, 0])
    assert np.array_equal(x[:, 1], 2 * x[:, 0] % 2)
    assert sorted(y[:, 0]) == sorted([*range(0, 30, 3)] * 2)
    assert list(y[:, 0]) != [*range(0, 30, 3)] * 2


def test_the_first_screen_names_both_commands():
    first = README.splitlines()[:20]
    assert any(line.startswith("scripts/quickstart") for line in first)
    assert any(line.startswith("scripts/test") for line in first)
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec scripts/test")
