"""Checks of correctness and speed on one GPU, in nine minutes at most."""
