"""Memory recipes by the options of the command."""

import json

import pytest

from unipic2_apps.cli import main
from unipic2_dit import quantization


@pytest.fixture
def quantized():
    """The options of two quantised parts, if their libraries are here."""
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    return "--quantization", "nf4", "--encoder-quantization", "int8"


def test_pictures_are_made_made_again_and_told_apart(kontext_folder, quantized, capsys, tmp_path):
    call = ["generate", "a red circle", "--checkpoint", str(kontext_folder), "--size", "16", "--steps", "2"]
    main([*call, *quantized, "--out", str(tmp_path / "small.png")])
    record = json.loads((tmp_path / "small.json").read_text())
    kept = {key: record["model"][key] for key in ("quantization", "encoder_quantization", "dtype")}
    assert kept == {"quantization": "nf4", "encoder_quantization": "int8", "dtype": "float32"}
    capsys.readouterr()
    main(["replay", str(tmp_path / "small.png")])
    assert "the same picture, bit for bit" in capsys.readouterr().out
    main([*call, "--out", str(tmp_path / "whole.png")])
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert whole["result"] != record["result"]
    assert whole["model"]["hash"] == record["model"]["hash"]


def test_info_tells_what_each_part_takes(kontext_folder, quantized, capsys):
    main(["info", str(kontext_folder), *quantized])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["transformer"].endswith("201kB  float32, matrices nf4")
    assert lines["text_encoder_3"].endswith("B  float32, matrices int8")
    assert lines["vae"].endswith("B  float32")


def test_a_missing_library_is_one_line(kontext_folder, capsys, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda library: None)
    with pytest.raises(SystemExit) as ended:
        main(["info", str(kontext_folder), "--quantization", "nf4"])
    assert ended.value.code == 2
    assert "error: Weights in nf4 need bitsandbytes, which the extra `quantized` brings" in capsys.readouterr().err
