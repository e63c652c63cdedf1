"""onnxruntime sessions: opened from the in-memory graph, whole or cut, and run by name."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxprune.errors import BadInput
from onnxprune.graph import captured_values
from onnxprune.model_io import save
from onnxprune.parallel import session_threads
from onnxprune.serialise import LARGE, large_initializers, lighten, root_message, tensor_bytes

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"
_VIEWED = {
    "tensor(float)": np.dtype(np.float32).str,
    "tensor(double)": np.dtype(np.float64).str,
    "tensor(float16)": np.dtype(np.float16).str,
    "tensor(bfloat16)": np.dtype(np.uint16).str,
}
"""Types whose outputs numpy reads where they are, as numpy calls them; bfloat16, which it does not know, as bits."""
BFLOAT16 = ir.DataType.BFLOAT16

_MEMORY_LIMIT = 1_500_000_000  # above this the serialised copy beside the session's own costs too much


def open_session(
    model: ir.Model,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    optimise: bool = True,
    timed: bool = False,
    lent: bool | None = None,
) -> "ort.InferenceSession":
    """Open a session on `model`, which is not changed.

    With `outputs` (names of any values) the session computes these instead of the graph's outputs, and only the nodes
    they need, from `inputs` (those of the graph that have no value if not given). Without `providers` it runs on the
    CPU. Threads that wait for work leave the cores to others, unless the session is to be `timed`: then they spin, as
    by default. A session to which the weights are `lent` gets them with each `run` of this module, and only there, and
    keeps no copy; unless told otherwise that is so for large models that are not timed.

    Raises:
        BadInput: onnxruntime is missing, cannot load the model, or did not start a provider that was asked for.
    """
    if outputs is None:
        model = model.clone()
    else:
        every = [value.name or "" for value in model.graph.inputs if not value.is_initializer()]
        model = subgraph(model, every if inputs is None else inputs, outputs)
    return open_own(model, threads=threads, providers=providers, optimise=optimise, timed=timed, lent=lent)


def open_own(
    model: ir.Model,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    optimise: bool = True,
    timed: bool = False,
    lent: bool | None = None,
) -> "ort.InferenceSession":
    """Open a session on the whole of `model`, which is given away: see `open_session`."""
    ort = import_onnxruntime()
    wanted = list(providers or [CPU])
    _require_available(wanted, ort)
    options = _options(ort, threads if threads or timed else session_threads(), optimise, timed)
    if lent is None:
        lent = not (timed or providers) and tensor_bytes(model) > LARGE
    try:
        session = _open_lent(ort, model, options) if lent else _open(ort, model, options, wanted)
    except BadInput:
        raise
    except Exception as error:  # onnxruntime's exception types are private and many
        raise BadInput(f"onnxruntime {ort.__version__} cannot load the model: {_reason(error)}") from error
    _require_started(wanted, session, ort)
    return session


def run(session: "ort.InferenceSession", feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run `session` once and return its outputs by name; large ones are read-only views of the runtime's memory.

    Raises:
        BadInput: onnxruntime refuses the feeds (name, rank or dtype) or fails while it runs.
    """
    feeds = {**feeds, **getattr(session, "lent", {})}
    outputs = session.get_outputs()
    names = [output.name for output in outputs]
    plain = all(array.dtype.kind in "biuf" for array in feeds.values())
    brief = any(array.dtype == BFLOAT16.numpy() for array in feeds.values())
    try:
        if brief or (plain and all(output.type in _VIEWED for output in outputs)):
            return dict(zip(names, _run_in_place(session, names, feeds), strict=True))
        values = session.run(names, dict(feeds))
    except Exception as error:  # onnxruntime's exception types are private and many
        raise BadInput(f"onnxruntime cannot run the model: {_reason(error)}") from error
    return dict(zip(names, values, strict=True))


def _run_in_place(
    session: "ort.InferenceSession", names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The outputs, without a copy of them or of the feeds."""
    given = {name: _lent(np.asarray(array, order="C")) for name, array in feeds.items()}
    theirs = {value.data_ptr() for value in given.values()}
    return [_borrow(value, session, theirs) for value in session.run_with_ort_values(names, given)]


def _lent(array: np.ndarray) -> Any:
    lend = import_onnxruntime().OrtValue
    if array.dtype == BFLOAT16.numpy():
        return lend.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16.value)
    return lend.ortvalue_from_numpy(array)


def _borrow(value: Any, session: "ort.InferenceSession", theirs: set[int]) -> np.ndarray:
    """A view of an output; a copy where it is an input handed through, which is the caller's, or not in main memory."""
    if value.data_type() not in _VIEWED:
        return np.array(value.numpy())
    if value.data_type() == "tensor(bfloat16)":
        size = value.tensor_size_in_bytes()
        bits = np.array(_Borrowed(value, session)) if size else np.empty(value.shape(), np.uint16)
        return bits.view(BFLOAT16.numpy())
    if value.device_name() != "cpu" or not value.tensor_size_in_bytes() or value.data_ptr() in theirs:
        return np.array(value.numpy())
    return np.asarray(_Borrowed(value, session))


class _Borrowed:
    """An output where the runtime put it. numpy's view keeps this object alive, and with it value and session.

    An output that is a constant, or was folded into one, lies in memory of the session.
    """

    def __init__(self, value: Any, session: "ort.InferenceSession") -> None:
        self.owners = value, session
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(value.shape()),
            "typestr": _VIEWED[value.data_type()],
            "data": (value.data_ptr(), True),
        }


