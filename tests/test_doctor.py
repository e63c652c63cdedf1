import importlib.metadata
import platform
import sys

import onnxruntime as ort
import pytest

from onnxprune import doctor
from onnxprune.doctor import diagnose
from onnxprune.errors import BadInput


def test_a_sound_installation_has_no_problems() -> None:
    diagnosis = diagnose()
    assert platform.python_version() in diagnosis.python
    assert diagnosis.packages["onnx-ir"] == importlib.metadata.version("onnx-ir")
    assert [provider.name for provider in diagnosis.providers] == ort.get_available_providers()
    assert next(provider for provider in diagnosis.providers if provider.name == "CPUExecutionProvider").problem is None


def test_two_runtimes_over_each_other_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0", "numpy": "2.0"}
    monkeypatch.setattr(doctor, "_version", known.get)
    diagnosis = diagnose()
    assert diagnosis.runtimes == {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"}
    assert diagnosis.packages["torch"] is None
    assert "onnxruntime and onnxruntime-gpu are installed over each other" in diagnosis.problems[0]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in diagnosis.problems[0]


def test_a_distribution_that_is_not_there_has_no_version() -> None:
    assert doctor._version("no-such-distribution-anywhere") is None


def test_a_missing_runtime_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    diagnosis = diagnose()
    assert diagnosis.providers == ()
    assert "install onnxprune[cpu] or onnxprune[gpu]" in diagnosis.problems[-1]


def test_a_provider_that_falls_back_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_back(*args: object, **options: object) -> None:
        raise BadInput("provider CUDAExecutionProvider did not start")

    monkeypatch.setattr(doctor, "open_session", fall_back)
    diagnosis = diagnose()
    assert all(provider.problem == "provider CUDAExecutionProvider did not start" for provider in diagnosis.providers)
    assert f"{diagnosis.providers[0].name} does not start" in diagnosis.problems[0]
