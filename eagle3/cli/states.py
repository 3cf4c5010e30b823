"""`eagle3 export-states`: captured states for another project."""

from __future__ import annotations

from pathlib import Path

import click

from eagle3.cli.places import base_of, run_folder, target_of


@click.command(short_help="Write captured states for speculators.")
@click.argument("run")
@click.argument("folder", type=click.Path())
def export_states(run: str, folder: str) -> None:
    """Write the hidden states of RUN to the new FOLDER as speculators reads them.

    RUN is a name or a folder. Held-out documents come last (docs/import.md).
    """
    from eagle3.export import states
    from eagle3.run import load_run
    from eagle3.target_model.files import resolve_target

    run_directory = run_folder(run)
    loaded, base = load_run(run_directory), base_of(run_directory)
    target = resolve_target(target_of(loaded, base), loaded.config.target.revision)
    counts = states.export_states(loaded, base, target, Path(folder))
    ratio = f"--train-data-ratio {counts.train_ratio:.8f}"
    layers = " ".join(map(str, counts.layers))
    click.echo(f"wrote {counts.train} documents of training and {counts.held_out} held out")
    click.echo(
        f"train with: speculators train --data-path {folder} {ratio} --target-layer-ids {layers} "
        "--on-missing raise"
    )
