"""What `fastsgd doctor` finds, and the advice that follows from it."""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any

# Of the many that a processor has, those that a register tile is made for.
_INSTRUCTION_SETS = ("neon", "sve", "avx", "avx2", "fma", "avx512f")
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "KMP_BLOCKTIME")
_LITTLE_MEMORY = 1.5e9  # bytes; the default budget for data alone is 1 GB
_GOOD_SHARE = 0.65  # of the speed that several threads have at most
_READ_BYTES = 256 * 2**20


def findings() -> dict[str, Any]:
    """What there is, by section; plain types, as for JSON."""
    import numba

    from fastsgd.kernels import host

    compiled = not numba.config.DISABLE_JIT
    threads = _threads(compiled)
    return {
        "versions": _versions(),
        "processor": _processor(),
        "threads": threads,
        "speed": _speed(threads["default"]) if compiled else {},
        "kernels": _kernels(compiled),
        "memory": {"available": host.memory_available(), "cgroup_limit": host.memory_limit()},
    }


def _versions() -> dict[str, str | None]:
    from fastsgd import __version__

    found: dict[str, str | None] = {"fastsgd": __version__, "Python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite", "h5py"):
        found[name] = importlib.import_module(name).__version__
    found["HDF5"] = importlib.import_module("h5py").version.hdf5_version
    return found


def _processor() -> dict[str, Any]:
    from fastsgd.kernels import host, vectors

    features = vectors.host_features()
    return {
        "name": host.processor_name(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in features],
        "vector_bytes": vectors.VECTOR_BYTES,
        "tile_rows": vectors.TILE_ROWS,
        "tile_vectors": vectors.TILE_VECTORS,
    }


def _threads(compiled: bool) -> dict[str, Any]:
    from fastsgd.kernels.threads import available_threads, thread_limits

    limits, default = thread_limits(), available_threads(None)
    layer, problem = None, None
    if compiled:
        from fastsgd.kernels.peak import threading_layer

        try:
            layer = threading_layer()
        except ValueError as error:  # the one that is asked for is not there
            problem = " ".join(str(error).split())
    return {
        "default": default,
        "set_by": next(name for name, count in limits.items() if count == default),
        "limits": limits,
        "layer": layer,
        "layer_problem": problem,
        "waiting": {name: os.environ[name] for name in _WAITING if name in os.environ},
    }


def _speed(threads: int) -> dict[str, dict[str, float]]:
    from fastsgd.kernels.peak import multiply_add_rate, read_rate

    counts = sorted({1, threads})
    return {
        "multiply_add_gflops": {str(n): round(multiply_add_rate(n, seconds=0.03, repeats=4) / 1e9, 1) for n in counts},
        "read_gbytes": {str(n): round(read_rate(n, nbytes=_READ_BYTES, repeats=3) / 1e9, 1) for n in counts},
    }


def _kernels(compiled: bool) -> dict[str, Any]:
    from fastsgd.kernels.jit import cache_folder
    from fastsgd.kernels.step import train_slab
    from fastsgd.kernels.threads import available_threads
    from fastsgd.model import Dense, Sequential
    from fastsgd.training import SGD, Trainer

    folder, ready = None, {}
    if compiled:
        folder = cache_folder(train_slab)
        for threads, name in ((1, "one thread"), (2, "several threads"))[: available_threads(2)]:
            model: Any = Sequential([Dense(64), Dense(1)], input_dim=64)
            trainer = Trainer(model, SGD(), "mse", threads=threads)
            ready[name] = not trainer._to_compile(32 if threads == 1 else 4096)
    return {
        "compiled": compiled,
        "folder": folder,
        "folder_writable": folder is not None and _writable(folder),
        "training_ready": ready,
    }


def _writable(folder: str) -> bool:
    """Whether files can be made in a folder, which need not be there yet."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)


def advice(found: dict[str, Any]) -> list[str]:
    """What to install or set, most important first; a sentence each."""
    kernels, processor, ready = found["kernels"], found["processor"], found["kernels"]["training_ready"]
    hints = []
    if not kernels["compiled"]:
        hints.append("NUMBA_DISABLE_JIT is set: kernels run as plain Python, thousands of times slower; unset it")
        return hints + _thread_advice(found["threads"])
    if not kernels["folder_writable"]:
        folder = kernels["folder"]
        where = f"{folder} cannot be written to" if folder else "no folder for compiled kernels can be written to"
        hints.append(f"{where}: every process compiles what is not there; set NUMBA_CACHE_DIR to a folder that can")
    hints += _thread_advice(found["threads"])
    hints += _speed_advice(found["speed"]["multiply_add_gflops"])
    if processor["vector_bytes"] == 16 and "neon" not in processor["instruction_sets"]:
        hints.append(
            "kernels are compiled for vectors of 16 bytes, as this processor shows neither AVX2 with FMA nor AVX-512: "
            "in a virtual machine, pass the host's processor through; else see NUMBA_CPU_NAME and NUMBA_CPU_FEATURES"
        )
    limit = found["memory"]["cgroup_limit"]
    if limit is not None and limit < _LITTLE_MEMORY:
        hints.append(
            f"the control groups grant {limit / 1e6:.0f} MB of memory: give training a budget, like --memory 256MB"
        )
    if kernels["folder_writable"] and not all(ready.values()):
        hints.append("the first training compiles for a quarter to half a minute: `fastsgd warmup` does it ahead")
    return hints


def _speed_advice(rates: dict[str, float]) -> list[str]:
    most = max(rates, key=int)
    gain = rates[most] / rates["1"]
    if gain >= _GOOD_SHARE * int(most):
        return []
    return [
        f"{most} threads compute {gain:.1f} times as fast as one: other processes are running (the load is "
        f"{os.getloadavg()[0]:.1f}), or what counts as processors are two hardware threads of a core"
    ]


def _thread_advice(threads: dict[str, Any]) -> list[str]:
    hints = []
    wished = os.environ.get("NUMBA_THREADING_LAYER")
    install = (
        "install GNU OpenMP (Debian and Ubuntu: apt install libgomp1; conda: conda install -c conda-forge libgomp) or "
        "TBB (pip install tbb)"
    )
    if threads["layer_problem"]:
        way = f"unset NUMBA_THREADING_LAYER, which is {wished}" if wished else install
        hints.append(f"parallel kernels cannot run ({threads['layer_problem']}): {way}")
    elif threads["layer"] == "workqueue":
        way = "unset NUMBA_THREADING_LAYER, or set it to omp" if wished else install
        hints.append(
            "Numba's workqueue threading layer is in use: it is slower, and ends the process if parallel code of your "
            f"own runs in two Python threads at once; {way}"
        )
    limits, default = threads["limits"], threads["default"]
    processors, by = limits["affinity"], threads["set_by"]
    if default < processors:
        ways = {
            "cgroup quota": "raise the quota (docker run --cpus, or limits.cpu in Kubernetes)",
            "SLURM_CPUS_PER_TASK": "ask for more with --cpus-per-task",
            "NUMBA_NUM_THREADS": "unset NUMBA_NUM_THREADS",
        }
        count = "1 thread is" if default == 1 else f"{default} threads are"
        hints.append(f"{count} used on {processors} processors, because of {by} {limits[by]}: for more, {ways[by]}")
    if threads["waiting"].get("OMP_WAIT_POLICY", "").lower() == "active":
        hints.append("OMP_WAIT_POLICY=active lets waiting threads take time from those that work; unset it")
    return hints
