"""Exports, decoding, and acceptance: simulated, decoded and served."""
