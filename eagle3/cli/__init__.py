"""The command `eagle3`: jobs run by Snakemake, runs listed, watched and removed by their files.

One module per group of subcommands. They import heavy packages when they run, so --help is fast.
"""
