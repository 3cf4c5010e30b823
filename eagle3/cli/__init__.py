"""The command `eagle3`: each of its words calls Snakemake or the library, and nothing else.

A module for each group of words. They import what is heavy when they run, so that help is quick.
"""
