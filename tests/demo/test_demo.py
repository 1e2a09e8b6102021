"""The demo itself, on few sentences."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fastprune.cli import main
from fastprune.demo import encoder_directory
from fastprune.errors import FastpruneError


def test_the_demo_prunes_the_real_encoder(tmp_path):
    try:
        encoder_directory()
    except FastpruneError as error:
        pytest.skip(str(error))
    arguments = ["demo", "--samples", "128", "--json", "--out", str(tmp_path / "small")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["metric"] == "similarity"
    # Few sentences, half the MACs: far from random, where the correlation is about 0.
    assert 0.5 < report["pruned"]["score"] < 1
    assert report["macs"]["kept"] <= 0.5
    assert (tmp_path / "small" / "model.safetensors").is_file()
