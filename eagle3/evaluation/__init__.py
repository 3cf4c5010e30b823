"""Decoding, and acceptance: on held-out states, decoded and served."""
