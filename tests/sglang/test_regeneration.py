"""Answers of a real SGLang server, all the way round: asked for, written, tokenised, none refused.

The target is a model of one-token memory whose sampled answers are letters, at least one, and end
by themselves; its chat template is Qwen3's, as published.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eagle3.config.dataset import Regenerate
from eagle3.config.tokens import Tokens
from eagle3.data.answer_record import Record, Request
from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.masks import Masker
from eagle3.data.regeneration import regenerate
from eagle3.engines.openai_answers import OpenAIEngine
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.tokenizer import load_tokenizer
from tests.builders.models import build_model
from tests.data.kinds import KINDS, conversation
from tests.data.published import published
from tests.sglang.test_serving import server

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPTIONS, SYSTEM = {"enable_thinking": False}, "Be brief."
STOP_LOGIT = 1.0  # after a letter; a letter's is 0, so one token in ten ends the answer
SAMPLING = Regenerate(temperature=1.0, top_p=1.0, top_k=None, max_tokens=12, seed=5)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    tokenizer = published()["trl/qwen3"].tokenizer()
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = build_model(
        "llama", vocab_size=len(tokenizer), eos_token_id=stop, max_position_embeddings=1024
    )
    letters = tokenizer.convert_tokens_to_ids(list(LETTERS))
    prompt_end = tokenizer("</think>\n\n", add_special_tokens=False)["input_ids"][-1]
    half = model.config.hidden_size // 2
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()  # what a token is, is all that there is to read
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.fill_(1)
        model.model.embed_tokens.weight[prompt_end, half:] = -1  # no answer starts with its end
        head = model.lm_head.weight
        head[:, :half], head[:, half:] = -1, 0
        head[letters] = 0
        head[stop, :half], head[stop, half:] = STOP_LOGIT / half - 1, 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    eos = {"eos_token_id": [stop, tokenizer.convert_tokens_to_ids("<|endoftext|>")]}
    (folder / "generation_config.json").write_text(json.dumps(eos))
    return folder


def test_answers_of_a_server_are_all_of_use(target, engine_python, tmp_path):
    tokenizer = load_tokenizer(target)
    values = Tokens(chat_template_options=OPTIONS, system_prompt=SYSTEM)
    masker = Masker(tokenizer, values, stop_ids(target, load_config(target)))
    # calls stay as they are, the answers behind them are new; thoughts of the dataset go
    talks = [
        Conversation(f"{kind}-{n}", conversation(kind).messages, conversation(kind).tools)
        for n in range(3)
        for kind in KINDS
        if kind not in ("ends in a call", "call with thoughts")
    ]
    arguments = {"model_path": str(target), "tool_call_parser": "qwen25"}
    with server(engine_python, tokenizer=True, **arguments) as url:
        engine = OpenAIEngine([f"{url}/v1"], None, 4, SAMPLING, OPTIONS, SYSTEM)
        for talk in talks[:8]:
            if not talk.tools:  # SGLang adds a key `strict` to every schema
                _same_prompt(engine, masker, talk)
        with Record.opened(tmp_path / "record", "x") as record:
            made = regenerate(talks, engine, SAMPLING.seed, record, masker.renderer.render)
    assert len(made.rows) == len(talks), made.counts
    assert {row.cut for row in made.rows} == {True, False}  # a quarter is cut off
    for row, documents in masker(made.rows):
        assert not isinstance(documents, BadRow), (row, documents, documents.detail)
        assert sum(int(document.loss_mask.sum()) for document in documents) > 0


def _same_prompt(engine: OpenAIEngine, masker: Masker, talk: Conversation) -> None:
    """The server counts as many tokens in its prompt as training will have there."""
    messages = talk.messages[:-1]
    request = Request(talk.id, messages, talk.tools, 0, talk.options)
    result = engine.clients[0].chat.completions.create(
        model=engine.model,
        messages=engine._messages(messages),
        max_tokens=1,
        **engine._more(request),
    )
    text = masker.renderer.prompt(messages, talk.tools)
    expected = masker.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert result.usage.prompt_tokens == len(expected)
