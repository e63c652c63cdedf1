"""A budget of memory decides how wide a layer may be for a Gram matrix, and the report says what it came to."""

import numpy as np
import pytest
from cli_case import tiny_inputs, tiny_model
from graph_text import Weights, model_from_text
from pipeline_case import prune
from removal import analysed

from onnxprune.calibration.allowance import CROSS, SOLVED, SUMS, WORK, allowance
from onnxprune.config import make_config
from onnxprune.errors import BadInput

BODY = "a = MatMul (x, a_w) b = MatMul (a, b_w) c = MatMul (b, c_w) y = MatMul (c, y_w)"
WEIGHTS: Weights = {"a_w": (8, 20), "b_w": (20, 30), "c_w": (30, 20), "y_w": (20, 4)}


@pytest.mark.parametrize(
    ("memory", "widest"),
    [
        (SUMS * 64 + CROSS * 160 + WORK * 64 - 1, 0),
        (SUMS * 64 + CROSS * 160 + WORK * 64, 8),
        (SUMS * (64 + 400) + CROSS * (160 + 600) + WORK * 400, 8),
        (SUMS * (64 + 800) + CROSS * (160 + 680) + WORK * 400, 20),
        (SUMS * (64 + 800 + 900) + CROSS * (160 + 680 + 600) + WORK * 900 - 1, 20),
        (SUMS * (64 + 800 + 900) + CROSS * (160 + 680 + 600) + WORK * 900, 30),
    ],
)
def test_narrow_layers_come_first_and_those_of_one_width_all_or_none(memory: int, widest: int) -> None:
    case = analysed(model_from_text("(float[N,8] x) => (float[N,4] y)", BODY, WEIGHTS))
    found = allowance(case.analysis.linears, memory)
    assert (found.widest, found.largest) == (widest, memory // SOLVED)


@pytest.mark.parametrize(
    ("text", "number"),
    [("4GB", 4 * 10**9), ("512 mb", 512 * 10**6), ("1.5K", 1500), ("0", 0), (2048, 2048), ("1TB", 10**12)],
)
def test_memory_is_written_with_a_unit(text: object, number: int) -> None:
    assert make_config(memory=text).memory_bytes == number


def test_memory_that_is_no_number_of_bytes_is_refused() -> None:
    with pytest.raises(BadInput, match="--memory 'much' should be a number of bytes, as 4GB or 512MB"):
        make_config(memory="much")


def test_a_run_without_memory_for_gram_matrices_says_so_and_still_fits_the_means() -> None:
    wide, usual = (prune(tiny_model(), tiny_inputs(), ratio=0.5, memory=memory) for memory in ("0", "4GB"))
    assert {group.method for group in wide.report.groups if group.kept < group.width} == {"obs (variances)"}
    assert {group.method for group in usual.report.groups if group.kept < group.width} == {"obs"}
    assert any("Too wide for Gram matrices in --memory 0: " in note for note in wide.report.notes)
    assert not any("Too wide" in note for note in usual.report.notes)
    assert all(np.isnan(layer.after) for layer in wide.report.layers)
    assert wide.report.proof <= 1e-5
