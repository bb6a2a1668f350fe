"""Checkpoints: a run that is gone on with gives the bits of one that was never stopped, from every step; what cannot be
gone on with is told apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from checkpoint_runs import LAYERS, MEMORY, OPTIMIZERS, STEPS, fit, name_of, names, state, trainer, values, write
from data_files import ChunkByChunk
from safetensors import safe_open
from safetensors.numpy import load_file

import fastsgd as fs

STANDARDIZED = fs.Standardize(), *LAYERS


class Stops(fs.training.progress.Silent):
    """Interrupts a run when it has told of something so many times."""

    def __init__(self, what, times, error=KeyboardInterrupt):
        self.left = times
        self.error = error
        setattr(self, what, self.count)

    def count(self, *_):
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "train.h5", *values())


@pytest.fixture
def data(path):
    return ChunkByChunk(path, "X", "y")


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_from_every_step_to_the_same_bits(data, tmp_path, optimizer, memory, shuffle):
    options = {"memory": MEMORY[memory], "shuffle": shuffle, "seed": 5}
    undisturbed = trainer(optimizer)
    fit(undisturbed, data, **options)
    every = tmp_path / "every"
    fit(trainer(optimizer), data, fs.Checkpoint(every, every_steps=1, keep=1000), **options)
    assert names(every) == [name_of(step) for step in range(STEPS + 1)]
    for step in range(STEPS + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        shutil.copy(every / name_of(step), folder)
        resumed = trainer(optimizer, threads=(1, 2, 4)[step % 3])
        fit(resumed, data, folder, **options)
        assert state(resumed) == state(undisturbed), step


@pytest.mark.parametrize(
    ("what", "times"), [("plan", 1), ("start_epoch", 1), ("advance", 3), ("end_epoch", 1), ("advance", 13)]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_whatever_ends_a_run_it_goes_on(data, tmp_path, what, times, error):
    validation = values(200, seed=1)
    undisturbed = trainer(layers=STANDARDIZED)
    fit(undisturbed, data, validation=validation)
    stopped = trainer(layers=STANDARDIZED)
    settings = fs.Checkpoint(tmp_path / "c", every_steps=1)
    with pytest.raises(error):
        fit(stopped, data, settings, validation=validation, progress=Stops(what, times, error))
    resumed = trainer(layers=STANDARDIZED)
    fit(resumed, data, settings, validation=validation)
    assert state(resumed) == state(undisturbed)
    assert [epoch["val_loss"] for epoch in resumed.history.epochs] == [
        epoch["val_loss"] for epoch in undisturbed.history.epochs
    ]


def test_an_interrupt_in_validation(tmp_path):
    """The epoch's rows are trained on, its record is not written yet."""

    class Interrupts(fs.ArrayDataset):
        def locate(self, *_):
            raise KeyboardInterrupt

    x, y = values()
    spoilt = y.copy()
    spoilt[7] = np.nan
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(), (x, y), tmp_path / "c", validation=Interrupts(x, spoilt))
    assert names(tmp_path / "c") == [name_of(0), name_of(11)]
    resumed, undisturbed = trainer(), trainer()
    fit(resumed, (x, y), tmp_path / "c", validation=(x, y))
    fit(undisturbed, (x, y), validation=(x, y))
    assert state(resumed) == state(undisturbed)


def test_rows_that_are_left_out_stay_out(tmp_path):
    x, y = values()
    x[::7, 2] = np.nan
    data = ChunkByChunk(write(tmp_path / "f.h5", x, y), "X", "y", nan="skip")
    undisturbed = trainer()
    fit(undisturbed, data, memory=MEMORY["window"])
    for step in range(1, 18, 3):
        settings = fs.Checkpoint(tmp_path / str(step), every_steps=1)
        with pytest.raises(KeyboardInterrupt):
            fit(trainer(), data, settings, memory=MEMORY["window"], progress=Stops("advance", step))
        resumed = trainer()
        fit(resumed, data, tmp_path / str(step), memory=MEMORY["window"])
        assert state(resumed) == state(undisturbed)
        assert resumed.history.epochs[0]["skipped"] == 145


