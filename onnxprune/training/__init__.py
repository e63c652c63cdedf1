"""Training a torch twin: data, teacher, losses, optimiser, checkpoints and the loop.

What needs torch imports it at its top: import these modules where they are needed.
"""
