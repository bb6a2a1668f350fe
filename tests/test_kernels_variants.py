"""The kernels for other machines than this one: without vector extensions, in plain Python, and, compiled alone, with
wider or other registers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(command, **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [*sys.path]))} | variables
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_without_vector_extensions():
    """The fallback of x86-64, and every case: fused multiply-adds are calls there, so that it is slow."""
    code = "from fastsgd.kernels.vectors import VECTOR_BYTES, TILE_ROWS; print(VECTOR_BYTES, TILE_ROWS)"
    plain = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    if os.uname().machine != "x86_64":
        pytest.skip("no x86-64")
    assert run(["-c", code], **plain).split() == ["16", "4"]
    run(["steps.py", "usual", "grouped", "long", "linear", "extreme"], **plain)


def test_in_plain_python():
    run(["steps.py", "tiny"], NUMBA_DISABLE_JIT="1")
    # Long sums go in chunks where no batch is taken in groups.
    code = "from fastsgd.kernels import network; network._GROUPED_BATCH = network._LINEAR_BATCH = 10**9; import steps; "
    code += "import numpy as np; steps.compare(([2, 4, 1], 'tanh', 'linear', 'mse', 300, True, 310), steps.KINDS[2], "
    run(["-c", code + "np.float64, steps.train_slab_serial)"], NUMBA_DISABLE_JIT="1")
    # Rows in strips, of which the last is not whole.
    code = "from fastsgd.kernels import network; network._WIDE = 35; import steps; import numpy as np; "
    code += "steps.compare(([37, 70, 35, 3], 'silu', 'linear', 'mse', 9, True, 20), steps.KINDS[2], np.float32, "
    run(["-c", code + "steps.train_slab_serial)"], NUMBA_DISABLE_JIT="1")


_COMPILE = """
import re
import sys
import numpy as np
from numba import types
from numba.core.codegen import JITCPUCodegen
features = sys.argv[1]

def kept_in_memory(text):
    # Vectors stored to the stack for each multiply-add, in the worst of the blocks that are loops of a large tile.
    worst = 0
    for block in re.split(r"^[\\w.$]+:", text, flags=re.M):
        sums, stores = (len(re.findall(found, block)) for found in (r"\\svfn?madd", r"vmov\\w+\\s+%[yz]mm\\d+, .*%rsp"))
        worst = max(worst, stores / sums if sums >= 24 else 0)
    return worst

if features == "+neon":  # no feature of x86-64: it only chooses the tile
    real = JITCPUCodegen.magic_tuple
    JITCPUCodegen.magic_tuple = lambda self: (*real(self)[:2], features)
from fastsgd.kernels import vectors
print(vectors.VECTOR_BYTES, vectors.TILE_ROWS, vectors.TILE_VECTORS, end=";")
from fastsgd.kernels import network
# The rows of a task are whole squares of a transpose: none reaches into those of another task, or the next strip.
lanes = vectors.VECTOR_BYTES // 4
for rows in (network._SMALL_TASK_ROWS, network._USUAL_TASK_ROWS, network.TASK_ROWS):
    assert rows % lanes == 0, (rows, lanes)
# Those of a large kernel are whole strips, as its inputs are stored in such.
assert network.TASK_ROWS % (vectors.TILE_VECTORS * lanes) == 0
import products
for element in (types.float32, types.float64):
    flat, place = types.Array(element, 1, "C"), types.UniTuple(types.int64, 3)
    signature = (types.int64, types.UniTuple(flat, 5), types.UniTuple(place, 5), place, types.UniTuple(element, 2))
    for name in ("multiply", "multiply_rows", "multiply_columns"):
        driver = products.KERNELS[name]
        driver.compile(signature)
        (compiled,) = [driver.inspect_asm(found) for found in driver.signatures if found == signature]
        if features == "+neon":
            compiled = for_arm(driver.inspect_llvm(signature))
        counts = compiled.count("zmm"), compiled.count("fmla"), kept_in_memory(compiled)
        print(name, element, *counts, sep=",", end=";")
"""
_FOR_ARM = """
import re
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
def for_arm(text):
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="cortex-a72")
    text = re.sub(r'target datalayout = ".*"', f'target datalayout = "{machine.target_data}"', text)
    text = re.sub(r'target triple = ".*"', 'target triple = "aarch64-unknown-linux-gnu"', text)
    # A counter of references around the product, as LLVM has already made it for x86-64.
    text = re.sub(r"= (tail )?call i8 @llvm.x86.atomic.sub.cc.i64\\(.*", "= add i8 0, 0", text)
    module = llvm.parse_assembly(re.sub(r'"target-(cpu|features)"="[^"]*"', "", text))
    module.verify()
    return machine.emit_assembly(module)
"""


def compiled_for(features, code, tmp_path, **variables):
    """(shape of a tile; counts of registers zmm and of instructions fmla, and vectors stored in a loop for each
    multiply-add, by product and dtype). Nothing of it is run."""
    out = run(["-c", code, features], NUMBA_CACHE_DIR=str(tmp_path), **variables)
    shape, *found = out.strip(";\n").split(";")
    assert len(found) == 6
    return shape, [[float(count) for count in line.split(",")[2:]] for line in found]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for another x86-64")
def test_avx512_compiles(tmp_path):
    features = "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+avx,+fma,+sse2"
    variables = {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": features}
    shape, counts = compiled_for(features, _COMPILE, tmp_path, **variables)
    assert shape == "64 12 2"
    assert all(zmm > 100 for zmm, _, _ in counts)
    # With one pointer for all of its rows a tile had half of its sums in memory, and two thirds of the speed.
    assert all(stored == 0 for _, _, stored in counts)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for another x86-64")
def test_avx2_tiles_stay_in_registers(tmp_path):
    features = "+avx2,+avx,+fma,+sse2"
    shape, counts = compiled_for(features, _COMPILE, tmp_path, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=features)
    assert shape == "32 6 2"
    assert all(zmm == 0 for zmm, _, _ in counts)
    assert all(stored < 0.15 for _, _, stored in counts)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for another machine")
def test_neon_compiles(tmp_path):
    shape, counts = compiled_for("+neon", _FOR_ARM + _COMPILE, tmp_path)
    assert shape == "16 6 4"
    assert all(fmla > 100 for _, fmla, _ in counts)
