"""`import eagle3`: cheap, and what it offers works on a run's files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import eagle3
from tests.builders.exports import draft_and_mapping, write
from tests.builders.run_file import save_run
from tests.builders.shards import captured, chats, token_shard

ROOT = Path(__file__).resolve().parents[1]


def test_importing_it_imports_nothing_else() -> None:
    script = (
        "import sys; before = set(sys.modules); import eagle3\n"
        "loaded = {name for name in set(sys.modules) - before if '.' in name}\n"
        "assert not {n for n in loaded if n.startswith('eagle3.')}, loaded\n"
        "eagle3.load_run, eagle3.load_draft\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_name_is_there_and_typed_and_explained() -> None:
    stub = ast.parse((ROOT / "eagle3" / "__init__.pyi").read_text())
    typed = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed | {"__version__"} == set(eagle3.__all__) == set(dir(eagle3))
    page = (ROOT / "docs" / "api.md").read_text()
    for name in typed:
        assert getattr(eagle3, name).__doc__, name
        assert f"`{name}" in page or f"eagle3.{name}" in page, name
    with pytest.raises(AttributeError, match="no attribute 'nix'"):
        _ = eagle3.nix


def test_files_of_a_configuration_are_laid_over_each_other(tmp_path: Path) -> None:
    for name, content in (
        ("a.yaml", {"run": "a", "train": {"epochs": 3, "seed": 1}}),
        ("b.yaml", {"train": {"epochs": 5}}),
    ):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    config = eagle3.load_config(tmp_path / "a.yaml", str(tmp_path / "b.yaml"))
    assert (config.run, config.train.epochs, config.train.seed) == ("a", 5, 1)
    assert config.tokens.max_length == 2048


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("a: [", "is not YAML"),
        ("- 1", "must hold keys and values"),
        ("run: a\nrun: b", "run twice"),
        ("run: a\ntrian: 1", "did you mean train?"),
        ("", "run is missing"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path: Path, content, said) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(eagle3.UserError, match=re.escape(said)):
        eagle3.load_config(path)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a run with a draft in two formats."""
    folder = tmp_path / "results" / "job"
    folder.mkdir(parents=True)
    planned = save_run(tmp_path, [], "/m", export={"formats": ["hf", "sglang"]})
    planned.rename(folder / "run.json")
    draft, mapping = draft_and_mapping()
    for form in ("hf", "sglang"):
        write(form, folder / "draft" / form, draft.state_dict(), mapping, dtype="float32")
    return folder


def test_a_draft_is_loaded_from_a_run_or_an_export(run_folder: Path) -> None:
    made, mapping = draft_and_mapping()
    for place in (run_folder, str(run_folder / "draft" / "sglang")):
        draft, result = eagle3.load_draft(place)
        assert np.array_equal(result.target_ids, mapping.target_ids)
        for name, weight in made.state_dict().items():
            assert torch.equal(draft.state_dict()[name], weight), name
    (run_folder / "draft" / "hf" / "config.json").unlink()
    with pytest.raises(eagle3.UserError):
        eagle3.load_draft(run_folder)


def test_a_run_names_its_files(run_folder: Path) -> None:
    run = eagle3.load_run(run_folder)
    assert run.config.export.formats == ["hf", "sglang"]
    assert run.paths.draft("hf") == "results/job/draft/hf/model.safetensors"
    renamed = run_folder.rename(run_folder.with_name("kept"))
    assert eagle3.load_run(renamed).paths.draft("hf") == "results/kept/draft/hf/model.safetensors"
    with pytest.raises(eagle3.UserError, match="no run can be read"):
        eagle3.load_run(run_folder.parent)


@pytest.fixture
def shard(targets, run_folder: Path) -> Path:
    """The run's folder with its first token shard and the states of it."""
    made = run_folder / "tokens" / "train" / "shard-00000.safetensors"
    made.parent.mkdir(parents=True)
    token_shard(made, chats(3))
    captured(run_folder / "hidden_states" / "train" / made.name, targets["llama"], made)
    return run_folder


def test_tokens_and_states_of_a_shard_belong_together(shard: Path) -> None:
    path = shard / "tokens" / "train" / "shard-00000.safetensors"
    tokens = eagle3.load_tokens(str(path))
    assert len(tokens) == 3
    states = eagle3.load_states(shard / "hidden_states" / "train" / path.name, tokens)
    assert states.read(0)["aux"].shape[1] == 3 * 32
    token_shard(path, chats(4))
    with pytest.raises(eagle3.UserError, match="other tokens"):
        eagle3.load_states(states.path, eagle3.load_tokens(path))


def test_the_examples_of_the_page_run(
    shard: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shard / "evaluation").mkdir()
    (shard / "evaluation" / "acceptance.json").write_text('{"acceptance_length": 2.5}')
    monkeypatch.chdir(shard.parents[1])
    shard.rename(shard.with_name("demo"))
    text = (shard.with_name("demo") / "run.json").read_text()
    (shard.with_name("demo") / "run.json").write_text(text.replace('"run":"job"', '"run":"demo"'))
    page = (ROOT / "docs" / "api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    said = capsys.readouterr().out
    assert len(blocks) == 3 and "2.5" in said and "torch.Size" in said
