"""Every example in a docstring runs and prints what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity.backends import BACKENDS

ROOT = Path(parity.__file__).parent.parent

# Each top-level package with the first of its backends that is installed, whose environment it runs in.
PACKAGES = {
    backend.package.partition(".")[0]: backend for backend in reversed(BACKENDS.values()) if not backend.missing()
}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["parity", *PACKAGES])
def test_examples_run(package):
    environment = dict(PACKAGES[package].environment) if package in PACKAGES else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--doctest-modules"]
    result = subprocess.run(
        [*command, str(ROOT / package)],
        env=os.environ | environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
