"""The plan: which units of which group go, and why; written as JSON and replayed bit for bit."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, ValidationError

from onnxprune.dependency import Analysis, Keep
from onnxprune.errors import BadInput


class Cut(BaseModel):
    """One tensor axis that loses positions: which stay."""

    model_config = ConfigDict(frozen=True)

    tensor: str
    axis: int
    kept: tuple[int, ...]


class GroupPlan(BaseModel):
    """One group: units 0 … width−1, those kept, and where they lie."""

    model_config = ConfigDict(frozen=True)

    name: str
    width: int
    kept: tuple[int, ...]
    method: str
    error: float | None = None
    reason: str = ""
    cuts: tuple[Cut, ...] = ()


class HeadPlan(BaseModel):
    """A new head that took the place of a tail before anything was removed: see `passes.pool_head.Head`.

    `weight` and `bias` are tensors of ONNX in base64, as they were fitted.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    axis: int
    target: str
    weight: str
    bias: str


class ProductPlan(BaseModel):
    """A layer that became two: of which rank, by which method, and which kind where it is a convolution."""

    model_config = ConfigDict(frozen=True)

    name: str
    rank: int
    method: str
    kind: Literal["channel", "spatial-svd"] = "channel"


class CodesPlan(BaseModel):
    """A layer whose weight is stored as codes of a byte: by which method, and how many numbers each stands for."""

    model_config = ConfigDict(frozen=True)

    name: str
    method: str
    segment: int
    seed: int = 0


class Plan(BaseModel):
    """What a run removes; `schema_version` is 2 where older readers would misread it: where there are `heads`,
    `products` or `codes`.

    `open` and `sampler` are the options of that name, without which the groups would be others.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1, 2] = 1
    heads: tuple[HeadPlan, ...] = ()
    groups: tuple[GroupPlan, ...]
    products: tuple[ProductPlan, ...] = ()
    codes: tuple[CodesPlan, ...] = ()
    open: tuple[Literal["normalised"], ...] = ()
    sampler: bool | None = None

    def removed(self) -> Mapping[str, list[int]]:
        """The positions that go, by group."""
        return {g.name: sorted(set(range(g.width)) - set(g.kept)) for g in self.groups}


def cuts(analysis: Analysis, units: np.ndarray, keep: Keep) -> tuple[Cut, ...]:
    """The axes of constants on which these units lie, and the positions that stay there."""
    found: dict[tuple[str, int], Cut] = {}
    for slot in analysis.slots:
        if slot.reader is None or len(slot.label.axes) > 1 or not np.isin(slot.label.atoms, units).any():
            continue
        name, axis = slot.value.name or "", slot.label.axes[0]
        found[name, axis] = Cut(tensor=name, axis=axis, kept=tuple(np.flatnonzero(keep[slot.label.atoms]).tolist()))
    return tuple(found.values())


def keep_of(plan: Plan, analysis: Analysis) -> Keep:
    """The choice that a plan makes in this model.

    Raises BadInput where the model is not the plan's: a group is missing, has another width, or does not allow it.
    """
    groups = {group.name: group for group in analysis.groups}
    for planned in plan.groups:
        group = groups.get(planned.name)
        if group is None or group.width != planned.width:
            found = "no such group" if group is None else f"width {group.width}"
            raise BadInput(f"the plan's group {planned.name!r} has width {planned.width}; this model has {found} there")
        if not planned.kept or len({i for i in planned.kept if 0 <= i < group.width}) != len(planned.kept):
            raise BadInput(f"the plan's group {planned.name!r} must keep some of 0 … {group.width - 1}, each once")
        if group.rows is not None:
            per_row = np.bincount(group.rows[list(planned.kept)], minlength=group.row_count)
            if per_row.min() != per_row.max():
                raise BadInput(
                    f"the plan keeps {per_row.tolist()} units of the rows of {planned.name!r}: they must agree"
                )
    return analysis.keep_without(plan.removed())


def tensor_text(tensor: ir.TensorProtocol) -> str:
    """A tensor as a plan holds it."""
    return base64.b64encode(ir.to_proto(tensor).SerializeToString()).decode()


def tensor_from(text: str) -> ir.TensorProtocol:
    """The inverse of `tensor_text`. Raises BadInput where the text is something else."""
    proto = onnx.TensorProto()
    try:
        proto.ParseFromString(base64.b64decode(text, validate=True))
        tensor = ir.serde.deserialize_tensor(proto)
        tensor.numpy()
    except Exception as error:  # of base64, protobuf and onnx-ir
        raise BadInput(f"the plan holds a tensor that cannot be read: {error}") from error
    return tensor


def load_plan(path: str | Path) -> Plan:
    """Read a plan. Raises BadInput where it is not one."""
    try:
        return Plan.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path} is not a plan: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
