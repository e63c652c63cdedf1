"""LSTM, GRU and RNN, step by step, in either direction or both."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.torch_twin.registry import Call, op

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
}
WITH_ALPHA: dict[str, tuple[float, Callable[[Tensor, float], Tensor]]] = {
    "Elu": (1.0, F.elu),
    "LeakyRelu": (0.01, F.leaky_relu),
    "ThresholdedRelu": (1.0, lambda x, a: torch.where(x > a, x, torch.zeros_like(x))),
}
WITH_BOTH: dict[str, tuple[float, float, Callable[[Tensor, float, float], Tensor]]] = {
    "Affine": (1.0, 0.0, lambda x, a, b: a * x + b),
    "HardSigmoid": (0.2, 0.5, lambda x, a, b: (a * x + b).clamp(0, 1)),
    "ScaledTanh": (1.0, 1.0, lambda x, a, b: a * torch.tanh(b * x)),
}
"""Activations by name, those with a number or two of their own with what these are where none are given."""
States = tuple[Tensor, ...]
Step = Callable[[Tensor, States], States]
"""From the products of an input with its weights, and the states, to the next states, the output first."""


def _functions(call: Call, direction: int, default: Sequence[str]) -> list[Callable[[Tensor], Tensor]]:
    names = call.attr("activations") or list(default) * 2
    alphas, betas = iter(call.attr("activation_alpha") or ()), iter(call.attr("activation_beta") or ())
    found: list[Callable[[Tensor], Tensor]] = []
    for name in names:
        if name in PLAIN:
            found.append(PLAIN[name])
        elif name in WITH_ALPHA:
            alpha, one = WITH_ALPHA[name]
            found.append(partial(lambda x, f, a: f(x, a), f=one, a=next(alphas, alpha)))
        else:
            alpha, beta, two = WITH_BOTH[name]
            found.append(partial(lambda x, f, a, b: f(x, a, b), f=two, a=next(alphas, alpha), b=next(betas, beta)))
    return found[direction * len(default) : (direction + 1) * len(default)]


def _clipped(call: Call, x: Tensor) -> Tensor:
    limit = call.attr("clip")
    return x if not limit else x.clamp(-limit, limit)


def _run(
    call: Call,
    x: Tensor,
    lengths: Tensor | None,
    inputs: Tensor,
    biases: Tensor | None,
    initial: Sequence[Tensor | None],
    steps: Sequence[Step],
) -> tuple[Tensor, ...]:
    """All outputs (seq, directions, batch, hidden), and the last states."""
    if call.attr("layout", 0):
        x, initial = x.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in initial]
    hidden, finals, rows = call.attr("hidden_size"), [], []
    for number, step in enumerate(steps):
        back = call.attr("direction", "forward") == "reverse" or number == 1
        zero = x.new_zeros(x.shape[1], hidden)
        states = tuple(zero if s is None else s[number] for s in initial)
        products = x @ inputs[number].T
        products = products if biases is None else products + biases[number]
        outputs, states = _sweep(products, lengths, states, step, back)
        rows.append(outputs)
        finals.append(states)
    y = torch.stack(rows, 1)
    last = [torch.stack(column) for column in zip(*finals, strict=True)]
    if call.attr("layout", 0):
        return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in last)
    return y, *last


def _sweep(products: Tensor, lengths: Tensor | None, states: States, step: Step, back: bool) -> tuple[Tensor, States]:
    """One direction; behind its own length a sample's states stay, and its outputs are zeros."""
    count = len(products)
    order = range(count - 1, -1, -1) if back else range(count)
    found: list[Tensor] = [products.new_zeros(0)] * count
    for t in order:
        following = step(products[t], states)
        if lengths is None:
            states, found[t] = following, following[0]
            continue
        live = (lengths.to(products.device) > t)[:, None]
        states = tuple(torch.where(live, new, old) for new, old in zip(following, states, strict=True))
        found[t] = torch.where(live, following[0], torch.zeros_like(following[0]))
    return torch.stack(found), states


@op("LSTM")
def lstm(
    call: Call,
    x: Tensor,
    weight: Tensor,
    loop: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates in the order i, o, f, c."""
    both = None if bias is None else sum(bias.chunk(2, 1))

    def step_of(d: int) -> Step:
        f, g, h = _functions(call, d, ("Sigmoid", "Tanh", "Tanh"))
        p = [torch.zeros(1, device=x.device)] * 3 if peepholes is None else list(peepholes[d].chunk(3))

        def step(product: Tensor, states: States) -> States:
            previous, c = states
            i, o, forget, new = (_clipped(call, part) for part in (product + previous @ loop[d].T).chunk(4, -1))
            i = f(i + p[0] * c)
            forget = 1 - i if call.attr("input_forget", 0) else f(forget + p[2] * c)
            c = forget * c + i * g(new)
            return f(o + p[1] * c) * h(c), c

        return step

    return _run(call, x, lengths, weight, both, (hidden, cell), [step_of(d) for d in range(len(weight))])


@op("GRU")
def gru(
    call: Call,
    x: Tensor,
    weight: Tensor,
    loop: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates in the order z, r, h."""
    own, looped = (None, None) if bias is None else bias.chunk(2, 1)

    def step_of(d: int) -> Step:
        f, g = _functions(call, d, ("Sigmoid", "Tanh"))
        rz, rr, rh = loop[d].chunk(3)
        bz, br, bh = [x.new_zeros(1)] * 3 if looped is None else list(looped[d].chunk(3))

        def step(product: Tensor, states: States) -> States:
            (previous,) = states
            z, r, new = product.chunk(3, -1)
            z = f(_clipped(call, z + previous @ rz.T + bz))
            r = f(_clipped(call, r + previous @ rr.T + br))
            if call.attr("linear_before_reset", 0):
                new = g(_clipped(call, new + r * (previous @ rh.T + bh)))
            else:
                new = g(_clipped(call, new + (r * previous) @ rh.T + bh))
            return ((1 - z) * new + z * previous,)

        return step

    return _run(call, x, lengths, weight, own, (hidden,), [step_of(d) for d in range(len(weight))])


@op("RNN")
def rnn(
    call: Call,
    x: Tensor,
    weight: Tensor,
    loop: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """One gate."""
    both = None if bias is None else sum(bias.chunk(2, 1))

    def step_of(d: int) -> Step:
        (f,) = _functions(call, d, ("Tanh",))
        return lambda product, states: (f(_clipped(call, product + states[0] @ loop[d].T)),)

    return _run(call, x, lengths, weight, both, (hidden,), [step_of(d) for d in range(len(weight))])
