"""`fastsgd warmup` and `fastsgd doctor`: what is compiled ahead, and what is told about the machine."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from fastsgd.cli import run
from fastsgd.cli.findings import advice, findings
from fastsgd.training.warmup import STORAGE

USER = """
import sys
import h5py, numpy as np
import fastsgd as fs
from fastsgd.kernels.jit import compiled_here

rng = np.random.default_rng(0)
x = rng.standard_normal((60_000, 7)).astype("f4")
y, weight = np.sin(x[:, 0]).astype("f8"), rng.random(60_000)
with h5py.File(sys.argv[1], "w") as file:
    for name, part in {"X": x, "y": y, "w": weight, "z": y.astype("f4")}.items():
        file.create_dataset(name, data=part, chunks=(100, *part.shape[1:]))
streamed = fs.HDF5Dataset(sys.argv[1], "X", "y", weight="w")
alike = fs.Sequential([fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)])
trainer = fs.Trainer(alike, fs.SGD(0.001, momentum=0.9), "mse", threads=2)
trainer.fit(fs.HDF5Dataset(sys.argv[1], "X", "z"), batch_size=2000, memory="2MB")
for layers in ([], [fs.Standardize()]):
    for data in ((x, y), (x, y, weight), streamed):
        for batch, threads in ((32, None), (10_000, 2)):
            model = fs.Sequential([*layers, fs.Dense(64, "relu"), fs.Dense(32, "tanh"), fs.Dense(1)])
            trainer = fs.Trainer(model, fs.SGD(0.001, momentum=0.9), "mse", metrics=["rmse"], threads=threads)
            budget = "2MB" if data is streamed and batch == 32 else None
            trainer.fit(data, batch_size=batch, validation=(x[:9000], y[:9000]), memory=budget)
            trainer.train_batch(x[:9], y[:9])
            model.predict(x, threads=threads)
