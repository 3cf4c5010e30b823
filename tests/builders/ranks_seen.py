"""A job that joins its ranks and says who it is."""

import sys
from pathlib import Path

from eagle3.parallel.ranks import joined_ranks

with joined_ranks("cpu") as ranks:
    Path(sys.argv[1], f"rank{ranks.rank}").write_text(f"{ranks.rank} {ranks.world} {sys.argv[2:]}")
