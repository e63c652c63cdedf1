"""What needs gradients says what to install; what does not need them works."""

import sys

import pytest
from pipeline_case import tiny

from onnxprune.errors import BadInput


@pytest.mark.parametrize("method", ["taylor", "fisher", "hessian"])
def test_without_torch_a_method_of_gradients_says_what_to_install(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BadInput, match=rf"{method}.* pip install 'onnxprune\[torch\]'"):
        tiny(method=method, ratio=0.5)


def test_without_torch_fisher_can_mask_one_channel_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = tiny(method="fisher", ablation=True, ratio=0.5)
    assert result.report.proof < 1e-5
    assert "masked" in result.report.notes[0]
