"""The torch twin: runs an ONNX graph in torch, one function an operator, one parameter an initializer.

torch is imported here and nowhere else at the top of a module: import this package where it is needed.
"""

from onnxprune.torch_twin.module import Twin

__all__ = ["Twin"]
