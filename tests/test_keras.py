"""Keras takes its engine from the environment of the process, so each engine gets a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.backends import BACKENDS

ENGINES = sorted({backend.environment["KERAS_BACKEND"] for backend in BACKENDS.values() if backend.environment})


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_keras_behaves_on(engine):
    pytest.importorskip("keras")
    pytest.importorskip(engine)
    file = Path(__file__).parent / "engines" / "keras_behaviour.py"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", str(file)]
    environment = os.environ | {"KERAS_BACKEND": engine, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
