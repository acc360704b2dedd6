"""Bundles: what a run writes of itself, two of them held against each other, and folders that are none."""

import json
import math
import shutil

import pytest

from parity import bundle, cases, cli, client
from parity.errors import FormatError

CASE = "se-default-2d-odd-first-float64-eval"
OTHER = "se-default-1d-odd-first-float64-eval"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two bundles of the torch backend that share a case."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, chosen in (("one", [CASE]), ("other", [CASE, OTHER])):
        arguments = [word for case in chosen for word in ("--case", case)]
        assert cli.main(["run", "--backend", "torch", *arguments, "--out", str(folder / name)]) == cli.AGREED
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    """A bundle to damage: its folder, and a function that changes one of its files."""
    folder = tmp_path / "bundle"
    shutil.copytree(runs / "one", folder)

    def change(function, name=bundle.RESULTS):
        value = json.loads((folder / name).read_text())
        function(value)
        (folder / name).write_text(json.dumps(value))

    return folder, change


def test_a_run_tells_what_it_saw_and_where(runs):
    found = bundle.read(runs / "other")
    assert found.device == "cpu"
    assert set(found.results) == {(CASE, "torch"), (OTHER, "torch")}
    assert found.problems[CASE] == cases.find(CASE).problem().fingerprint
    assert found.backends["torch"]["switches"]["tf32"] is False
    assert found.place["packages"]["numpy"]
    assert found.place["command"][:2] == ["parity", "run"]
    summary = (runs / "other" / bundle.SUMMARY).read_text()
    assert "all 2 results agree with the oracle" in summary
    assert found.place["machine"]["processor"] in summary


def test_two_bundles_agree(runs, capsys):
    assert cli.main(["compare", str(runs / "one"), str(runs / "other"), "--json"]) == cli.AGREED
    held = json.loads(capsys.readouterr().out)
    assert held["agreed"] is True
    assert held["shared_cases"] == held["cases_alike_bit_by_bit"] == 1
    assert [side["results"] for side in held["backends"]["torch"]] == [1, 2]
    assert held["differences"] == {}


def test_other_numbers_of_one_case_are_told(copied, runs):
    folder, change = copied
    change(lambda value: value["problems"].update({CASE: "0"}))
    held = bundle.compare(bundle.read(folder), bundle.read(runs / "other"))
    assert held.agreed
    assert (held.shared, held.alike) == ([CASE], [])


def test_a_failure_in_either_is_a_disagreement(copied, runs, capsys):
    folder, change = copied

    def fail(value):
        (outcome,) = value["outcomes"]
        outcome["agreed"] = False
        outcome["comparisons"][0] |= {"failure": "output: off", "ratio": "inf"}

    change(fail)
    assert cli.main(["compare", str(folder), str(runs / "other")]) == cli.DISAGREED
    out = " ".join(capsys.readouterr().out.split())
    assert f"torch: case {CASE} agrees in B alone" in out
    assert "1 of 3 results disagree with the oracle" in out
    assert bundle.read(folder).failures[0].ratio == math.inf


def test_bundles_without_a_common_case_prove_nothing(copied, runs):
    folder, change = copied
    change(lambda value: value["outcomes"][0].update(case="another"))
    assert not bundle.compare(bundle.read(folder), bundle.read(runs / "other")).agreed


def test_what_differs_between_two_places_is_listed(copied, runs):
    folder, change = copied
    change(lambda value: value["packages"].update(numpy="1.0"), bundle.PLACE)
    change(lambda value: value["backends"]["torch"]["switches"].update(tf32=True))
    held = bundle.compare(bundle.read(folder), bundle.read(runs / "one"))
    assert list(held.differences()) == ["packages: numpy", "torch: switches: tf32"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda value: value["outcomes"][0].update(agreed=False), "its figures say True"),
        (lambda value: value["outcomes"][0]["comparisons"][0].update(ratio=2.0), "its figures say False"),
        (lambda value: value["outcomes"][0].update(comparisons=[]), "its figures say False"),
        (lambda value: value["outcomes"][0]["comparisons"][0].update(ratio=-1), "a number of at least 0"),
        (lambda value: value["outcomes"][0]["comparisons"][0].update(ratio=True), "a number of at least 0"),
        (lambda value: value["outcomes"].append(value["outcomes"][0]), "two results of one case"),
        (lambda value: value["outcomes"].append(7), "of the kind dict"),
        (lambda value: value.pop("problems"), "of the kind dict"),
        (lambda value: value["problems"].update(x=1), "of the kind str"),
        (lambda value: value.update(version=2), "is of version 2; expected version 1"),
        (lambda value: value.update(device=None), "of the kind str"),
    ],
)
def test_a_changed_bundle_is_refused(copied, damage, message):
    folder, change = copied
    change(damage)
    with pytest.raises(FormatError, match=message):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"version": 1, "version": 1}', "names 'version' twice"),
        ('{"version": 1, "device": NaN}', "NaN is no JSON"),
        ("[]", "no part of a bundle"),
    ],
)
def test_json_that_is_none_of_ours_is_refused(copied, text, message):
    folder, _ = copied
    (folder / bundle.RESULTS).write_text(text)
    with pytest.raises(FormatError, match=message):
        bundle.read(folder)


def test_a_link_out_of_the_folder_is_not_followed(copied, runs):
    folder, _ = copied
    (folder / bundle.RESULTS).unlink()
    (folder / bundle.RESULTS).symlink_to(runs / "one" / bundle.RESULTS)
    with pytest.raises(FormatError, match="is no file"):
        bundle.read(folder)


def test_a_folder_that_holds_something_is_refused_before_the_run(copied, monkeypatch, capsys):
    monkeypatch.setattr(client, "worker", None)  # nothing may start
    folder, _ = copied
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert cli.main(["run", "--case", CASE, "--out", str(folder)]) == cli.MISUSED
    assert "which holds something" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_link_to_nowhere_is_refused_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(client, "worker", None)  # nothing may start
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert cli.main(["run", "--case", CASE, "--out", str(tmp_path / "link")]) == cli.MISUSED
    assert "expected a folder that can be made" in " ".join(capsys.readouterr().err.split())


def test_a_missing_bundle_is_misuse(runs, capsys):
    assert cli.main(["compare", str(runs / "one"), str(runs / "nowhere")]) == cli.MISUSED
    assert "expected a bundle" in capsys.readouterr().err
