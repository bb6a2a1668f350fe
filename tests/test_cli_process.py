"""The command line as a process: signals, pipes that close, terminals, and how it is started."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.data.stream import _END_SECONDS

RESULTS = ["checkpoints", "history.csv", "model.safetensors", "run.json"]
PATIENCE = 120  # seconds until a process is taken to hang


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data and a model."""
    folder = tmp_path_factory.mktemp("process")
    x = np.random.default_rng(0).normal(size=(400_000, 3)).astype(np.float32)
    with h5py.File(folder / "data.h5", "w") as file:
        file["X"], file["y"] = x, x[:, 0]
    fs.Sequential([fs.Dense(1)], input_dim=3).save(folder / "model.safetensors")
    return folder


def content(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def arguments(*words):
    return [sys.executable, "-m", "fastsgd", *map(str, words)]


def started(*words, folder, **options):
    """A process of the command line."""
    return running(arguments(*words), cwd=folder, **options)


@contextmanager
def running(command, **options):
    """A process; killed if a test leaves it running."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def endless(out, *options):
    """Training that only a signal ends."""
    source = ["data.h5", "-x", "X", "-y", "y", "--batch-size", 1000]
    return ["train", *source, "--epochs", 10**9, "--learning-rate", 1e-6, "--out", out, *options]


def follow(process, epochs):
    """Read what training tells until so many epochs are over."""
    events = []
    while sum(event["event"] == "epoch" for event in events) < epochs:
        events.append(json.loads(process.stdout.readline()))
    return events


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_in_training_keeps_the_model(place, tmp_path, number, code, times):
    out = tmp_path / "run"
    with started(*endless(out, "--json"), folder=place, stdout=-1, stderr=-1) as process:
        seen = follow(process, 2)
        for _ in range(times):
            process.send_signal(number)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    stopped, resume = errors.splitlines()
    assert stopped.startswith("fastsgd: stopped in epoch ")
    assert stopped.endswith(f"; the model so far is in {out}/model.safetensors")
    command = shlex.join(["fastsgd", *map(str, endless(out, "--json", "--resume"))])
    assert resume == f"fastsgd: to go on: {command}"
    events = seen + [json.loads(line) for line in rest.splitlines()]
    events = [event for event in events if event["event"] != "note"]  # that a first run compiles
    assert [event["event"] for event in events] == ["plan", *["epoch"] * (len(events) - 2), "stopped"]
    assert events[-1]["resume"] == command
    assert content(out) == RESULTS
    history = fs.History.from_csv(out / "history.csv").epochs
    assert history == [{key: value for key, value in event.items() if key != "event"} for event in events[1:-1]]
    about = json.loads((out / "run.json").read_text())
    assert (about["finished"], about["epochs"]) == (False, len(history))
    model = fs.load_model(out / "model.safetensors")
    start = fs.Sequential([fs.Dense(1)], input_dim=3)
    assert np.isfinite(model.predict(np.ones((1, 3)))).all()
    assert not np.array_equal(model.network.parameters, start.network.parameters)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_start_leaves_all_or_nothing(place, tmp_path, number):
    out = tmp_path / "new" / "run"
    with started(*endless(out, "--json", "--standardize"), folder=place, stdout=-1, stderr=-1) as process:
        assert json.loads(process.stdout.readline())["event"] == "plan"
        process.send_signal(number)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (130, 143)
    if "nothing was written" in errors:
        assert content(tmp_path) == []
        assert json.loads(rest.splitlines()[-1])["model"] is None
    else:
        assert content(out) in (RESULTS, RESULTS[:1])  # before the first step: what standardizing found
    assert errors.splitlines()[-1].endswith(" --standardize --resume" if content(tmp_path) else " --standardize")


def test_a_signal_where_the_model_cannot_be_written(place, tmp_path):
    """The line that goes on, and the exit code, come all the same."""
    out = tmp_path / "run"
    with started(*endless(out, "--json"), folder=place, stdout=-1, stderr=-1) as process:
        follow(process, 1)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10, 10))
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    *_, stopped, resume = errors.splitlines()
    assert stopped.startswith("fastsgd: stopped in epoch ")
    assert stopped.endswith("; the model so far could not be written: File too large")
    assert resume.startswith("fastsgd: to go on: ")
    assert json.loads(rest.splitlines()[-1])["model"] is None


def test_the_line_that_goes_on_where_options_ended(place, tmp_path):
    """After `--` it would be the name of a file."""
    words = endless(tmp_path / "run", "--json", "--", "data.h5")
    words.remove("data.h5")
    with started(*words, folder=place, stdout=-1, stderr=-1) as process:
        follow(process, 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith(" --json --resume -- data.h5")


LOSING = """
import os, signal, sys
from fastsgd.cli import signals
signals.install()
class Losing:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
            pass
try:
    Losing()
    while True:
        pass
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("name", "raised"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_a_signal_that_is_lost_in_a_destructor_comes_again(name, raised):
    done = subprocess.run(
        [sys.executable, "-c", LOSING.format(name=name)], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == (f"{raised}\n", "")


def test_an_error_that_a_lost_signal_leads_to_is_an_interrupt():
    """As of the compiler, in whose callbacks nothing can be raised, and which then misses what they did not do."""
    code = (
        "import signal, sys; from fastsgd import cli; from fastsgd.cli import inspect, signals; signals.install()\n"
        "class Losing:\n"
        " def __del__(self): signal.raise_signal(signal.SIGTERM)\n"
        "def losing(**_): Losing(); raise RuntimeError('no compiled object')\n"
        "inspect.command.callback = losing\n"
        "sys.exit(cli.run(['inspect', '.']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (143, "fastsgd: stopped\n")


def test_a_second_signal_does_not_disturb_the_handling_of_the_first():
    code = (
        "import signal; from fastsgd.cli import signals; signals.install()\n"
        "try: signal.raise_signal(signal.SIGTERM)\n"
        "except signals.Terminated:\n"
        " signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGTERM); print('handled')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("handled\n", "")


def test_other_errors_in_destructors_are_still_shown():
    code = "from fastsgd.cli import signals; signals.install()\nclass A:\n def __del__(self): 1 / 0\nA()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "ZeroDivisionError" in done.stderr


def test_a_signal_that_is_ignored_stays_ignored():
    code = (
        "import os, signal; from fastsgd.cli import signals; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signals.install(); os.kill(os.getpid(), signal.SIGINT); print('on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout == "on\n"


COMPILING = """
import ctypes, sys
from numba.core.dispatcher import Dispatcher
compile_it = Dispatcher.compile
def stay_in(self, sig):
    if self.py_func.__name__ != {name!r}:
        return compile_it(self, sig)
    print("compiling", file=sys.stderr, flush=True)
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
Dispatcher.compile = stay_in
from fastsgd.cli import main
main()
"""


@pytest.mark.parametrize(("name", "memory"), [("train_worker", "1GB"), ("fill_order", "1GB"), ("run_passages", "5MB")])
def test_a_signal_while_a_kernel_is_compiled(place, tmp_path, name, memory):
    """For the thread that trains, for several that share work, or for the one that reads: none can be interrupted."""
    words = ["train", "data.h5", "-x", "X", "-y", "y", "--memory", memory, "--out", tmp_path / "run"]
    command = [sys.executable, "-c", COMPILING.format(name=name), *map(str, words)]
    with running(command, cwd=place, stderr=-1) as process:
        while process.stderr.readline() != "compiling\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=_END_SECONDS - 10)
    assert process.returncode == 143
    assert errors.splitlines()[-1].startswith("fastsgd: to go on: fastsgd train data.h5 ")


def test_a_run_that_was_stopped_goes_on(place, tmp_path):
    """To the same bits, with all its history; what would lose it is refused."""
    words = ["train", "data.h5", "-x", "X", "-y", "y", "--batch-size", 100, "--standardize", "--layers", 4]
    words += ["--epochs", 12, "--momentum", 0.9, "--json"]
    want = tmp_path / "want"
    subprocess.run(arguments(*words, "--out", want), cwd=place, check=True, capture_output=True, timeout=PATIENCE)
    out, resumed = tmp_path / "run", []
    for _ in range(3):
        with started(*words, "--out", out, "--resume", folder=place, stdout=-1, stderr=-1) as process:
            resumed.append(follow(process, 1))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
    refused = subprocess.run(
        arguments(*words, "--out", out), cwd=place, check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert refused.returncode == 2
    assert "--resume goes on with it" in refused.stderr
    done = subprocess.run(
        arguments(*words, "--out", out, "--resume"), cwd=place, check=True, capture_output=True, timeout=PATIENCE
    )
    assert b'"event": "done"' in done.stdout
    assert any("resumed from" in event.get("note", "") for event in resumed[1])
    assert (out / "model.safetensors").read_bytes() == (want / "model.safetensors").read_bytes()
    losses = [[epoch["loss"] for epoch in fs.History.from_csv(one / "history.csv").epochs] for one in (out, want)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_a_second_interrupt_ends_at_once(tmp_path):
    """One that comes while the first is handled, and is not part of the same wish."""
    code = (
        "import signal, time; from fastsgd.cli import signals; signals.install(); signals._SAME_WISH_SECONDS = 0\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print(signals.is_pressing())\n"
        "try:\n"
        " with signals.undisturbed(): signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print(signals.is_pressing())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


def test_a_signal_keeps_an_earlier_run_whole(place, tmp_path):
    out = tmp_path / "run"
    first = ["train", "data.h5", "-x", "X", "-y", "y", "--batch-size", 1000, "--out", out, "--json"]
    subprocess.run(arguments(*first), cwd=place, check=True, capture_output=True, timeout=PATIENCE)
    before = (out / "model.safetensors").read_bytes()
    with started(*endless(out, "--json", "--overwrite"), folder=place, stdout=-1, stderr=-1) as process:
        follow(process, 1)
        assert (out / "model.safetensors").read_bytes() == before  # nothing is replaced before the end
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert content(out) == RESULTS
    assert (out / "model.safetensors").read_bytes() != before


def test_training_whose_reader_goes_away_keeps_the_model(place, tmp_path):
    out = tmp_path / "run"
    with started(*endless(out, "--json"), folder=place, stdout=-1, stderr=-1) as process:
        follow(process, 1)
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors.startswith("fastsgd: stopped in epoch ")
    assert errors.count("\n") == 2
    assert content(out) == RESULTS
    assert fs.load_model(out / "model.safetensors").input_dim == 3


@pytest.mark.parametrize("words", [["inspect", "data.h5"], ["--help"], ["inspect", "data.h5", "--json"]])
def test_output_that_nobody_reads(place, words):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        arguments(*words), cwd=place, stdout=writing, stderr=subprocess.PIPE, timeout=PATIENCE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@contextmanager
def on_terminal(*words, folder, stream, columns=100):
    """A process one of whose streams is a terminal, and our end of that terminal."""
    ours, theirs = pty.openpty()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: theirs}
    setting = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
    try:
        with started(*words, folder=folder, env=setting, **streams) as process:
            os.close(theirs)  # so that reading ends with the process
            yield process, ours
    finally:
        os.close(ours)


def read_until(end, text):
    """What a terminal shows up to a text; OSError if the process ends before."""
    seen = b""
    while text not in seen:
        seen += os.read(end, 4096)
    return seen.decode()


@pytest.mark.parametrize("name", ["p.csv", "p.h5"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_prediction_leaves_nothing(place, tmp_path, name, number, code):
    words = ["predict", "model.safetensors", "data.h5", "-x", "X", "--out", tmp_path / name, "--batch-size", 1]
    with on_terminal(*words, folder=place, stream="stderr") as (process, end):
        read_until(end, b"predicting")
        assert len(content(tmp_path)) == 1  # the temporary file
        process.send_signal(number)
        read_until(end, b"fastsgd: stopped; nothing was written")
        assert process.wait(timeout=PATIENCE) == code
    assert content(tmp_path) == []


def test_peak_memory_is_that_of_the_run(place, tmp_path):
    """And not that of a process that started it and held more."""
    words = arguments("train", "data.h5", "-x", "X", "-y", "y", "--out", tmp_path / "run", "--json")
    code = f"import os; held = b'1' * 1_500_000_000; del held; os.execv({words[0]!r}, {words!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    peak = json.loads(done.stdout.splitlines()[-1])["peak_memory_bytes"]
    assert 100_000_000 < peak < 1_400_000_000


@pytest.mark.parametrize("closed", [1, 2])
@pytest.mark.parametrize(("words", "code"), [(["inspect", "data.h5"], 0), (["--version"], 0), (["none"], 2)])
def test_a_stream_that_is_closed(place, closed, words, code):
    command = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *arguments(*words)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_profiler_shows_what_it_found(place):
    command = [sys.executable, "-m", "cProfile", "-m", "fastsgd", "--version"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "function calls" in done.stdout


def test_progress_on_a_terminal(place, tmp_path):
    words = ["train", "data.h5", "-x", "X", "-y", "y", "--epochs", 2, "--out", tmp_path / "run", "--batch-size", 100]
    with on_terminal(*words, folder=place, stream="stderr") as (process, end):
        shown = read_until(end, b"peak memory")
        assert process.wait(timeout=PATIENCE) == 0
        assert process.stdout.read() == ""
    assert "getting ready" in shown
    assert "/400000" in shown
    assert all(f"epoch {i}/2  loss " in shown for i in (1, 2))
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is shown again


def test_a_first_run_says_that_it_compiles(place, tmp_path, monkeypatch):
    """At once, and where the result is kept; the process is killed while it compiles."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    words = ["train", "data.h5", "-x", "X", "-y", "y", "--out", tmp_path / "run"]
    with on_terminal(*words, folder=place, stream="stderr", columns=40) as (_, end):
        shown = read_until(end, b"fastsgd warmup")
    assert "compiling the kernels" in shown
    assert f"kept in {cache}" in shown
    with started(*words, "--overwrite", folder=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        plan, told = process.stderr.readline(), process.stderr.readline()
    assert plan.startswith("memory ")
    assert told.startswith("compiling the kernels")
    assert told.endswith("(`fastsgd warmup` does it ahead)\n")


def test_inspect_fits_a_terminal(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("a/" + "long_name_" * 9, (327346, 42), "i2", chunks=(8192, 42), compression="gzip")
    with on_terminal("inspect", "f.h5", folder=tmp_path, stream="stdout", columns=80) as (process, end):
        shown = read_until(end, b"gzip")
        assert process.wait(timeout=PATIENCE) == 0
    lines = re.sub("\x1b\\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("327346x42" in line and "8192x42" in line and "gzip" in line for line in lines)


def test_how_it_is_started(place):
    for command in ([sys.executable, "-m", "fastsgd"], [str(Path(sys.executable).parent / "fastsgd")]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert done.stdout == f"fastsgd, version {fs.__version__}\n"
        done = subprocess.run(
            [*command, "inspect", "nowhere"], cwd=place, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "fastsgd: there is no file 'nowhere'\n"


def test_help_loads_no_heavy_library(place):
    code = (
        "import sys; from fastsgd.cli import run; heavy = 'numpy numba h5py rich matplotlib safetensors'.split()\n"
        "from fastsgd.cli import _COMMANDS\n"
        "for name in (None, *_COMMANDS):\n"
        "    run(['--help'] if name is None else [name, '--help'])\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.splitlines()[-1] == "[]"


def test_completion_of_commands(place):
    setting = {**os.environ, "_FASTSGD_COMPLETE": "bash_complete", "COMP_WORDS": "fastsgd p", "COMP_CWORD": "1"}
    done = subprocess.run(arguments(), env=setting, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.stdout.splitlines() == ["plain,predict", "plain,plot"]


def test_thirty_kills(tmp_path):
    """A short form of a script: runs that are killed at random moments end in the same bits."""
    script = Path(__file__).parent.parent / "scripts" / "kill_training.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "30"], capture_output=True, text=True, check=False, timeout=2 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("30 kills, ")
