"""Tokens and masks of the embedded default, as they were when answers were first made exact.

A digest that differs makes every token shard stale, and every hidden state after it: raise the
version of the stage then, and say why.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from eagle3.config.tokens import Tokens
from eagle3.data.conversations import BadRow, parse_row
from eagle3.data.masks import Masker
from eagle3.target_model.embedded_tokenizer import CHAT_TEMPLATE
from tests.data.toy_tokenizers import QWEN3, toy_tokenizer

ROWS = Path(__file__).parents[2] / "data" / "demo_chat.jsonl"


@pytest.mark.parametrize(
    ("template", "digest"), [(CHAT_TEMPLATE, "19af3136a87667fd"), (QWEN3, "307eaa6374d5588b")]
)
def test_ids_and_masks_of_the_bundled_chats_keep_their_bytes(template: str, digest: str) -> None:
    tokenizer = toy_tokenizer(template)
    stops = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    masker = Masker(tokenizer, Tokens(max_length=512), stops)
    lines = ROWS.read_text(encoding="utf-8").splitlines()
    result = hashlib.sha256()
    for _, documents in masker(parse_row(json.loads(line))[0] for line in lines):
        assert not isinstance(documents, BadRow)
        for each in documents:
            content = each.input_ids.tobytes() + each.loss_mask.tobytes()
            result.update(each.row_id.encode() + content)
    assert result.hexdigest()[:16] == digest
