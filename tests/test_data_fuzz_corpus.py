"""What the fuzzer of scripts/fuzz_decoders.py found to tell apart, decoded again: so many bytes as are claimed, or
DamagedChunkError."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastsgd.data.codecs import SHUFFLE, Filter
from fastsgd.data.compressors import DEFLATE

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_decoders.py"
CORPUS = Path(__file__).parent / "fuzz_corpus"


@pytest.fixture(scope="module")
def fuzz_decoders():
    spec = importlib.util.spec_from_file_location("fuzz_decoders", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def replayed(folder, **environment):
    """What comes of each case, in a process that may crash."""
    command = [sys.executable, "-W", "error", str(SCRIPT), "--replay", str(folder)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_each_case_is_decoded_or_refused_however_the_kernels_run(tmp_path):
    # Compiled code says nothing of what it reads beyond its arrays, if it is not told to look.
    found = replayed(CORPUS)
    assert set(found) == {path.name for path in CORPUS.iterdir()}
    outcomes = list(found.values())
    assert min(outcomes.count("decoded"), outcomes.count("refused")) >= 20
    assert replayed(CORPUS, NUMBA_DISABLE_JIT="1") == found
    assert replayed(CORPUS, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path)) == found


def test_the_corpus_is_small():
    sizes = [path.stat().st_size for path in CORPUS.iterdir()]
    assert len(sizes) <= 200
    assert sum(sizes) < 300_000


def test_every_seed_is_decoded(tmp_path, fuzz_decoders):
    fuzz_decoders.write_seeds(tmp_path / "seeds")
    assert set(replayed(tmp_path / "seeds").values()) == {"decoded"}


def test_a_case_is_what_it_was_written_from(fuzz_decoders):
    filters = (Filter(SHUFFLE, (4,)), Filter(DEFLATE, (1, 2)))
    case = fuzz_decoders.Case(fuzz_decoders.Case.content(filters, 2, 1200, b"chunk"))
    assert (case.filters, case.mask, case.size, case.chunk) == (filters, 2, 1200, b"chunk")
    fuzz_decoders.Case(b"")  # each content is a case


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda filters, mask, data, size: (data[1:], 0), "11,., 12 bytes were claimed"),
        (lambda filters, mask, data, size: (data.__setitem__(0, 7), (data, 0))[1], "the chunk was written to"),
        (lambda filters, mask, data, size: {}[size], "12"),
    ],
    ids=["size", "chunk", "error"],
)
def test_bugs_are_found(fuzz_decoders, monkeypatch, broken, message):
    monkeypatch.setattr(fuzz_decoders, "undo", broken)
    with pytest.raises((AssertionError, KeyError), match=message):
        fuzz_decoders.decode(fuzz_decoders.Case.content((), 0, 12, bytes(12)), fuzz_decoders.Guarded(64))


@pytest.mark.parametrize(
    ("undo", "ended"),
    [
        ("(np.ones(100 << 20, np.uint8)[:size], 0)", "bytes of memory for 12"),
        ("(np.lib.stride_tricks.as_strided(data, (13,)).copy()[:size], 0)", ""),
    ],
    ids=["memory", "read beyond the end"],
)
def test_bugs_of_compiled_code_are_found(undo, ended):
    """In a process with no peak of memory before, and that dies where it reads what it may not."""
    code = f"""
import sys, numpy as np
sys.path.insert(0, {str(SCRIPT.parent)!r})
import fuzz_decoders
memory = fuzz_decoders.prepared()
fuzz_decoders.undo = lambda filters, mask, data, size: {undo}
fuzz_decoders.decode(fuzz_decoders.Case.content((), 0, 12, bytes(12)), memory)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if ended else -signal.SIGSEGV)
    assert ended in done.stderr


def test_what_is_written_beyond_the_end_is_found(fuzz_decoders, monkeypatch):
    def broken(filters, mask, data, size):
        fuzz_decoders.scratch("decompressed", size + 50)[size + 30] = 0
        return data, 0

    monkeypatch.setattr(fuzz_decoders, "undo", broken)
    with pytest.raises(AssertionError, match="written beyond the end"):
        fuzz_decoders.decode(fuzz_decoders.Case.content((), 0, 12, bytes(12)), fuzz_decoders.Guarded(64))
