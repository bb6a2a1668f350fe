"""Nothing is left behind by loaders of all kinds: the short form of scripts/soak_loader.py, which by itself takes an
hour."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "soak_loader.py"
MOST_MIB = 4  # a window, the rows in memory or a thread's stack left by each cycle would be several times that


def test_cycles_of_all_kinds_leave_nothing():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--cycles", "30"], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("30 cycles of 15 kinds")
    half, end = (float(re.search(rf"memory at {at}: ([\d.]+) MiB", done.stdout)[1]) for at in ("half", "end"))
    assert end - half < MOST_MIB
    assert "threads: 1 at the start, 1 at the end" in done.stdout
    assert re.search(r"descriptors: \d+ at the start, 0 of others at the end", done.stdout)
