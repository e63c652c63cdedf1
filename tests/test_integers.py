"""Integers made up for models of tokens and settings: legal by the graph, whatever their inputs are called."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from dense_mask import run
from graph_text import Weights, integers, model_from_text

from onnxprune.calibration.inputs import input_specs
from onnxprune.config import Config
from onnxprune.model_io import load
from onnxprune.prepare import Data, open_data, prepare

ATTENTION = """
e = Gather (table, ids) p = Gather (places, position_ids) h = Add (e, p)
q = MatMul (h, q_w) k = MatMul (h, k_w) v = MatMul (h, v_w) t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t)
f = Cast <to = 1> (mask) o = Sub (one, f) m = Mul (o, low) u = Unsqueeze (m, axis) a = Add (s, u)
w = Softmax <axis = 2> (a) c = MatMul (w, v) y = MatMul (c, o_w)
"""
WEIGHTS: Weights = {
    **{"table": (7, 8), "places": (40, 8), "q_w": (8, 4), "k_w": (8, 4), "v_w": (8, 6), "o_w": (6, 3)},
    **{"one": np.float32(1), "low": np.float32(-1e4), "axis": integers(1)},
}


def transformer(mask: str = "attention_mask") -> onnx.ModelProto:
    signature = f"(int64[N,T] ids, int64[N,T] {mask}, int64[N,T] position_ids) => (float[N,T,3] y)"
    return model_from_text(signature, ATTENTION.replace("(mask)", f"({mask})"), WEIGHTS)


def opened(model: onnx.ModelProto, calib: object = None, **options: Any) -> Data:
    loaded, config = load(model).model, Config(**{"samples": 8, **options})
    data = open_data(loaded, calib, config)
    prepare(loaded, data, config, fold=True)
    return data


@pytest.mark.parametrize("mask", ["attention_mask", "input_2"])
def test_a_transformer_gets_ids_of_its_table_a_mask_of_ones_and_places_in_order(mask: str) -> None:
    data = opened(transformer(mask))
    assert {array.shape for array in data.sample.values()} == {(2, 64)}
    assert set(data.sample["ids"].ravel().tolist()) == set(range(7))
    assert (data.sample[mask] == 1).all()
    assert data.sample["position_ids"].max() < 40
    assert data.sample["position_ids"][0, :41].tolist() == [*range(40), 0]


def test_padded_sequences_of_the_user_go_in_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = (np.arange(12) < rng.integers(3, 13, (20, 1))).astype(np.int64)
    held = {
        "ids": rng.integers(0, 7, (20, 12)) * mask,
        "attention_mask": mask,
        "position_ids": np.broadcast_to(np.arange(12), (20, 12)),
    }
    np.savez(tmp_path / "tokens.npz", **held)  # type: ignore[arg-type]
    data = opened(transformer(), str(tmp_path / "tokens.npz"), samples=20)
    assert data.guesses == ()
    seen = {name: np.concatenate([feeds[name] for feeds in data.source.batches()]) for name in held}
    rows = {tuple(np.concatenate([held[name][at] for name in held])) for at in range(20)}
    assert {tuple(np.concatenate([seen[name][at] for name in held])) for at in range(len(seen["ids"]))} <= rows
    assert (seen["attention_mask"].sum(1) < 12).any()
    assert run(transformer(), dict(data.sample))["y"].shape == (2, 12, 3)


def vocabulary(body: str, weights: Weights, kind: str = "int64[N,5]") -> int | None:
    model = model_from_text(f"({kind} ids) => (float[A,B,C] y)", body, weights)
    return input_specs(load(model).model)[0].vocabulary


def test_ids_are_bounded_by_the_depth_of_a_one_hot_code() -> None:
    body = "h = OneHot (ids, depth, values) y = MatMul (h, w)"
    weights: Weights = {"depth": np.int64(9), "values": np.array([0, 1], np.float32), "w": (9, 4)}
    assert vocabulary(body, weights) == 9


def test_ids_are_bounded_by_the_numbers_that_a_written_out_one_hot_code_compares_them_with() -> None:
    body = "u = Unsqueeze (ids, axis) e = Equal (u, numbers) h = Cast <to = 1> (e) y = MatMul (h, w)"
    assert vocabulary(body, {"axis": integers(2), "numbers": np.arange(11), "w": (11, 4)}) == 11


def test_columns_of_one_input_are_bounded_by_the_smallest_of_their_tables() -> None:
    body = "a, b = Split <axis = 1> (ids, parts) s = Gather (t_w, a) u = Gather (u_w, b) y = Concat <axis = 1> (s, u)"
    assert vocabulary(body, {"parts": integers(2, 3), "t_w": (30, 4), "u_w": (6, 4)}) == 6


def test_a_setting_is_a_number_that_the_model_compares_it_with() -> None:
    body = """
    fast = Equal (rate, known)
    y = If (fast) <then_branch = yes () => (t) { t = MatMul (x, w) }, else_branch = no () => (e) { e = MatMul (x, v) }>
    """
    weights: Weights = {"known": np.int64(16000), "w": (5, 3), "v": (5, 3)}
    model = model_from_text("(float[N,5] x, int64 rate) => (float[N,3] y)", body, weights)
    assert opened(model).sample["rate"].tolist() == 16000


def test_an_integer_that_is_compared_with_nothing_stays_small() -> None:
    body = "f = Cast <to = 1> (k) s = Mul (x, f) y = MatMul (s, w)"
    model = model_from_text("(float[N,5] x, int64 k) => (float[N,3] y)", body, {"w": (5, 3)})
    assert 1 <= int(opened(model).sample["k"]) <= 3


def test_a_length_is_that_of_the_sequence() -> None:
    body = """
    t = Transpose <perm = [1, 0, 2]> (x) small = Cast <to = 6> (x_lens)
    s, y = GRU <hidden_size = 4> (t, i_w, h_w, b, small)
    """
    weights: Weights = {"i_w": (1, 12, 80), "h_w": (1, 12, 4), "b": (1, 24)}
    model = model_from_text("(float[N,T,80] x, int64[N] x_lens) => (float[1,N,4] y)", body, weights)
    assert opened(model).sample["x_lens"].tolist() == [64, 64]


def test_a_floating_mask_hides_nothing() -> None:
    signature = "(float[N,T,5] x, float[N,T,1] pad_mask) => (float[N,T,3] y)"
    model = model_from_text(signature, "m = Mul (x, pad_mask) y = MatMul (m, w)", {"w": (5, 3)})
    assert (opened(model).sample["pad_mask"] == 1).all()
