"""Data to activations to statistics; never changes the user's model."""
