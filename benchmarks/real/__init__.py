"""A published chat model end to end, with real engines on a CPU (`make real`, docs/results.md)."""
