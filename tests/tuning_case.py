"""A small classifier as ONNX and as a torch module written by hand, and inputs for both."""

from typing import Any

import numpy as np
import onnx
from graph_text import model_from_text
from model_counts import constants

BODY = """
h = Gemm <transB = 1> (x, a_w, a_b)
r = Relu (h)
y = Gemm <transB = 1> (r, c_w, c_b)
"""
WIDTH, CLASSES = 6, 3
PLAIN: dict[str, Any] = {"validation": 0, "ema": 0, "clip": 0, "warmup": 0, "weight_decay": 0}
"""Nothing but steps down the gradient."""


def network(seed: int, sharp: float = 1.0, dtype: type = np.float32) -> onnx.ModelProto:
    """Two layers; float[N, 4] x to float[N, 3] y. `sharp` scales the scores."""
    rng = np.random.default_rng(seed)
    weights = {
        "a_w": rng.standard_normal((WIDTH, 4)),
        "a_b": rng.standard_normal(WIDTH),
        "c_w": rng.standard_normal((CLASSES, WIDTH)) * sharp,
        "c_b": rng.standard_normal(CLASSES) * sharp,
    }
    kind = {np.float32: "float", np.float16: "float16"}[dtype]  # type: ignore[index]
    return model_from_text(
        f"({kind}[N, 4] x) => ({kind}[N, {CLASSES}] y)", BODY, {n: w.astype(dtype) for n, w in weights.items()}
    )


def inputs(count: int = 160, seed: int = 7) -> np.ndarray:
    """Seeded inputs."""
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def by_hand(model: onnx.ModelProto) -> Any:
    """The network as a torch module: `net.weights()` gives the constants by their names in the graph."""
    import torch

    held = {name: torch.tensor(array) for name, array in constants(model).items()}

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, CLASSES)
            with torch.no_grad():
                for name, parameter in self.named().items():
                    parameter.copy_(held[name])

        def named(self) -> dict[str, Any]:
            return {"a_w": self.a.weight, "a_b": self.a.bias, "c_w": self.c.weight, "c_b": self.c.bias}

        def weights(self) -> dict[str, np.ndarray]:
            return {name: parameter.detach().numpy() for name, parameter in self.named().items()}

        def forward(self, x: Any) -> Any:
            return self.c(torch.relu(self.a(x)))

    return Net()


def apart(one: onnx.ModelProto | dict[str, np.ndarray], other: onnx.ModelProto | dict[str, np.ndarray]) -> float:
    """The largest difference of any weight."""
    a, b = (constants(x) if isinstance(x, onnx.ModelProto) else x for x in (one, other))
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def moved(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """The same with each weight so much larger."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array + np.float32(by) * np.sign(array), tensor.name))
    return other
