"""Options: forms that are accepted, one sentence for each that is wrong, and files of them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.checking import load_mapping
from onnxprune.config import Config, make_config
from onnxprune.errors import BadInput
from onnxprune.options import Files, config_text, read_options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mean": "0.5, 0.25,1"}, {"mean": (0.5, 0.25, 1.0)}),
        ({"std": 0.5}, {"std": (0.5,)}),
        ({"image_size": "224"}, {"image_size": (224, 224)}),
        ({"image_size": 96}, {"image_size": (96, 96)}),
        ({"image_size": "96x128"}, {"image_size": (96, 128)}),
        ({"image_size": [96, 128]}, {"image_size": (96, 128)}),
        ({"input_shape": ["a:0=1,3,8,8", "b=2x5"]}, {"input_shape": {"a:0": (1, 3, 8, 8), "b": (2, 5)}}),
        ({"input_shape": {"a": [1, 2]}}, {"input_shape": {"a": (1, 2)}}),
        ({"keep": "conv*"}, {"keep": ("conv*",)}),
        ({"providers": ["A", "B"]}, {"providers": ("A", "B")}),
        ({"align": "8"}, {"align": 8}),
        ({"align": "auto"}, {"align": "auto"}),
        ({"macs": "0.5", "samples": "64"}, {"macs": 0.5, "samples": 64}),
    ],
)
def test_options_may_be_text(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert make_config(**given).model_dump(exclude_unset=True) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"macs": 0}, "--macs should be greater than 0, got 0"),
        ({"macs": float("inf")}, "--macs should be"),
        ({"macs": 0.5, "speedup": 2}, "give one budget, not --macs and --speedup"),
        ({"ratios": {"a": 1.0}}, r"ratios: 'a' has 1.0; the share of channels to remove lies in \[0, 1\)"),
        ({"align": "wide"}, "--align should be auto or a whole number from 1, got 'wide'"),
        ({"mean": "a,b"}, "--mean should be a valid number"),
        ({"image_size": "1,2,3"}, "--image-size"),
        ({"input_shape": "3,8,8"}, "should be name=1,3,224,224"),
        ({"methd": "obs"}, "there is no option 'methd': did you mean method"),
        ({"macs": 7, "seed": -1}, "--macs .*; --seed "),
    ],
)
def test_a_wrong_option_is_named_in_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told) as error:
        make_config(**given)
    assert "\n" not in str(error.value)


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("macs: 0.4\nbatch-size: 8\nmethod: lasso\ncalib: a.npz\noutput: o.onnx\n")
    config, files = read_options({"method": "thinet", "calib": None, "keep": None}, tmp_path / "c.yaml")
    assert (config.macs, config.batch_size, config.method, config.seed) == (0.4, 8, "thinet", 0)
    assert (files.calib, files.output) == ("a.npz", "o.onnx")
    config, files = read_options({"params": "0.3", "calib": "b.npz"}, tmp_path / "c.yaml")
    assert (config.macs, config.params, files.calib) == (None, 0.3, "b.npz")


def test_a_file_with_an_unknown_option_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('metod = "obs"\n')
    with pytest.raises(BadInput, match=r"no option 'metod': did you mean method.*c\.toml"):
        read_options({}, tmp_path / "c.toml")


def test_yaml_toml_and_json_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("macs: 0.5\nkeep: [a, b]\n")
    (tmp_path / "c.toml").write_text('macs = 0.5\nkeep = ["a", "b"]\n')
    (tmp_path / "c.json").write_text('{"macs": 0.5, "keep": ["a", "b"]}')
    for name in ("c.yaml", "c.toml", "c.json"):
        assert make_config(**load_mapping(tmp_path / name)) == Config(macs=0.5, keep=("a", "b"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.yaml", b"[1, 2]", "must hold a mapping"),
        ("c.yaml", b"1: 2", "must hold a mapping"),
        ("c.yaml", b"a: [", "cannot be read as YAML or TOML"),
        ("c.yaml", b"!!python/object/apply:os.mkdir [x]", "cannot be read as YAML or TOML"),
        ("c.toml", b"a = ", "cannot be read as YAML or TOML"),
        ("c.yaml", b"\xff\xfe\xfa", "cannot be read as YAML or TOML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=told) as error:
        load_mapping(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="cannot be read"):
        load_mapping(tmp_path)


SHARES = st.floats(0.01, 1)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["obs", "lasso"]),
        "macs": SHARES,
        "mean": st.lists(st.floats(-9, 9), min_size=1, max_size=3).map(tuple),
        "keep": st.lists(st.text(min_size=1), max_size=2).map(tuple),
        "align": st.just("auto") | st.integers(1, 64),
        "input_shape": st.dictionaries(st.text(min_size=1), st.lists(st.integers(1, 9), min_size=1).map(tuple)),
        "ratios": st.dictionaries(st.text(min_size=1), st.floats(0, 0.99)),
        "forward": st.booleans(),
        "samples": st.integers(1, 99),
    },
)


@given(CONFIGS)
def test_what_is_saved_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> None:
    config, files = make_config(**options), Files(calib="données.npz", output="o.onnx")
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    path.write_text(config_text(config, files), encoding="utf-8")
    again, read = read_options({}, path)
    assert again == config
    assert read == Files(calib="données.npz")
