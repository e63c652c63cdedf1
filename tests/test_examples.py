"""The examples are what their README says, and the quick start runs."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_calibration_holds_256_unlabelled_images() -> None:
    with np.load(EXAMPLES / "calibration.npz", allow_pickle=False) as held:
        assert held.files == ["x"]
        assert held["x"].dtype == np.uint8
        assert held["x"].shape == (256, 3, 32, 32)


def test_test_holds_1000_images_of_all_ten_classes() -> None:
    with np.load(EXAMPLES / "test.npz", allow_pickle=False) as held:
        assert held["x"].shape == (1000, 3, 32, 32)
        assert held["x"].dtype == np.uint8
        assert np.unique(held["y"]).tolist() == list(range(10))


def test_no_calibration_image_is_a_test_image() -> None:
    calibration, test = (np.load(EXAMPLES / f"{name}.npz")["x"] for name in ("calibration", "test"))
    assert not {image.tobytes() for image in calibration} & {image.tobytes() for image in test}


def test_the_network_is_the_one_described() -> None:
    model = onnx.load(EXAMPLES / "resnet20-cifar10.onnx")
    onnx.checker.check_model(model, full_check=True)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["input", "logits"]
    assert [d.dim_value for d in shape][1:] == [3, 32, 32]
    assert model.opset_import[0].version == 17


def test_examples_stay_small() -> None:
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir() if path.is_file()) < 5_000_000


def test_the_quick_start_halves_the_network_and_keeps_four_fifths_right(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("quickstart", EXAMPLES / "quickstart.py")
    assert spec is not None and spec.loader is not None
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    quickstart.main()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    before, after = (int(text.replace(",", "")) for text in lines["multiply-adds"].split(" -> "))
    assert before == 40_813_184
    assert after <= before / 2
    was, now = (float(text.rstrip("%")) for text in lines["accuracy"].split(" -> "))
    assert was == 89.0
    assert now > 80.0
