"""The draft model and its configuration."""
