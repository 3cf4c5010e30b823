"""`eagle3 init`: a first configuration, with values that fit and a reason for each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eagle3.errors import UserError

if TYPE_CHECKING:
    from eagle3.cli.devices import Devices

SECRET = re.compile(r"(?<=--wandb-key[ =])\S+|(?<=--swanlab-key[ =])\S+")


@click.command(
    short_help="Write a first configuration.",
    epilog="No question is asked, nothing is downloaded, and no file is replaced.",
)
@click.argument("model", required=False)
@click.argument("dataset", required=False)
@click.option(
    "--out", type=click.Path(dir_okay=False), help="File to write; <run>.yaml by default."
)
@click.option(
    "--gpus", type=click.IntRange(0, 1024), help="Number of GPUs; those of this machine by default."
)
@click.option(
    "--gpu", metavar="NAME", help="Model of the GPUs of another machine, such as H100 or L40S."
)
@click.option(
    "--run", "name", help="Name of the run; by default made from the names of model and dataset."
)
@click.option(
    "--from-specforge",
    "commands",
    multiple=True,
    metavar="COMMAND",
    help="A command line of SpecForge, in quotes, instead of MODEL and DATASET. Repeat it for "
    "prepare_data.py, prepare_hidden_states.py and train_eagle3.py.",
)
def init(
    model: str | None,
    dataset: str | None,
    out: str | None,
    gpus: int | None,
    gpu: str | None,
    name: str | None,
    commands: Sequence[str],
) -> None:
    """Write a commented configuration for MODEL and DATASET.

    MODEL is a directory in Hugging Face format or hub:<owner>/<name>. DATASET is a file of
    conversations (.jsonl, .json, .parquet, .jsonl.gz, .jsonl.zst), a folder of such files, a name
    of docs/datasets.md, or hub:<owner>/<name>.
    """
    if commands:
        if model is not None:
            raise click.UsageError("give either MODEL and DATASET or --from-specforge, not both")
        if gpus is not None or gpu is not None:
            raise click.UsageError("--gpus and --gpu cannot be combined with --from-specforge")
        path, remarks = _translated(commands, out, name)
    elif model is None or dataset is None:
        raise click.UsageError(
            "give MODEL and DATASET, for example: eagle3 init models/my-llama a.jsonl"
        )
    else:
        from eagle3.cli.devices import devices

        path, remarks = _fitted(model, dataset, out, name, devices(gpus, gpu))
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    click.echo(f"wrote {path}; check it, then run:")
    click.echo(f"    eagle3 plan --configfile {path}\n    eagle3 train --configfile {path}")


def _fitted(
    model: str, dataset: str, out: str | None, name: str | None, gpus: Devices
) -> tuple[Path, list[str]]:
    """Write the configuration for a model and a dataset. Returns its path and notes."""
    from eagle3.cli.devices import TYPICAL_MEMORY
    from eagle3.cli.material import data_of, model_of
    from eagle3.cli.overlay import Line, text_of, write_new
    from eagle3.cli.presets import presets_of
    from eagle3.cli.sizes import Sizes
    from eagle3.files.hub import HUB

    target, data = model_of(model), data_of(dataset)
    run = name or run_name(target.name, data.name)
    sizes = Sizes(target, data, gpus)
    lines = [Line("run", run, f"all results are in results/{run}"), *sizes.lines()]
    check(lines, target.folder, has_weights=target.local)
    path = Path(out or f"{run}.yaml")
    head = [
        f"A draft for {model}, trained on {dataset}; written by `eagle3 init`. Every key that is "
        "not here has its default (docs/configuration.md).",
        f"    eagle3 train --configfile {path}",
    ]
    write_new(path, text_of(head, lines))
    remarks = []
    if target.text is None:
        download = f"hf download {model.removeprefix(HUB)} --include '*.json'"
        remarks.append(
            f"config.json of {model} is not on this machine, so the values suit a target of 8 B "
            f"parameters on one GPU: run `{download}` and eagle3 init again, or check "
            "tensor_parallel, evaluation.dtype, the template's options and max_length"
        )
        remarks += [
            f"--preset {preset} is a configuration for this target: eagle3 plan --preset {preset} "
            f"--set {shlex.quote(f'dataset.source={dataset}')}"
            for preset in presets_of(model)
        ]
    if data.rows is None:
        remarks.append("the number of rows is unknown; set dataset.num_samples to it or lower")
    if gpus.assumed:
        remarks.append(
            f"no GPU was found here, so GPUs with {TYPICAL_MEMORY / 1e9:.0f} GB are assumed; "
            "--gpu NAME takes those of a data sheet"
        )
    too_few = [line for line in lines if line.remark.startswith("TOO FEW")]
    remarks += [f"{line.key} is {line.value}: {line.remark}" for line in too_few]
    return path, remarks


def _translated(
    commands: Sequence[str], out: str | None, name: str | None
) -> tuple[Path, list[str]]:
    """Write the configuration that commands of SpecForge describe. Returns its path and notes."""
    from eagle3.cli.overlay import Line, text_of, write_new
    from eagle3.cli.translation import translate

    result = translate(commands)
    run = name or run_name(*result.names)
    lines = [Line("run", run, f"all results are in results/{run}"), *result.lines]
    check(lines, None)
    path = Path(out or f"{run}.yaml")
    head = [
        "Written by `eagle3 init --from-specforge` from the command lines below; "
        "docs/coming-from-specforge.md explains each flag.",
        f"    eagle3 train --configfile {path}",
    ]
    head += [f"    {SECRET.sub('…', ' '.join(command.split()))}" for command in result.commands]
    tail = ["Flags that have no key here:", *result.without] if result.without else []
    write_new(path, text_of(head, lines, tail))
    return path, result.remarks


def run_name(model: str, data: str) -> str:
    """A name for the run, from the names of model and dataset."""
    joined = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-{data}").strip("-._").lower()
    return joined[:64] or "run"


def check(lines: Iterable, folder: Path | None, has_weights: bool = True) -> None:
    """Raise UserError unless the configuration passes the checks that precede every job.

    `folder`: the target's, if it is on this machine. `has_weights`: whether it must have them.
    """
    from eagle3 import checks
    from eagle3.cli.overlay import values_of
    from eagle3.config.configuration import Config

    plain = Config.of(values_of(lines)).to_dict()
    checks.check_choices(plain)
    if folder is None:
        return
    if has_weights:
        if not any(folder.glob("*.safetensors")):
            raise UserError(f"{folder} has no weights (*.safetensors)")
        checks.check_target(plain, folder)
    else:
        checks.check_config(plain, folder)
