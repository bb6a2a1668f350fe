"""`fastsgd shuffle`, `repack` and `convert`: what they print, their exit codes, and signals while they write."""

from __future__ import annotations

import json
import os
import signal

import h5py
import numpy as np
import pytest
from data_files import datasets_of, write_kinds, write_rows
from test_cli_process import PATIENCE, on_terminal, read_until

from fastsgd.cli import run
from fastsgd.data.order import rewrite_key
from fastsgd.kernels.random import permutation


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Each test runs in a folder with a file of 300 rows."""
    monkeypatch.chdir(tmp_path)
    write_rows("in.h5", 300)
    with h5py.File("in.h5", "r+") as file:
        file["names"] = np.array([b"a", b"b", b"c"])
    return tmp_path


@pytest.mark.parametrize("command", ["shuffle", "repack"])
def test_what_is_said(place, command, capsys):
    before = os.path.getsize("in.h5")
    assert run([command, "in.h5", "out.h5"]) == 0
    shown = capsys.readouterr()
    after = os.path.getsize("out.h5")
    assert shown.out == ""
    assert shown.err == (
        f"wrote 300 rows of X, w, y to out.h5: {before / 1000:.1f} kB before, {after / 1000:.1f} kB now\n"
        "copied as they are, without as many rows: names\n"
    )
    assert run([command, "in.h5", "out.h5", "--json", "--rows-of", "y", "--memory", "10MB"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {
        "path": "in.h5",
        "out": "out.h5",
        "rows": 300,
        "datasets": ["X", "w", "y"],
        "copied": ["names"],
        "bytes_before": before,
        "bytes_after": after,
    }


def test_shuffle_takes_a_seed(place):
    before = datasets_of("in.h5")["y"]
    for seed in (0, 7):
        assert run(["shuffle", "in.h5", "out.h5", "--seed", str(seed)]) == 0
        assert np.array_equal(datasets_of("out.h5")["y"], before[permutation(rewrite_key(seed), 300)])


def test_repack_takes_its_options(place):
    options = "--compression gzip --level 3 --chunk-rows 50 --dtype float32"
    assert run(["repack", "in.h5", "out.h5", *options.split()]) == 0
    with h5py.File("out.h5") as file:
        assert (file["y"].chunks, file["y"].compression_opts, file["y"].dtype) == ((50,), 3, np.float32)


def test_convert(place, capsys):
    with open("t.csv", "w") as file:
        file.write("a;b;w;id;y\n1;red;1;x;0\n;blue;2;x;1\n")
    command = "convert t.csv out.h5 -y y --weight w --drop id --categories b --delimiter ; --dtype float64"
    assert run(command.split()) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "wrote 2 rows of X (2), y (1), weight (1) to out.h5\ncolumn 'b': 2 categories\n"
        "column 'a': 1 missing values are NaN now\n"
    )
    found = datasets_of("out.h5")
    assert np.array_equal(found["X"], [[1, 0], [np.nan, 1]], equal_nan=True)
    assert found["weight"].tolist() == [1, 2]
    assert run([*command.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["datasets"], found["missing"]) == ({"X": ["a", "b"], "y": ["y"], "weight": ["w"]}, {"a": 1})


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("shuffle nowhere.h5 out.h5", "there is no file 'nowhere.h5'"),
        ("shuffle notes.txt out.h5", "'notes.txt' is not an HDF5 file"),
        ("shuffle folder out.h5", "'folder' is a folder"),
        ("shuffle in.h5 folder", "folder: Is a directory"),
        ("shuffle in.h5 missing/out.h5", "missing/out.h5: No such file or directory"),
        ("shuffle in.h5 notes.txt/out.h5", "notes.txt/out.h5: Not a directory"),
        ("shuffle in.h5 out.h5 --rows-of Z", "there is no dataset 'Z'"),
        ("shuffle in.h5 out.h5 --memory 1furlong", "memory is '1furlong'"),
        ("shuffle in.h5 out.h5 --memory 1kB", "the least that works"),
        ("repack in.h5 folder", "folder: Is a directory"),
        ("repack huge.h5 out.h5", "out.h5: No space left on device: 8000.0 GB are needed"),
        ("convert notes.txt out.h5", "'notes.txt' is of no known format"),
        ("convert in.h5 out.h5", "'in.h5' is of no known format"),
    ],
)
def test_failures_are_one_line(place, command, message, capsys):
    (place / "folder").mkdir()
    (place / "notes.txt").write_text("some\ntext\n")
    with h5py.File("huge.h5", "w") as file:
        file.create_dataset("X", (10**12,), "f8", chunks=(1000,))
    os.truncate("huge.h5", 2**33)  # a smaller file would not be believed
    before = sorted(os.listdir())
    assert run(command.split()) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("fastsgd: ")
    assert message in shown.err
    assert "an error in fastsgd" not in shown.err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("shuffle in.h5", "Missing argument 'OUT'"),
        ("shuffle in.h5 out.h5 --seed -1", "Invalid value for '--seed'"),
        ("repack in.h5 out.h5 --compression zip", "'zip' is not one of 'none', 'gzip', 'lzf'"),
        ("repack in.h5 out.h5 --level 0", "Invalid value for '--level'"),
        ("repack in.h5 out.h5 --dtype float64", "'float64' is not one of"),
        ("convert out.h5", "Missing argument 'IN...'"),
        ("convert a.csv b.csv", "'b.csv' ends in neither .h5 nor .hdf5"),
    ],
)
def test_misuse_shows_the_usage(command, message, capsys):
    assert run(command.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("Usage: fastsgd")
    assert message in shown.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("shuffle large.h5 out.h5 --memory 50MB", 10**8),
        ("repack large.h5 out.h5 --compression gzip", 10**9),
        ("convert large.npy out.h5", 10**8),
    ],
)
def test_a_signal_leaves_the_old_file(place, words, rows, number, code):
    with h5py.File("large.h5", "w") as file:  # no chunk of it is ever stored
        file.create_dataset("X", (rows,), "f4", chunks=(10**5,))
    with open("large.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows,)})
        file.truncate(4 * rows + 128)
    (place / "out.h5").write_text("old")
    before = sorted(os.listdir())
    with on_terminal(*words.split(), folder=place, stream="stderr") as (process, end):
        read_until(end, b"B/s")
        assert len(os.listdir()) == len(before) + 1  # the temporary file
        process.send_signal(number)
        read_until(end, b"fastsgd: stopped; nothing was written")
        assert process.wait(timeout=PATIENCE) == code
    assert sorted(os.listdir()) == before
    assert (place / "out.h5").read_text() == "old"


def test_files_of_every_kind_go_round(place):
    """Shuffled, repacked and narrowed, the rows of a file stay together."""
    write_kinds("kinds.h5", 2000)
    for words in ["shuffle kinds.h5 kinds.h5 --memory 100kB", "repack kinds.h5 kinds.h5 --compression lzf"]:
        assert run(words.split()) == 0
    found = datasets_of("kinds.h5")
    numbers = found["group/y"]
    assert np.array_equal(np.sort(numbers), np.arange(2000))
    assert np.array_equal(found["X"][:, 0], numbers)
    assert np.array_equal(found["group/deep/name"], numbers.astype("S6"))
    assert np.array_equal(found["table"]["pair"][:, 1], numbers)
