"""Offline EAGLE-3 draft training: the library. It knows nothing of Snakemake."""

__version__ = "0.1.0"
