"""The teacher: what the original model answers, on onnxruntime, or through its twin where torch has a GPU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxprune.calibration.spool import Spool
from onnxprune.graph import Array
from onnxprune.passes.fine_tune import with_outputs
from onnxprune.runtime import open_session, run
from onnxprune.torch_twin import Twin
from onnxprune.torch_twin.tensors import to_tensor
from onnxprune.training.samples import Samples

MOST_BYTES = 4_000_000_000
"""Of answers that are kept on disk; more are computed each time they are needed."""

Select = Callable[[str, Array], Array]


class Teacher:
    """Answers for feeds by name. `select` takes the channels of inner values that the student has, too."""

    def __init__(self, model: ir.Model, inner: Sequence[str], select: Select, device: torch.device) -> None:
        model = with_outputs(model, inner)
        self._inner, self._select, self._device = set(inner), select, device
        self._kept: dict[str, Array] = {}
        self._answer = _by_twin(model, device) if device.type == "cuda" else _by_runtime(model)

    def keep_all(self, samples: Samples, batch: int) -> None:
        """Answer for all samples now, and keep that on disk, where each answer has an axis of samples in front."""
        spools: dict[str, Spool] = {}
        for start in range(0, samples.count, batch):
            rows = np.arange(start, min(start + batch, samples.count))
            for name, array in self.answers(samples.feeds(rows)).items():
                if not array.ndim or len(array) != len(rows) or array.nbytes // len(rows) * samples.count > MOST_BYTES:
                    return
                spools.setdefault(name, Spool(array.dtype, array.shape[1:])).append(array)
        self._kept = {name: spool.array() for name, spool in spools.items()}

    def answers(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What it answers to feeds."""
        found = self._answer(feeds)
        return {name: self._select(name, array) if name in self._inner else array for name, array in found.items()}

    def tensors(self, feeds: Mapping[str, Array], rows: Array) -> dict[str, Tensor]:
        """Answers for the samples `rows`, of which `feeds` are the inputs, as tensors."""
        found = {name: np.array(array[rows]) for name, array in self._kept.items()} or self.answers(feeds)
        return {name: to_tensor(array).to(self._device) for name, array in found.items()}


def _by_runtime(model: ir.Model) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    session = open_session(model)
    return lambda feeds: run(session, feeds)


def _by_twin(model: ir.Model, device: torch.device) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    twin: Any = Twin(model).to(device)

    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            found = twin(**{name: to_tensor(array).to(device) for name, array in feeds.items()})
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    return answer
