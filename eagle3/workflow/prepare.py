"""The run of a Snakemake call: built and checked by the call itself, loaded by its jobs."""

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

FOLDER = Path(".snakemake/eagle3")  # runs as built by calls, and digests of large files
RESUMED = ("train_stage.py",)  # scripts that resume unfinished work of the same code


def new_run(
    config: Mapping[str, Any], files: Iterable[Path | str], root: Path, has_environment: bool
) -> Run:
    """The run of a configuration, checked and saved for its jobs.

    `files`: of the configuration. `root`: the project. `has_environment`: jobs run in a separate
    environment, which may have packages that this one lacks. Raises UserError.
    """
    for file in files:
        check_doubled_keys(Path(file))
    parsed = Config.of(config)
    plain = parsed.to_dict()
    if parsed.hidden_states.source.imports and "source" in parsed.dataset.model_fields_set:
        print(
            "warning: dataset.source is not read: tokens and masks come with the states of "
            "hidden_states.source (docs/import.md)",
            file=sys.stderr,
        )
    external = locate(plain, root, FOLDER / "digests.json")
    snapshot, memo = Path(Paths(parsed.run).snapshot), FOLDER / "rates.json"
    dtype = settled_dtype(plain, external, snapshot, memo, has_environment)
    external = replace(external, target_dtype=dtype)
    settings = all_settings(plain, external)
    scripts = root / "workflow_scripts"
    run = Run(
        parsed, external, settings, {name: code_digest(scripts / name, root) for name in RESUMED}
    )
    if not has_environment:
        if (tracker := parsed.resources.train.tracker) != "none" and find_spec(tracker) is None:
            raise missing(tracker)
        if external.target is not None and Path(external.target, "config.json").is_file():
            check_packages(Path(external.target))
    warnings = list(gpu_warnings(parsed, os.environ, has_environment))
    if not has_environment:
        warnings += engine_warnings(parsed, jobs_path())
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    if run.imports:
        check_documents(run.states_from, parsed.dataset)
    else:
        rows_report = Path(run.paths.rows_report)
        _check_known_rows(rows_report, settings["dataset"], parsed.dataset.num_samples)
    if parsed.hidden_states.source.kind == "run":
        check_same_states(run)
    os.environ[VARIABLE] = str(run.save(FOLDER).absolute())
    return run


def planned_run(config: Mapping[str, Any]) -> Run:
    """The run that a job was planned for: the configuration may have been edited since."""
    # a cluster may not pass the variable on; then the newest plan of the run is used
    file = os.environ.get(VARIABLE) or Paths(str(config.get("run"))).snapshot
    os.environ[VARIABLE] = str(Path(file).absolute())
    return load_run(file)


def environment(run: Run, root: Path, has_environment: bool, in_container: bool) -> dict[str, str]:
    """Variables of every job: it finds the package from any directory, and the interpreter that
    runs Snakemake unless it has a separate environment."""
    # when jobs share cores, spinning threads cost several times what they save
    variables = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    folders = import_folders(root, FOLDER / "library")
    variables["PYTHONPATH"] = _prepended(folders, os.environ.get("PYTHONPATH"))
    if run.config.resources.device == "cuda":  # shared by the processes of all stages
        compiled = str((FOLDER / "compiled").absolute())
        variables["TORCHINDUCTOR_CACHE_DIR"] = os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled)
    if not has_environment:
        variables["PATH"] = jobs_path()
    if in_container:
        variables |= containers.environment(
            *_visible_paths(run, root), cuda=run.config.resources.device == "cuda"
        )
        program = "APPTAINER" if shutil.which("apptainer") else "SINGULARITY"
        # the host's packages belong to another Python
        container_variables = {
            "PYTHONPATH": os.pathsep.join(folders),
            "PYTHONNOUSERSITE": "1",
            "PYTHONHOME": "",
        }
        variables |= {f"{program}ENV_{name}": value for name, value in container_variables.items()}
    return variables


def jobs_path() -> str:
    """PATH of jobs without a separate environment."""
    return _prepended([str(Path(sys.executable).parent)], os.environ.get("PATH"))


def image(name: str, run: Run, root: Path) -> str:
    """Path or address of a container image, the configuration's or our own."""
    return containers.image(name, getattr(run.config.resources.containers, name), root)


def _prepended(leading: Sequence[str], path_list: str | None) -> str:
    """A PATH that begins with the `leading` folders and has them only once."""
    rest = [
        folder for folder in (path_list or "").split(os.pathsep) if folder not in ("", *leading)
    ]
    return os.pathsep.join([*leading, *rest])


def _visible_paths(run: Run, root: Path) -> tuple[list[str | Path], bool]:
    """Host paths that containers see, and whether jobs read from the hub."""
    external, paths = run.external, run.paths
    start = external.warm_start
    if start and not Source(start).on_hub:  # config.json is next to a file of weights
        start = str(config_of(Path(start)).parent)
    places = (external.embedded_source, start, external.adapter, run.target)
    outside = [Source(place) for place in places if place]
    outside += [*external.sources, *(Source(place) for _, place in external.prompts)]
    local = [source.place for source in outside if not source.on_hub]
    if external.states:
        local += [place for place in (external.states.place, external.states.dataset) if place]
    states = [f"{paths.out}/hidden_states{split}" for split in ("", "/train", "/eval")]
    always: list[str | Path] = [root, package_of(root), FOLDER, "results", paths.out]
    return [*always, *local, *states], any(source.on_hub for source in outside)


def _check_known_rows(report: Path, settings: Settings, wanted: int) -> None:
    """Raise UserError if an earlier run has counted too few rows."""
    if report.is_file():
        try:
            counted, _ = read_json(report, "dataset", settings.digest)
        except UserError:
            return  # other settings: the dataset job counts again
        check_enough(counted["splits"]["train"], wanted)
        check_held_out(counted["splits"]["eval"])


def stage_versions(path: Path) -> dict[str, Any]:
    """The manually kept versions of the stages upstream of the hidden states."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
