"""LSTM, GRU and RNN: what their rules say, that any removal of hidden units is exact, and that a whole run works."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import Weights, integers, model_from_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_case import balanced, facts_of, fixed, linears, outs, params, sizes, ties
from recurrent_case import GATES, STATES, Network, networks
from removal import CLOSE, analysed, check_every_removal, differences, proto, some_of

from onnxprune.costs import cost_model
from onnxprune.labels import Label
from onnxprune.op_rules import RULES, Op
from onnxprune.op_rules.facts import Fact
from onnxprune.passes.remove import remove
from onnxprune.trace import Trace

X = {"x": (3, 2, 4)}
LABELLED = {"x": {(2,): [0, 1, 2, 3]}}
RNN = {"w": (1, 2, 4), "r": (1, 2, 2)}
LSTM = {"w": (1, 8, 4), "r": (1, 8, 2), "b": (1, 16), "p": (1, 6)}
BOTH = {"w": (2, 6, 4), "r": (2, 6, 2), "b": (2, 12)}
SPLIT = "f, g = Split <axis=1> (a, halves) h = Squeeze (f, one) i = Squeeze (g, one) "
quick = settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))


def test_a_hidden_unit_lies_in_every_gate_and_is_read_by_the_others() -> None:
    facts = facts_of("y = LSTM <hidden_size=2> (x, w, r, b, , , , p)", X, LABELLED, LSTM)
    assert outs(facts) == {(3,): [100, 101]}
    assert params(facts, 1) == {(1,): ([100, 101] * 4, False), (2,): ([0, 1, 2, 3], True)}
    assert params(facts, 2) == {(1,): ([100, 101] * 4, False), (2,): ([100, 101], True)}
    assert params(facts, 3) == {(1,): ([100, 101] * 8, False)}
    assert params(facts, 7) == {(1,): ([100, 101] * 3, False)}
    assert sizes(facts) == [("hidden_size", None, [100, 101], None)]
    assert fixed(facts) == []


def test_states_carry_the_units_on_their_last_axis() -> None:
    facts = facts_of("y, h, c = LSTM <hidden_size=2> (x, w, r)", X, LABELLED, LSTM)
    assert outs(facts, 1) == outs(facts, 2) == {(2,): [100, 101]}


def test_two_directions_have_units_of_their_own_and_lose_equally_many() -> None:
    facts = facts_of('y, h = GRU <hidden_size=2, direction="bidirectional"> (x, w, r, b)', X, LABELLED, BOTH)
    units = [[100, 101], [102, 103]]
    assert outs(facts) == {(1, 3): units}
    assert outs(facts, 1) == {(0, 2): units}
    assert params(facts, 2) == {
        (0, 1): ([[100, 101] * 3, [102, 103] * 3], False),
        (0, 2): (units, True),
    }
    assert balanced(facts) == [units]


@pytest.mark.parametrize("atoms", [[7, 8], [[7, 8]]])
def test_a_computed_state_goes_with_the_units(atoms: list) -> None:
    axes = (2,) if np.ndim(atoms) == 1 else (0, 2)
    shapes = {**X, "h": (1, 2, 2)}
    facts = facts_of("y = RNN <hidden_size=2> (x, w, r, , , h)", shapes, {"h": {axes: atoms}}, RNN)
    assert ties(facts) == [([[7, 8]], [[100, 101]])]


def test_one_state_of_both_directions_ties_them() -> None:
    shapes = {**X, "h": (2, 2, 2)}
    node = 'y = GRU <hidden_size=2, direction="bidirectional"> (x, w, r, , , h)'
    assert ties(facts_of(node, shapes, {"h": {(2,): [7, 8]}}, BOTH)) == [([[7, 8], [7, 8]], [[100, 101], [102, 103]])]


def test_units_stay_where_their_state_is_an_input_of_the_model() -> None:
    facts = facts_of("y = RNN <hidden_size=2> (x, w, r, , , h)", {**X, "h": (1, 2, 2)}, {}, RNN)
    assert fixed(facts) == [100, 101]
    assert [str(f.reason) for f in facts if hasattr(f, "reason")] == ["its initial state 'h' has no prunable channels"]


def test_time_batch_and_directions_stay_whole() -> None:
    labelled = {"x": {(0,): [4, 5, 6], (1,): [0, 1]}, "h": {(0,): [9], (2,): [7, 8]}}
    facts = facts_of("y = RNN <hidden_size=2> (x, w, r, , , h)", {**X, "h": (1, 2, 2)}, labelled, RNN)
    assert fixed(facts) == [0, 1, 4, 5, 6, 9]


def test_computed_weights_hold_everything_in_place() -> None:
    facts = facts_of("y = RNN <hidden_size=2> (x, w, r)", {**X, "w": (1, 2, 4)}, LABELLED, {"r": (1, 2, 2)})
    assert fixed(facts) == [0, 1, 2, 3]
    assert outs(facts) == {}


def test_with_the_batch_first_labels_lie_one_axis_further_on() -> None:
    facts = batch_first('y, h = GRU <hidden_size=2, layout=1, direction="bidirectional"> (x, w, r, b, , s)')
    units = [[100, 101], [102, 103]]
    assert outs(facts) == {(2, 3): units}
    assert outs(facts, 1) == {(1, 2): units}
    assert params(facts, 5) == {(1, 2): (units, False)}


def batch_first(node: str) -> list[Fact]:
    """Facts without a run: onnxruntime has no kernel for this layout."""
    weights = {**BOTH, "s": (2, 2, 2)}
    model = ir.from_proto(model_from_text("(float[2,3,4] x) => (float[2,3,2,2] y)", node, weights))
    known = Trace({"x": (2, 3, 4), "y": (2, 3, 2, 2), "h": (2, 2, 2)}, {}, 2)
    labels = {model.graph.inputs[0]: (Label((2,), np.arange(4)),)}
    (only,) = model.graph
    return list(RULES["", only.op_type](Op(only, 17, labels, known, lambda count: np.arange(100, 100 + count))))


def test_a_step_multiplies_by_both_weights_once() -> None:
    first, second = linears(
        facts_of('y = GRU <hidden_size=2, direction="bidirectional"> (x, w, r, b)', X, LABELLED, BOTH)
    )
    assert (first.weight.name, second.weight.name) == ("w", "r")
    assert first.macs == second.macs == 3 * 2
    assert first.features.tolist() == [[0, 1, 2, 3]]
    assert second.features.tolist() == [[100, 101], [102, 103]]
    assert first.outputs.tolist() == [[100, 101] * 3 + [102, 103] * 3]
    assert second.outputs.tolist() == [[100, 101] * 3, [102, 103] * 3]
    assert (first.refit, second.refit) == (True, False)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", sorted(GATES))
def test_hidden_units_of_every_layer_can_go(kind: str, direction: str, state: str) -> None:
    network = Network(kind, direction, 4, state=state, cell=state, peepholes=True, lengths=True)
    case = analysed(network.model())
    hidden = {f"{kind}:a": 4, f"{kind}:b": 4} if state in ("", "constant", "zeros") else {f"{kind}:a": 4}
    assert case.widths() == {"MatMul:i": 6, **hidden}
    check_every_removal(case)


@quick
@given(networks(), st.integers(0, 1000))
def test_any_removal_leaves_what_masking_leaves(network: Network, seed: int) -> None:
    case = analysed(network.model())
    rng = np.random.default_rng(seed)
    keep = case.analysis.keep_without({group.name: some_of(group, rng) for group in case.analysis.groups})
    assert max(differences(case, keep)) < CLOSE


def test_the_slim_layer_has_a_smaller_hidden_size_and_the_rows_of_the_units_that_stay() -> None:
    case = analysed(Network("LSTM", "bidirectional", 4).model())
    slim = proto(remove(case.analysis, case.analysis.keep_without({"LSTM:a": [0]})))
    nodes = {node.output[0]: node for node in slim.graph.node}
    assert [a.i for a in nodes["a"].attribute if a.name == "hidden_size"] == [3]
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in slim.graph.initializer}
    old = {v.name: v.const_value.numpy() for v in case.analysis.model.graph.initializers.values() if v.const_value}
    wide = old["a_r_w"].reshape(2, 4, 4, 4)
    np.testing.assert_array_equal(weights["a_r_w"], wide[:, :, 1:, 1:].reshape(2, 12, 3))
    np.testing.assert_array_equal(weights["b_w"], old["b_w"][:, :, [1, 2, 3, 5, 6, 7]])


def test_multiply_adds_are_those_of_both_weights_at_every_step() -> None:
    network = Network("GRU", "forward", 4)
    case = analysed(network.model())
    costs = cost_model(case.analysis)
    names = [group.name for group in case.analysis.groups]
    widths = costs.full.copy()

    def macs(dense: int, first: int, second: int) -> int:
        steps = 5 * (4 * dense + 3 * first * (dense + first) + 3 * second * (first + second) + second * 3)
        return steps + second * 3

    assert costs.macs(widths) == macs(6, 4, 4)
    widths[names.index("GRU:a")] = 2
    assert costs.macs(widths) == macs(6, 2, 4)


def test_states_of_two_layers_side_by_side_lose_the_same() -> None:
    """Last states of both layers, joined over layers and directions as torch gives them, of which one is picked."""
    model = Network("GRU", "bidirectional", 4, state="filled").model()
    body = [node for node in model.graph.node if node.output[0] not in ("k", "l", "p", "q", "y")]
    tail = onnx.parser.parse_graph("""t (float[N] x) => (float[N,5,3] y) {
        both = Concat <axis=0> (a_last, b_last)
        k = Gather <axis=0> (both, third)
        p = MatMul (k, pick_w)
        q = Unsqueeze (p, one)
        y = Add (w, q)
    }""")
    del model.graph.node[:]
    model.graph.node.extend([*body, *tail.node])
    extra = {"third": np.int64(2), "pick_w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in extra.items())
    case = analysed(model)
    assert case.widths() == {"MatMul:i": 6, "GRU:a": 4}
    check_every_removal(case)


@pytest.mark.parametrize(
    "body",
    [
        SPLIT + "j = Concat <axis=2> (h, i)",
        SPLIT + "k = Add (h, i) j = Concat <axis=2> (k, i)",
        "h = Gather <axis=1> (a, first) i = Gather <axis=1> (a, second) j = Concat <axis=2> (i, h)",
        "f = Slice (a, one, two, one) h = Squeeze (f, one) j = Concat <axis=2> (h, h)",
    ],
)
def test_directions_may_part_and_meet_again(body: str) -> None:
    weights: Weights = {"a_w": (2, 12, 4), "a_r_w": (2, 12, 4), "out_w": (8, 3), "one": integers(1), "two": integers(2)}
    weights |= {"halves": integers(1, 1), "first": np.int64(0), "second": np.int64(1)}
    start = 't = Transpose <perm=[1,0,2]> (x) a = GRU <hidden_size=4, direction="bidirectional"> (t, a_w, a_r_w)'
    text = f"{start} {body} m = MatMul (j, out_w) y = Transpose <perm=[1,0,2]> (m)"
    case = analysed(model_from_text("(float[N,5,4] x) => (float[N,5,3] y)", text, weights))
    assert case.widths() == {"GRU:a": 4}
    check_every_removal(case)
