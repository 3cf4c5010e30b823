"""Checks of correctness and speed on one GPU, in ten minutes."""
