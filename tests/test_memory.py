"""The memory budget is kept: the short form of scripts/show_memory.py, which by itself takes 2 GB."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "show_memory.py"


def test_the_process_stays_within_its_budget(tmp_path):
    # Twelve times the budget: a loader that held the file, or kept what it read, would grow past the limit.
    command = [sys.executable, str(SCRIPT), "--size", "120MB", "--memory", "10MB", "--limit", "32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a window of" in done.stderr
    grown = re.search(r"the process grew by (\d+) MiB", done.stdout)
    assert grown is not None
    assert int(grown[1]) >= 5, "nothing was measured"
    assert list(tmp_path.iterdir()) == []
