"""How many threads, where that comes from, and that nothing of it is left behind or goes wrong beside other threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.kernels import host
from fastsgd.kernels.threads import available_threads, parallel_region, thread_limits

UNIFIED = "0::/user/job/step\n"
FIRST = "5:memory:/job\n4:cpu,cpuacct:/job/step\n0::/\n"


def lay_out(root, groups, files):
    """A file system with the files of control groups, by their paths below /sys/fs/cgroup."""
    for path, content in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{at}": text for at, text in files.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (UNIFIED, {"user/job/step/cpu.max": "150000 100000\n"}, 2),
        (UNIFIED, {"user/job/step/cpu.max": "20000 100000\n"}, 1),
        (UNIFIED, {"user/job/step/cpu.max": "max 100000\n"}, None),
        (UNIFIED, {"user/job/step/cpu.max": "max 100000\n", "user/cpu.max": "300000 100000\n"}, 3),
        (UNIFIED, {"user/job/step/cpu.max": "800000 100000\n", "user/job/cpu.max": "400000 100000\n"}, 4),
        (UNIFIED, {"cpu.max": "500000 100000\n"}, 5),  # a container shows its group as the top one
        (UNIFIED, {"unified/user/job/step/cpu.max": "100000 50000"}, 2),  # beside version 1
        ("0::/../outside\n", {"cpu.max": "700000 100000\n"}, 7),
        (UNIFIED, {"user/job/step/cpu.max": "nonsense\n"}, None),
        (UNIFIED, {"user/job/step/cpu.max": ""}, None),
        (UNIFIED, {}, None),
        (
            FIRST,
            {"cpu,cpuacct/job/step/cpu.cfs_quota_us": "250000", "cpu,cpuacct/job/step/cpu.cfs_period_us": "100000"},
            3,
        ),
        (FIRST, {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"}, 1),
        (FIRST, {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),
        (FIRST, {"cpu/job/step/cpu.cfs_quota_us": "-1", "cpu/job/step/cpu.cfs_period_us": "100000"}, None),
        (FIRST, {"cpu/job/step/cpu.cfs_quota_us": "100000"}, None),
        (FIRST, {"cpu/job/step/cpu.cfs_quota_us": "100000", "cpu/job/step/cpu.cfs_period_us": "0"}, None),
        ("no groups at all", {"cpu.max": "100000 100000"}, None),
    ],
)
def test_cpu_quota(tmp_path, groups, files, quota):
    assert host.cpu_quota(lay_out(tmp_path, groups, files)) == quota


def test_a_system_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert host.cpu_limits(tmp_path) == {"affinity": len(os.sched_getaffinity(0))}
    assert host.memory_limit(tmp_path) is None
    assert host.memory_available(tmp_path) is None
    assert host.processor_name(tmp_path)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        (
            UNIFIED,
            {"user/job/step/memory.max": "max", "user/memory.max": "2000000", "memory.max": "9000000"},
            2_000_000,
        ),
        (UNIFIED, {"user/job/step/memory.max": "max"}, None),
        (FIRST, {"memory/job/memory.limit_in_bytes": "3000000"}, 3_000_000),
        (FIRST, {"memory/job/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_memory_limit(tmp_path, groups, files, limit):
    assert host.memory_limit(lay_out(tmp_path, groups, files)) == limit


def test_memory_available_and_processor(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8000 kB\nMemAvailable:     3000 kB\n")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast 3000: the chip\nmodel name\t: other\n")
    assert host.memory_available(tmp_path) == 3_072_000
    assert host.processor_name(tmp_path) == "Fast 3000: the chip"


@pytest.mark.parametrize(
    ("value", "limit"), [("1", 1), (" 12 ", 12), ("0", None), ("-3", None), ("4x", None), ("", None), ("\u0664", None)]
)
def test_slurm(tmp_path, monkeypatch, value, limit):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", value)
    assert host.cpu_limits(tmp_path).get("SLURM_CPUS_PER_TASK") == limit


def test_the_smallest_limit_is_the_default_and_a_wish_goes_before_it(monkeypatch):
    most = numba.config.NUMBA_NUM_THREADS
    assert thread_limits()["NUMBA_NUM_THREADS"] == most
    assert available_threads(None) == min(thread_limits().values())
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert available_threads(None) == 1
    assert available_threads(most) == most
    assert available_threads(most + 5) == most
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert available_threads(None) <= most
    with pytest.raises(ValueError, match=r"threads is 0; it is a whole number from 1 on, or None for all \d"):
        available_threads(0)


def test_a_narrower_affinity_is_seen():
    code = (
        "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
        "from fastsgd.kernels.threads import available_threads; print(available_threads(None), available_threads(3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NUMBA_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "3"]


def problem(rows=3000):
    """Data and a model whose steps of 1000 rows are worth several threads."""
    x = np.random.default_rng(0).standard_normal((rows, 10)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:2], fs.Sequential([fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)])


def test_threads_are_as_before_after_fit_and_after_an_error():
    x, y, model = problem()
    for own in (1, 2):
        with parallel_region(own):
            for threads in (1, 2, None):
                fs.Trainer(model, fs.SGD(0.01), "mse", threads=threads).fit((x, y), batch_size=1000)
                assert numba.get_num_threads() == own
                with pytest.raises(fs.NonFiniteError):
                    fs.Trainer(model, fs.SGD(1e9), "mse", threads=threads).fit((x, y), batch_size=1000)
                assert numba.get_num_threads() == own
    with pytest.raises(ZeroDivisionError), parallel_region(1):
        _ = 1 / 0
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS


def test_threads_are_as_before_in_each_of_two_python_threads():
    def train(own):
        numba.set_num_threads(own)
        x, y, model = problem()
        fs.Trainer(model, fs.SGD(0.01), "mse", threads=3 - own).fit((x, y), epochs=5, batch_size=1000)
        return numba.get_num_threads(), model.network.parameters.tobytes()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(train, (1, 2)))
    assert [threads for threads, _ in found] == [1, 2]
    assert found[0][1] == found[1][1]


_TOGETHER = """
import sys, threading
import numba, numpy as np
import fastsgd as fs
from fastsgd import kernels

