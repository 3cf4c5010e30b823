"""States of another codec equal a capture with it, and given answers are those of the sources."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.real.other_states import encode_shard, given_answers
from benchmarks.real.prompts import NO_ANSWER
from eagle3.capture.job import CaptureJob
from eagle3.capture.teacher_rows import TeacherRows
from eagle3.store.reader import FeatureShard
from tests.builders.shards import ALONE, captured, chats, read_all, state_settings, token_shard


@pytest.mark.parametrize("codec", ["nf4", "fp8_e4m3", "bf16_zstd"])
def test_states_encoded_again_are_those_that_a_capture_stores(targets, tmp_path, codec):
    file = tmp_path / "tokens.safetensors"
    token_shard(file, chats(6))
    first = captured(tmp_path / "first.safetensors", targets["llama"], file, state_settings("fp32"))
    direct = captured(
        tmp_path / "direct.safetensors", targets["llama"], file, state_settings(codec)
    )
    job = CaptureJob(state_settings("fp32"), file, targets["llama"])
    teacher = TeacherRows(job.head, torch.float32, ALONE)
    (tmp_path / "hidden_states" / "train").mkdir(parents=True)
    encode_shard(file, first.path, teacher, codec, tmp_path)
    path = tmp_path / "hidden_states" / "train" / first.path.name
    again = FeatureShard(path, job.tokens)
    assert again.layout.codec == codec
    expected, result = read_all(direct), read_all(again)
    for name in ("aux", "last", "teacher_argmax"):
        assert torch.equal(result[name], expected[name]), name
    torch.testing.assert_close(result["teacher_lse"], expected["teacher_lse"], rtol=1e-6, atol=1e-6)


def test_given_answers_are_those_of_the_sources_where_there_are_any(tmp_path):
    def row(name: str, answer: str, **more: object) -> dict:
        turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
        return {"id": name, "messages": turns, **more}

    asked = [row("talk-0", "So."), *(row(f"requests-{n}", NO_ANSWER) for n in range(3))]
    answered = [row("talk-0", "Own."), row("requests-0", "Own."), row("requests-1", "Ow", cut=True)]
    questions, out = tmp_path / "train.jsonl", tmp_path / "given.jsonl"
    questions.write_text("".join(json.dumps(r) + "\n" for r in asked))
    (tmp_path / "answers" / "train").mkdir(parents=True)
    lines = "".join(json.dumps(r) + "\n" for r in answered)
    (tmp_path / "answers" / "train" / "shard-00000.jsonl").write_text(lines)
    assert given_answers(questions, tmp_path, out) == {"given": 1, "own": 1, "left out": 2}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["id"], r["messages"][-1]["content"]) for r in rows] == [
        ("talk-0", "So."),
        ("requests-0", "Own."),
    ]
