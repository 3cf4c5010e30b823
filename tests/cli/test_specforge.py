"""SpecForge's command lines, translated; and the page about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from docs.specforge_page import page
from eagle3.cli.specforge import CAPTURE, DATA, FLAGS, TRAIN
from eagle3.cli.translation import translate
from eagle3.config.configuration import Config
from eagle3.errors import UserError
from tests.config.test_configuration import keys

ROOT = Path(__file__).resolve().parents[2]
PREPARE = "python scripts/prepare_data.py --dataset sharegpt --output-path cache/dataset"
CAPTURED = (
    "torchrun --standalone --nproc_per_node 8 \\\n scripts/prepare_hidden_states.py "
    "--target-model-path Qwen/Qwen3-30B-A3B --enable-aux-hidden-states "
    "--data-path cache/dataset/sharegpt_train.jsonl --output-path states --chat-template qwen "
    "--max-length=4096 --tp-size 8 --batch-size 32 --num-samples 2000"
)
TRAINED = (
    "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node=8 scripts/train_eagle3.py "
    "--target-model-path Qwen/Qwen3-30B-A3B --train-data-path cache/dataset/sharegpt_train.jsonl "
    "--train-hidden-states-path states --output-dir out --num-epochs 4 --batch-size 1 "
    "--learning-rate 1e-4 --max-length 4096 --chat-template qwen --save-interval 1984 "
    "--embedding-key model.embed_tokens.weight --sp-ulysses-size 4 --attention-backend usp "
    "--target-model-backend sglang --sglang-mem-fraction-static 0.7 --resume"
)


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "coming-from-specforge.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m docs.specforge_page > docs/coming-from-specforge.md"


def test_every_key_of_the_table_is_one() -> None:
    known = dict(keys())
    for flag in FLAGS:
        for key in (flag.key or "").split(", "):
            name = key.removesuffix(".*")
            assert not name or name in known or f"{name}.head_dim" in known, flag


def test_every_flag_says_what_becomes_of_it() -> None:
    seen = [(flag.name, command) for flag in FLAGS for command in flag.commands]
    assert len(seen) == len(set(seen))
    assert all(flag.key or flag.remark for flag in FLAGS)


@pytest.mark.parametrize("command", [DATA, CAPTURE, TRAIN])
def test_every_flag_of_the_table_is_taken(command, tmp_path, monkeypatch) -> None:
    """With a value of its kind each flag becomes its key, or is named as without one."""
    monkeypatch.chdir(tmp_path)
    values = {
        **dict.fromkeys(("integer", "count", "factor", "packs", "batch_tokens"), "2"),
        **{"number": "0.5", "numbers": "1,3,5", "name": "sharegpt", "source": "x.jsonl"},
        **{"model": "a/b", "draft": "d.json", "template": "qwen", "backend": "sglang"},
        **{"loss": "alpha", "attention": "usp", "tracker": "wandb", "engine": "7"},
    }
    shape = {"head_dim": 64, "draft_vocab_size": 16000, "sliding_window": 512}
    (tmp_path / "d.json").write_text(json.dumps(shape | {"num_hidden_layers": 1}))
    base = f"{CAPTURE} --target-model-path a/b --data-path x.jsonl"
    for flag in (flag for flag in FLAGS if command in flag.commands):
        word = flag.name if flag.switch else f"{flag.name} {values.get(flag.kind, 'text')}"
        commands = {CAPTURE: base, command: f"{command} {word}"}
        if command == CAPTURE:
            given = [] if flag.name in base else [word]
            commands[CAPTURE] = " ".join([base, *given])
        if command == DATA:
            commands[CAPTURE] = f"{CAPTURE} --target-model-path a/b"
            commands[DATA] += "" if flag.kind in ("name", "source") else " --dataset sharegpt"
        result = translate(list(commands.values()))
        made = {line.key for line in result.lines}
        if flag.key is None:
            assert any(one.startswith(f"{flag.name} of {command}") for one in result.without), flag
        elif flag.kind == "draft":
            assert {"draft.head_dim", "vocab.draft_vocab_size"} <= made
            # it trains one layer that sees everything, whatever the file says
            assert not {"draft.num_hidden_layers", "draft.sliding_window"} & made
        else:
            assert flag.key in made, flag


def test_three_commands_become_one_configuration(command, tmp_path) -> None:
    words = [w for line in (PREPARE, CAPTURED, TRAINED) for w in ("--from-specforge", line)]
    outcome = command("init", "--out", "my.yaml", *words)
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "my.yaml").read_text()
    config = Config.of(yaml.safe_load(text))
    assert config.run == "qwen3-30b-a3b-sharegpt"
    assert config.target.model == "hub:Qwen/Qwen3-30B-A3B"
    assert config.dataset.source == "sharegpt" and config.dataset.num_samples == 2000
    assert config.tokens.max_length == 4096 and config.tokens.chat_template == "qwen"
    assert config.hidden_states.backend == "sglang"
    capture, train = config.resources.capture, config.resources.train
    assert (capture.tensor_parallel, capture.batch_tokens) == (8, 32 * 4096)
    assert capture.sglang_arguments == {"mem_fraction_static": 0.7}
    assert (train.processes, train.sp_ulysses_size, train.save_interval) == (8, 4, 1984)
    assert config.train.attention_backend == "usp" and config.train.epochs == 4
    assert config.train.lr_schedule == "cosine" and config.train.learning_rate == 1e-4
    assert (config.train.optimizer, config.train.ttt_steps) == ("adamw", 7)
    # 8 documents of 2,048 tokens on average in packs of 4,096
    assert (config.train.pack_tokens, config.train.packs_per_batch) == (4096, 4)
    assert "# --resume of train_eagle3.py: always" in text
    assert "--tp-size of prepare_hidden_states.py; changes no result" in text


def test_the_engine_is_that_of_the_capture_unless_the_training_names_one() -> None:
    def backend(*commands: str) -> object:
        values = {one.key: one.value for one in translate(commands).lines}
        return values.get("hidden_states.backend")

    train = TRAINED.replace("--target-model-backend sglang ", "")
    assert backend(PREPARE, CAPTURED) == backend(PREPARE, CAPTURED, train) == "sglang"
    assert backend(PREPARE, CAPTURED, TRAINED.replace("end sglang", "end hf")) == "hf"
    assert backend(PREPARE, train) is None


@pytest.mark.parametrize("launcher", ["torchrun", "python3 -m torch.distributed.run"])
def test_ranks_are_those_of_the_launcher_in_either_form(launcher) -> None:
    result = translate([PREPARE, TRAINED.replace("torchrun", launcher)])
    values = {one.key: one.value for one in result.lines}
    assert values["resources.train.processes"] == 8


def test_states_that_are_there_are_pointed_at_and_few_packs_are_explained() -> None:
    result = translate([PREPARE, TRAINED.replace("--sp-ulysses-size 4 ", "")])
    [states] = [line for line in result.without if "train-hidden-states-path" in line]
    assert "(states): " in states and "hidden_states.source: {kind: specforge, path: …}" in states
    [packs] = [line for line in result.lines if line.key == "train.packs_per_batch"]
    assert packs.value == 8 and packs.remark.startswith("the least, one for each rank; 4 would be")


def test_the_number_of_rows_is_looked_up(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("{}\n" * 5000)
    line = f"{CAPTURE} --target-model-path a/b --data-path mine.jsonl"
    values = {one.key: one.value for one in translate([line]).lines}
    assert 4000 < values["dataset.num_samples"] < 4700
    for given in (4900, 5000, 100_000):  # rows that are held out are no training rows
        [many] = [
            one
            for one in translate([f"{line} --num-samples {given}"]).lines
            if one.key == "dataset.num_samples"
        ]
        assert many.value == values["dataset.num_samples"] and "of 5000 rows" in many.remark
    few = {one.key: one.value for one in translate([f"{line} --num-samples 4500"]).lines}
    assert few["dataset.num_samples"] == 4500
    (tmp_path / "mine.jsonl").write_text("{}\n" * 100_000)  # all of them are taken
    many = {one.key: one.value for one in translate([line]).lines}
    assert 89_000 < many["dataset.num_samples"] < 95_000
    away = translate([line.replace("mine", "away")])
    assert "set dataset.num_samples" in away.remarks[0]


def test_data_of_ones_own_takes_the_place_of_the_named_one() -> None:
    """`--data-path` beside `--dataset sharegpt` says that a file of one's own has that shape."""
    prepare = f"{DATA} --dataset sharegpt --data-path mine/chats_train.jsonl"
    for lines in ([prepare, CAPTURED], [prepare.replace("--dataset sharegpt", ""), CAPTURED]):
        result = translate(lines)
        values = {one.key: one.value for one in result.lines}
        assert values["dataset.source"] == "mine/chats_train.jsonl"
        assert result.names[1] == "chats"


