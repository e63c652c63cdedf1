"""Options written to a file are read back as they were."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.config import Config
from onnxprune.options import Files, config_text, read_options


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "é", "- x: [", "'", "#", "~", "0x1F"])
def test_any_text_survives_the_file(text: str, tmp_path: Path) -> None:
    files, config = Files(calib=text), Config(keep=(text, "conv*"), macs=0.25)
    (tmp_path / "run.yaml").write_text(config_text(config, files), encoding="utf-8")
    assert read_options({}, tmp_path / "run.yaml") == (config, files)


@given(st.text(min_size=1))
def test_any_glob_survives(text: str) -> None:
    import yaml

    config = Config(keep=(text,))
    assert Config(**yaml.safe_load(config_text(config, Files()))) == config
