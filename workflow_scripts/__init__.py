"""The jobs of the workflow: `python -m workflow_scripts.NAME`. Their imports take seconds, in which
Ctrl-C ends them at once; `ending.run` takes over from there."""

import sys

from workflow_scripts import ending

if sys.argv[0] == "-m":  # Python looks up the job that it will run; a test would import one
    ending.leave_at_once_on_interrupt()
