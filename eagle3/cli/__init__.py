"""The command `eagle3`: each subcommand calls Snakemake or the library, and does nothing else.

One module per group of subcommands. They import heavy packages when they run, so --help is fast.
"""
