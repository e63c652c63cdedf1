"""Every operator of the torch twin by itself: values, gradients, devices. The tables are `twin_*.py` beside this."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from twin_case import Case

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from onnxprune.torch_twin.module import Twin  # noqa: E402
from onnxprune.torch_twin.registry import NUMBERS, OPS  # noqa: E402

TABLES = sorted(path.stem for path in Path(__file__).parent.glob("twin_*.py") if path.stem != "twin_case")
CASES: list[Case] = [one for table in TABLES for one in import_module(table).CASES]
SMOOTH = [one for one in CASES if one.smooth]


def twin_of(case: Case) -> Any:
    return Twin(ir.from_proto(case.proto()))


def read_as_numbers(node: onnx.NodeProto) -> list[str]:
    places = NUMBERS.get((node.domain, node.op_type), ())
    return [name for place, name in enumerate(node.input) if place in places]


def tensors(case: Case, double: bool = False) -> dict[str, Any]:
    found = {name: torch.from_numpy(array.copy()) for name, array in case.feeds.items()}
    read = {name for node in case.proto().graph.node for name in read_as_numbers(node)}
    still = {*case.still.split(), *read}
    real = [name for name, tensor in found.items() if tensor.dtype == torch.float32 and name not in still]
    return {n: t.double().requires_grad_() if double and n in real else t for n, t in found.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_types_and_shapes_are_those_of_the_runtime(case: Case) -> None:
    found = twin_of(case)(**tensors(case))
    for name, wanted in case.expected().items():
        got = found[name].detach().numpy()
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), name
        scale = np.abs(wanted[np.isfinite(wanted)].astype(np.float64)).max(initial=1e-3)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=case.tolerance * scale, err_msg=name)


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_gradients_are_finite_differences(case: Case) -> None:
    twin, feeds = twin_of(case), tensors(case, double=True)
    names = [name for name, tensor in feeds.items() if tensor.requires_grad]

    def outputs(*given: Any) -> tuple[Any, ...]:
        found = twin(**{**feeds, **dict(zip(names, given, strict=True))})
        return tuple(tensor for tensor in found.values() if tensor.is_floating_point() and tensor.requires_grad)

    assert outputs(*(feeds[name] for name in names)), "nothing has a gradient"
    assert torch.autograd.gradcheck(outputs, tuple(feeds[name] for name in names), atol=1e-6, fast_mode=True)


def test_every_operator_stands_in_a_table() -> None:
    nodes = [node for one in CASES for node in one.proto().graph.node]
    assert OPS.keys() - {(node.domain, node.op_type) for node in nodes} == set()
