"""The save path of a checkpoint when the system fails it: old or new state, never neither.

The real system is between the code and this: at the Nth call an error comes back instead of what the call does, or the
process ends there; and what a power cut leaves is worked out from the calls that were made.
"""

from __future__ import annotations

import errno
import itertools
import os
import warnings
from contextlib import suppress

import numpy as np
import pytest

import fastsgd as fs
from fastsgd import atomic
from fastsgd.training import checkpoint_folder
from fastsgd.training.checkpoint_folder import CheckpointFolder
from fastsgd.training.snapshots import Position, Snapshot, read_snapshot

RUN = {"batch_size": 3}
CALLS = ("open", "write", "fsync", "close", "replace", "unlink")
ARRAY = np.arange(3000, dtype=np.float32)


class ProcessEndedError(BaseException):
    """What comes after it never runs."""


class System:
    """`os`, whose calls are counted; at one of them, and after it, something else may happen."""

    def __init__(self, fault=None, at=None):
        self.log = []
        self.fault = fault
        self.at = at
        self.count = 0

    def __getattr__(self, name):
        found = getattr(os, name)
        return (lambda *arguments: self.call(name, found, *arguments)) if name in CALLS else found

    def call(self, name, function, *arguments):
        self.count += 1
        if self.fault is ProcessEndedError and self.at is not None and self.count >= self.at:
            raise ProcessEndedError
        if self.count == self.at:
            if self.fault == "short":
                if name == "write":
                    arguments = arguments[0], arguments[1][: max(1, len(arguments[1]) // 3)]
            elif name != "close":
                raise OSError(self.fault, os.strerror(self.fault))
        result = function(*arguments)
        self.log.append((name, arguments, result))
        return result


def snapshot(step):
    position = Position(step, 0, rows=step * 3, loss_sum=float(step))
    return Snapshot(RUN, position, [], {"a": ARRAY + step}, {})


def read(path):
    return read_snapshot(path, RUN, {"a": ARRAY.shape}, "float32")


def newest(directory):
    """What a new process finds; its step, after a look at all of it."""
    folder = CheckpointFolder(directory)
    folder.open()
    try:
        found = folder.newest(read)
    finally:
        folder.close()
    if found is None:
        return None
    step = found.position.step
    assert found.arrays["a"].tobytes() == (ARRAY + step).tobytes()
    assert found.position == snapshot(step).position
    return step


def save(directory, step, keep, system, monkeypatch):
    """Save a checkpoint through a system that may fail; returns what was raised."""
    folder = CheckpointFolder(directory)
    folder.open()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(atomic, "os", system)
            patched.setattr(checkpoint_folder, "os", system)
            folder.write(step, snapshot(step).encode(), keep)
    except (OSError, ProcessEndedError) as error:
        return error
    finally:
        folder.close()
    return None


def start(directory, keep, monkeypatch):
    """A folder with a checkpoint or two; returns the step of the newest."""
    for step in range(1, keep + 1):
        assert save(directory, step, keep, System(), monkeypatch) is None
    return keep


def calls_of_a_save(directory, keep, monkeypatch):
    system = System()
    old = start(directory, keep, monkeypatch)
    assert save(directory, old + 1, keep, system, monkeypatch) is None
    return system


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, errno.EACCES, "short", ProcessEndedError], ids=str)
def test_a_fault_at_each_call(tmp_path, monkeypatch, keep, fault):
    count = calls_of_a_save(tmp_path / "all", keep, monkeypatch).count
    assert count >= 10  # open and close for the file, its content, its sync and its folder's; write, rename, unlink
    outcomes = set()
    for at in range(1, count + 1):
        directory = tmp_path / str(at)
        old = start(directory, keep, monkeypatch)
        error = save(directory, old + 1, keep, System(fault, at), monkeypatch)
        left = [name for name in os.listdir(directory) if name.startswith(".")]
        if fault is not ProcessEndedError:
            assert left == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is damaged
            found = newest(directory)
        assert found in (old, old + 1)
        assert error is not None or found == old + 1
        if isinstance(error, OSError):
            assert str(directory) in str(error), "the error does not say which file"
        outcomes.add(found)
        assert save(directory, old + 2, keep, System(), monkeypatch) is None  # and all is well again
        assert newest(directory) == old + 2
        assert not any(name.startswith(".") for name in os.listdir(directory))
    assert outcomes == ({old + 1} if fault == "short" else {old, old + 1})


def test_faults_one_after_the_other(tmp_path, monkeypatch):
    """A short write and then a full disk: the error counts."""

    class FullSystem(System):
        def call(self, name, function, *arguments):
            if name == "write":
                self.count += 1
                if self.count > 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                arguments = arguments[0], arguments[1][:100]
            return function(*arguments)

    old = start(tmp_path, 2, monkeypatch)
    error = save(tmp_path, old + 1, 2, FullSystem(), monkeypatch)
    assert error.errno == errno.ENOSPC
    assert newest(tmp_path) == old


