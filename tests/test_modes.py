"""The modes: which there are, what cannot be and why, and that each can fail."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import parity
from attention_torch import _modes, adapter
from parity import cases, cli, client, modes, run, staleness, worker
from parity.backends import BACKENDS
from parity.compare import compare
from parity.errors import InputError, ModeMissingError
from parity.modes import MODES, PLAIN, Limit
from parity.spec import DATA_FORMATS, SPECS
from parity.tolerances import DTYPES

ROOT = Path(parity.__file__).parent.parent
PACKAGES = sorted({backend.package.partition(".")[0] for backend in BACKENDS.values()})
CHOSEN = cases.in_modes()


def package_of(name):
    return BACKENDS[name].package.partition(".")[0]


def implemented(package):
    """The keys of MODES in the module `_modes` of a package, read as text, so that no framework is needed."""
    tree = ast.parse((ROOT / package / "_modes.py").read_text())
    (table,) = (
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MODES"
    )
    return {key.value for key in table.keys}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_every_mode_or_a_reason(name, mode):
    if modes.has(name, mode):
        assert mode == PLAIN or mode in implemented(package_of(name))
    else:
        assert modes.impossible(name, mode) == f"a mode of {MODES[mode].of} alone"
    for limit in modes.limits(name, mode):
        assert limit.reason
        assert limit.symptom


@pytest.mark.parametrize("package", PACKAGES)
def test_every_mode_of_a_package_is_registered(package):
    for mode in implemented(package):
        assert any(modes.has(name, mode) for name in BACKENDS if package_of(name) == package), mode


def test_every_limit_is_about_something():
    for limit in modes.LIMITS:
        about = [(name, mode) for name in BACKENDS for mode in MODES if limit in modes.limits(name, mode)]
        assert any(modes.has(*cell) for cell in about), limit
        assert set(limit.blocks) <= set(SPECS)


@pytest.mark.parametrize("block", SPECS)
def test_no_block_is_forgotten_in_a_limit_of_blocks(block):
    for name in ("torch", "keras-layers@torch", "keras-functional@torch"):
        for dtype in ("bfloat16", "mixed_bfloat16"):
            assert modes.impossible(name, "onnx", block=block, dtype=dtype)
    kernels = SPECS[block].options_class().resolve(12, 2).parameters()
    convolves = any(".conv." in f".{kernel}" and kernel.endswith("kernel") for kernel in kernels)
    assert convolves == bool(modes.impossible("torch", "onnx", block=block, dtype="float64"))


def test_the_cases_of_a_mode_meet_both_dtypes_formats_and_phases():
    assert len({case.id for case in CHOSEN}) == len(CHOSEN)
    for mode in MODES.values():
        own = [case for case in CHOSEN if case.mode == mode.id]
        if mode.id == PLAIN:
            assert not own
            continue
        assert {case.block for case in own} == set(SPECS)
        assert {case.dtype for case in own} == set(DTYPES)
        assert {case.data_format for case in own} == set(DATA_FORMATS)
        assert {case.spatial_dims for case in own} == {1, 2, 3}
        assert {case.training for case in own} == ({False} if mode.inference_only else {False, True})


def test_a_case_with_a_mode_is_found_by_its_id():
    whole = {case.id for case in cases.everything_in_modes()}
    assert {case.id for case in CHOSEN} <= whole
    for case in CHOSEN[::20]:
        assert cases.find(case.id) == case


@pytest.mark.parametrize("mode", ["compile", "export", "onnx"])
def test_pytorch_agrees_with_the_oracle(mode):
    chosen = [case for case in CHOSEN if case.mode == mode and case.block in ("se", "ca")]
    chosen = [case for case in chosen if not run.reason(case, "torch")][: 1 if mode == "compile" else None]
    report = run.judge(chosen, ["torch"])
    assert report.agreed, "\n\n".join(outcome.explain() for outcome in report.failures)
    assert len(report.outcomes) == len(chosen)
    if MODES[mode].inference_only:
        assert {comparison.name for outcome in report.outcomes for comparison in outcome.comparisons} == {"output"}


def test_an_exported_hard_gate_keeps_its_digits():
    """PyTorch's exporter to ONNX rounds Python's numbers to float32, also in float64."""
    chosen = [cases.find(f"{name}-2d-odd-first-float64-eval-onnx") for name in ("se-hard-sigmoid-0.2", "ca-default")]
    report = run.judge(chosen, ["torch", "keras-layers@torch"])
    assert report.agreed, "\n\n".join(outcome.explain() for outcome in report.failures)
    assert len(report.outcomes) == 4


@pytest.mark.parametrize("name", ["export", "onnx"])
def test_one_wrong_weight_behind_a_mode_is_caught(name, monkeypatch):
    """A mode that runs other weights than those it was given, by a hundredth of a percent of one element, fails."""
    case = cases.find(f"ca-default-2d-odd-first-float64-{'train' if name == 'export' else 'eval'}-{name}")
    problem = case.problem()
    prepare, tampered = _modes.MODES[name], []

    def careless(model, variables, x):
        with torch.no_grad():
            before = variables["expand.w.kernel"].clone()
            if tampered:
                variables["expand.w.kernel"][2, 1] *= 1.0001
            made = prepare(model, variables, x)
            variables["expand.w.kernel"].copy_(before)
        return made

    monkeypatch.setitem(_modes.MODES, name, careless)

    def judged():
        infers = bool(MODES[name].inference_only)
        got = worker.evaluate(
            adapter,
            problem.block,
            problem.x,
            None if infers else problem.cotangent,
            training=case.training,
            dtype=case.dtype,
            data_format=case.data_format,
            device="cpu",
            mode=name,
            steps=problem.steps,
            learning_rate=problem.learning_rate,
        )
        expected = {"output": problem.expected["output"]} if infers else problem.expected
        return [one.failure for one in compare(expected, got, dtype=case.dtype, device="cpu") if one.failure]

    assert not judged()
    tampered.append(True)
    assert any(failure.startswith("output: ") for failure in judged())


def test_what_is_exported_has_weights_of_its_own_and_takes_any_size():
    model = adapter.build(
        SPECS["cbam"].options_class(reduction=4).resolve(12),
        shape=(2, 12, 5, 7),
        data_format="channels_first",
        dtype="float64",
        device="cpu",
    )
    variables = adapter.find_blocks(model, {})[""].variables
    loaded, own = _modes.prepare("export", model.eval(), variables, torch.ones(2, 12, 5, 7, dtype=torch.float64))
    maps = [
        torch.linspace(-1, 1, 12 * n * h * w, dtype=torch.float64).view(n, 12, h, w)
        for n, h, w in ((2, 5, 7), (5, 4, 9))
    ]
    expected = [model(x) for x in maps]
    with torch.no_grad():
        for variable in variables.values():
            variable.fill_(np.nan)
    for x, wanted in zip(maps, expected, strict=True):
        assert torch.equal(loaded(x), wanted)
    assert not any(own[name] is variables[name] for name in variables)


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"mode": "turbo"}, InputError, "received mode 'turbo'; expected one of plain, compile"),
        ({"mode": "xla"}, ModeMissingError, "on backend 'torch'; a mode of TensorFlow alone; see `parity modes`"),
        ({"mode": "onnx"}, ModeMissingError, "onnxruntime has no float64 convolution"),
        ({"mode": "onnx", "dtype": "float32", "training": True}, ModeMissingError, "is exported for inference"),
        ({"mode": "onnx", "dtype": "float32", "cotangent": np.ones((2, 12, 5, 7))}, InputError, "with a cotangent"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_a_sentence(arguments, kind, sentence, monkeypatch):
    monkeypatch.setattr(client, "worker", lambda *_: pytest.fail("a backend was started"))
    block = cases.find("eca-default-2d-odd-first-float64-eval").problem().block
    with pytest.raises(kind) as caught:
        parity.evaluate(block, np.ones((2, 12, 5, 7)), **arguments)
    assert sentence in str(caught.value)


def test_what_cannot_be_has_neither_agreed_nor_failed():
    case = cases.find("cbam-default-2d-odd-first-float64-eval-onnx")
    report = run.judge([case], ["torch"])
    assert not report.outcomes
    assert not report.agreed
    (one,) = report.impossible
    assert (one.case, one.backend, one.reason) == (case.id, "torch", "onnxruntime has no float64 convolution")
    assert report.to_json()["impossible"][0]["reason"] == one.reason


def test_a_mode_of_another_framework_is_no_case_of_a_backend():
    report = run.judge([cases.find("se-default-2d-odd-first-float64-eval-xla")], ["torch"])
    assert (report.outcomes, report.impossible) == ([], [])


def test_a_machine_without_a_compiler_is_a_reason_and_no_failure(monkeypatch):
    monkeypatch.setattr(_modes.shutil, "which", lambda name: None)
    with pytest.raises(ModeMissingError) as caught:
        _modes.prepare("compile", torch.nn.Identity(), {}, torch.ones(1, 2, 3))
    assert "a machine without a C++ compiler" in str(caught.value)

    def refuse(*_, **__):
        raise caught.value

    monkeypatch.setattr(client, "run", refuse)
    report = run.judge([cases.find("se-default-2d-odd-first-float64-eval-compile")], ["torch"])
    assert not report.outcomes
    assert "without a C++ compiler" in report.impossible[0].reason


def test_a_missing_package_is_a_reason():
    with pytest.raises(ModeMissingError, match="needs no_such_package and no_other, not installed here"):
        _modes.require("torch", "no_such_package", "no_other")


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_what_cannot_be_still_cannot_and_for_its_reason(name):
    if BACKENDS[name].missing():
        pytest.skip(f"{BACKENDS[name].missing()} not installed")
    about = dict.fromkeys(limit for mode in MODES for limit in modes.limits(name, mode))
    stale = [attempt for limit in about for attempt in staleness.attempts(limit, name) if attempt.is_stale]
    assert not stale, "\n".join(attempt.explain() for attempt in stale)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (Limit("export", "torch", "invented", "boom", ("se",)), "but it runs, and agrees with the oracle"),
        (Limit("onnx", "torch", "invented", "boom", ("eca",), ("float64",)), "expected 'boom', but it ended with"),
    ],
)
def test_a_table_out_of_date_is_found_out(limit, told):
    (attempt,) = staleness.attempts(limit, "torch")
    assert attempt.is_stale
    assert told in attempt.explain()


def test_the_command_tells_every_cell(tmp_path, capsys):
    file = tmp_path / "modes.json"
    assert cli.main(["modes", "--json", str(file)]) == cli.AGREED
    assert "onnxruntime has no float64 convolution" in capsys.readouterr().out
    cells = json.loads(file.read_text())["cells"]
    assert {(cell["backend"], cell["mode"]) for cell in cells} == {(name, mode) for name in BACKENDS for mode in MODES}
    assert all(cell["possible"] or cell["reason"] for cell in cells)


def test_run_takes_modes_and_tells_what_cannot_be(capsys):
    arguments = ["run", "--backend", "torch", "--case", "*-default-2d-*-eval-onnx", "--block", "cbam", "--mode", "onnx"]
    assert cli.main(arguments) == cli.AGREED
    told = " ".join(capsys.readouterr().out.split())
    assert "worst error / allowed by mode" in told
    (limit,) = [one for one in modes.limits("torch", "onnx") if "float64" in one.dtypes]
    assert limit.scope.startswith("float64 cbam, eca")
    assert f"(1) onnx, {limit.scope}: onnxruntime has no float64 convolution" in told
    assert cli.main(["run", "--list", "--mode", PLAIN]) == cli.AGREED
    assert not any(name.endswith("-onnx") for name in capsys.readouterr().out.split())
