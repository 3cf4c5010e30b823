"""What pyproject.toml cannot say: the wheel holds the workflow too, as eagle3/project.

An editable install keeps using the checkout (`eagle3.workflow.project` finds either).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
# MANIFEST.in has the same for the source archive; a test compares both with what git tracks
SHIPPED = (
    *("Snakefile", "config.yaml", "data/*.jsonl", "docs/captions/*.rst"),
    *("envs/*.yaml", "envs/*.txt", "envs/*.def", "presets/*.yaml", "profiles/*/config.yaml"),
    *("rules/*.smk", "rules/stage_versions.yaml", "workflow_scripts/*.py"),
)


class BuildWithWorkflow(build_py):
    """Copies the files of SHIPPED beside the library."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in SHIPPED:
            paths = sorted(HERE.glob(pattern))
            if not paths:
                raise FileNotFoundError(f"{pattern}: a wheel needs it; build from a checkout")
            for path in paths:
                copy = Path(self.build_lib, "eagle3", "project", path.relative_to(HERE))
                self.mkpath(str(copy.parent))
                self.copy_file(str(path), str(copy))


setup(cmdclass={"build_py": BuildWithWorkflow})
