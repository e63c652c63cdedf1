"""The proof: what it compares, how strictly, and what it refuses."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import Weights, model_from_text
from removal import Case, analysed
from topologies import TOPOLOGIES

from onnxprune.dependency import analyse
from onnxprune.errors import ProofFailed
from onnxprune.graph import add_constant, array_of, replace_constant
from onnxprune.model_io import load
from onnxprune.passes.normalise import normalise
from onnxprune.passes.remove import remove
from onnxprune.trace import trace
from onnxprune.verify import prove, prove_same

BODY = "h = Conv (x, h_w) r = Relu (h) c = Conv (r, c_w, c_b) y = {tail} (c)"
WEIGHTS: Weights = {"h_w": (6, 3, 1, 1), "c_w": (2, 6, 1, 1), "c_b": (2,)}


def case(tail: str = "Neg", **weights: np.ndarray) -> Case:
    body = BODY.format(tail=tail)
    return analysed(model_from_text("(float[N,3,4,4] x) => (float[N,2,4,4] y)", body, WEIGHTS | weights))


def cut(of: Case, *gone: int) -> tuple[ir.Model, np.ndarray]:
    keep = of.analysis.keep_without({"Conv:h": list(gone)})
    return remove(of.analysis, keep), keep


def proof(of: Case, slim: ir.Model, keep: np.ndarray) -> float:
    return prove(of.analysis, slim, keep, of.inputs)


def behind(model: ir.Model, op: str, number: float, dtype: object = np.float32) -> ir.Model:
    """The model with `op` of the output and a number behind it: what no choice of weights explains."""
    model = model.clone()
    old = model.graph.outputs[0]
    name, constant = old.name, add_constant(model.graph, "number", np.array(number, dtype))
    node = ir.node(op, [old, constant])
    node.outputs[0].type, node.outputs[0].shape = old.type, old.shape
    model.graph.append(node)
    old.name, node.outputs[0].name = "before", name
    model.graph.outputs[0] = node.outputs[0]
    return model


def ahead(model: ir.Model, name: str, number: float) -> ir.Model:
    """The model with a number added to a value before anything reads it."""
    model = model.clone()
    old = next(value for node in model.graph for value in node.outputs if value.name == name)
    readers = list(old.uses())
    node = ir.node("Add", [old, add_constant(model.graph, "number", np.array(number, np.float32))])
    node.outputs[0].type, node.outputs[0].shape = old.type, old.shape
    old.name, node.outputs[0].name = "before", name
    producer = old.producer()
    assert producer is not None
    model.graph.insert_after(producer, node)
    for reader, place in readers:
        reader.replace_input_with(place, node.outputs[0])
    return model


@pytest.mark.parametrize("name", ["resnet-text", "mobilenet-v2-text", "shufflenet-text", "unet-text"])
def test_a_removal_from_every_group_at_once_is_proved(name: str) -> None:
    of = analysed(TOPOLOGIES[name]())
    keep = of.analysis.keep_all()
    for group in of.analysis.groups:
        rows = np.zeros(group.width, np.int64) if group.rows is None else group.rows
        keep[group.units[np.unique(rows, return_index=True)[1]]] = False
    assert prove(of.analysis, remove(of.analysis, keep), keep, of.inputs) < 1e-5


def test_weights_solved_again_are_no_fault() -> None:
    of = case()
    slim, keep = cut(of, 1, 4)
    for name in ("c_w", "c_b"):
        value = slim.graph.initializers[name]
        replace_constant(value, array_of(value) * 3 + 1)
    assert proof(of, slim, keep) < 1e-5


def test_a_difference_is_told_up_to_the_tolerance_and_refused_above() -> None:
    of = case()
    slim, keep = cut(of, 1)
    assert proof(of, behind(slim, "Mul", 1 + 5e-6), keep) == pytest.approx(5e-6, rel=0.2)
    with pytest.raises(ProofFailed, match=r"output 'y' differs by \d\.\de-05 of its largest value, allowed is 1e-05"):
        proof(of, behind(slim, "Mul", 1 + 3.3e-5), keep)


def test_products_may_differ_ten_times_as_much_for_their_sums_have_another_order() -> None:
    of = case()
    slim, keep = cut(of, 1)

    def told(factor: float) -> float:
        return prove(of.analysis, behind(slim, "Mul", factor), keep, of.inputs, slim, products=True)

    assert told(1 + 5e-5) == pytest.approx(5e-5, rel=0.2)
    with pytest.raises(ProofFailed, match="allowed is 1e-04"):
        told(1 + 3e-4)


@pytest.mark.parametrize(("kind", "allowed"), [("double", 1e-10), ("float16", 5e-3)])
def test_what_is_allowed_follows_the_dtype(kind: str, allowed: float) -> None:
    dtype, rng = np.dtype("float64" if kind == "double" else kind), np.random.default_rng(0)
    shapes = {"h_w": (3, 6), "h_b": (6,), "c_w": (6, 2), "c_b": (2,)}
    weights: Weights = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    body = "h = Gemm (x, h_w, h_b) r = Relu (h) y = Gemm (r, c_w, c_b)"
    model = normalise(load(model_from_text(f"({kind}[N,3] x) => ({kind}[N,2] y)", body, weights)).model)
    inputs = {"x": rng.standard_normal((4, 3)).astype(dtype)}
    of = Case(analyse(model, trace(model, inputs)), inputs)
    keep = of.analysis.keep_without({of.analysis.groups[0].name: [0]})
    slim = remove(of.analysis, keep)
    assert proof(of, slim, keep) <= allowed / 5
    assert allowed / 5 < proof(of, behind(slim, "Mul", 1 + allowed / 2, dtype), keep) <= allowed
    with pytest.raises(ProofFailed, match=f"allowed is {allowed:.0e}"):
        proof(of, behind(slim, "Mul", 1 + allowed * 8, dtype), keep)


def test_an_output_that_collapsed_is_judged_by_what_the_original_gives() -> None:
    """Only the removed channel keeps the sigmoid off its floor: what is left is rounding at 1e-9."""
    c_b = np.full(2, -20, np.float32)
    h_w, c_w = np.zeros((6, 3, 1, 1), np.float32), np.ones((2, 6, 1, 1), np.float32)
    h_w[0] = 40
    of = case("Sigmoid", h_w=h_w, c_w=c_w, c_b=c_b)
    slim, keep = cut(of, 0)
    wrong = behind(slim, "Add", 1e-7)
    assert proof(of, wrong, keep) == pytest.approx(1e-7, rel=0.05)
    with pytest.raises(ProofFailed, match="of its largest value"):
        proof(of, behind(slim, "Add", 1e-4), keep)


@pytest.mark.parametrize("tail", ["y = Sigmoid (c)", "s = Sigmoid (c) y = Transpose <perm = [0, 1, 3, 2]> (s)"])
def test_where_the_original_is_as_small_the_proof_is_in_what_the_sigmoid_reads(tail: str) -> None:
    h_w, c_w = np.zeros((6, 3, 1, 1), np.float32), np.ones((2, 6, 1, 1), np.float32)
    body = BODY.replace("y = {tail} (c)", tail)
    weights = WEIGHTS | {"h_w": h_w, "c_w": c_w, "c_b": np.full(2, -20, np.float32)}
    of = analysed(model_from_text("(float[N,3,4,4] x) => (float[N,2,4,4] y)", body, weights))
    slim, keep = cut(of, 0)
    assert proof(of, behind(slim, "Add", 1e-7), keep) < 1e-5  # a step of the runtime's own
    with pytest.raises(ProofFailed, match="output 'y' differs by"):
        proof(of, behind(slim, "Add", 3e-6), keep)
    with pytest.raises(ProofFailed, match="output 'c' differs by"):
        proof(of, ahead(slim, "c", 1e-3), keep)  # of which the sigmoid shows 2e-12


def test_a_value_that_has_another_name_in_the_other_model_is_not_asked_for() -> None:
    of = case("Sigmoid")
    other = of.analysis.model.clone()
    next(node for node in other.graph if node.op_type == "Sigmoid").inputs[0].name = "renamed"
    assert prove_same(of.analysis, other, of.inputs) == 0.0


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_infinities_and_nan_must_stay_where_they_were(number: float) -> None:
    of = case()
    slim, keep = cut(of, 1)
    with pytest.raises(ProofFailed, match="infinities or NaN in other places"):
        proof(of, behind(slim, "Add", number), keep)
    ends = case("Log")  # NaN at negative numbers
    slim, keep = cut(ends, 1)
    assert proof(ends, slim, keep) < 1e-5
    with pytest.raises(ProofFailed, match=r"differs by"):
        proof(ends, behind(slim, "Mul", 1.01), keep)


def test_an_output_that_is_one_infinity_hides_nothing_else() -> None:
    c_b = np.array([np.inf, 0], np.float32)
    of = case(c_b=c_b)
    slim, keep = cut(of, 1)
    assert proof(of, slim, keep) < 1e-5
    with pytest.raises(ProofFailed, match="differs by"):
        proof(of, behind(slim, "Mul", 1.5), keep)


def test_an_output_of_another_name_shape_or_that_does_not_run_is_refused() -> None:
    of = case()
    slim, keep = cut(of, 1)
    renamed = slim.clone()
    renamed.graph.outputs[0].name = "z"
    with pytest.raises(ProofFailed, match=r"the outputs are \['z'\], they were \['y'\]"):
        proof(of, renamed, keep)
    squeezed = slim.clone()
    old = squeezed.graph.outputs[0]
    most = ir.node("ReduceMax", [old], attributes={"axes": [3]})
    old.name, most.outputs[0].name, most.outputs[0].type = "before", "y", old.type
    most.outputs[0].shape = ir.Shape(["N", 2, 4, 1])
    squeezed.graph.append(most)
    squeezed.graph.outputs[0] = most.outputs[0]
    with pytest.raises(ProofFailed, match=r"output 'y' is float32\(2, 2, 4, 1\), it was float32\(2, 2, 4, 4\)"):
        proof(of, squeezed, keep)
    broken = slim.clone()
    next(node for node in broken.graph if node.op_type == "Relu").op_type = "Nonsense"
    with pytest.raises(ProofFailed, match="the pruned model does not run"):
        proof(of, broken, keep)


def test_where_an_output_is_chosen_by_rank_the_scores_are_compared() -> None:
    """A tie would turn on rounding: two classes with the same weights."""
    body = "h = Conv (x, h_w) r = Relu (h) c = Conv (r, c_w) y = ArgMax <axis = 1, keepdims = 0> (c)"
    row = np.random.default_rng(1).standard_normal((1, 6, 1, 1)).astype(np.float32)
    weights: Weights = {"h_w": (6, 3, 1, 1), "c_w": np.concatenate([row, row * (1 + 1e-7), row])}
    of = analysed(model_from_text("(float[N,3,4,4] x) => (int64[N,4,4] y)", body, weights))
    slim, keep = cut(of, 2)
    assert 0 <= proof(of, slim, keep) < 1e-5
    wrong = slim.clone()
    relu = next(node for node in wrong.graph if node.op_type == "Relu")
    relu.op_type = "Neg"
    with pytest.raises(ProofFailed, match="output 'c' differs"):
        proof(of, wrong, keep)
