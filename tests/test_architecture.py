"""Doors and walls: who imports whom, and that files, signatures and registries line up."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import parity
from parity.backends import BACKENDS
from parity.spec import NETWORKS, SPECS

ROOT = Path(parity.__file__).parent
EVERY = SPECS | NETWORKS
PACKAGES = {backend.package: backend for backend in BACKENDS.values()}
FRAMEWORKS = {module for backend in BACKENDS.values() for module in backend.requires}

# Imports one module while others are made to look uninstalled, then tells which modules of the harness came along.
PROBE = """
import importlib, sys
module, *blocked = sys.argv[1:]
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
importlib.import_module(module)
print(" ".join(name for name in sys.modules if name.partition(".")[0] == "parity"))
"""


def probe(module, blocked, environment=None, path=None):
    """The modules of parity that importing `module` loads, with `blocked` packages absent; raises where it fails."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE, module, *sorted(blocked)],
        capture_output=True,
        text=True,
        env=os.environ | dict(environment or {}) | ({"PYTHONPATH": str(path)} if path else {}),
        check=False,
    )
    if result.returncode:
        raise ImportError(result.stderr)
    return result.stdout.split()


def is_contract(name):
    return name in ("parity", "parity.errors") or name.partition("parity.spec")[0] == ""


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=list(BACKENDS))
def test_a_backend_imports_its_framework_and_the_contract_alone(backend):
    if backend.missing():
        pytest.skip(f"{backend.missing()} not installed")
    # TensorFlow itself depends on Keras.
    others = FRAMEWORKS - set(backend.requires) - ({"keras"} if "tensorflow" in backend.requires else set())
    loaded = probe(f"{backend.package}.adapter", others, backend.environment)
    assert all(map(is_contract, loaded)), loaded


def test_that_test_can_fail(tmp_path):
    (tmp_path / "smuggler.py").write_text("import tensorflow\n")
    with pytest.raises(ImportError, match="No module named 'tensorflow'"):
        probe("smuggler", {"tensorflow"}, path=tmp_path)
    (tmp_path / "gossip.py").write_text("import parity.exchange\n")
    assert not all(map(is_contract, probe("gossip", (), path=tmp_path)))


def test_the_contract_needs_the_standard_library_alone():
    loaded = probe("parity.spec", FRAMEWORKS | {"numpy", "ml_dtypes", "safetensors", "rich"})
    assert all(map(is_contract, loaded)), loaded


@pytest.mark.parametrize(
    "module", sorted(file.stem for file in ROOT.glob("*.py") if file.stem not in ("cli", "__main__"))
)
def test_the_harness_needs_no_framework(module):
    probe("parity" if module == "__init__" else f"parity.{module}", FRAMEWORKS | {"h5py", "onnx", "rich"})


def block_files(folder):
    return {file.stem for file in folder.glob("*.py") if file.stem != "adapter" and not file.stem.startswith("_")}


@pytest.mark.parametrize("package", ["parity.spec", "parity.oracle", *PACKAGES])
def test_every_block_has_its_file_everywhere_and_nothing_else_has_one(package):
    folder = ROOT.parent.joinpath(*package.split("."))
    assert block_files(folder) == set(SPECS)
    assert block_files(folder / "networks") == set(NETWORKS)


def public(package, block):
    """The signature and the docstring of a block in a backend's package, found as the adapters find it."""
    options = EVERY[block].options_class
    folder = ROOT.parent.joinpath(*package.split("."), *(["networks"] if block in NETWORKS else []))
    module = ast.parse((folder / f"{block}.py").read_text())
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == options.class_name:
            (make,) = (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
            return make.args, ast.get_docstring(node)
        if isinstance(node, ast.FunctionDef) and node.name == options.function_name:
            return node.args, ast.get_docstring(node)
    raise AssertionError(f"{package}.{block} defines neither {options.class_name} nor {options.function_name}")


@pytest.mark.parametrize("block", EVERY)
@pytest.mark.parametrize("package", PACKAGES)
def test_signatures_have_the_options_of_the_contract(package, block):
    """Names, order and defaults, read as text, so that no framework is needed."""
    arguments, _ = public(package, block)
    names = [argument.arg for argument in arguments.kwonlyargs]
    wanted = [field.name for field in fields(EVERY[block].options_class)]
    assert [name for name in names if name in wanted] == wanted
    assert not set(wanted) & {argument.arg for argument in arguments.args}
    scope = vars(importlib.import_module("parity.spec"))
    for field in fields(EVERY[block].options_class):
        default = arguments.kw_defaults[names.index(field.name)]
        assert default is not None, field.name
        assert eval(ast.unparse(default), dict(scope)) == field.default, field.name


@pytest.mark.parametrize("block", EVERY)
@pytest.mark.parametrize("package", PACKAGES)
def test_arguments_are_typed_and_told(package, block):
    arguments, text = public(package, block)
    lines = re.findall(r"^ +([\w, ]+): ", text.split("Args:")[1], re.MULTILINE)
    told = {name for names in lines for name in names.split(", ")}
    for argument in arguments.kwonlyargs:
        assert argument.annotation is not None, argument.arg
        assert argument.arg in told, argument.arg


def test_no_tolerance_outside_the_table():
    """np.allclose has an absolute default that hides wrong small values; literals would drift from the table."""
    for file in [*ROOT.rglob("*.py"), *Path(__file__).parent.glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr in ("allclose", "isclose")), file
            assert not (isinstance(node, ast.keyword) and node.arg in ("atol", "rtol")), file


def test_public_names_resolve():
    for name in parity.__all__:
        assert inspect.getdoc(getattr(parity, name)), name
    assert set(parity.__all__) <= set(dir(parity))
    with pytest.raises(AttributeError, match="module 'parity' has no attribute 'evalute'"):
        _ = parity.evalute
