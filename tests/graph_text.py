"""Models from ONNX text with seeded weights attached."""

import numpy as np
import onnx

Weights = dict[str, tuple[int, ...] | np.ndarray | np.generic]


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Weights of a sane scale by the last part of the name: w (1/√fan-in), gamma, var, slope, mean, beta, b."""
    kind = name.rsplit("_", 1)[-1]
    if kind in ("gamma", "var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind == "slope":
        return rng.uniform(0.05, 0.4, shape).astype(np.float32)
    fan_in = max(shape) if len(shape) == 2 else np.prod(shape[1:])
    scale = fan_in**-0.5 if kind == "w" else 0.3
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def model_from_text(signature: str, body: str, weights: Weights, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """Parse one graph and attach its weights: an array as it stands, a shape as random numbers."""
    own = ', "com.microsoft" : 1' if "com.microsoft." in body else ""
    text = f'<ir_version: {ir}, opset_import: ["" : {opset}{own}]> net {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(sum(map(ord, body)))
    for name, value in weights.items():
        array = draw(name, value, rng) if isinstance(value, tuple) else np.asarray(value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def integers(*values: int) -> np.ndarray:
    """A 1-D int64 constant."""
    return np.array(values, np.int64)


def batchnorm(prefix: str, channels: int) -> Weights:
    """The four vectors of a BatchNormalization whose inputs are named `prefix`_gamma, _beta, _mean and _var."""
    return {f"{prefix}_{kind}": (channels,) for kind in ("gamma", "beta", "mean", "var")}


def branching(node: str, shape: str, weights: Weights) -> onnx.ModelProto:
    """A model of x (N, 6) whose taken branch of an If holds a node that gives `o`, and its weights itself."""
    then, other = f"a () => (float{shape} o) {{ {node} }}", f"b () => (float{shape} p) {{ p = Neg (q) }}"
    body = "s = ReduceSum <keepdims = 0> (x) c = Less (s, high)"
    body += f" y = If (c) <then_branch = {then}, else_branch = {other}>"
    outer: Weights = {"high": np.float32(1e9), "q": np.zeros((1, 6), np.float32)}
    model = model_from_text(f"(float[N,6] x) => (float{shape} y)", body, outer | weights)
    branch = next(one for one in model.graph.node if one.op_type == "If").attribute[0].g
    for tensor in [one for one in model.graph.initializer if one.name in weights]:
        branch.initializer.append(tensor)
        model.graph.initializer.remove(tensor)
    return model
