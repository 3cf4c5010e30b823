"""Attention of the training-time test: its definition (`interface`) and its back ends."""
