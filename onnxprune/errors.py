"""The errors a user can meet. Each message says what was wrong, where (node, tensor, axis) and what to do."""


class OnnxPruneError(Exception):
    """The root of every error that onnxprune raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class BadInput(OnnxPruneError):
    """The model, the data or an option is not usable; nothing was written."""

    exit_code = 2


class BudgetNotMet(OnnxPruneError):
    """The budget or the accuracy bound cannot be met; nothing was written."""

    exit_code = 3


class ProofFailed(OnnxPruneError):
    """The pruned file differs from the masked original: a defect of onnxprune; nothing was written."""