def test_a_file_is_of_prepare_data_by_its_whole_name() -> None:
    own = TRAINED.replace("cache/dataset/sharegpt_train.jsonl", "my_chats_train.jsonl")
    values = {one.key: one.value for one in translate([own]).lines}
    assert values["dataset.source"] == "my_chats_train.jsonl"
    for name in ("sharegpt", "camel", "allava4v"):
        written = own.replace("my_chats_train", f"{name}_train")
        with pytest.raises(UserError, match="also give its command line"):
            translate([written])


def test_values_that_two_commands_give_differently_are_refused(command, tmp_path) -> None:
    other = TRAINED.replace("Qwen3-30B-A3B", "Qwen3-32B")
    words = [w for line in (PREPARE, CAPTURED, other) for w in ("--from-specforge", line)]
    outcome = command("init", *words)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert "target.model would be 'hub:Qwen/Qwen3-30B-A3B' by" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["specforge train --config x.yaml"], "calls none of prepare_data.py"),
        (["train_eagle3.py 'a"], "cannot be read"),
        ([PREPARE], "there is no --target-model-path"),
        ([CAPTURED], "also give its command line"),
        ([PREPARE, PREPARE], "prepare_data.py was given twice"),
        ([PREPARE, f"{CAPTURED} --nix 3"], "prepare_hidden_states.py has no flag '--nix'"),
        ([PREPARE, f"{CAPTURED} stray"], "has no flag 'stray'"),
        ([PREPARE, f"{CAPTURED} --compression-level"], "--compression-level of"),
        ([f"{DATA} --dataset sharegpt4v", CAPTURED], "'sharegpt4v', which is no known dataset"),
        ([PREPARE, TRAINED.replace("1e-4", "fast")], "must be a number"),
        ([PREPARE, TRAINED.replace("epochs 4", "epochs x")], "must be a whole number"),
    ],
)
def test_what_cannot_be_translated_is_said(lines, said) -> None:
    with pytest.raises(UserError, match="--from-specforge") as fault:
        translate(lines)
    assert said in str(fault.value)


def test_unknown_values_become_the_general_one_and_that_is_said() -> None:
    result = translate([PREPARE, TRAINED.replace("qwen", "mine") + " --report-to swanlab"])
    values = {one.key: one.value for one in result.lines}
    assert values["tokens.chat_template"] == "auto"
    assert values["resources.train.tracker"] == "none"
    assert len(result.remarks) == 2


def test_keys_of_trackers_are_not_written(command, tmp_path) -> None:
    line = f"{TRAINED} --wandb-key SECRET"
    assert (
        command(
            "init", "--out", "a.yaml", "--from-specforge", PREPARE, "--from-specforge", line
        ).code
        == 0
    )
    text = (tmp_path / "a.yaml").read_text()
    assert "SECRET" not in text and "WANDB_API_KEY" in text


def test_a_model_and_commands_at_once_are_refused(command) -> None:
    outcome = command("init", "m", "d", "--from-specforge", PREPARE)
    assert outcome.code == 2 and "not both" in outcome.err
    outcome = command("init", "--gpus", "2", "--from-specforge", PREPARE)
    assert outcome.code == 2 and "--gpus and --gpu cannot be combined with" in outcome.err
