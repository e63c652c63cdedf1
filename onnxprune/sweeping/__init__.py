"""`onnxprune sweep`: many methods at many budgets on one model, each job once, and the picture of what they cost."""
