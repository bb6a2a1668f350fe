"""Checkpoints: a run that is gone on with gives the bits of one that was never stopped, from every step; what cannot be
gone on with is told apart."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastsgd as fs
from fastsgd.tensors import encode
from fastsgd.training.snapshots import KIND

ROWS, BATCH, EPOCHS = 1015, 100, 2
STEPS = 22  # 11 an epoch, the last of 15 rows
OPTIMIZERS = {
    "plain": fs.SGD(0.05),
    "momentum": fs.SGD(0.05, momentum=0.9),
    "nesterov": fs.SGD(0.05, momentum=0.9, nesterov=True),
}
MEMORY = {"whole": "1MB", "window": "24kB", "small window": "18kB"}


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


def values(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 6)).astype(np.float32)
    return x, np.sin(x[:, :1])


def write(path, x, y, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=x, chunks=(50, 6), **options)
        file.create_dataset("y", data=y, chunks=(50, 1))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "train.h5", *values())


@pytest.fixture
def data(path):
    return ChunkByChunk(path, "X", "y")


LAYERS = fs.Dense(5, "tanh"), fs.Dense(1)
STANDARDIZED = fs.Standardize(), *LAYERS


def trainer(optimizer="momentum", layers=LAYERS, **options):
    chosen = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return fs.Trainer(fs.Sequential(list(layers)), chosen, "mse", **options)


def fit(one, data, checkpoint=None, **options):
    options = {"epochs": EPOCHS, "batch_size": BATCH, "memory": MEMORY["whole"], **options}
    return one.fit(data, checkpoint=checkpoint, **options)


def state(one):
    """All that training changed."""
    velocity = one.optimizer_state.velocity
    figures = [{key: epoch[key] for key in ("epoch", "loss")} for epoch in one.history.epochs]
    return one.model.network.parameters.tobytes(), velocity.tobytes(), one.steps, figures


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def name_of(step):
    return f"step-{step:012d}.safetensors"


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


class TestDamage:
    @pytest.fixture
    def folder(self, data, tmp_path):
        """Checkpoints of steps 0 to 22."""
        fit(trainer(), data, fs.Checkpoint(tmp_path / "c", every_steps=1, keep=1000))
        return tmp_path / "c"

    def test_the_one_before_is_used(self, data, folder):
        content = bytearray((folder / name_of(22)).read_bytes())
        content[-3] ^= 1
        (folder / name_of(22)).write_bytes(content)
        (folder / name_of(21)).write_bytes(b"")
        resumed, undisturbed = trainer(), trainer()
        with pytest.warns(UserWarning, match="it is passed over") as told:
            fit(resumed, data, folder)
        fit(undisturbed, data)
        assert state(resumed) == state(undisturbed)
        assert ["damaged checkpoint: its checksum does not match" in str(told[0].message)] == [True]
        assert name_of(21) in str(told[1].message)
        assert {name_of(21) + ".damaged", name_of(22) + ".damaged", name_of(22)} <= set(names(folder))

    def test_all(self, data, folder):
        for name in names(folder):
            (folder / name).write_bytes(b"nothing")
        before = names(folder)
        damaged = pytest.raises(fs.CheckpointError, match=r"all checkpoints in .* are damaged; start anew")
        with pytest.warns(UserWarning, match="is no checkpoint, or a damaged one"), damaged:
            fit(trainer(), data, folder)
        assert names(folder) == before

    def test_any_byte(self, data, tmp_path):
        """Of a small one: found out, or the same state."""
        small = [fs.Dense(1)]
        fit(trainer("plain", small), data, tmp_path / "c", epochs=1)
        want = state(fit_again(data, tmp_path / "c", small))
        (newest,) = (path for path in (tmp_path / "c").iterdir() if path.name == name_of(11))
        good, found_out = newest.read_bytes(), 0
        for position in range(0, len(good), 7):
            newest.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                assert state(fit_again(data, tmp_path / "c", small)) == want
            found_out += bool(told)
        assert found_out > 0.9 * len(good) // 7

    @pytest.mark.parametrize(
        "change",
        [
            {"step": -1}, {"step": 1.0}, {"step": None}, {"epoch": "1"}, {"rows": True}, {"loss_sum": float("nan")},
            {"loss_sum": 1}, {"spent": []}, {"spent": {"seconds": "x"}}, {"standardized": 1}, {"more": 1},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_position_that_is_none(self, data, folder, change):
        with safe_open(folder / name_of(22), framework="numpy") as file:
            about = json.loads(file.metadata()["fastsgd"])
        about["position"] |= change
        for name in ("format", "version", "sha256"):
            del about[name]
        (folder / name_of(22)).write_bytes(encode(KIND, about, load_file(folder / name_of(22))))
        with pytest.warns(UserWarning, match="is a damaged checkpoint: "):
            fit(trainer(), data, folder)

    def test_safetensors_of_others(self, data, folder):
        save_file({"a": np.zeros(3)}, folder / name_of(23))
        with pytest.warns(UserWarning, match="is a safetensors file, but no checkpoint of fastsgd"):
            fit(trainer(), data, folder)

    def test_what_a_killed_run_left_is_swept(self, data, folder):
        left = folder / f".{name_of(7)}.0123456789abcdef"
        left.write_bytes(b"half")
        (folder / ".mine.0123456789abcdef").write_bytes(b"stays")
        fit(trainer(), data, folder)
        assert not left.exists()
        assert (folder / ".mine.0123456789abcdef").exists()


def fit_again(data, folder, layers):
    one = trainer("plain", layers)
    fit(one, data, folder, epochs=1)
    return one


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


def limit(size):
    """Let no file of this process be longer; None: as long as it likes."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


