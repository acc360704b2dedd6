"""The command line for weights in files: inspect, port, verify, dialects."""

from __future__ import annotations

import json

import numpy as np
import pytest

import parity
from parity import cli, dialects, exchange, golden
from parity.block import Probe


def state(prefix="", channels=24, hidden=6):
    """The tensors of a torchvision SqueezeExcitation."""
    shapes = {"fc1.weight": (hidden, channels, 1, 1), "fc1.bias": (hidden,)}
    shapes |= {"fc2.weight": (channels, hidden, 1, 1), "fc2.bias": (channels,)}
    generator = np.random.default_rng(channels)
    return {prefix + key: generator.standard_normal(shape) for key, shape in shapes.items()}


@pytest.fixture
def checkpoint(tmp_path):
    """A network's checkpoint: two blocks, and a layer that is none."""
    tensors = state("layer1.se.") | state("layer2.se.", 10, 3) | {"fc.weight": np.ones((5, 10))}
    exchange.write_tensors(tmp_path / "model.safetensors", tensors, {})
    return str(tmp_path / "model.safetensors")


HINTS = ["--hint", "gate=sigmoid", "--hint", "activation=relu"]


def told(capsys):
    """Everything that was printed, in one line."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


# inspect


def test_inspect_shows_blocks_doubts_and_the_rest(checkpoint, capsys):
    assert cli.main(["inspect", checkpoint]) == cli.AGREED
    text = told(capsys)
    assert "'layer1.se'" in text
    assert "torchvision/SqueezeExcitation" in text
    assert "--hint gate=sigmoid" in text
    assert "1 tensors of no block: fc.weight [5, 10]" in text


def test_inspect_as_json(checkpoint, capsys):
    assert cli.main(["inspect", checkpoint, *HINTS, "--json"]) == cli.AGREED
    found = json.loads(capsys.readouterr().out)
    assert [block["name"] for block in found["blocks"]] == ["layer1.se", "layer2.se"]
    assert found["blocks"][1]["spec"]["hidden_channels"] == 3
    assert found["blocks"][0]["doubts"] == {}
    assert found["rest"] == {"fc.weight": [5, 10]}


def test_inspect_without_a_block(tmp_path, capsys):
    exchange.write_tensors(tmp_path / "a.safetensors", {"fc.weight": np.ones((5, 10))}, {})
    assert cli.main(["inspect", str(tmp_path / "a.safetensors")]) == cli.DISAGREED
    assert "no block found" in told(capsys)


def test_inspect_of_a_damaged_file(tmp_path, capsys):
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 64)
    assert cli.main(["inspect", str(tmp_path / "a.safetensors")]) == cli.MISUSED
    assert "parity: " in told(capsys)


# port


def test_port_writes_an_exchange_file(checkpoint, tmp_path, capsys):
    target, report = tmp_path / "out.safetensors", tmp_path / "report.json"
    assert cli.main(["port", checkpoint, str(target), *HINTS, "--json", str(report)]) == cli.AGREED
    assert "2 blocks written" in told(capsys)
    first, second = parity.read(target)
    assert (first.name, second.name) == ("layer1.se", "layer2.se")
    assert np.array_equal(first.tensors["fc1.kernel"], state("")["fc1.weight"][:, :, 0, 0])
    assert json.loads(report.read_text())["tensors"] == 8


def test_port_from_dialect_to_dialect_and_back(checkpoint, tmp_path):
    there, back = str(tmp_path / "keras.safetensors"), str(tmp_path / "back.safetensors")
    ours = ["--from", "torchvision/SqueezeExcitation"]
    assert cli.main(["port", checkpoint, there, *ours, "--to", "mobilenetv3.pytorch/SELayer"]) == cli.MISUSED  # gate
    assert cli.main(["port", checkpoint, there, *ours, "--to", "monai/ChannelSELayer"]) == cli.AGREED
    assert "layer1.se.fc.0.weight" in exchange.read_tensors(there)[0]
    arguments = ["--from", "monai/ChannelSELayer", "--to", "torchvision/SqueezeExcitation"]
    assert cli.main(["port", there, back, *arguments]) == cli.AGREED
    original, returned = exchange.read_tensors(checkpoint)[0], exchange.read_tensors(back)[0]
    assert returned.keys() == original.keys() - {"fc.weight"}
    assert all(np.array_equal(returned[key], original[key]) for key in returned)


def test_port_renames_and_chooses(checkpoint, tmp_path):
    names, target = tmp_path / "names.json", str(tmp_path / "out.safetensors")
    names.write_text(json.dumps({"layer2.se": "stage2/attention"}))
    arguments = ["--map", str(names), "--exclude", "layer1.*", "--hint", "layer2.*:gate=hard_sigmoid"]
    assert cli.main(["port", checkpoint, target, *arguments, "--hint", "activation=silu"]) == cli.AGREED
    (block,) = parity.read(target)
    assert (block.name, block.spec.gate.kind, block.spec.activation) == ("stage2/attention", "hard_sigmoid", "silu")


@pytest.mark.parametrize("text", ["[1]", '{"layer2.se": 5}', '{"absent": "a"}', "{", "[" * 100_000])
def test_maps_that_are_none(checkpoint, tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    target = tmp_path / "out.safetensors"
    arguments = ["--map", str(tmp_path / "names.json")]
    assert cli.main(["port", checkpoint, str(target), *HINTS, *arguments]) == cli.MISUSED
    assert not target.exists()


def test_doubts_write_nothing(checkpoint, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    assert cli.main(["port", checkpoint, str(target)]) == cli.MISUSED
    assert "do not tell gate and activation" in told(capsys)
    assert not target.exists()


def test_a_target_that_exists_is_kept_unless_forced(checkpoint, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    assert cli.main(["port", checkpoint, str(target), *HINTS]) == cli.MISUSED
    assert "exists" in told(capsys)
    assert target.read_bytes() == b"precious"
    assert cli.main(["port", checkpoint, str(target), *HINTS, "--force"]) == cli.AGREED
    assert len(parity.read(target)) == 2


def test_dry_run_writes_nothing(checkpoint, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    assert cli.main(["port", checkpoint, str(target), *HINTS, "--dry-run"]) == cli.AGREED
    assert "2 blocks would be written" in told(capsys)
    assert not target.exists()


@pytest.mark.parametrize("hint", ["gate", "=sigmoid", "a:=b", "gates=sigmoid"])
def test_hints_that_are_none(checkpoint, tmp_path, hint):
    assert cli.main(["port", checkpoint, str(tmp_path / "out.safetensors"), "--hint", hint]) == cli.MISUSED


def test_a_wrong_hint_is_caught_by_the_recording(tmp_path, capsys):
    """The recording holds what the source computed: a sigmoid for its hard sigmoid is found before the file is made."""
    target = tmp_path / "out.safetensors"
    source = str(golden.path("torchvision-mbv3-se"))
    assert cli.main(["port", source, str(target), "--probe", "--hint", "gate=sigmoid"]) == cli.DISAGREED
    text = told(capsys)
    assert 'What reproduces it: gate "hard_sigmoid" instead of "sigmoid"' in text
    assert "nothing written" in text
    assert not target.exists()
    assert cli.main(["port", source, str(target), "--probe"]) == cli.AGREED
    assert parity.read(target)[0].probe.source.startswith("recording of torchvision")


# verify


def test_verify_replays_probes(checkpoint, tmp_path, capsys):
    target, report = str(tmp_path / "out.safetensors"), tmp_path / "report.json"
    assert cli.main(["port", checkpoint, target, *HINTS, "--probe"]) == cli.AGREED
    assert cli.main(["verify", target, "--backend", "torch", "--json", str(report)]) == cli.AGREED
    assert "2 of 2 blocks proved on the oracle and 1 backends" in told(capsys)
    assert json.loads(report.read_text())["agreed"] is True


def test_verify_catches_a_wrong_hint(tmp_path, capsys):
    """The weights under a sigmoid, beside what the source computed with a hard one."""
    (block,) = parity.read(golden.path("torchvision-mbv3-se"), hints={"gate": "sigmoid"})
    (recording,) = golden.open("torchvision-mbv3-se")
    proof = Probe(recording.x, recording.modes["eval"]["output"], "torchvision")
    (wrong,) = [type(block)(block.name, block.spec, block.tensors, probe=proof)]
    parity.write(tmp_path / "a.safetensors", wrong)
    assert cli.main(["verify", str(tmp_path / "a.safetensors"), "--backend", "torch"]) == cli.DISAGREED
    text = told(capsys)
    assert "The weights under their spec do not mean what the source computed" in text
    assert 'gate "hard_sigmoid" instead of "sigmoid"' in text


def test_a_file_without_probes_proves_nothing(checkpoint, tmp_path, capsys):
    target = str(tmp_path / "out.safetensors")
    assert cli.main(["port", checkpoint, target, *HINTS]) == cli.AGREED
    assert cli.main(["verify", target, "--backend", "torch"]) == cli.DISAGREED
    assert "no probe; this is no pass" in told(capsys)


# dialects


def test_dialects_are_listed_with_their_exactness(capsys):
    assert cli.main(["dialects", "--json", "-"]) == cli.AGREED
    listed = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in listed] == [*dialects.DIALECTS, *dialects.NETWORKS]
    assert all(one["exactness"] == "lossless" or one["exactness"].startswith("refused: ") for one in listed)
    assert cli.main(["dialects", "timm/*"]) == cli.AGREED
    assert "timm/CbamModule" in told(capsys)
    assert cli.main(["dialects", "nobody/*"]) == cli.DISAGREED


@pytest.mark.parametrize("command", ["inspect", "port", "verify", "dialects"])
def test_every_command_helps(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out
