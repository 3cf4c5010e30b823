"""Real shell lines: configuration values stay words, secrets stay out of all that is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eagle3.run import load_run
from tests.builders.models import save_model, save_tokenizer
from tests.builders.waiting import PAUSE
from tests.rules.workflow import Outcome, command

pytestmark = pytest.mark.dag

TALK = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3 w4 w5"}]
# every way a shell, Snakemake or Python's format would read more into a word than there is
EVIL = (
    "a 'b\" $(touch pwned) `touch pwned` ; touch pwned & | > pwned {input} {split} %s \\ $HOME\nä"
)
# a file's name may hold all of that but a slash
NAME = EVIL.replace("\n", " ")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STAND_IN = """
import json, sys
from pathlib import Path
from workflow_scripts import entry

words = sys.argv[1:]
with open("calls.jsonl", "a") as out:
    out.write(json.dumps(words) + "\\n")
name = next(w for w in words if w.startswith("workflow_scripts.") and not w.endswith(".launch"))
job = entry.read_job(None, words[words.index(name) + 1 :])
paths, which = job.run.paths, (job.split, job.shard)
checkpoint = ("model.safetensors", "optimizer.safetensors", "state.json")
made = {
    "prepare_dataset": [paths.rows, paths.rows_index, paths.rows_report],
    "train_embedded_target": job.run.target_files,
    "regenerate_answers": [paths.answers(*which), paths.answers_report(*which)],
    "tokenize_shard": [paths.tokens(*which)],
    "map_vocabulary": [paths.vocab, paths.vocab_report],
    "make_schedule": [paths.schedule],
    "make_plan": [paths.plan],
    "capture_hidden_states": [
        paths.states(*which, job.stage), paths.states_check(*which, job.stage)
    ],
    "train_stage": [
        paths.metrics(job.stage), *(paths.checkpoint(job.stage, name) for name in checkpoint)
    ],
    "score_stage": [paths.score(job.stage)],
    "select_best": [paths.choice, paths.best(), paths.best("state.json")],
    "export_draft": [path.with_name(n) for path in job.out for n in (path.name, "config.json")],
    "evaluate_draft": [paths.acceptance],
    "write_report": [
        paths.report, *(paths.draft(name, "README.md") for name in job.run.config.export.formats)
    ],
}[name.rpartition(".")[2]]
for path in map(Path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
"""


def write_rows(path: Path, count: int = 60) -> None:
    rows = [{"id": f"row-{n}", "conversations": TALK} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def small(folder: Path, name: str, data: str) -> dict[str, Any]:
    """A configuration with a tiny target and dataset of these names."""
    save_model(folder / name, "llama")
    save_tokenizer(folder / name)
    (folder / name / "chat_template.jinja").write_text(TEMPLATE)
    write_rows(folder / data)
    return {
        "dataset": {"source": data, "num_samples": 16, "shard_size": 8, "eval_fraction": 0.3},
        "target": {"model": name},
        "tokens": {"max_length": 64},
        "vocab": {"draft_vocab_size": 32},
        "train": {"pack_tokens": 64},
    }


def test_every_word_of_the_configuration_reaches_every_job_as_it_is(tmp_path: Path) -> None:
    """The whole DAG runs through its real shell lines, with a `python` that notes its arguments."""
    change = small(tmp_path, f"model {NAME}", f"rows {NAME}.jsonl")
    change["dataset"] |= {"subset": EVIL, "split": EVIL, "revision": EVIL}
    change["tokens"] |= {"system_prompt": EVIL, "chat_template_options": {EVIL: EVIL}}
    change["target"] |= dict.fromkeys(("embedding_key", "lm_head_key", "final_norm_key"), EVIL)
    change["target"]["revision"] = EVIL
    weights = tmp_path / f"model {NAME}" / "model.safetensors"
    tensors = {**load_file(weights), EVIL: np.zeros(1)}
    del tensors["lm_head.weight"]  # the head is the one of that name
    save_file(tensors, weights)
    change["dataset"]["regenerate"] = {"backend": "server", "model": EVIL}
    change["resources"] = {
        "regenerate": {"servers": ["http://host/$(touch%20pwned)';`touch<TAB>pwned`"]},
        "capture": {"sglang_python": EVIL, "sglang_arguments": {EVIL: [EVIL]}},
    }
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    functions = tmp_path / "functions.sh"
    functions.write_text(f'python() {{ {sys.executable} "{stand_in}" "$@"; }}\n')
    outcome = called(tmp_path, change, {"BASH_ENV": str(functions)})
    assert outcome.code == 0, outcome.text[-6000:]
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    jobs = [
        next(w for w in call if "workflow_scripts." in w and "launch" not in w) for call in calls
    ]
    assert len(set(jobs)) == 13, sorted(set(jobs))
    run = load_run(tmp_path / "results" / "small")
    assert Path(run.target).name == f"model {NAME}"
    [source] = run.external.sources
    assert Path(source.place).name == f"rows {NAME}.jsonl"
    assert source.subset == source.split == source.revision == EVIL
    capture, tokens = run.config.resources.capture, run.settings["tokens"].values["tokens"]
    assert capture.sglang_python == EVIL and capture.sglang_arguments == {EVIL: [EVIL]}
    assert tokens["system_prompt"] == EVIL
    assert tokens["chat_template_options"] == {EVIL: EVIL}
    assert not list(tmp_path.rglob("pwned*"))


def called(folder: Path, change: dict[str, Any], more: dict[str, str], *target: str) -> Outcome:
    """The workflow with more variables around it."""
    done = subprocess.run(
        command(folder, change=change, target=target or "train"),
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | more,
        check=False,
        timeout=600,
    )
    return Outcome(done.returncode, done.stdout + done.stderr)


SECRETS = {
    name: f"secret-{number}-of-{name.lower()}"
    for number, name in enumerate(
        ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID",
         "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY",
         "SNAKEMAKE_STORAGE_S3_SECRET_KEY")
    )
}  # fmt: skip


SHARD = "hidden_states/train/shard-00000.safetensors"


@pytest.mark.long
def test_secrets_are_in_no_file_and_no_command_line_and_the_umask_holds(tmp_path: Path) -> None:
    """Real jobs up to the hidden states of a shard; every process of them is looked at."""
    change = small(tmp_path, "model", "rows.jsonl")
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(PAUSE):
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if (line.parent / "cwd").resolve() == tmp_path:
                        seen.add(line.read_bytes().decode(errors="replace"))
                except OSError:
                    continue  # it has ended

    watcher = threading.Thread(target=watch)
    watcher.start()
    mask = os.umask(0o027)
    try:
        outcome = called(tmp_path, change, SECRETS, f"results/small/{SHARD}")
    finally:
        os.umask(mask)
        stop.set()
        watcher.join()
    assert outcome.code == 0, outcome.text[-6000:]
    assert any("workflow_scripts.capture_hidden_states" in line for line in seen)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "shard-00000.safetensors" for path in files)
    assert any(".snakemake" in path.parts for path in files)
    for name, secret in SECRETS.items():
        assert secret not in outcome.text, name
        assert not [path for path in files if secret.encode() in path.read_bytes()], name
        assert not [line for line in seen if secret in line], name
    # .snakemake/ is Snakemake's own, which gives its group what its umask does not
    made = [tmp_path / "results", *(tmp_path / "results").rglob("*")]
    assert not [path for path in made if path.stat().st_mode & 0o027]
