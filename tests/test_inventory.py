"""Every operator that exists is ruled, or a barrier with a reason: a new one fails here until somebody decides."""

import onnx.defs
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from onnxprune.op_rules import RULES
from onnxprune.op_rules.barriers import BARRIERS
from onnxprune.op_rules.layout import CHANNEL_FREE

DOMAINS = ("", "com.microsoft")
STANDARD = sorted({schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""})
RUN = sorted({(s.domain, s.name) for s in runtime.get_all_operator_schema() if s.domain in DOMAINS})


@pytest.mark.parametrize("op_type", STANDARD)
def test_every_standard_operator_is_decided(op_type: str) -> None:
    assert ("", op_type) in RULES.keys() | BARRIERS.keys(), f"{op_type}: give it a rule, or a reason in barriers.py"


@pytest.mark.parametrize(("domain", "op_type"), RUN)
def test_every_operator_of_onnxruntime_is_decided(domain: str, op_type: str) -> None:
    assert (domain, op_type) in RULES.keys() | BARRIERS.keys(), f"{op_type}: give it a rule, or a reason in barriers.py"


def test_no_operator_has_a_rule_and_a_reason_against_it() -> None:
    assert not RULES.keys() & BARRIERS.keys()


def test_operators_that_only_make_numbers_take_none_that_could_hold_channels() -> None:
    newest = {schema.name: schema for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    sizes = {"tensor(int32)", "tensor(int64)"}
    taking = {name: newest[name].inputs for name in CHANNEL_FREE if name not in ("Shape", "MelWeightMatrix", "Range")}
    assert {name for name, inputs in taking.items() if any(not set(x.types) <= sizes for x in inputs)} == set()


def test_the_inventory_is_not_empty() -> None:
    assert {"Conv", "Upsample", "Scatter"} <= set(STANDARD)
    assert len(STANDARD) > 190
    assert ("com.microsoft", "FusedConv") in RUN
