"""The hidden-state store."""
