"""The command line: `fastsgd COMMAND`. One file a command; this one names them and turns errors into exit codes.

Exit codes: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130 on SIGINT, 143 on SIGTERM.
"""

from __future__ import annotations

import importlib
import signal
import sys
import traceback
from types import FrameType

import click

from fastsgd.errors import FastSGDError

_COMMANDS = ("evaluate", "inspect", "plot", "predict", "train")


class _Commands(click.Group):
    """Imports a command's file when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fastsgd.cli.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastsgd", prog_name="fastsgd")
def cli() -> None:
    """Train dense networks and linear models on HDF5 files of any size."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; handled like an interrupt, but for the exit code."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    """Run the command line and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; returns its exit code."""
    debug = "--debug" in arguments
    try:
        cli.main(arguments, prog_name="fastsgd", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort) as error:
        # click makes an Abort of every interrupt.
        return 143 if isinstance(error.__cause__ or error, Terminated) else 130
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output, `head` for instance, has seen enough.
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        expected = isinstance(error, (FastSGDError, OSError, MemoryError))
        what = str(error) if expected else f"{type(error).__name__}: {error} (an error in fastsgd; --debug shows where)"
        print(f"fastsgd: {what or type(error).__name__}", file=sys.stderr)
        return 1
    return 0
