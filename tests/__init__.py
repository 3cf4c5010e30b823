"""A folder for each room of eagle3/, and for rules/, workflow_scripts/ (`scripts`) and envs/.

`builders` makes what several rooms need: small models, shards, exports, servers, damaged files.
`fuzz` reads hostile files, `faults` harms whole runs; `sglang`, `slurm` and `container` need an
engine or a machine of their own. Everything is imported by its path: `tests.builders.shards`.
"""
