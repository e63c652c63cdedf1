"""Layers with a loop in them, each with what it is fed."""

import numpy as np
from twin_case import Case, case

KINDS = {"LSTM": 4, "GRU": 3, "RNN": 1}
SHORT = np.int32([3, 2])


def layer(kind: str, attributes: str = "", names: str = "x, w, r, b", ways: int = 1, **more: object) -> Case:
    """Two samples of three steps and four channels, three hidden units."""
    gates = KINDS[kind]
    given = {"x": (3, 2, 4), "w": (ways, gates * 3, 4), "r": (ways, gates * 3, 3), "b": (ways, 2 * gates * 3), **more}
    outputs = "y, h, c" if kind == "LSTM" else "y, h"
    used = [name for name in names.replace(" ", "").split(",") if name]
    body = f"{outputs} = {kind} <hidden_size = 3{attributes}> ({names})"
    return case(body, tolerance=1e-4, **{name: given[name] for name in used})


BOTH = ', direction = "bidirectional"'
CASES: list[Case] = [
    *(layer(kind) for kind in KINDS),
    *(layer(kind, ', direction = "reverse"', "x, w, r") for kind in KINDS),
    *(layer(kind, BOTH, ways=2) for kind in KINDS),
    *(layer(kind, BOTH, "x, w, r, b, n", ways=2, n=SHORT) for kind in KINDS),
    *(layer(kind, "", "x, w, r, b, n, h0", n=SHORT, h0=(1, 2, 3)) for kind in KINDS),
    *(layer(kind, ", clip = 0.6") for kind in KINDS),
    layer("LSTM", "", "x, w, r, b, , h0, c0, p", h0=(1, 2, 3), c0=(1, 2, 3), p=(1, 9)),
    layer("LSTM", ", input_forget = 1"),
    layer("LSTM", ', activations = ["HardSigmoid", "Relu", "Softsign"]'),
    layer(
        "LSTM",
        ', activations = ["Sigmoid", "LeakyRelu", "ScaledTanh"], activation_alpha = [0.1, 0.9], '
        "activation_beta = [0.8]",
    ),
    layer("GRU", ", linear_before_reset = 1"),
    layer("GRU", ', activations = ["HardSigmoid", "Elu"], activation_alpha = [0.3, 0.7], activation_beta = [0.4]'),
    layer("RNN", ', activations = ["Relu"]'),
    layer("RNN", ', activations = ["Affine"], activation_alpha = [0.7], activation_beta = [0.2]'),
    layer("RNN", ', activations = ["ThresholdedRelu"], activation_alpha = [0.1]'),
]
