"""The examples run as their docstrings say, and reach what they are for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
REQUIRED = {"torch": "torch", "keras": "keras", "tf1": "tensorflow", "port": "tensorflow"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_example(example, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip(REQUIRED[example.stem.partition("_")[0]])
    command = f"python {example.relative_to(example.parent.parent)}"
    assert command in example.read_text().partition('"""\n\n')[0]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    accuracies = [float(found) for found in re.findall(r"accuracy (0\.\d+)", result.stdout)]
    assert accuracies
    # A tenth would be chance, and training differs a little between machines.
    assert min(accuracies) > 0.75, result.stdout
    assert list(tmp_path.iterdir())
