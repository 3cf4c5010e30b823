"""Run the jobs of dry runs one after another, with what all jobs import loaded once.

    cd FOLDER && snakemake -n --printshellcmds ... > planned.txt
    python -m tests.builders.in_one_process FOLDER ...

Each folder is a process of its own, forked after the imports; its output is in `output.txt` and its
exit code in `code.txt`. Jobs of several processes are launched as in a run.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

from benchmarks.startup import planned, planned_run


def run(folder: Path) -> None:
    """All jobs of a folder; never returns."""
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        os.environ |= planned_run(Path())
        for job in planned(Path("planned.txt").read_text(encoding="utf-8")):
            module, arguments, processes = job
            if processes > 1:
                launch = [sys.executable, "-m", "workflow_scripts.launch", "--gpus", "0"]
                several = [*launch, "--processes", str(processes), "--", module, *arguments]
                subprocess.run(several, check=True)
                continue
            sys.argv[1:] = arguments
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path("code.txt").write_text(str(code))
        os._exit(code)


if __name__ == "__main__":
    import eagle3.evaluation.evaluator
    import eagle3.report.page
    import eagle3.training.stage  # noqa: F401

    for name in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            run(Path(name))
        os.waitpid(child, 0)