def test_a_run_says_where_it_goes_on(data, tmp_path, capsys):
    fit(trainer(), data, tmp_path / "c", epochs=1)
    assert capsys.readouterr().err == ""
    told = []
    display = fs.training.progress.Silent()
    display.plan = told.append
    one = trainer()
    history = fit(one, data, tmp_path / "c", epochs=3, progress=display)
    path = tmp_path / "c" / name_of(11)
    assert capsys.readouterr().err == f"fastsgd: resumed from {path}: epoch 2 of 3, row 0, step 11\n"
    assert told[1] == f"resumed from {path}: epoch 2 of 3, row 0, step 11"
    assert [epoch["epoch"] for epoch in history.epochs] == [0, 1, 2]
    assert history is one.history
    fit(trainer(), data, tmp_path / "c", epochs=3)
    assert "all 3 epochs done, step 33" in capsys.readouterr().err


def test_a_display_may_change_what_it_is_told(data, tmp_path):
    display, resumed, undisturbed = fs.training.progress.Silent(), trainer(), trainer()
    display.end_epoch = lambda record: record.update(note="good")
    fit(trainer(), data, tmp_path / "c", epochs=1, progress=display)
    fit(resumed, data, tmp_path / "c")
    fit(undisturbed, data)
    assert state(resumed) == state(undisturbed)
    assert "note" not in resumed.history.epochs[0]


def test_what_a_checkpoint_holds(data, tmp_path):
    one = trainer()
    fit(one, data, tmp_path / "c")
    path = tmp_path / "c" / name_of(STEPS)
    arrays = load_file(path)
    assert arrays.keys() == {
        *one.model.parameters,
        *(f"velocity/{name}" for name in one.model.parameters if name.startswith("dense")),
    }
    assert all(np.array_equal(arrays[name], view) for name, view in one.model.parameters.items())
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["fastsgd"])
    assert about["position"] | {"spent": {}} == {
        "step": 22, "epoch": 2, "rows": 0, "loss_sum": 0.0, "spent": {}, "standardized": True
    }  # fmt: skip
    assert about["history"] == one.history.epochs
    assert about["versions"]["fastsgd"] == fs.__version__
    with pytest.raises(fs.ModelFileError, match="its format is 'fastsgd-checkpoint', not 'fastsgd-model'"):
        fs.load_model(path)


