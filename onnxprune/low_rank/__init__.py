"""Low-rank layers: a matrix becomes the product of two, by singular values, by responses, or with the activation."""
