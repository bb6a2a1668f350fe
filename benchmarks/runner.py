"""What the benchmarks share: processes that take turns, medians and ratios, a description of the machine, and JSON.

Contestants run in rounds, A B C A B C ..., so that whatever slows a shared machine for a while slows them alike. A
ratio is the median over rounds of the ratios within a round.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

RESULTS = Path(__file__).parent / "results"
MIN_ROUNDS = 5
PAUSE_SECONDS = 0.5  # between turns: idle threads of some libraries keep a core busy for a while after their work


class ContestantError(Exception):
    """A process ended, or said something else than the protocol has."""


@dataclass
class Measured:
    """What one contestant did in all rounds.

    Attributes
    ----------
    rows : int, rows of one turn
    seconds : list of float, one a round
    losses : list of float, one a round
    background : list of float
        Share of the cores that was busy just before each turn: not far from 0, or something else is running.
    version : str
    """

    rows: int
    version: str = ""
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    background: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Rows a second, one a round."""
        return [self.rows / seconds for seconds in self.seconds]

    @property
    def median_rate(self) -> float:
        """Median of the rows a second."""
        return statistics.median(self.rates)

    def ratio_over(self, other: Measured) -> float:
        """How many times faster than the other: the median of the ratios round by round."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": self.version,
            "rows": self.rows,
            "median_rows_per_second": round(self.median_rate, 1),
            "seconds": [round(seconds, 6) for seconds in self.seconds],
            "losses": [round(loss, 6) for loss in self.losses],
            "background": [round(share, 3) for share in self.background],
        }


class Contestant:
    """A process under the protocol of `peers/protocol.py`, warm when the constructor returns.

    Parameters
    ----------
    command : sequence of str
    timeout : float
        Seconds that one answer may take, the first included; the process is ended after.
    """

    def __init__(self, command: Sequence[str], *, timeout: float = 900.0) -> None:
        self.timeout = timeout
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        try:
            self.version = str(self._answer("version")["version"])
        except BaseException:
            self.close()
            raise

    def go(self) -> dict[str, float]:
        """Run one epoch; returns its seconds and mean loss."""
        self._say("go")
        answer = self._answer("seconds", "loss")
        return {"seconds": float(answer["seconds"]), "loss": float(answer["loss"])}

    def close(self) -> None:
        """End the process, by word or else by force."""
        self._say("quit")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            # What it was told too late is still in the pipe's buffer.
            with suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]

    def __enter__(self) -> Contestant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        # Where it has ended, the missing answer tells.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()

    def _answer(self, *keys: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(self.timeout, self._process.kill)
        timer.start()
        begin = time.monotonic()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict) or not all(key in answer for key in keys):
            self._errors.seek(0)
            tail = "".join(self._errors.readlines()[-15:])
            said = f"said {line.strip()!r}"
            if not line:
                said = f"took more than {self.timeout:g} s" if time.monotonic() - begin >= self.timeout else "ended"
            raise ContestantError(f"{said} where an answer with {', '.join(keys)} was due\n{tail}")
        return answer


def take_turns(
    turns: Mapping[str, Callable[[], Mapping[str, float]]],
    rows: Mapping[str, int],
    *,
    rounds: int = MIN_ROUNDS,
    pause: float = PAUSE_SECONDS,
) -> dict[str, Measured]:
    """Call all in turn, `rounds` times over.

    Parameters
    ----------
    turns : mapping of name to callable
        Each returns a mapping with ``seconds`` and, where there is one, ``loss``: `Contestant.go`, or a function.
    rows : mapping of name to int
        Rows that one call covers.
    rounds : int
        At least `MIN_ROUNDS`.
    pause : float
        Seconds of quiet before each turn.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds is {rounds}; a median needs at least {MIN_ROUNDS}")
    measured = {name: Measured(rows[name]) for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            time.sleep(pause / 2)
            measured[name].background.append(_busy_share(pause / 2))
            answer = turn()
            measured[name].seconds.append(answer["seconds"])
            if "loss" in answer:
                measured[name].losses.append(answer["loss"])
    return measured


def _busy_share(seconds: float) -> float:
    """Share of all cores that is busy while this process waits."""

    def ticks() -> tuple[int, int]:
        with open("/proc/stat", encoding="ascii") as file:
            times = [int(part) for part in file.readline().split()[1:9]]
        return sum(times) - times[3] - times[4], sum(times)  # without idle and iowait

    busy_before, all_before = ticks()
    time.sleep(seconds)
    busy_after, all_after = ticks()
    return (busy_after - busy_before) / max(all_after - all_before, 1)


def run_contestants(
    commands: Mapping[str, Sequence[str]],
    rows: Mapping[str, int],
    *,
    rounds: int = MIN_ROUNDS,
    pause: float = PAUSE_SECONDS,
) -> dict[str, Measured]:
    """Start a process for each command, let them take turns as `take_turns` does, and end them."""
    started: dict[str, Contestant] = {}
    try:
        for name, command in commands.items():
            try:
                started[name] = Contestant(command)
            except ContestantError as error:
                raise ContestantError(f"{name} did not start: it {error}") from None
        measured = take_turns({name: process.go for name, process in started.items()}, rows, rounds=rounds, pause=pause)
        for name, process in started.items():
            measured[name].version = process.version
    finally:
        for process in started.values():
            process.close()
    return measured


def describe_machine(libraries: Iterable[str] = ("fastsgd", "numpy", "numba", "llvmlite", "h5py")) -> dict[str, Any]:
    """CPU model, cores this process may use, memory, system, and versions of Python and libraries."""
    versions = {}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": versions,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return "unknown"  # as on ARM, where the kernel names no model


def write_results(topic: str, content: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<topic>.json`: the content under a date and a description of the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{topic}.json"
    head = {"topic": topic, "date": datetime.now(UTC).date().isoformat(), "machine": describe_machine()}
    text = json.dumps({**head, **content}, indent=2)
    # A list of numbers on one line.
    text = re.sub(r"\[([^\[\]{}]*)\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first aligned left and the others right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    for line in (header, ["-" * width for width in widths], *rows):
        first, *others = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
