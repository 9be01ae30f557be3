"""Weights & Biases as a mirror of what is measured; never in the path of the data."""
