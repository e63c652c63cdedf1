"""How near two models are: relative errors, agreement, accuracy, and metrics of the user's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import model_from_text

from onnxprune.errors import BadInput
from onnxprune.fidelity import accuracy, compare, load_metric
from onnxprune.model_io import load


@dataclass(frozen=True)
class Given:
    """Batches of inputs."""

    parts: tuple[np.ndarray, ...]
    synthetic: bool = False
    description: str = "given"

    @property
    def samples(self) -> int:
        return sum(len(part) for part in self.parts)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        yield from ({"x": part} for part in self.parts)


X = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
SOURCE = Given((X[:6], X[6:]))


def net(body: str, outputs: str = "float[N,4] y", **constants: np.ndarray) -> ir.Model:
    return load(model_from_text(f"(float[N,4] x) => ({outputs})", body, constants)).model  # type: ignore[arg-type]


def scaled(factor: float) -> ir.Model:
    return net("y = Mul (x, k)", k=np.array(factor, np.float32))


def test_the_relative_error_is_over_all_batches() -> None:
    found = compare(scaled(1), scaled(1.25), SOURCE, held_out=True)
    assert (found.samples, found.held_out) == (10, True)
    assert found.relative_error == pytest.approx(0.25, rel=1e-6)
    assert found.top1_agreement == 1.0
    same = compare(scaled(2), scaled(2), SOURCE, held_out=False)
    assert (same.relative_error, same.top1_agreement, same.held_out) == (0.0, 1.0, False)


def test_agreement_counts_equal_top_classes() -> None:
    shift = np.array([0, 100, 0, 0], np.float32)
    found = compare(scaled(1), net("y = Add (x, k)", k=shift), SOURCE, held_out=True)
    assert found.top1_agreement == np.mean(X.argmax(1) == 1)


def test_each_output_counts_with_its_own_norm() -> None:
    two = "float[N,4] y, float[N,4] z"
    first = net("y = Mul (x, k) z = Mul (x, m)", two, k=np.float32(1e6), m=np.float32(1e-6))
    other = net("y = Mul (x, k) z = Mul (x, m)", two, k=np.float32(1e6), m=np.float32(2e-6))
    found = compare(first, other, SOURCE, held_out=True)
    assert found.relative_error == pytest.approx(0.5, rel=1e-6)
    assert found.top1_agreement is None


def test_classes_that_are_put_out_as_numbers_are_compared_too() -> None:
    top = "int64[N] y"
    first = net("y = ArgMax <axis = 1, keepdims = 0> (x)", top)
    other = net("s = Add (x, k) y = ArgMax <axis = 1, keepdims = 0> (s)", top, k=np.array([9, 0, 0, 0], np.float32))
    found = compare(first, other, SOURCE, held_out=True)
    assert found.relative_error == pytest.approx(np.sqrt(np.mean(X.argmax(1) != 0)))
    assert compare(first, first, SOURCE, held_out=True).relative_error == 0.0


def test_accuracy_is_the_share_of_top_classes_that_are_the_labels() -> None:
    labels = X.argmax(1)
    assert accuracy(scaled(1), SOURCE, labels) == 1.0
    labels[:3] = (labels[:3] + 1) % 4
    assert accuracy(scaled(1), SOURCE, labels) == pytest.approx(0.7)
    assert accuracy(scaled(-1), SOURCE, X.argmin(1)) == 1.0


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = Unsqueeze (x, k)", "float[N,4,1] y"),
        ("y = Relu (x) z = Neg (x)", "float[N,4] y, float[N,4] z"),
    ],
)
def test_accuracy_needs_one_output_of_scores(body: str, outputs: str) -> None:
    with pytest.raises(BadInput, match=r"--eval needs one output \(N, classes\).*--metric"):
        accuracy(net(body, outputs, k=np.array([2])), SOURCE, np.zeros(10, np.int64))


@pytest.mark.parametrize("text", ["nowhere:f", "math:nothing", "math", ":f", "", "math:"])
def test_a_metric_that_cannot_be_imported_is_told(text: str) -> None:
    with pytest.raises(BadInput, match="cannot be imported"):
        load_metric(text)


def test_a_metric_is_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="'math:pi' is not a function"):
        load_metric("math:pi")
    assert load_metric("math:sqrt")(4) == 2.0