def import_onnxruntime() -> Any:
    """Return the onnxruntime module.

    Raises:
        BadInput: it is not installed, or broken.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput(
            f"onnxruntime cannot be imported ({error}): install onnxprune[cpu] or onnxprune[gpu], one of them"
        ) from error
    return onnxruntime


def subgraph(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """Cut out the model that computes `outputs` from `inputs`, with the initializers and functions it needs.

    Tensors are shared with `model`, which is not changed. Inputs that are not graph inputs keep their dtype and lose
    their shape, as do intermediate values: a declared shape may be false, or recorded at another batch size. A
    constant may be an input: its value is then what is fed.

    Raises:
        BadInput: a name is unknown, an input has no dtype, or the outputs need more than the inputs.
    """
    try:
        graph = ir.convenience.extract(model.graph, inputs, outputs)
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"cannot cut {list(outputs)} out from {list(inputs)}: {root_message(error)}") from error
    return _bounded(model, graph)


def part(
    model: ir.Model, nodes: Sequence[ir.Node], given: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> ir.Model:
    """Cut out these nodes of the graph, which lie in its order, to be run on what is `given`.

    Without the sizes of its inputs the runtime searches long for memory to use again.
    """
    made = {value.name: value for node in nodes for value in node.outputs}
    reads = (value for node in nodes for value in (*node.inputs, *captured_values(node)) if value is not None)
    read = {value.name: value for value in reads if value.graph is model.graph}
    constants = [value for value in read.values() if value.is_initializer()]
    view = ir.GraphView(
        [read[name] for name in given],
        [made[name] for name in outputs],
        nodes=nodes,
        initializers=constants,
        opset_imports=model.graph.opset_imports,
        name=model.graph.name,
    )
    graph = view.clone()
    for value in graph.inputs:
        dtype = given[value.name or ""].dtype
        value.type = ir.TensorType(ir.DataType.STRING if dtype.kind in "OUS" else ir.DataType.from_numpy(dtype))
    bounded = _bounded(model, graph)
    for value in graph.inputs:
        value.shape = ir.Shape(given[value.name or ""].shape)
    return bounded


def _bounded(model: ir.Model, graph: ir.Graph) -> ir.Model:
    """A model of a graph that was cut out of `model`: what it declares of shapes in between goes."""
    given = {value.name for value in model.graph.inputs}
    for value in graph.inputs:
        if value.type is None:
            raise BadInput(f"cannot cut at {value.name!r}: its dtype is not known; run shape inference first")
        if value.name not in given:
            value.shape = None
        value.const_value = None
        graph.initializers.pop(value.name or "", None)
    for node in graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)


def _options(ort: Any, threads: int | None, optimise: bool, timed: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised; the runtime's own lines beside ours would tell them twice
    if threads is not None:
        options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A pool that still spins after a run would steal the cores from numpy, or from the next session timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not timed:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(ort: Any, model: ir.Model, options: Any, providers: list[str]) -> Any:
    """Open `model`, which is changed, with the large weights where they lie: the session reads them there."""
    large = [value.const_value for value in large_initializers(model)]
    outside = sum(tensor.nbytes for tensor in large if tensor is not None)
    if outside > LARGE and (folder := _folder(large)):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=providers)
    if outside > LARGE or tensor_bytes(model) - outside > _MEMORY_LIMIT:
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            path = save(model, Path(folder) / "model.onnx").model
            return ort.InferenceSession(str(path), options, providers=providers)
    weights = lighten(model)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=providers)
    session.weights_in_use = values  # the runtime does not own their memory
    return session


def _folder(tensors: Sequence[ir.TensorProtocol | None]) -> str | None:
    """The folder of the files that all these tensors lie in; None where one lies elsewhere, or in memory."""
    folders = {str(tensor.base_dir) if isinstance(tensor, ir.ExternalTensor) else None for tensor in tensors}
    return folders.pop() if len(folders) == 1 else None


def _open_lent(ort: Any, model: ir.Model, options: Any) -> Any:
    """Open `model`, which is changed, with the large weights as inputs: the runtime reads them where they lie."""
    weights, graph = lighten(model), model.graph
    for name in weights:
        value = graph.initializers.pop(name)
        assert value.const_value is not None
        value.type, value.const_value = ir.TensorType(value.const_value.dtype), None
        graph.inputs.append(value)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=[CPU])
    session.lent = weights
    return session


def _require_available(wanted: list[str], ort: Any) -> None:
    available = ort.get_available_providers()
    missing = [name for name in wanted if name not in available]
    if missing:
        raise BadInput(f"provider {missing[0]} is not in this onnxruntime; available: {', '.join(available)}")


def _require_started(wanted: list[str], session: Any, ort: Any) -> None:
    started = session.get_providers()
    missing = [name for name in wanted if name not in started]
    if missing:
        raise BadInput(
            f"provider {missing[0]} did not start (drivers or libraries are missing); started: {', '.join(started)}; "
            f"available: {', '.join(ort.get_available_providers())}; `onnxprune doctor` tells more"
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "is not a registered function/op" in text:
        return f"{text} (a custom operator: onnxprune loads no operator library that a model names)"
    if "bfloat16" in text:
        return f"{text} (it knows few operators in bfloat16: convert the model to float32 or float16)"
    if "Could not find an implementation" in text:
        return f"{text} (it has no such operator for the model's data type: convert the model to float32)"
    if "opset" in text.lower() or "ir version" in text.lower():
        return f"{text} (convert the model to an older opset, or install a newer onnxruntime)"
    return text
