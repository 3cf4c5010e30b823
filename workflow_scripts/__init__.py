"""The jobs of the workflow: `python -m workflow_scripts.NAME`. Ctrl-C ends them at once during
their imports, which take seconds; `ending.run` takes over afterwards."""

import sys

from workflow_scripts import ending

if sys.argv[0] == "-m":  # Python is about to run a job; false if a test imports one
    ending.leave_at_once_on_interrupt()
