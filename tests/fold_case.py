"""Networks that carry masks, gates and zeros, folded; the original, run densely, is the oracle."""

from collections.abc import Iterator

import numpy as np
import onnx
from dense_mask import max_relative_difference, run
from graph_text import Weights, model_from_text
from model_counts import constants
from topologies import feeds

from onnxprune.folding import FoldReport, fold

CLOSE = 1e-5


class Fold:
    """A model, the folded one, and what was told of it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.before = model
        folded = fold(model)
        self.after: onnx.ModelProto = folded.model
        self.report: FoldReport = folded.report

    def difference(self, seed: int = 7) -> float:
        """How far the outputs are apart on inputs that the run did not see."""
        inputs = feeds(self.before, seed, batch=3)
        return max_relative_difference(run(self.after, inputs), run(self.before, inputs))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in constants(self.after).items()}

    def ops(self) -> list[str]:
        return [node.op_type for node in self.after.graph.node]

    def groups(self) -> dict[str, tuple[int, int]]:
        """(dead, constant) channels that went, by group."""
        return {group.name: (group.dead, group.constant) for group in self.report.groups}

    def reasons(self) -> dict[str, str]:
        """Why channels and gates stay."""
        stuck = {one.name: one.reason for one in self.report.stuck}
        return stuck | {gate.name: gate.reason for gate in self.report.gates if gate.reason}


def folded(body: str, weights: Weights, out: str = "N,4,8,8") -> Fold:
    """Fold a network of x (N, 3, 8, 8), and hold its outputs to the original's."""
    found = Fold(model_from_text(f"(float[N,3,8,8] x) => (float[{out}] y)", body, weights))
    assert found.difference() < CLOSE
    assert found.report.proof < CLOSE
    return found


def zeroed(shape: tuple[int, ...], *zeros: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Random weights with zeros at each (axis, position)."""
    array = np.random.default_rng(seed).uniform(0.2, 1.0, shape).astype(np.float32)
    for axis, position in zeros:
        array[tuple(position if a == axis else slice(None) for a in range(len(shape)))] = 0
    return array


def rows(shape: tuple[int, ...], *positions: int, seed: int = 0) -> np.ndarray:
    """Random weights of which these rows are zero."""
    return zeroed(shape, *((0, position) for position in positions), seed=seed)


def columns(shape: tuple[int, ...], *positions: int, seed: int = 0) -> np.ndarray:
    """Random weights of which these columns are zero."""
    return zeroed(shape, *((1, position) for position in positions), seed=seed)


def gates(*factors: float, axes: int = 2) -> np.ndarray:
    """Factors of the channels, with so many axes of size one behind."""
    return np.array(factors, np.float32).reshape(1, -1, *[1] * axes)


def norm_of(prefix: str, gamma: np.ndarray, seed: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    """The vectors of a BatchNormalization with these factors."""
    rng = np.random.default_rng(seed)
    yield f"{prefix}_gamma", gamma.astype(np.float32)
    yield from ((f"{prefix}_{kind}", rng.standard_normal(gamma.size).astype(np.float32)) for kind in ("beta", "mean"))
    yield f"{prefix}_var", rng.uniform(0.5, 1.5, gamma.size).astype(np.float32)
