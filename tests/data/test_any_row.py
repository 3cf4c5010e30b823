"""Whatever rows hold: every one is used as a whole, or counted under a cause."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eagle3.data.conversations import parse_row
from eagle3.data.rows import DatasetFile, Stream, write_dataset
from eagle3.files.artifact import Settings

VALUES = {"seed": 7, "eval_fraction": 1e-9, "max_bad_fraction": 1.0, "deduplicate": False}
SETTINGS = Settings("dataset", {"dataset": VALUES}, {})
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
# whatever a JSON file can hold, and what a table can
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
KEYS = st.sampled_from(["id", "type", "function", "name", "arguments", "content", "role"])
ROLE = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "", "critic"])
ROLE |= st.just("function_call")
PART = st.dictionaries(st.sampled_from(["type", "text", "thinking"]), st.just("text") | JSON)
TURN = st.fixed_dictionaries(
    {},
    optional={
        "role": ROLE | JSON,
        "from": ROLE | JSON,
        "content": st.sampled_from(["", " ", "\x00", "\ud800", "Hi"])
        | JSON
        | st.lists(PART, max_size=3),
        "value": JSON,
        "tool_calls": JSON | st.lists(st.dictionaries(KEYS, JSON, max_size=3), max_size=2),
        "reasoning_content": JSON,
        "thinking": st.sampled_from(["", "so"]) | JSON,
        "weight": st.sampled_from([0, 1]) | JSON,
        "unheard_of": JSON,
    },
)
ROW = JSON | st.fixed_dictionaries(
    {"messages": st.lists(TURN | JSON, max_size=5) | JSON},
    optional={
        "id": JSON,
        "tools": JSON,
        "functions": JSON,
        "system": JSON,
        "chat_template_kwargs": JSON,
    },
)
ROW |= st.fixed_dictionaries(
    {"text": st.sampled_from(["", " ", "\x00", "\ud800", "Hi"]) | JSON},
    optional={"id": JSON, "messages": st.none()},
)


@given(rows=st.lists(ROW, max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_file_holds_every_row_is_used_or_counted(rows: list[Any]) -> None:
    good = [{"id": f"good {n}", "messages": TALK} for n in range(3)]
    with TemporaryDirectory() as folder:
        report = write_dataset([Stream([*rows, *good])], VALUES, Path(folder), SETTINGS, 1)
        assert report["rows_read"] == len(rows) + 3
        assert report["valid"] + sum(report["rejected"].values()) == len(rows) + 3
        assert len(report["first_rejected"]) == sum(report["rejected"].values())
        result = list(DatasetFile(Path(folder), "train"))
        assert len(result) == report["valid"] >= 3
        for conversation in result:
            assert parse_row(json.loads(conversation.to_json())) == (conversation, [])