def test_the_newest_few_are_kept(data, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("stays")
    fit(trainer(), data, fs.Checkpoint(tmp_path / "c", every_steps=4, keep=3))
    assert names(tmp_path / "c") == ["mine.txt", name_of(16), name_of(20), name_of(22)]


def test_by_the_clock(data, tmp_path):
    """Each slab is due; how many are written depends on how long one takes to write, but the first and last are."""
    fit(trainer(), data, fs.Checkpoint(tmp_path / "c", every_seconds=1e-9, keep=1000))
    assert {name_of(0), name_of(STEPS)} <= set(names(tmp_path / "c"))
    fit(trainer(), data, fs.Checkpoint(tmp_path / "d", every_seconds=None, keep=1000))
    assert names(tmp_path / "d") == [name_of(0), name_of(STEPS)]


class TestResume:
    def test_anew(self, data, tmp_path):
        fit(trainer(), data, tmp_path / "c", epochs=1)
        one, undisturbed = trainer(), trainer()
        fit(one, data, tmp_path / "c", epochs=1, batch_size=50, resume=False)
        fit(undisturbed, data, epochs=1, batch_size=50)
        assert state(one) == state(undisturbed)
        assert names(tmp_path / "c") == [name_of(0), name_of(21)]

    def test_demanded(self, data, tmp_path):
        with pytest.raises(fs.CheckpointError, match=r"there is no checkpoint in .*c' to go on from; resume='auto'"):
            fit(trainer(), data, tmp_path / "c", resume=True)
        assert not (tmp_path / "c").exists()
        fit(trainer(), data, tmp_path / "c", epochs=1)
        assert len(fit(trainer(), data, tmp_path / "c", resume=True).epochs) == 2

    @pytest.mark.parametrize("resume", ["newest", None, 0, 1, 2])
    def test_neither(self, data, tmp_path, resume):
        with pytest.raises(fs.ModelError, match=r"resume is .*; it is True, False or 'auto'"):
            fit(trainer(), data, tmp_path / "c", resume=resume)

    @pytest.mark.parametrize(("what", "times"), [("end_epoch", 2), ("advance", 14)])
    def test_with_fewer_epochs_than_it_has_begun(self, data, tmp_path, what, times):
        settings = fs.Checkpoint(tmp_path / "c", every_steps=1)
        with pytest.raises(KeyboardInterrupt):
            fit(trainer(), data, settings, epochs=3, progress=Stops(what, times))
        one, before = trainer(), names(tmp_path / "c")
        with pytest.raises(fs.CheckpointError, match=r"step-.* is past the end of epoch 1, .* give more epochs"):
            fit(one, data, settings, epochs=1)
        assert (one.steps, names(tmp_path / "c")) == (0, before)

    def test_demanded_without_a_folder(self, data):
        with pytest.raises(fs.ModelError, match="resume=True goes on from a checkpoint; say where they are"):
            fit(trainer(), data, resume=True)

    def test_a_copy_of_the_data_will_do(self, path, data, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            fit(trainer(), data, tmp_path / "c", progress=Stops("end_epoch", 1))
        copy = shutil.copy(path, tmp_path / "copy.h5")
        os.utime(copy, (0, 0))
        resumed, undisturbed = trainer(), trainer()
        fit(resumed, ChunkByChunk(copy, "X", "y"), tmp_path / "c")
        fit(undisturbed, data)
        assert state(resumed) == state(undisturbed)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch_size": 50}, "batch_size is 50 here, it was 100"),
            ({"seed": 1}, "order.seed is 1 here, it was 0"),
            ({"shuffle": False}, "order.shuffle is False here, it was True"),
            ({"memory": MEMORY["window"]}, "order.window_rows is [0-9]+ here, it was 1015. Make"),
            ({"initial_epoch": 1}, "initial_epoch is 1 here, it was 0"),
            ({"optimizer": fs.SGD(0.05)}, "optimizer.momentum is 0.0 here, it was 0.9"),
            ({"optimizer": fs.SGD(0.1, momentum=0.9)}, "optimizer.learning_rate is 0.1 here, it was 0.05"),
            ({"layers": (fs.Dense(6, "tanh"), fs.Dense(1))}, r"model.layers\[0\].units is 6 here"),
            ({"layers": STANDARDIZED}, "model.layers is .* here, it was"),
            ({"data": values(seed=2)}, "is of another run: the data hold other values. Make them the same"),
            ({"data": values(1000)}, "order.window_rows is 1000 here, it was 1015; data.rows is 1000 here"),
            ({"data": fs.ArrayDataset(*values(), nan="skip")}, "data.nan is skip here, it was error"),
            ({"data": (values()[0].astype(np.float64), values()[1])}, "data.dtypes.0. is float64 here"),
            ({"data": fs.ArrayDataset(*values(1100)).split(85 / 1100)[0]}, "other rows of the data were taken"),
        ],
        ids=lambda part: str(part)[:40],
    )
    def test_of_another_run(self, data, tmp_path, change, message):
        fit(trainer(), data, tmp_path / "c", epochs=1)
        before = {name: (tmp_path / "c" / name).read_bytes() for name in names(tmp_path / "c")}
        other = trainer(**{key: change.pop(key) for key in ("optimizer", "layers") if key in change})
        with pytest.raises(fs.CheckpointError, match=message):
            fit(other, change.pop("data", data), tmp_path / "c", **change)
        assert {name: (tmp_path / "c" / name).read_bytes() for name in names(tmp_path / "c")} == before

    def test_of_another_loss(self, tmp_path):
        fit(trainer(), values(), tmp_path / "c", epochs=1)
        model = trainer().model
        with pytest.raises(fs.CheckpointError, match=r"loss.name is huber here, it was mse; loss.parameters"):
            fit(fs.Trainer(model, OPTIMIZERS["momentum"], "huber"), values(), tmp_path / "c")


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"directory": 3}, "directory is 3; it is the path of a folder"),
            ({"directory": ""}, "directory is ''"),
            ({"every_steps": 0}, "every_steps is 0; it is a whole number from 1 on"),
            ({"every_steps": 1.5}, "every_steps is 1.5"),
            ({"every_steps": True}, "every_steps is True"),
            ({"keep": 0}, "keep is 0"),
            ({"keep": None}, "keep is None"),
            ({"every_seconds": 0}, "every_seconds is 0; it is a number above 0, or None"),
            ({"every_seconds": "5"}, "every_seconds is '5'"),
            ({"every_seconds": float("inf")}, "every_seconds is inf"),
        ],
        ids=str,
    )
    def test_wrong(self, arguments, message):
        with pytest.raises(fs.CheckpointError, match=message):
            fs.Checkpoint(**{"directory": "c", **arguments})

    def test_a_folder_that_cannot_be_made(self, data, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(fs.CheckpointError, match=r"no checkpoints can be kept in .*/file/c': Not a directory"):
            fit(trainer(), data, tmp_path / "file" / "c")


OWNER = """
import sys, fastsgd as fs
from fastsgd.training.checkpoint_folder import CheckpointFolder
folder = CheckpointFolder(sys.argv[1])
folder.open()
print("open", flush=True)
sys.stdin.read()
"""


def test_one_run_at_a_time(data, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "c")], stdin=-1, stdout=-1, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "open\n"
            with pytest.raises(
                fs.CheckpointError, match=rf"another run .*\(process {process.pid} on {os.uname()[1]}\)"
            ):
                fit(trainer(), data, tmp_path / "c")
        finally:
            process.kill()
    fit(trainer(), data, tmp_path / "c")  # the lock went with the process
    assert names(tmp_path / "c") == [name_of(0), name_of(STEPS)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12, where there are threads
def test_a_process_that_was_forked_meanwhile_does_not_keep_the_folder(data, tmp_path):
    awake, sleep = os.pipe()
    children = []

    def fork(_):
        children.append(os.fork())
        if not children[-1]:
            os.close(sleep)
            os.read(awake, 1)
            os._exit(0)

    display = fs.training.progress.Silent()
    display.end_epoch = fork
    try:
        fit(trainer(), data, tmp_path / "c", epochs=1, progress=display)
        assert len(fit(trainer(), data, tmp_path / "c").epochs) == 2
    finally:
        os.close(sleep)
        os.waitpid(children[0], 0)
        os.close(awake)


def test_a_history_that_holds_what_is_no_number(data, tmp_path):
    """The run goes on, and says what is wrong."""
    one = trainer()
    display = fs.training.progress.Silent()
    display.end_epoch = lambda _: one.history.epochs[-1].update(note=np.float32(1))
    told = pytest.warns(UserWarning, match="could not be written to .*not JSON serializable; the one before is whole")
    with told, pytest.raises(fs.CheckpointError, match="the last checkpoint could not be written"):
        fit(one, data, fs.Checkpoint(tmp_path / "c", every_steps=1), progress=display)
    assert one.steps == STEPS
    assert names(tmp_path / "c") == [name_of(10), name_of(11)]


def test_a_folder_that_was_there_stays(data, tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(), data, tmp_path / "c", progress=Stops("start_epoch", 1))
    assert list((tmp_path / "c").iterdir()) == []
