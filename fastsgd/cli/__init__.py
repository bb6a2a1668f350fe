"""The command line: `fastsgd COMMAND`. One file a command; this one names them and turns errors into exit codes.

Exit codes: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130 on SIGINT, 143 on SIGTERM, 138 on
SIGUSR1.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from fastsgd.cli import signals
from fastsgd.errors import FastSGDError

_COMMANDS = (
    "inspect",
    "train",
    "evaluate",
    "predict",
    "plot",
    "shuffle",
    "repack",
    "convert",
    "warmup",
    "doctor",
)


class _Commands(click.Group):
    """Imports a command's file when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fastsgd.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="fastsgd COMMAND --help tells more about a command, with examples.",
)
@click.version_option(package_name="fastsgd", prog_name="fastsgd")
def cli() -> None:
    """Train dense networks and linear models on HDF5 files of any size."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    if "_FASTSGD_COMPLETE" in os.environ:  # a shell asks for completions
        cli.main(prog_name="fastsgd")
    signals.install()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt as error:  # one that came while another was handled
        code = _interrupted(error)
    signals.ignore()
    _leave(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code."""
    try:
        # Not cli.main, which makes every interrupt an abort: SIGTERM has a code of its own.
        with warnings.catch_warnings(), cli.make_context("fastsgd", list(arguments), obj=list(arguments)) as context:
            warnings.showwarning = _show_warning
            cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output, `head` for instance, has seen enough.
        _discard_output()
        return 1
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        interrupt = signals.lost()
        if interrupt is not None:
            print("fastsgd: stopped", file=sys.stderr)
            return _interrupted(interrupt)
        print(f"fastsgd: {_described(error)}", file=sys.stderr)
        return 1
    return 0


def _leave(code: int) -> NoReturn:
    """End the process as `sys.exit` does, but for taking Python apart, which takes half a second where Numba is loaded,
    and for waiting for a kernel that is still being compiled, which nothing can interrupt."""
    if sys.getprofile() is not None or sys.gettrace() is not None:
        sys.exit(code)  # what they found is shown at the end of Python
    aside = sys.modules.get("fastsgd.kernels.aside")
    if aside is not None:
        aside.wait_at_no_end()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by whoever started the process
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"fastsgd: warning: {' '.join(str(message).split())}", err=True)


def _interrupted(error: KeyboardInterrupt) -> int:
    return 128 + (error.number if isinstance(error, signals.Terminated) else signal.SIGINT)


def _described(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    elif isinstance(error, MemoryError):
        text = f"out of memory ({error})" if str(error) else "out of memory"
    elif isinstance(error, (FastSGDError, OSError)) and str(error):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error} (an error in fastsgd; --debug shows where)"
    return " ".join(text.split())


def _discard_output() -> None:
    """Send what is still buffered for stdout nowhere: at exit it would be written, and fail, once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
