"""The loss of the joint training and its gradients, against numpy and finite differences."""

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from dense_mask import run
from graph_text import model_from_text

from onnxprune.calibration.tape import Tape
from onnxprune.graph import array_of, values_by_name
from onnxprune.model_io import load
from onnxprune.passes.factorize_low_rank import factorize_low_rank
from onnxprune.passes.normalise import normalise

if TYPE_CHECKING:
    from onnxprune.training.joint import Joint

torch = pytest.importorskip("torch")
BODY = """
h = Gemm <transB = 1> (x, a_w, a_b)
t = Tanh (h)
y = Gemm <transB = 1> (t, c_w, c_b)
z = Sigmoid (y)
"""
SIZES = {"a_w": (7, 6), "a_b": (7,), "c_w": (4, 7), "c_b": (4,)}
LEARNED = ("a_w.first", "a_w.second", "a_b", "c_w.first", "c_w.second", "c_b")
SCALES = {"y": 0.7, "z": 2.0}


def factored() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape) for name, shape in SIZES.items()}
    text = model_from_text("(double[N, 6] x) => (double[N, 4] y, double[N, 4] z)", BODY, weights)
    products = {
        "Gemm:h": (rng.standard_normal((2, 6)), rng.standard_normal((7, 2))),
        "Gemm:y": (rng.standard_normal((3, 7)), rng.standard_normal((4, 3))),
    }
    return factorize_low_rank(normalise(load(text).model), products)[0]


X = np.random.default_rng(1).standard_normal((5, 6))
WANTED = {name: np.random.default_rng(2).standard_normal((5, 4)) for name in SCALES}


def by_runtime(model: ir.Model, name: str = "", place: int = 0, step: float = 0.0) -> float:
    """The loss as numpy counts it, with one number of one constant moved."""
    model = model.clone()
    if name:
        value = values_by_name(model)[name]
        array = array_of(value).copy()
        array.reshape(-1)[place] += step
        value.const_value = ir.tensor(array, name=name)
    found = run(ir.to_proto(model), {"x": X})
    return float(np.mean([np.mean((found[n] - WANTED[n]) ** 2) / scale for n, scale in SCALES.items()]))


def joint_of(model: ir.Model, x: np.ndarray, answers: dict[str, np.ndarray]) -> "Joint":
    """The joint training of all factors of the model, on one batch that judges too."""
    from onnxprune.torch_twin import Twin
    from onnxprune.training.joint import Joint
    from onnxprune.training.losses import Term
    from onnxprune.training.processes import alone

    tapes = {name: Tape() for name in ("x", *answers)}
    for name, tape in tapes.items():
        tape.append({"x": x, **answers}[name])
    twin = Twin(model)
    learned = {name: p for name, p in twin.named_parameters() if name in LEARNED}
    assert set(learned) == set(LEARNED)
    terms, only = [Term(name, "numbers", SCALES[name]) for name in answers], np.arange(1)
    return Joint(twin, learned, {"x": tapes["x"]}, {name: tapes[name] for name in answers}, terms, only, only, alone())


def test_the_gradients_of_all_factors_are_those_of_finite_differences() -> None:
    model = factored()
    joint = joint_of(model, X, WANTED)
    learned = joint.learned
    loss = joint.loss(*joint(joint.rows, None))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(by_runtime(model), rel=1e-12)
    step = 1e-5
    for name, parameter in learned.items():
        for place, slope in enumerate(parameter.grad.reshape(-1).tolist()):
            rise = by_runtime(model, name, place, step) - by_runtime(model, name, place, -step)
            assert slope == pytest.approx(rise / (2 * step), rel=1e-6, abs=1e-9), (name, place)


def test_each_rate_goes_on_from_the_best_before_it_and_lower_ones_gain_more() -> None:
    from onnxprune.training.joint import RATES

    joint = joint_of(factored(), X, WANTED)
    told = joint.train(9, 0, lambda text: None, lambda: None)
    losses = [told.before, *(epoch.validation for epoch in told.epochs)]
    assert told.after == min(losses) == losses[told.best]
    assert float(joint.loss(*joint(joint.rows, None)).detach()) == pytest.approx(told.after, rel=1e-6)
    assert [epoch.epoch for epoch in told.epochs] == list(range(1, len(told.epochs) + 1))
    assert len(told.epochs) > 9
    assert told.rate < RATES[0]
    assert min(losses[:10]) > told.after
