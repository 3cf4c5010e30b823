"""Exports, chain decoding and acceptance figures."""
