"""Settings chains, code digests and digests of external files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from eagle3.config.configuration import Config
from eagle3.errors import UserError
from eagle3.workflow import external, provenance
from eagle3.workflow.settings import all_settings

ROOT = Path(__file__).resolve().parents[2]


def settings_of(tmp_path: Path, change: dict) -> dict[str, str]:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for section, values in change.items():
        config[section] = {**config.get(section, {}), **values}
    full = Config.of(config).to_dict()
    outside = external.locate(full, ROOT, tmp_path / "digests.json")
    return {stage: s.digest for stage, s in all_settings(full, outside).items()}


def test_a_setting_reaches_every_stage_below_it_and_none_above(tmp_path: Path) -> None:
    before = settings_of(tmp_path, {})
    after = settings_of(tmp_path, {"hidden_states": {"codec": "fp32"}})
    changed = {stage for stage in before if before[stage] != after[stage]}
    forms = {f"export_{form}" for form in ("sglang", "vllm", "speculators", "hf")}
    below = {"hidden_states", "train", "score", "export", "evaluate", "plan", "report"}
    assert changed == below | forms


def test_a_file_swapped_under_its_size_and_date_is_read_again(tmp_path: Path) -> None:
    path, memo = tmp_path / "rows.jsonl", tmp_path / "digests.json"
    path.write_text("one\n")
    before = provenance.file_digests([path], memo)
    date = path.stat().st_mtime_ns
    other = tmp_path / "other.jsonl"
    other.write_text("two\n")
    other.replace(path)
    os.utime(path, ns=(date, date))
    after = provenance.file_digests([path], memo)
    assert before != after
    path.write_text("six\n")  # the same inode, too
    os.utime(path, ns=(date, date))
    assert provenance.file_digests([path], memo) not in (before, after)


def test_a_folder_is_known_by_its_files_and_not_by_its_place(tmp_path: Path) -> None:
    def digest(place: Path) -> str:
        return settings_of(tmp_path, {"dataset": {"source": str(place)}})["dataset"]

    for name in ("one", "same"):
        (tmp_path / name / "part").mkdir(parents=True)
        (tmp_path / name / "a.JSONL").write_text('{"id": 1}\n')
        (tmp_path / name / "part" / "b.jsonl").write_text('{"id": 2}\n')
        (tmp_path / name / "README.md").write_text(name)  # no data
    before = digest(tmp_path / "one")
    assert before == digest(tmp_path / "same")
    (tmp_path / "same" / "part" / "b.jsonl").rename(tmp_path / "same" / "c.jsonl")
    assert before != digest(tmp_path / "same")  # rows stand in another order
    (tmp_path / "one" / "a.JSONL").write_text('{"id": 3}\n')
    assert before != digest(tmp_path / "one")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"dataset\.source is .*none'; must be a file of .*folder"):
        digest(tmp_path / "none")


def test_resources_are_in_no_settings(tmp_path: Path) -> None:
    before = settings_of(tmp_path, {})
    assert before == settings_of(tmp_path, {"resources": {"device": "cuda"}})


def test_every_package_that_counts_is_pinned() -> None:
    names = [line.split("==")[0] for line in provenance.pinned(ROOT)]
    assert sorted(names) == list(provenance.NUMERIC)


def test_code_digest_follows_imports_and_ignores_dates(tmp_path: Path) -> None:
    (tmp_path / "eagle3" / "room").mkdir(parents=True)
    (tmp_path / "workflow_scripts").mkdir()
    (tmp_path / "envs").mkdir()
    pins = tmp_path / "envs" / "constraints.txt"
    pins.write_text("ruff==1\ntorch==1\n")
    for path, text in {
        "eagle3/__init__.py": "",
        "eagle3/room/__init__.py": "",
        "eagle3/room/used.py": 'from eagle3.room import deeper\nT = "page.jinja"\n',
        "eagle3/room/deeper.py": "X = 1\n",
        "eagle3/room/unused.py": "Y = 1\n",
        "eagle3/room/page.jinja": "of used.py\n",
        "eagle3/room/other.jinja": "of nobody here\n",
        "workflow_scripts/entry.py": "",
        "workflow_scripts/job.py": "from workflow_scripts import entry\nimport eagle3.room.used\n",
    }.items():
        (tmp_path / path).write_text(text)
    script = tmp_path / "workflow_scripts" / "job.py"
    names = [str(p.relative_to(tmp_path)) for p in provenance.sources(script, tmp_path)]
    assert names == [
        "eagle3/__init__.py",
        "eagle3/room/__init__.py",
        "eagle3/room/deeper.py",
        "eagle3/room/page.jinja",
        "eagle3/room/used.py",
        "workflow_scripts/entry.py",
        "workflow_scripts/job.py",
    ]
    digest = provenance.code_digest(script, tmp_path)
    os.utime(tmp_path / "eagle3/room/deeper.py")
    (tmp_path / "eagle3/room/unused.py").write_text("Y = 2\n")
    assert provenance.code_digest(script, tmp_path) == digest
    pins.write_text("ruff==2\ntorch==1\n")
    assert provenance.code_digest(script, tmp_path) == digest  # no result depends on it
    pins.write_text("ruff==2\ntorch==2\n")
    assert provenance.code_digest(script, tmp_path) != digest
    pins.write_text("ruff==2\ntorch==1\n")
    (tmp_path / "eagle3/room/deeper.py").write_text("X = 2\n")
    assert provenance.code_digest(script, tmp_path) != digest


def test_folder_digest_is_of_names_and_contents_and_remembers_by_date(tmp_path: Path) -> None:
    file, memo = tmp_path / "weights.safetensors", tmp_path / "memo.json"
    file.write_bytes(b"one")
    first = provenance.folder_digest([file], memo)
    os.utime(file, (1, 1))
    assert provenance.folder_digest([file], memo) == first
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    file.rename(moved / file.name)
    assert provenance.folder_digest([moved / file.name], memo) == first
    (moved / file.name).write_bytes(b"two")
    assert provenance.folder_digest([moved / file.name], memo) != first


def test_a_damaged_memo_is_only_a_lost_memo(tmp_path: Path) -> None:
    file, memo = tmp_path / "a.json", tmp_path / "memo.json"
    file.write_bytes(b"{}")
    memo.write_text("{half")
    assert provenance.folder_digest([file], memo) == provenance.folder_digest([file], memo)


def test_what_an_engine_loads_by_its_name_counts_as_imported() -> None:
    """A change of the connector inside vLLM is a change of the capture."""
    found = {
        str(path.relative_to(ROOT))
        for path in provenance.sources(ROOT / "workflow_scripts/capture_hidden_states.py", ROOT)
    }
    engines = ("separate/process", "separate/intake", "sglang/hook", "vllm/connector")
    assert {f"eagle3/engines/{name}.py" for name in engines} <= found
    assert "eagle3/target_model/final_norm.py" in found  # which the connector imports
