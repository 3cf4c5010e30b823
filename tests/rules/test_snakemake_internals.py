"""What this project uses of Snakemake beyond its documentation, read from the installed one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.rules.workflow import ROOT

SNAKEFILE = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from eagle3.workflow.snakemake_internals import SnakemakeInternals

configfile: "config.yaml"

SNAKEMAKE = SnakemakeInternals(workflow)
READ = {{
    "plans": SNAKEMAKE.plans,
    "configfiles": [path.rpartition("/")[2] for path in SNAKEMAKE.configfiles],
    "deployment_methods": SNAKEMAKE.deployment_methods,
    "caches_between_workflows": SNAKEMAKE.caches_between_workflows,
    "runs_on_this_machine": SNAKEMAKE.runs_on_this_machine(),
    "has_limit": [SNAKEMAKE.has_limit(name) for name in ("gpu", "theirs")],
    "s3_settings": getattr(SNAKEMAKE.s3_settings.get_settings(None), "region", None),
}}
SNAKEMAKE.limit("gpu", 3)

rule all:
    input: "large.txt", "small.txt"

rule large:
    output: "large.txt"
    benchmark: "large.tsv"
    resources: gpu=2
    shell: "touch {{output}}"

rule small:
    output: "small.txt"
    benchmark: "small.tsv"
    resources: gpu=1
    container: "docker://image"
    shell: "touch {{output}}"

rule unwanted:
    output: "unwanted.txt"
    shell: "touch {{output}}"

SNAKEMAKE.drop_benchmark("small")

onstart:
    if SNAKEMAKE.plans:
        READ["limit"] = SNAKEMAKE.has_limit("gpu")
        names = ("large.txt", "small.txt", "unwanted.txt")
        READ["asks_for"] = [SNAKEMAKE.asks_for(name) for name in names]
        READ["most_requested"] = SNAKEMAKE.most_requested("gpu")
        READ["images"] = list(SNAKEMAKE.images())
        with open("read.json", "w") as out:
            json.dump(READ, out)
"""


def run(folder: Path, *words: str) -> dict[str, object]:
    """What the Snakefile above reads in a real call."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, object] = json.loads((folder / "read.json").read_text())
    return read


def test_every_name_is_there_and_means_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "config.yaml").write_text("key: value\n")
    read = run(tmp_path, "--resources", "theirs=1")
    assert read.pop("s3_settings") != "somewhere"  # the plugin's default
    assert read == {
        "plans": True,
        "configfiles": ["config.yaml"],
        "deployment_methods": [],
        "caches_between_workflows": False,
        "runs_on_this_machine": True,
        "has_limit": [False, True],
        "limit": True,
        "asks_for": [True, True, False],
        "most_requested": 2,
        "images": ["docker://image"],
    }
    assert (tmp_path / "large.tsv").is_file() and not (tmp_path / "small.tsv").exists()
    (tmp_path / "small.txt").unlink()
    (tmp_path / "other.yaml").write_text("key: other\n")
    words = ["--storage-s3-region", "somewhere", "--sdm", "env-modules"]
    again = run(tmp_path, "--configfile", "other.yaml", *words)
    assert again["most_requested"] == 1  # of what runs, and not of what is finished
    assert "other.yaml" in again["configfiles"]
    assert again["s3_settings"] == "somewhere"
    assert again["deployment_methods"] == ["env_modules"]


def test_no_other_file_asks_snakemake_for_more() -> None:
    documented = {"basedir", "source_path"}
    first = {"config_settings"}  # asked by the Snakefile before the library can be imported
    for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]:
        names = set(re.findall(r"(?<![/\w.])workflow\.(\w+)", path.read_text()))
        names -= documented | (first if path.name == "Snakefile" else set())
        assert not names, path.name
