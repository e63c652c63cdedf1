"""Scores from gradients through the whole graph. Modules that run the twin import torch: import them where needed."""

from onnxprune.errors import BadInput


def require_torch(what: str) -> None:
    """Raise BadInput, saying what to install, where torch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise BadInput(f"{what} needs gradients, and torch is not installed: pip install 'onnxprune[torch]'") from error
