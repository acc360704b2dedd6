"""The command line: exit statuses, filters and what a script reads."""

import json
import subprocess
import sys

import pytest

from parity import cli, client, compare, tolerances
from parity.backends import BACKENDS
from parity.errors import BackendMissingError, DeviceMissingError

ONE = "se-default-2d-odd-first-float64-eval"


def test_run_agrees_and_writes_json(tmp_path, capsys):
    file = tmp_path / "report.json"
    assert cli.main(["run", "--backend", "torch", "--case", ONE, "--json", str(file)]) == cli.AGREED
    assert "all 1 results agree with the oracle: 1 cases on 1 backends" in " ".join(capsys.readouterr().out.split())
    report = json.loads(file.read_text())
    assert report["agreed"] is True
    assert report["outcomes"][0]["case"] == ONE
    assert report["worst"][0]["error_over_allowed"] < 1
    assert report["backends"]["torch"]["version"]


def test_json_on_standard_output_is_json_alone(capsys):
    assert cli.main(["run", "--backend", "torch", "--case", ONE, "--json", "-"]) == cli.AGREED
    assert json.loads(capsys.readouterr().out)["agreed"] is True


def test_a_disagreement_is_an_exit_status_and_a_command_that_shows_it(monkeypatch, capsys):
    strict = {key: tolerances.Row(1e-30, None) for key in tolerances.TABLE}
    monkeypatch.setattr(tolerances, "TABLE", strict)
    assert compare.tolerance("output", "float64", "cpu") == 1e-30
    assert cli.main(["run", "--backend", "torch", "--case", ONE]) == cli.DISAGREED
    told = capsys.readouterr().err
    assert "output: " in told
    assert "elements differ; the worst at [" in told
    assert f"reproduce: parity run --backend torch --case {ONE}" in told


def test_nothing_ran_is_no_agreement(monkeypatch, capsys):
    def nobody(name, device, limits):
        raise DeviceMissingError(f"backend {name!r} sees no {device}")

    monkeypatch.setattr(client, "worker", nobody)
    assert cli.main(["run", "--case", ONE]) == cli.DISAGREED
    out = capsys.readouterr().out
    assert "nothing ran" in out
    assert "absent" in out


def test_filters_choose_cases(capsys):
    assert cli.main(["run", "--list", "--block", "eca", "--dtype", "float32", "--case", "*-point-*"]) == cli.AGREED
    ids = capsys.readouterr().out.split()
    assert ids
    assert all(name.startswith("eca-") and "float32" in name and "-point-" in name for name in ids)
    cli.main(["run", "--list"])
    standard = capsys.readouterr().out.split()
    cli.main(["run", "--list", "--full"])
    assert set(standard) < set(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [["run", "--backend", "caffe"], ["run", "--device", "tpu"], ["judge"], []])
def test_misuse_is_status_two(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == cli.MISUSED


def test_an_unknown_case_is_a_sentence(capsys):
    assert cli.main(["run", "--case", "se-best"]) == cli.MISUSED
    assert "received case 'se-best'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--case", ONE, "--json", "/nonexistent/report.json"], "expected a file in a writable folder"),
        (["--case", "nothing-*"], "received filters that leave no case"),
        (["--case", "nothing-*", "--list"], "received filters that leave no case"),
        (["--block", "se", "--case", "eca-*"], "received filters that leave no case"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr(client, "worker", lambda *_: pytest.fail("a backend was started"))
    assert cli.main(["run", *arguments]) == cli.MISUSED
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_repeated_filters_count_once(capsys):
    assert cli.main(["run", "--list", "--case", ONE, "--case", ONE]) == cli.AGREED
    assert capsys.readouterr().out.split() == [ONE]


def test_messages_are_shown_as_they_are(monkeypatch, capsys):
    def describe(name):
        raise BackendMissingError("broken: [/usr/lib/x.so] [bold]")

    monkeypatch.setattr(client, "describe", describe)
    assert cli.main(["doctor"]) == cli.DISAGREED
    assert "[/usr/lib/x.so]" in capsys.readouterr().out


def test_doctor_tells_version_devices_and_absence(monkeypatch, tmp_path, capsys):
    def describe(name):
        if name == "tf1compat":
            raise BackendMissingError("backend 'tf1compat' needs tensorflow, not installed here")
        return {"framework": "toy", "version": "1.2.3", "devices": {"cpu": "cpu", "gpu": "NVIDIA"}}

    monkeypatch.setattr(client, "describe", describe)
    file = tmp_path / "doctor.json"
    assert cli.main(["doctor", "--json", str(file)]) == cli.AGREED
    out = capsys.readouterr().out
    assert "absent" in out
    assert "gpu (NVIDIA)" in out
    assert set(json.loads(file.read_text())) == set(BACKENDS)


def test_the_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "parity", "--help"], capture_output=True, text=True, check=True)
    assert "doctor" in result.stdout
    assert "run" in result.stdout
