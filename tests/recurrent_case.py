"""Small recurrent networks of every make, and what they give with some hidden units masked."""

from dataclasses import dataclass

import onnx
from graph_text import Weights, integers, model_from_text
from hypothesis import strategies as st

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = ("", "constant", "zeros", "filled", "learned")
FEATURES, STEPS = 4, 5


@dataclass(frozen=True)
class Network:
    """x (N, 5, 4) → dense, two recurrent layers on top of each other, dense → y, to which the last state is added."""

    kind: str
    direction: str
    hidden: int
    bias: bool = True
    lengths: bool = False
    state: str = ""
    cell: str = ""
    peepholes: bool = False
    attributes: str = ""

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def model(self) -> onnx.ModelProto:
        """Features of the second layer are every step of the first; the result is its steps, and its last states."""
        d, h = self.directions, self.hidden
        body = f"""
        t = Transpose <perm=[1,0,2]> (x)
        i = MatMul (t, in_w)
        ib = Add (i, in_b)
        j = Relu (ib)
        n = Shape <start=0, end=1> (x)
        z = Concat <axis=0> (d, n, h)
        zeros = ConstantOfShape (z)
        filled = ConstantOfShape <value=float[1]{{0.3}}> (z)
        learned = Expand (some, z)
        lengths = ConstantOfShape <value=int32[1]{{3}}> (n)
        {self._layer("j", "a")}
        m = Transpose <perm=[0,2,1,3]> (a)
        s = Reshape (m, flat)
        {self._layer("s", "b")}
        k = Transpose <perm=[1,0,2]> (b_last)
        l = Reshape (k, rows)
        {"u = Squeeze (b, one)" if d == 1 else "o = Transpose <perm=[0,2,1,3]> (b) u = Reshape (o, flat)"}
        v = MatMul (u, out_w)
        w = Transpose <perm=[1,0,2]> (v)
        p = MatMul (l, last_w)
        q = Unsqueeze (p, one)
        y = Add (w, q)
        """
        weights: Weights = {"in_w": (FEATURES, 6), "in_b": (6,), "out_w": (d * h, 3), "last_w": (d * h, 3)}
        weights |= {"d": integers(d), "h": integers(h), "some": (d, 1, h), "one": integers(1)}
        weights |= {"flat": integers(0, 0, d * h), "rows": integers(-1, d * h)}
        weights |= self._constants("a", 6) | self._constants("b", d * h)
        return model_from_text(f"(float[N,{STEPS},{FEATURES}] x) => (float[N,{STEPS},3] y)", body, weights)

    def _layer(self, x: str, name: str) -> str:
        """LSTM, GRU or RNN on `x`; an empty operand where an input is left out."""
        inputs = [x, f"{name}_w", f"{name}_r_w", f"{name}_b" if self.bias else "", "lengths" if self.lengths else ""]
        inputs.append(self._given(self.state, name))
        if self.kind == "LSTM":
            inputs += [self._given(self.cell, name), f"{name}_peep" if self.peepholes else ""]
        attributes = f'hidden_size={self.hidden}, direction="{self.direction}"{self.attributes}'
        return f"{name}, {name}_last = {self.kind} <{attributes}> ({', '.join(inputs)})"

    def _given(self, state: str, name: str) -> str:
        return f"{name}_state" if state == "constant" else state

    def _constants(self, name: str, features: int) -> Weights:
        d, h, rows = self.directions, self.hidden, GATES[self.kind] * self.hidden
        weights: Weights = {f"{name}_w": (d, rows, features), f"{name}_r_w": (d, rows, h), f"{name}_b": (d, 2 * rows)}
        return weights | {f"{name}_state": (d, 2, h), f"{name}_peep": (d, 3 * h)}


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any operator, direction and set of optional inputs."""
    kind = draw(st.sampled_from(sorted(GATES)))
    attributes = {"RNN": [""], "GRU": ["", ", linear_before_reset=1"], "LSTM": ["", ", input_forget=1"]}[kind]
    return Network(
        kind,
        draw(st.sampled_from(["forward", "reverse", "bidirectional"])),
        draw(st.integers(2, 6)),
        bias=draw(st.booleans()),
        lengths=draw(st.booleans()),
        state=draw(st.sampled_from(STATES)),
        cell=draw(st.sampled_from(STATES)),
        peepholes=draw(st.booleans()),
        attributes=draw(st.sampled_from(attributes)) + draw(st.sampled_from(["", ", clip=0.5"])),
    )
