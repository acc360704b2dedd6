"""Writers killed at any moment, in a process in which no framework has computed: they are forked."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_writers_leave_the_old_file_or_the_new_one():
    file = Path(__file__).parent / "alone" / "killed_writers.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "skipped" not in result.stdout.splitlines()[-1]
