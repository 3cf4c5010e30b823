"""Attention of the training-time test: what it is (`interface`), and its back ends."""