def test_an_interrupt_while_the_last_checkpoint_is_written(tmp_path, monkeypatch):
    """It is written once more, whole: else all since the one before would be lost."""

    class Interrupting(System):
        def call(self, name, function, *arguments):
            if name == "write" and trainer.steps == 3 and self.at is None:
                self.at = len(self.log)
                raise KeyboardInterrupt
            return super().call(name, function, *arguments)

    trainer = fs.Trainer(fs.Sequential([fs.Dense(1)]), fs.SGD(0.01), "mse")
    x = np.ones((3, 1), np.float32)
    system = Interrupting()
    monkeypatch.setattr(atomic, "os", system)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit((x, x), batch_size=1, checkpoint=tmp_path / "c")
    assert system.at is not None
    assert CheckpointFolder(tmp_path / "c").steps() == [0, 3]


class Disk:
    """What may be in a folder after the power was cut, worked out from the calls that were made until then.

    Bytes that were not synced may be there, lack, stand there in part, or be zeros; names that the folder was not
    synced after (made, renamed, removed) may be there in any choice of those changes, in their order.
    """

    def __init__(self, before):
        self.inodes = dict(enumerate(before.values()))  # number: content
        self.names = {name: number for number, name in enumerate(before)}  # as they are on the disk
        self.changes = []  # of names, not synced: functions of a dict
        self.unsynced = set()  # inodes

    def replay(self, log, directory):
        open_files, current = {}, dict(self.names)
        for name, arguments, result in log:
            if name == "open":
                path, flags = arguments[0], arguments[1]
                if os.path.realpath(path) == os.path.realpath(directory):
                    open_files[result] = None
                    continue
                base = os.path.basename(path)
                if flags & os.O_CREAT and base not in current:
                    number = current[base] = len(self.inodes)
                    self.inodes[number] = b""
                    self.change(lambda names, base=base, number=number: names.__setitem__(base, number))
                open_files[result] = current[base]
            elif name == "write":
                number = open_files[arguments[0]]
                self.inodes[number] += bytes(arguments[1][:result])
                self.unsynced.add(number)
            elif name == "fsync":
                if open_files[arguments[0]] is None:
                    for change in self.changes:
                        change(self.names)
                    self.changes.clear()
                else:
                    self.unsynced.discard(open_files[arguments[0]])
            elif name == "replace":
                source, target = map(os.path.basename, arguments)
                current[target] = current.pop(source)
                self.change(lambda names, s=source, t=target: s in names and names.__setitem__(t, names.pop(s)))
            elif name == "unlink":
                base = os.path.basename(arguments[0])
                current.pop(base)
                self.change(lambda names, base=base: names.pop(base, None))

    def change(self, change):
        self.changes.append(change)

    def states(self):
        """All contents of the folder that there may be: dicts of bytes by name."""
        for happened in itertools.product((True, False), repeat=len(self.changes)):
            names = dict(self.names)
            for change, here in zip(self.changes, happened, strict=True):
                if here:
                    change(names)
            torn = [number for number in names.values() if number in self.unsynced]
            for kinds in itertools.product(("whole", "none", "half", "zeros"), repeat=len(torn)):
                contents = dict(self.inodes)
                for number, kind in zip(torn, kinds, strict=True):
                    data = contents[number]
                    contents[number] = {
                        "whole": data, "none": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data))
                    }[kind]  # fmt: skip
                yield {name: contents[number] for name, number in names.items()}


@pytest.mark.parametrize("keep", [1, 2])
def test_a_power_cut_after_each_call(tmp_path, monkeypatch, keep):
    old = start(tmp_path / "c", keep, monkeypatch)
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    system = System()
    assert save(tmp_path / "c", old + 1, keep, system, monkeypatch) is None
    found = []
    for length in range(len(system.log) + 1):
        disk = Disk(before)
        disk.replay(system.log[:length], tmp_path / "c")
        for number, state in enumerate(disk.states()):
            directory = tmp_path / f"{length}-{number}"
            directory.mkdir()
            for name, content in state.items():
                (directory / name).write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a torn file never has a name
                found.append(newest(directory))
    assert set(found) == {old, old + 1}
    assert found[-1] == old + 1
    assert len(found) > 30


def test_a_model_is_saved_as_checkpoints_are(tmp_path, monkeypatch):
    """Old or new, at a fault of each call."""
    model = fs.Sequential([fs.Dense(2)], input_dim=3)
    path = tmp_path / "m"
    system = System()
    model.save(path)
    old = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(atomic, "os", system)
        model.save(path)
    model.parameters["dense_0/bias"][:] = 1
    for at in range(1, system.count + 1):
        with monkeypatch.context() as patched:
            patched.setattr(atomic, "os", System(errno.EIO, at))
            with suppress(OSError):
                model.save(path)
        assert os.listdir(tmp_path) == ["m"]
        assert (path.read_bytes() == old) or fs.load_model(path).parameters["dense_0/bias"].all()
        path.write_bytes(old)
