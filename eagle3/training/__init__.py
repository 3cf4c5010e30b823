"""Batches, optimiser, checkpoints and the stage loop."""
