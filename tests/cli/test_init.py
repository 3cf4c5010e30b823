"""A written configuration passes every check, fits, and says why."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from eagle3.cli import devices, sizes
from eagle3.cli.devices import Devices
from eagle3.cli.material import Data, Model, data_of
from eagle3.cli.overlay import Line, text_of, values_of
from eagle3.cli.sizes import TYPICAL_TOKENS, Sizes, learning_rate, samples_of, shard_size
from eagle3.config.configuration import Config
from eagle3.errors import UserError
from eagle3.parallel.gpu_peaks import sustained_tflops
from eagle3.report.loading import Loading, loading_doubt
from eagle3.report.plan_warnings import plan_warnings
from eagle3.target_model.cost import target_flops_per_token
from tests.builders.models import save_tokenizer
from tests.builders.shrunken import SHAPES, save_shrunken
from tests.rules.workflow import ROOT, snakemake

LLAMA_8B = SimpleNamespace(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
    max_position_embeddings=131072,
)
H100 = Devices(1, 80 * 2**30, "NVIDIA H100 80GB HBM3")
SIZES = Sizes(
    Model("hub:meta-llama/Llama-3.1-8B-Instruct", None, LLAMA_8B, 16 * 10**9),
    Data("sharegpt", 120_675, None),
    H100,
)


@pytest.fixture
def model(targets, tmp_path: Path) -> Path:
    """A tiny target with a tokenizer."""
    folder = tmp_path / "models" / "My Llama"
    shutil.copytree(targets["llama"], folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    rows = (ROOT / "data" / "demo_chat.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "chats.jsonl").write_text("".join(rows[:60]))
    return tmp_path / "chats.jsonl"


@pytest.mark.dag
def test_what_is_written_plans(command, model, chats, tmp_path) -> None:
    outcome = command("init", str(model), "chats.jsonl")
    assert outcome.code == 0 and "wrote my-llama-chats.yaml" in outcome.out
    written = tmp_path / "my-llama-chats.yaml"
    planned = snakemake(tmp_path, "-n", overlay=written)
    assert planned.code == 0, planned.text[-3000:]
    config = Config.of(yaml.safe_load(written.read_text()))
    assert planned.jobs["hidden_states"] == -(
        -config.dataset.num_samples // config.dataset.shard_size
    )
    again = command("init", str(model), "chats.jsonl")
    assert again.code == 1 and "already exists and was not changed" in again.err


def test_sizes_of_a_small_machine_are_small(command, model, chats, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sizes, "multiplies_bfloat16", lambda: False)
    assert command("init", str(model), "chats.jsonl", "--out", "a.yaml").code == 0
    config = Config.of(yaml.safe_load((tmp_path / "a.yaml").read_text()))
    assert config.resources.device == "cpu" and config.train.precision == "float32"
    assert config.tokens.max_length == 256 == config.train.pack_tokens  # the target's context
    assert config.vocab.draft_vocab_size == 96
    assert config.evaluation.num_prompts == config.evaluation.held_out_samples == 4
    assert 8 < config.dataset.num_samples < 45 and config.dataset.eval_fraction == 0.25


@pytest.mark.parametrize("flags", ["fpu avx2", "fpu amx_bf16 amx_tile", None])
def test_a_cpu_with_amx_trains_in_bfloat16(tmp_path, monkeypatch, flags) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"model name\t: any\nflags\t\t: {flags}\n")
    fast = devices.multiplies_bfloat16(cpuinfo)
    monkeypatch.setattr(sizes, "multiplies_bfloat16", lambda: fast)
    precision = written(replace(SIZES, devices=Devices(0))).train.precision
    assert precision == ("bfloat16" if flags and "amx" in flags else "float32")
    assert written(SIZES).train.precision == "bfloat16"


def test_more_gpus_than_heads_are_shared_by_jobs(command, model, chats, tmp_path) -> None:
    assert command("init", str(model), "chats.jsonl", "--gpus", "3", "--run", "gpu").code == 0
    config = Config.of(yaml.safe_load((tmp_path / "gpu.yaml").read_text()))
    assert config.resources.device == "cuda" and config.resources.train.processes == 3
    assert config.resources.capture.tensor_parallel == 1
    assert config.train.packs_per_batch >= 3


def test_gpus_of_another_machine_are_those_of_a_data_sheet(
    command, model, chats, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    outcome = command("init", str(model), "chats.jsonl", "--gpus", "4", "--run", "a")
    assert "no GPU was found here, so GPUs with 80 GB are assumed" in outcome.err
    assert "memory_gb: 80" in (tmp_path / "a.yaml").read_text()
    outcome = command("init", str(model), "chats.jsonl", "--gpu", "L40S", "--run", "b")
    assert outcome.code == 0 and "assumed" not in outcome.err
    config = Config.of(yaml.safe_load((tmp_path / "b.yaml").read_text()))
    assert (config.hardware.gpu, config.hardware.memory_gb) == ("L40S", 48)
    assert config.resources.train.threads == 8  # not of this machine's cores
    given = [devices.devices(2, name).memory for name in ("A100", "A100 80GB", "L40")]
    assert given == [40e9, 80e9, 48e9]
    refused = command("init", str(model), "chats.jsonl", "--gpu", "Voodoo2")
    assert refused.code == 1 and "--gpu: Voodoo2 is not known; choose from B300, " in refused.err


def test_a_large_target_on_another_machine_is_split_and_decoded_in_half_precision() -> None:
    """A GPU that nobody could ask is taken to have 80 GB."""
    large = replace(SIZES.model, weight_bytes=141 * 10**9)
    config = written(replace(SIZES, model=large, devices=Devices(8, 80e9, here=False)))
    assert config.resources.capture.tensor_parallel == 4  # three do not divide the heads
    assert config.evaluation.dtype == "bfloat16"
    mixture = replace(SIZES.model, weight_bytes=61 * 10**9)
    config = written(replace(SIZES, model=mixture, devices=Devices(1, 80e9, here=False)))
    assert config.resources.capture.tensor_parallel == 1
    assert config.evaluation.dtype == "bfloat16"


@pytest.mark.parametrize("name", SHAPES)
def test_every_family_of_the_presets_gets_a_legal_configuration(
    command, chats, tmp_path, name
) -> None:
    """Mixtures of experts, sliding windows, gated families: checked as before the first job."""
    save_shrunken(tmp_path / name, name)
    outcome = command("init", name, "chats.jsonl", "--out", "a.yaml", "--gpus", "2")
    assert outcome.code == 0, outcome.err
    width = yaml.safe_load((tmp_path / "a.yaml").read_text()).get("draft", {})
    assert ("intermediate_size" in width) == name.startswith("gpt-oss")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "chats.jsonl"], "nowhere is not a Hugging Face model directory"),
        (["owner/name", "chats.jsonl"], "for a model of the Hugging Face hub write hub:owner/name"),
        (["models/My Llama", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["models/My Llama", "sharegp"], "did you mean sharegpt?"),
        (["models/My Llama", "chats.txt"], "chats.txt is none of .json"),
        (["models/My Llama", "few.jsonl"], "the dataset has 3 rows, too few"),
        (["models/My Llama", "empty.jsonl"], "empty.jsonl has no rows"),
        (["models/base", "chats.jsonl"], "has no tokenizer"),
        (["models/bare", "chats.jsonl"], "has no weights"),
    ],
)
def test_what_cannot_be_used_is_said_and_nothing_written(
    command, model, chats, tmp_path, arguments, said
) -> None:
    lines = chats.read_text().splitlines(keepends=True)
    (tmp_path / "few.jsonl").write_text("".join(lines[:3]))
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "chats.txt").write_text("hello")
    for name, gone in (("base", "tokenizer*"), ("bare", "*.safetensors")):
        shutil.copytree(model, tmp_path / "models" / name)
        for path in (tmp_path / "models" / name).glob(gone):
            path.unlink()
    outcome = command("init", *arguments)
    assert outcome.code == 1 and said in outcome.err and outcome.err.count("\n") == 1
    assert not list(tmp_path.glob("*.yaml"))


def test_without_its_config_the_target_is_guessed_and_that_is_said(command, tmp_path) -> None:
    outcome = command("init", "hub:nobody/nothing-8b", "hub:nobody/chats", "--gpus", "2")
    assert outcome.code == 0
    assert "config.json of hub:nobody/nothing-8b is not on this machine" in outcome.err
    assert "run `hf download nobody/nothing-8b --include '*.json'`" in outcome.err
    assert "--preset" not in outcome.err
    assert "the number of rows is unknown" in outcome.err
    config = yaml.safe_load((tmp_path / "nothing-8b-chats.yaml").read_text())
    assert config["target"]["model"] == "hub:nobody/nothing-8b"
    assert config["dataset"]["num_samples"] == 20_000


def test_a_preset_for_the_same_target_is_named(command) -> None:
    outcome = command("init", "hub:Qwen/Qwen3-32B", "hub:nobody/chats", "--gpus", "2")
    assert "eagle3 plan --preset qwen3-32b-sharegpt --set dataset.source=hub:" in outcome.err


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.jsonl.gz", "folder"])
def test_rows_are_counted_in_every_form(tmp_path, name) -> None:
    rows = [{"conversations": [{"role": "user", "content": f"{n}"}]} for n in range(50)]
    lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    path = tmp_path / name
    match path.suffix:
        case ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case ".json":
            path.write_text(json.dumps(rows))
        case ".gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".jsonl":
            path.write_text(lines)
        case _:
            path.mkdir()
            (path / "b.jsonl").write_text(lines)
    result = data_of(str(path))
    assert result.rows == 50 and result.name == path.name.partition(".")[0]
    assert (result.tokens_per_row is None) == (path.suffix in (".parquet", ".gz"))


def written(sizes: Sizes) -> Config:
    return Config.of(values_of([Line("run", "any"), *sizes.lines()]))


def test_an_8b_on_one_gpu_is_about_the_preset() -> None:
    config = written(SIZES)
    preset = Config.of(yaml.safe_load((ROOT / "presets/llama3.1-8b-sharegpt.yaml").read_text()))
    assert config.train == preset.train
    assert config.dataset.num_samples == preset.dataset.num_samples
    assert config.hidden_states == preset.hidden_states
    assert config.hardware.tflops == sustained_tflops(preset.hardware.gpu)
    assert config.dataset.shard_size == preset.dataset.shard_size == 8192
    # captured, the plan finds nothing to say about it
    loading = Loading.of(config, SIZES.model.weight_bytes)
    tokens = 65_536 * (SIZES.data.tokens_per_row or TYPICAL_TOKENS)
    flops = tokens * target_flops_per_token(SIZES.model.text)
    plans = (
        {"shards": n, "loads": n + 1, "loading_seconds": loading.whole(n + 1)} for n in (8, 257)
    )
    seconds = {"capture_seconds": flops / 400e12}
    few, many = (loading_doubt(loading, plan | seconds, 65_536 // 8) for plan in plans)
    assert few == [] and many != []


def test_a_target_that_one_gpu_does_not_hold_is_split_over_a_legal_number() -> None:
    large = replace(SIZES, model=replace(SIZES.model, weight_bytes=141 * 10**9))
    ranks = {gpus: written(replace(large, devices=replace(H100, count=gpus))) for gpus in (2, 3, 8)}
    result = {gpus: config.resources.capture.tensor_parallel for gpus, config in ranks.items()}
    assert result == {2: 2, 3: 2, 8: 2}  # 2 hold it only just; 3 do not divide 8 heads of keys
    assert ranks[8].resources.train.processes == 8 and ranks[8].hardware.devices == 8
    lines = list(replace(large, devices=replace(H100, count=1)).lines())
    [short] = [line for line in lines if line.remark.startswith("TOO FEW")]
    assert short.key == "resources.capture.tensor_parallel" and "141.0 GB" in short.remark


def test_a_target_that_fits_only_in_half_precision_is_evaluated_in_it() -> None:
    assert written(SIZES).evaluation.dtype == "float32"
    model = replace(SIZES.model, weight_bytes=40 * 10**9)
    assert written(replace(SIZES, model=model)).evaluation.dtype == "bfloat16"


@pytest.mark.parametrize("rows", [300, 3_000, 30_000, 300_000, None])
@pytest.mark.parametrize("hidden", [1024, 4096, 8192])
def test_no_choice_is_unlike_published_trainings(rows, hidden) -> None:
    text = SimpleNamespace(**{**vars(LLAMA_8B), "hidden_size": hidden})
    sizes = replace(SIZES, model=replace(SIZES.model, text=text), data=Data("a.jsonl", rows, 500.0))
    config = written(sizes)
    tokens = config.dataset.num_samples * 500
    steps = (
        config.train.epochs * tokens // (config.train.pack_tokens * config.train.packs_per_batch)
    )
    few = plan_warnings(config.train.model_dump(), hidden, max(steps, 200), tokens, tokens // 2)
    assert few == []
    assert steps >= 200 or config.train.packs_per_batch == 1


def test_samples_leave_room_for_what_is_held_out_and_unusable() -> None:
    for rows in (40, 60, 500, 5_000, 50_000):
        samples, fraction = samples_of(rows)
        least_held_out = rows * fraction - 3 * (rows * fraction * (1 - fraction)) ** 0.5
        assert least_held_out >= 1
        assert samples <= 0.95 * (1 - fraction) * rows
        assert samples >= 0.6 * (1 - fraction) * rows or rows < 100
    with pytest.raises(UserError, match="4 rows, too few"):
        samples_of(4)


def test_shards_are_large_enough_for_loading_to_be_a_small_part() -> None:
    assert shard_size(65_536, 5000.0) == 4096
    assert shard_size(65_536, 50_000.0) == 16_384  # four shards or more
    assert shard_size(65_536, 5000.0, at_once=16) == 2048  # and two for each job
    assert shard_size(65_536, 10.0) == 256 and shard_size(3, 5000.0) == 1
    # a kill costs ten minutes of a large target, unless loading it takes a fifth of that
    large = replace(SIZES, model=replace(SIZES.model, weight_bytes=60 * 10**9))
    assert large.documents == pytest.approx(600 * large.conversations_per_second)
    huge = replace(SIZES, model=replace(SIZES.model, weight_bytes=400 * 10**9))
    assert huge.documents == pytest.approx(4 * 415 * huge.conversations_per_second)
    # on a CPU too: an 8B target has the fewest, a thousandth of it many more
    cpu = replace(SIZES, devices=Devices(0))
    width = {
        "hidden_size": 128,
        "intermediate_size": 448,
        "vocab_size": 4096,
        "num_hidden_layers": 8,
    }
    small = SimpleNamespace(**{**vars(LLAMA_8B), **width})
    tiny = replace(cpu, model=replace(SIZES.model, text=small, weight_bytes=10**8))
    assert cpu.documents < 256 < tiny.documents
    assert tiny.documents == pytest.approx(10 * 5.1 * tiny.conversations_per_second)


def test_a_rate_goes_with_the_root_of_the_batch() -> None:
    assert learning_rate(32_768, 4096) == 1.0e-4
    assert learning_rate(8_192, None) == 5.0e-5
    assert learning_rate(65_536, 8192) == 5.0e-5  # as published for a target of that width
    assert learning_rate(2_048, 576) == 7.9e-5
    assert learning_rate(1_536, 128) == 1.0e-3


def test_remarks_follow_values_or_precede_them() -> None:
    text = text_of(
        ["Head."],
        [
            Line("run", "a", "a name"),
            Line("train.epochs", 2),
            Line("resources.capture.sglang_arguments", {"a": 1}, "long " * 20),
            Line("dataset.source", ["a: b", "#c"], "two"),
        ],
        ["Tail."],
    )
    assert yaml.safe_load(text) == {
        "run": "a",
        "dataset": {"source": ["a: b", "#c"]},
        "train": {"epochs": 2},
        "resources": {"capture": {"sglang_arguments": {"a": 1}}},
    }
    lines = text.splitlines()
    assert lines[0] == "# Head." and lines[-1] == "# Tail."
    assert "run: a                            # a name" in lines
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("    # long long") for line in lines)


def test_gpus_are_known_by_their_names(tmp_path, monkeypatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -L ]; then echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"; '
        'echo "GPU 1: NVIDIA H100 (UUID: GPU-2)"\n'
        'else echo "81559, NVIDIA H100 80GB HBM3"; echo "81559, NVIDIA H100 80GB HBM3"; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    result = devices.devices(None)
    assert result == Devices(2, 81559 * 2**20, "NVIDIA H100 80GB HBM3")
    assert devices.devices(4).count == 4
    assert result.tflops == 396
    names = {"NVIDIA L40S": 145, "NVIDIA L4": 48, "NVIDIA A100-SXM4-80GB": 125, "Something": None}
    assert {name: Devices(1, None, name).tflops for name in names} == names
