"""Scores from gradients through the whole graph. Modules that run the twin import torch: import them where needed."""
