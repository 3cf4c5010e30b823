"""Decoding, and acceptance measured on held-out states, by decoding and on a server."""