def a_disk_that_is_full_shows_before_the_first_step(data, folder):
    one = trainer()
    limit(1000)
    with pytest.raises(fs.CheckpointError, match=r"no checkpoint can be written to '.*/c': File too large"):
        fit(one, data, folder / "c")
    assert one.steps == 0
    assert list(folder.iterdir()) == []


def a_disk_that_has_no_room_for_the_lock(data, folder):
    """Nothing is left, and the folder is free for another try."""
    limit(0)
    with pytest.raises(fs.CheckpointError, match=r"no checkpoints can be kept in '.*/c': File too large"):
        fit(trainer(), data, folder / "c")
    limit(None)
    assert list(folder.iterdir()) == []
    assert len(fit(trainer(), data, folder / "c").epochs) == 2


def a_disk_that_fills_up_keeps_what_was_written(data, folder):
    """The run goes on, and fails at its end; what is missing is trained again."""
    one, undisturbed = trainer(), trainer()
    display = fs.training.progress.Silent()
    display.end_epoch = lambda record: limit(1000)
    told = pytest.warns(UserWarning, match=r"could not be written to .*/c': File too large; the one before.*/c/step")
    with told, pytest.raises(fs.CheckpointError, match="the last checkpoint could not be written"):
        fit(one, data, fs.Checkpoint(folder / "c", every_steps=1), progress=display)
    limit(None)
    fit(undisturbed, data)
    assert state(one) == state(undisturbed)
    # That of step 11 was on its way when the disk filled up.
    assert names(folder / "c") in [[name_of(9), name_of(10)], [name_of(10), name_of(11)]]
    resumed = trainer()
    fit(resumed, data, folder / "c")
    assert state(resumed) == state(undisturbed)


def a_disk_that_has_room_again(data, folder):
    one, steps = trainer(), []
    display = fs.training.progress.Silent()
    display.advance = lambda *_: (steps.append(1), limit(1000 if len(steps) in (5, 6) else None))
    with pytest.warns(UserWarning, match="it is tried again"):
        fit(one, data, fs.Checkpoint(folder / "c", every_steps=1, keep=1000), progress=display)
    missing = {name_of(step) for step in range(STEPS + 1)} - set(names(folder / "c"))
    assert missing
    assert missing <= {name_of(step) for step in (4, 5, 6, 7)}


