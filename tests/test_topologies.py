"""Every small network is a valid model, and the dense-mask oracle does what it says."""

import numpy as np
import onnx
import pytest
from dense_mask import masked_model, max_relative_difference, run
from graph_text import model_from_text
from topologies import TOPOLOGIES, feeds


def layers_with_weights(model: onnx.ModelProto) -> list[str]:
    """Their outputs, by name."""
    return [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_topology_passes_the_checker_and_runs_to_finite_outputs_that_depend_on_the_input(name: str) -> None:
    model = TOPOLOGIES[name]()
    onnx.checker.check_model(model, full_check=True)
    outputs = run(model, feeds(model, seed=1))
    other = run(model, feeds(model, seed=2))
    for key, values in outputs.items():
        assert values.shape[0] == 2
        assert np.isfinite(values).all()
        assert values.std() > 1e-3
        assert np.abs(values - other[key]).max() > 1e-3


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_topology_accepts_another_batch(name: str) -> None:
    model = TOPOLOGIES[name]()
    assert all(len(values) == 3 for values in run(model, feeds(model, batch=3)).values())


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_masks_of_ones_change_nothing_and_zeros_on_any_layer_change_the_output(name: str) -> None:
    model = TOPOLOGIES[name]()
    inputs = feeds(model, seed=3)
    expected = run(model, inputs)
    layers = layers_with_weights(model)
    ones = {layer: np.ones(1) for layer in layers}
    assert max_relative_difference(run(masked_model(model, ones), inputs), expected) < 1e-6
    zeroed = masked_model(model, {layers[0]: np.zeros(1)})
    assert max_relative_difference(run(zeroed, inputs), expected) > 1e-3


def test_each_architecture_is_there_without_torch() -> None:
    families = {"resnet", "vgg", "densenet", "inception", "mobilenet-v2", "squeeze-excitation", "shufflenet", "unet"}
    families |= {"convnext", "yolo-head", "tensorflow-vgg"}
    assert families <= {name.removesuffix("-text") for name in TOPOLOGIES}


def test_with_torch_every_network_comes_from_both_exporters() -> None:
    pytest.importorskip("torch")
    for family in ("resnet", "vgg", "inception", "mobilenet-v2", "mobilenet-v3", "shufflenet-v2", "convnext"):
        assert {f"{family}-torchscript", f"{family}-dynamo"} <= TOPOLOGIES.keys()


def test_a_topology_is_the_same_each_time_and_a_change_to_one_copy_stays_there() -> None:
    first = TOPOLOGIES["resnet-text"]()
    del first.graph.node[:]
    second, third = TOPOLOGIES["resnet-text"](), TOPOLOGIES["resnet-text"]()
    assert len(second.graph.node) > 0
    assert second.SerializeToString() == third.SerializeToString()


def two_step_model() -> onnx.ModelProto:
    return model_from_text("(float[N,2] x) => (float[N,2] y)", "h = Relu (x) y = Add (h, x)", {})


def test_a_mask_reaches_every_consumer_of_the_value_and_of_nothing_else() -> None:
    inputs = {"x": np.array([[1.0, 2.0]], np.float32)}
    keep_second = np.array([[0.0, 1.0]])
    assert run(masked_model(two_step_model(), {"h": keep_second}), inputs)["y"].tolist() == [[1.0, 4.0]]
    assert run(masked_model(two_step_model(), {"x": keep_second}), inputs)["y"].tolist() == [[0.0, 4.0]]
    assert run(masked_model(two_step_model(), {"y": keep_second}), inputs)["y"].tolist() == [[0.0, 4.0]]


def test_a_mask_on_an_unknown_value_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        masked_model(two_step_model(), {"nothing": np.ones(1)})


def test_run_exposes_inner_values_on_request() -> None:
    values = run(two_step_model(), {"x": np.array([[-1.0, 2.0]], np.float32)}, outputs=["h"])
    assert list(values) == ["h"]
    assert values["h"].tolist() == [[0.0, 2.0]]


def test_the_relative_difference_is_scaled_by_the_second_and_infinite_where_they_cannot_be_compared() -> None:
    two = {"y": np.array([0.0, 2.0])}
    assert max_relative_difference({"y": np.array([0.5, 2.0])}, two) == 0.25
    assert max_relative_difference({"y": np.array([2.0])}, two) == float("inf")
    assert max_relative_difference({"z": np.array([0.0, 2.0])}, two) == float("inf")
    assert max_relative_difference({"y": np.array([np.nan, 2.0])}, two) == float("inf")
