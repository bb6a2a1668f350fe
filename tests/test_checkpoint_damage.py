"""Checkpoints where something is broken: the files that were kept, the disk, the data, the numbers."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
from checkpoint_runs import MEMORY, STEPS, fit, name_of, names, state, trainer, values, write
from data_files import ChunkByChunk
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastsgd as fs
from fastsgd.tensors import encode
from fastsgd.training.snapshots import KIND


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "train.h5", *values())


@pytest.fixture
def data(path):
    return ChunkByChunk(path, "X", "y")


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
        f"import pathlib, sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "import test_checkpoint_damage as here\n"
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
