"""The run of a call of Snakemake: built and checked by the call itself, read back by its jobs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from eagle3.config.configuration import Config
from eagle3.config.files import check_doubled_keys
from eagle3.data.rows import check_enough, check_held_out
from eagle3.data.sources import Source
from eagle3.draft.weight_files import config_of
from eagle3.errors import UserError
from eagle3.files.artifact import Settings, read_json
from eagle3.imports.other_run import check_same_states
from eagle3.imports.split import check_documents
from eagle3.paths import Paths
from eagle3.run import VARIABLE, Run, load_run
from eagle3.target_model.quantised import check_packages
from eagle3.training.tracker import missing
from eagle3.workflow import containers
from eagle3.workflow.engine_python import engine_warnings
from eagle3.workflow.external import locate
from eagle3.workflow.gpu_training import gpu_warnings
from eagle3.workflow.project import import_folders, package_of
from eagle3.workflow.provenance import code_digest
from eagle3.workflow.settings import all_settings
from eagle3.workflow.target_dtype import settled_dtype

FOLDER = Path(".snakemake/eagle3")  # runs as calls have built them, and digests of large files
RESUMED = ("train_stage.py",)  # scripts that keep unfinished work, which is of their code alone


def new_run(
    config: Mapping[str, Any], files: Iterable[Path | str], root: Path, has_environment: bool
) -> Run:
    """The run of a configuration, checked and saved for its jobs.

    `files`: of the configuration. `root`: the project. `has_environment`: jobs have one of their
    own, which may hold what this one does not. Raises UserError in one sentence, before any job.
    """
    for file in files:
        check_doubled_keys(Path(file))
    whole = Config.of(config)
    plain = whole.to_dict()
    if whole.hidden_states.source.imports and "source" in whole.dataset.model_fields_set:
        print(
            "warning: dataset.source is not read: tokens and masks come with the states of "
            "hidden_states.source (docs/import.md)",
            file=sys.stderr,
        )
    external = locate(plain, root, FOLDER / "digests.json")
    snapshot, memo = Path(Paths(whole.run).snapshot), FOLDER / "rates.json"
    dtype = settled_dtype(plain, external, snapshot, memo, has_environment)
    external = replace(external, target_dtype=dtype)
    settings = all_settings(plain, external)
    scripts = root / "workflow_scripts"
    run = Run(
        whole, external, settings, {name: code_digest(scripts / name, root) for name in RESUMED}
    )
    if not has_environment:
        if (tracker := whole.resources.train.tracker) != "none" and find_spec(tracker) is None:
            raise missing(tracker)
        if external.target is not None and Path(external.target, "config.json").is_file():
            check_packages(Path(external.target))
    warnings = list(gpu_warnings(whole, os.environ, has_environment))
    if not has_environment:
        warnings += engine_warnings(whole, jobs_path())
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    if run.imports:
        check_documents(run.states_from, whole.dataset)
    else:
        known = Path(run.paths.rows_report)
        _check_known_rows(known, settings["dataset"], whole.dataset.num_samples)
    if whole.hidden_states.source.kind == "run":
        check_same_states(run)
    os.environ[VARIABLE] = str(run.save(FOLDER).absolute())
    return run


def planned_run(config: Mapping[str, Any]) -> Run:
    """The run that a job was planned for: files of the configuration may have been edited since."""
    # a cluster may not hand the variable on; the newest plan of the run is left then
    file = os.environ.get(VARIABLE) or Paths(str(config.get("run"))).snapshot
    os.environ[VARIABLE] = str(Path(file).absolute())
    return load_run(file)


def environment(run: Run, root: Path, has_environment: bool, in_container: bool) -> dict[str, str]:
    """Variables of every job: the package is found from any directory, and so is the interpreter
    that runs Snakemake, unless the job has a separate environment."""
    # spinning threads cost several times the work they save when jobs share cores
    variables = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    own = import_folders(root, FOLDER / "library")
    variables["PYTHONPATH"] = _in_front(own, os.environ.get("PYTHONPATH"))
    if run.config.resources.device == "cuda":  # every stage is a process: it compiles once for all
        compiled = str((FOLDER / "compiled").absolute())
        variables["TORCHINDUCTOR_CACHE_DIR"] = os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled)
    if not has_environment:
        variables["PATH"] = jobs_path()
    if in_container:
        variables |= containers.environment(
            *_visible_paths(run, root), cuda=run.config.resources.device == "cuda"
        )
        program = "APPTAINER" if shutil.which("apptainer") else "SINGULARITY"
        # the host's packages are of another Python
        inside = {"PYTHONPATH": os.pathsep.join(own), "PYTHONNOUSERSITE": "1", "PYTHONHOME": ""}
        variables |= {f"{program}ENV_{name}": value for name, value in inside.items()}
    return variables


def jobs_path() -> str:
    """PATH of jobs without an environment of their own."""
    return _in_front([str(Path(sys.executable).parent)], os.environ.get("PATH"))


def image(name: str, run: Run, root: Path) -> str:
    """Path or address of a container image, the configuration's or our own."""
    return containers.image(name, getattr(run.config.resources.containers, name), root)


def _in_front(first: Sequence[str], others: str | None) -> str:
    """A list of folders that begins with those of `first`, which are there once."""
    rest = [folder for folder in (others or "").split(os.pathsep) if folder not in ("", *first)]
    return os.pathsep.join([*first, *rest])


def _visible_paths(run: Run, root: Path) -> tuple[list[str | Path], bool]:
    """What containers see of the host, and whether jobs read from the hub."""
    external, paths = run.external, run.paths
    start = external.warm_start
    if start and not Source(start).on_hub:  # of a file, what lies beside it too
        start = str(config_of(Path(start)).parent)
    places = (external.embedded_source, start, external.adapter, run.target)
    outside = [Source(place) for place in places if place]
    outside += [*external.sources, *(Source(place) for _, place in external.prompts)]
    local = [source.place for source in outside if not source.on_hub]
    if external.states:
        local += [place for place in (external.states.place, external.states.dataset) if place]
    states = [f"{paths.out}/hidden_states{split}" for split in ("", "/train", "/eval")]
    own: list[str | Path] = [root, package_of(root), FOLDER, "results", paths.out]
    return [*own, *local, *states], any(source.on_hub for source in outside)


def _check_known_rows(report: Path, settings: Settings, want: int) -> None:
    """Too few rows are an error at once when an earlier run has already counted them."""
    if report.is_file():
        try:
            counted, _ = read_json(report, "dataset", settings.digest)
        except UserError:
            return  # of other settings: the dataset job will count again
        check_enough(counted["splits"]["train"], want)
        check_held_out(counted["splits"]["eval"])


def stage_versions(path: Path) -> dict[str, Any]:
    """The hand-kept versions of the stages upstream of the hidden states."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
