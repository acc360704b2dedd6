"""The README's examples run, and its lists agree with the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity.backends import BACKENDS
from parity.spec import SPECS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[text.split("\n")[1].replace(" ", "-") for text in EXAMPLES])
def test_example_runs(example, tmp_path):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path, env=environment)


def test_there_is_an_example_of_each_style():
    for package in ("attention_torch", "attention_keras.layers", "attention_keras.functional", "attention_tf1compat"):
        assert any(f"from {package} import" in example for example in EXAMPLES), package


def test_the_parity_table_has_every_backend_and_block():
    section = README.split("## Parity")[1].split("\n## ")[0]
    for table in ("worst error / allowed, cpu", "worst float32 error in epsilons, cpu"):
        header, *rows = [line for line in section.split(table)[1].splitlines() if line.startswith(("┃", "│"))]
        assert header.replace("┃", " ").split() == ["backend", *SPECS]
        assert [row.split()[1] for row in rows[: len(BACKENDS)]] == list(BACKENDS)


def test_the_tree_names_every_module():
    tree = README.split("## The tree")[1].split("\n## ")[0]
    for file in (ROOT / "parity").glob("*.py"):
        if file.stem not in ("__init__", "__main__", "errors"):
            assert f"{file.name} " in tree, file.name


def test_make_help_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.*)", makefile).group(1).split()
    for target in targets:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
