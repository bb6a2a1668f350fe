"""The house: imports go down only, files and functions stay small, the package starts without its heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastsgd

ROOT = Path(fastsgd.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    "errors": 0,
    "atomic": 0,
    "tensors": 1,
    "losses": 1,
    "kernels": 1,
    "data": 2,
    "model": 2,
    "datasets": 2,
    "training": 3,
    "cli": 4,
}
OUTSIDE_KERNELS = {"numpy", "numba", "llvmlite"}


def room(path):
    """The floor's room that a file is in: "kernels", "data", ..."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imports(path):
    """The modules that a file imports, anywhere in it; those for type checking alone left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "fastsgd":
                yield from (f"fastsgd.{alias.name}" for alias in node.names)
            else:
                yield node.module


INSIDE = [path for path in FILES if path.name != "__init__.py" or path.parent != ROOT]


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_only_go_down(path):
    here = room(path)
    if here == "__main__":
        return
    for name in imports(path):
        if not name.startswith("fastsgd"):
            top = name.split(".")[0]
            if here == "kernels":
                assert top in OUTSIDE_KERNELS | set(sys.stdlib_module_names), f"kernels import {name}"
            continue
        there = name.split(".")[1] if "." in name else "__version__"
        if there == "__version__":
            continue
        assert there == here or FLOORS[there] < FLOORS[here], f"{path.relative_to(ROOT)} imports {name}"


def test_kernels_import_no_other_room():
    for path in (ROOT / "kernels").glob("*.py"):
        inside = {name.split(".")[1] for name in imports(path) if name.startswith("fastsgd.")}
        assert inside <= {"kernels"}, path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    assert source.count("\n") <= 500
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body
            documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
            first = body[1] if documented and len(body) > 1 else body[0]
            assert node.end_lineno - first.lineno < 60, f"{path.name}: {node.name}"


def test_only_the_presets_call_njit():
    for path in (ROOT / "kernels").glob("*.py"):
        if path.name != "jit.py":
            assert "njit" not in {
                node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)
            }, path.name


def test_only_the_machine_its_vectors_and_the_measure_of_its_peak_know_llvm():
    knowing = {
        path.name for path in (ROOT / "kernels").glob("*.py") if any("llvmlite" in name for name in imports(path))
    }
    assert knowing == {"machine.py", "vectors.py", "tile.py", "dots.py", "peak.py"}


def test_import_loads_no_heavy_library():
    code = (
        "import sys, fastsgd; fastsgd.SGD; fastsgd.Dense; "
        "fastsgd.Sequential([fastsgd.Dense(1)]); fastsgd.HDF5Dataset; fastsgd.Trainer; "
        "print([name for name in ('numba', 'h5py', 'rich', 'matplotlib', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_on_arrays_loads_no_library_that_it_does_not_need():
    """The time to the first trained batch is mostly that of importing Numba; nothing else heavy is to join it."""
    code = (
        "import sys, numpy as np, numba, fastsgd as fs; before = set(sys.modules)\n"
        "x = np.ones((1000, 10), np.float32)\n"
        "model = fs.Sequential([fs.Standardize(), fs.Dense(64, 'relu'), fs.Dense(1)])\n"
        "fs.Trainer(model, fs.SGD(0.01), 'mse').fit((x, x[:, 0]), batch_size=256, validation=(x, x[:, 0]))\n"
        "model.predict(x)\n"
        "heavy = 'h5py rich click matplotlib safetensors pandas csv fastsgd.cli fastsgd.kernels.peak'\n"
        "print([name for name in heavy.split() if name in sys.modules and name not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
