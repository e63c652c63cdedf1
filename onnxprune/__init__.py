"""onnxprune: a trained ONNX model in, a smaller and faster one out, with a proof."""