classes = fs.Sequential([fs.Dense(64, "relu"), fs.Dense(3, "softmax")])
labels = rng.integers(0, 3, 60_000)
fs.Trainer(classes, fs.SGD(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"]).fit((x, labels))
print(compiled_here())
"""


def in_process(*words, cache):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_what_is_compiled_ahead_is_all_that_training_needs(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    before = json.loads(in_process("-m", "fastsgd", "doctor", "--json", cache=cache).stdout)
    assert not any(before["kernels"]["training_ready"].values())
    assert any("fastsgd warmup" in hint for hint in before["advice"])

    told = in_process("-m", "fastsgd", "warmup", cache=cache).stderr.splitlines()
    assert told[0].startswith(f"compiled kernels are kept in {cache}")
    assert " compiled, " in told[1], "training itself"
    # Several threads run what one does.
    assert all(" compiled, " in line or line.endswith("... there already") for line in told[1:-1])
    files = sorted(path.name for path in cache.rglob("*.nbc"))
    assert files

    assert in_process("-c", USER, tmp_path / "data.h5", cache=cache).stdout == "0\n"
    assert sorted(path.name for path in cache.rglob("*.nbc")) == files

    again = in_process("-m", "fastsgd", "warmup", "--json", cache=cache).stdout.splitlines()
    assert [json.loads(line)["compiled"] for line in again] == [0] * len(again)
    assert in_process("-m", "fastsgd", "warmup", cache=cache).stderr.splitlines()[-1].startswith("everything was there")
    after = json.loads(in_process("-m", "fastsgd", "doctor", "--json", cache=cache).stdout)
    assert after["kernels"]["training_ready"] == {"one thread": True, "several threads": True}
    assert not any("fastsgd warmup" in hint for hint in after["advice"])


WITHOUT_FOLDER = """
import sys
from numba.core import caching
for locator in (caching.UserProvidedCacheLocator, caching.InTreeCacheLocator, caching.UserWideCacheLocator):
    locator.from_function = classmethod(lambda cls, function, file: None)
from fastsgd.cli import run
sys.exit(run(["warmup"]))
"""


@pytest.mark.parametrize(
    ("words", "setting", "message"),
    [
        (["-m", "fastsgd", "warmup"], {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT is set, so nothing is compiled"),
        (["-c", WITHOUT_FOLDER], {}, "no folder for compiled kernels can be written to; set NUMBA_CACHE_DIR to one"),
    ],
)
def test_warmup_where_nothing_is_kept(words, setting, message):
    done = subprocess.run(
        [sys.executable, *words], env=os.environ | setting, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"fastsgd: {message}")


def test_every_type_that_data_are_held_in_is_known():
    import numpy as np

    from fastsgd.data.arrays import storage_dtype

    held = {str(storage_dtype(np.dtype(code), "x")) for code in np.typecodes["AllInteger"] + "efd?"}
    assert held == set(STORAGE)


@pytest.fixture(scope="module")
def found():
    return findings()


def test_doctor(found, capsys):
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    lines = {line.strip().split("  ")[0]: line for line in shown.splitlines()}
    assert numba.__version__ in lines["numba"]
    assert found["processor"]["name"] in lines["name"]
    assert f"{found['threads']['default']}, by {found['threads']['set_by']}" in shown
    assert found["threads"]["layer"] in lines["threading layer"]
    assert "Gflop/s" in lines["float32 multiply-adds"]
    assert found["kernels"]["folder"] in lines["kept in"]
    assert "advice" in lines


def test_doctor_in_json(capsys):
    assert run(["doctor", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["versions"]["numba"] == numba.__version__
    assert found["versions"].keys() >= {"fastsgd", "Python", "numpy", "h5py", "HDF5"}
    assert found["threads"]["limits"][found["threads"]["set_by"]] == found["threads"]["default"]
    assert found["threads"]["layer"] in ("tbb", "omp", "workqueue")
    assert "GOMP_SPINCOUNT" in found["threads"]["waiting"] or "OMP_WAIT_POLICY" in found["threads"]["waiting"]
    assert all(rate > 1 for rate in found["speed"]["multiply_add_gflops"].values())
    assert all(rate > 0.1 for rate in found["speed"]["read_gbytes"].values())
    assert Path(found["kernels"]["folder"]).is_absolute()
    assert found["memory"]["available"] > 1e6


def well(found):
    """The findings of a machine on which all is well."""
    best = copy.deepcopy(found)
    best["threads"] |= {"default": 8, "set_by": "affinity", "limits": {"affinity": 8, "NUMBA_NUM_THREADS": 8}}
    best["threads"] |= {"layer": "omp", "layer_problem": None, "waiting": {}}
    best["processor"] |= {"vector_bytes": 32, "instruction_sets": ["avx2", "fma"]}
    best["kernels"] |= {"compiled": True, "folder": "/kept", "folder_writable": True, "training_ready": {"one": True}}
    best["speed"]["multiply_add_gflops"] = {"1": 100.0, "8": 700.0}
    best["memory"]["cgroup_limit"] = None
    return best


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("kernels", {"compiled": False}, ["NUMBA_DISABLE_JIT", "unset"]),
        ("kernels", {"folder_writable": False}, ["/kept cannot be written to", "NUMBA_CACHE_DIR"]),
        ("kernels", {"folder": None, "folder_writable": False}, ["no folder", "NUMBA_CACHE_DIR"]),
        ("kernels", {"training_ready": {"one": False}}, ["fastsgd warmup"]),
        ("threads", {"layer": "workqueue"}, ["workqueue", "libgomp1", "pip install tbb"]),
        ("threads", {"layer": None, "layer_problem": "none found"}, ["none found", "libgomp1"]),
        ("threads", {"waiting": {"OMP_WAIT_POLICY": "ACTIVE"}}, ["OMP_WAIT_POLICY"]),
        (
            "threads",
            {"default": 2, "set_by": "cgroup quota", "limits": {"affinity": 8, "cgroup quota": 2}},
            ["2 threads are used on 8 processors", "cgroup quota 2", "--cpus"],
        ),
        (
            "threads",
            {"default": 1, "set_by": "SLURM_CPUS_PER_TASK", "limits": {"affinity": 8, "SLURM_CPUS_PER_TASK": 1}},
            ["1 thread is used on 8 processors", "--cpus-per-task"],
        ),
        ("processor", {"vector_bytes": 16}, ["16 bytes", "NUMBA_CPU_NAME"]),
        ("speed", {"multiply_add_gflops": {"1": 100.0, "8": 300.0}}, ["8 threads compute 3.0 times"]),
        ("memory", {"cgroup_limit": 512 * 10**6}, ["512 MB", "--memory"]),
    ],
)
def test_advice(found, monkeypatch, section, change, words):
    monkeypatch.delenv("NUMBA_THREADING_LAYER", raising=False)
    good = well(found)
    assert advice(good) == []
    bad = copy.deepcopy(good)
    bad[section] |= change
    (hint,) = advice(bad)
    assert all(word in hint for word in words), hint


def test_doctor_where_nothing_is_compiled():
    done = subprocess.run(
        [sys.executable, "-m", "fastsgd", "doctor"],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "NUMBA_DISABLE_JIT is set" in done.stdout.splitlines()[-1]