x = np.random.default_rng(0).standard_normal((4000, 10)).astype("f4")
y = np.ascontiguousarray(x[:, :1] * x[:, 1:2])
bits = []

def new():
    return fs.Sequential([fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)], input_dim=10)

def fit():
    model = new()
    fs.Trainer(model, fs.SGD(0.01), "mse", threads=2).fit((x, y), epochs=8, batch_size=500, shuffle=False)
    bits.append(model.network.parameters.tobytes())

def call():
    network = new().network
    state = kernels.make_optimizer_state(network, kernels.MSE, 0.01, 0.0, False)
    workspace = kernels.make_workspace(network, 500)
    for _ in range(8):
        kernels.train_batches(network, state, workspace, x, y, 500)
    bits.append(network.parameters.tobytes())

@numba.njit(parallel=True)
def own_sum(values):
    total = 0.0
    for i in numba.prange(values.size):
        total += values[i]
    return total

def own():
    for _ in range(200):
        assert own_sum(np.ones(10000)) == 10000
    bits.append(None)

whole = [{"fit": fit, "call": call, "own": own}[name] for name in sys.argv[1:]]
for _ in range(2):  # the second time all is compiled, so that they do run at once
    workers = [threading.Thread(target=work) for work in whole]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
print(numba.threading_layer(), len(bits), len(set(bits) - {None}))
"""


@pytest.mark.parametrize(
    ("layer", "together"),
    [("workqueue", ["fit", "call", "fit", "call"]), ("omp", ["fit", "call", "own", "own"])],
)
def test_python_threads_that_train_at_once(layer, together):
    """The workqueue layer ends a process in which two Python threads run parallel code at once."""
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run(
        [sys.executable, "-c", _TOGETHER, *together], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [layer, "8", "1"]