@pytest.mark.parametrize(
    "what",
    [
        a_disk_that_is_full_shows_before_the_first_step,
        a_disk_that_has_no_room_for_the_lock,
        a_disk_that_fills_up_keeps_what_was_written,
        a_disk_that_has_room_again,
    ],
    ids=lambda what: what.__name__,
)
def test_real_failures_to_write(path, tmp_path, what):
    """In a process of their own: what these tests print may go to a file, too."""
    code = (
        f"import pathlib, sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_checkpoint as here\n"
        f"here.{what.__name__}(here.ChunkByChunk({str(path)!r}, 'X', 'y'), pathlib.Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numbers_that_stop_being_finite_reach_no_checkpoint(data, tmp_path):
    one = trainer(fs.SGD(1e4))
    settings = fs.Checkpoint(tmp_path / "c", every_steps=1, keep=1000)
    with pytest.raises(fs.NonFiniteError, match=r"epoch 1, batch .*the newest checkpoint, .*, is sound") as raised:
        fit(one, data, settings)
    assert f"{tmp_path}/c/step-" in str(raised.value)
    for name in names(tmp_path / "c"):
        assert all(np.isfinite(array).all() for array in load_file(tmp_path / "c" / name).values())


def test_numbers_that_stop_being_finite_before_anything_was_learned(data, tmp_path):
    """No checkpoint is left, and so none is named."""
    with pytest.raises(fs.NonFiniteError, match=r"epoch 1, batch 2.*as they were before this epoch$"):
        fit(trainer(fs.SGD(1e20)), data, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_steps_that_are_undone_do_not_count(data):
    one = trainer(fs.SGD(1e4))
    with pytest.raises(fs.NonFiniteError):
        fit(one, data)
    assert one.steps == 0
    x, y = values(8)
    one.train_batch(x[:1], y[:1] / 1e6)
    assert one.steps == 1
    with pytest.raises(fs.NonFiniteError):
        one.train_batch(x, y * np.float32(1e30))
    assert one.steps == 1


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


def test_parameters_that_are_not_finite_after_the_last_step(tmp_path):
    """No loss tells, since none is taken after it."""
    x, y = np.full((10, 1), 1e19, np.float32), np.zeros((10, 1), np.float32)
    one = trainer(fs.SGD(1e20), [fs.Dense(1)])
    one.model.build(1)
    before = one.model.network.parameters.copy()
    one.model.parameters["dense_0/kernel"][:] = before[0] = 1e-3
    with pytest.raises(fs.NonFiniteError, match="the parameters are not finite after epoch 1, batch 1"):
        fit(one, (x, y), tmp_path / "c", epochs=1)
    assert one.model.parameters["dense_0/kernel"] == np.float32(1e-3)


def test_a_damaged_chunk_in_mid_epoch(tmp_path):
    """The rows are named, and when the file is whole again the run goes on to the same bits."""
    options = {"memory": MEMORY["window"], "shuffle": False}
    x, y = values()
    path = write(tmp_path / "f.h5", x, y, fletcher32=True)
    undisturbed = trainer()
    fit(undisturbed, ChunkByChunk(path, "X", "y"), **options)
    good = path.read_bytes()
    with h5py.File(path) as file:
        where = file["X"].id.get_chunk_info(4).byte_offset
    spoilt = bytearray(good)
    spoilt[where + 5] ^= 4
    settings = fs.Checkpoint(tmp_path / "c", every_steps=1)
    path.write_bytes(spoilt)
    stopped = trainer()
    with pytest.raises(fs.DataError, match=r"f.h5: rows 200 to 249 of 'X', 'y' cannot be read .*checksum"):
        fit(stopped, ChunkByChunk(path, "X", "y"), settings, **options)
    assert stopped.steps == 2
    path.write_bytes(good)
    resumed = trainer()
    fit(resumed, ChunkByChunk(path, "X", "y"), settings, **options)
    assert state(resumed) == state(undisturbed)
