"""`fastsgd warmup`: compile the kernels ahead, so that no later process has to."""

from __future__ import annotations

import time

import click

from fastsgd.cli.options import common_options, print_json
from fastsgd.errors import FastSGDError

_DTYPES = ("float32", "float64")


@click.command(
    "warmup",
    short_help="Compile the kernels ahead.",
    epilog="\b\nExamples:\n  fastsgd warmup\n  NUMBA_CACHE_DIR=/cache fastsgd warmup --all",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(_DTYPES),
    default=_DTYPES[:1],
    show_default=True,
    help="Compute in this; may be repeated.",
)
@click.option("--all", "everything", is_flag=True, help="Both dtypes, and data of every type; takes minutes.")
@common_options
def command(dtypes: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Compile the kernels for this processor and keep them in files, where later processes find them.

    The files lie beside the package, or in the folder that NUMBA_CACHE_DIR names; a process finds them on the same type
    of processor with the same setting. Training compiles what is missing by itself.
    """
    from fastsgd.kernels.jit import compiled_here
    from fastsgd.kernels.threads import available_threads
    from fastsgd.training.warmup import STORAGE, USUAL_STORAGE, warmup_steps

    folder = _folder()
    several = available_threads(2) > 1
    if everything:
        dtypes = _DTYPES
    if not as_json:
        click.echo(f"compiled kernels are kept in {folder}", err=True)
    began = time.perf_counter()
    for what, run in warmup_steps(
        tuple(dict.fromkeys(dtypes)), STORAGE if everything else USUAL_STORAGE, several=several
    ):
        if not as_json:
            click.echo(f"{what} ... ", err=True, nl=False)
        start, before = time.perf_counter(), compiled_here()
        run()
        seconds, compiled = time.perf_counter() - start, compiled_here() - before
        if as_json:
            print_json(event="step", what=what, compiled=compiled, seconds=seconds)
        else:
            click.echo(f"{compiled} compiled, {seconds:.1f} s" if compiled else "there already", err=True)
    seconds, compiled = time.perf_counter() - began, compiled_here()
    if as_json:
        print_json(event="done", folder=folder, compiled=compiled, several_threads=several, seconds=seconds)
        return
    if not several:
        click.echo(
            "nothing was compiled for several threads, as Numba sees one processor: set NUMBA_NUM_THREADS=2 if later "
            "processes have more",
            err=True,
        )
    result = f"{compiled} kernels compiled" if compiled else "everything was there already"
    click.echo(f"{result}; {seconds:.1f} s", err=True)


def _folder() -> str:
    """Where compiled kernels are kept.

    Raises
    ------
    FastSGDError
        If they are not kept.
    """
    import numba

    from fastsgd.kernels.jit import cache_folder
    from fastsgd.kernels.step import train_slab

    if numba.config.DISABLE_JIT:
        raise FastSGDError("NUMBA_DISABLE_JIT is set, so nothing is compiled; unset it")
    folder = cache_folder(train_slab)
    if folder is None:
        raise FastSGDError("no folder for compiled kernels can be written to; set NUMBA_CACHE_DIR to one")
    return folder
