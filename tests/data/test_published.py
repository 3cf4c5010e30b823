"""Every published template, with every kind of conversation: the supervised text, or a refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from eagle3.data.answer_record import Answer, Record, Request
from eagle3.data.conversations import Conversation
from eagle3.data.regeneration import regenerate
from eagle3.data.templates import Renderer
from tests.data.kinds import KINDS, conversation
from tests.data.oracle import right
from tests.data.published import published
from tests.data.published_table import BEGIN, CAUSES, END, PAGE, masker_of, supervised, table

NAMES = list(published())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_supervised_is_what_the_target_says(name: str) -> None:
    """The oracle knows nothing of our masker: where it finds what is right, that is supervised and
    nothing else; where it finds nothing, the row is refused under a known cause."""
    row = published()[name]
    masker = masker_of(row)
    for kind in KINDS:
        expected, result = right(row, kind), supervised(row, kind, masker)
        if expected is None:
            assert isinstance(result, str), (kind, result)
            assert any(cause in result for cause in CAUSES.values()), (kind, result)
        else:
            assert result == expected, kind


@pytest.mark.parametrize("kind", ["plain", "two turns", "system", "thoughts"])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_target_says_is_trainable_as_it_was_said(
    name: str, kind: str, tmp_path: Path
) -> None:
    """The path of regenerated answers: what the target says is split into thought and content,
    both become history of the next turn, and all of it is supervised as it was said."""
    row = published()[name]
    said = right(row, kind)
    if said is None:
        return
    renderer = Renderer(row.tokenizer(), "auto", stops=row.stops)
    following = iter(said)

    def target(requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for number, request in enumerate(requests):
            text = next(following)
            text = next((text.removesuffix(s) for s in row.stops if text.endswith(s)), text)
            prompt = renderer.prompt(request.messages, request.tools)
            content, thought = renderer.finder.taken_apart(text, prompt)
            yield number, Answer(content, thought or None)

    with Record.opened(tmp_path / "record", "a") as record:
        made = regenerate([conversation(kind)], target, 0, record, renderer.render)
    texts = renderer.render(made.rows[0])
    assert [text.text[start:end] for text in texts for start, end in text.spans] == said


def _kinds(name: str) -> list[str]:
    # the marks of a thought of one template are none that we know
    thoughts = [] if name == "xinference/MiniMax-M3" else ["thoughts"]
    return ["plain", "two turns", *thoughts]


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_was_cut_off_is_trained_up_to_the_cut(name: str) -> None:
    """Inside its text or inside its thought; a server may take the thought apart or not."""
    row = published()[name]
    renderer = Renderer(row.tokenizer(), "auto", stops=row.stops)
    for kind in _kinds(name):
        said = right(row, kind)
        if said is None:
            continue
        *before, last = conversation(kind).messages
        prompt = renderer.prompt(before)
        for words in (last.get("reasoning_content", ""), last["content"]):
            if len(words) < 3 or words not in said[-1]:
                continue
            end = said[-1].rindex(words) + len(words) - 2
            content, thought = renderer.finder.taken_apart(said[-1][:end], prompt)
            answers = [{"content": content} | ({"reasoning_content": thought} if thought else {})]
            if words != last["content"]:  # as a parser of the server gives it
                answers.append({"content": "", "reasoning_content": words[:-2]})
            for answer in answers:
                cut = Conversation("a", [*before, {"role": "assistant", **answer}], cut=True)
                texts = renderer.render(cut)
                found = [text.text[start:stop] for text in texts for start, stop in text.spans]
                assert found == [*said[:-1], said[-1][:end]], (kind, answer)
                assert texts[-1].text.endswith(words[:-2]) and texts[-1].cut


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_becomes_a_message_of_the_next_prompt(name: str) -> None:
    """Tokens that the target wrote, thought and stop token included, are content and thought."""
    row = published()[name]
    tokenizer = row.tokenizer()
    renderer = Renderer(tokenizer, "auto", stops=row.stops)
    for kind in _kinds(name):
        messages = conversation(kind).messages
        answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        for at, text in zip(answers, right(row, kind) or [], strict=False):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            made = renderer.answer(tokens, renderer.prompt(messages[:at]))
            for key in ("content", "reasoning_content"):
                assert made.get(key, "").strip() == messages[at].get(key, "").strip(), (kind, key)


def test_the_table_of_the_docs_is_what_the_command_prints() -> None:
    page = Path(PAGE).read_text()
    assert page[page.index(BEGIN) : page.index(END)] == BEGIN + table()


def test_the_table_covers_the_families_that_people_serve() -> None:
    """As many templates as the issue asks for, and no cell of the plain kinds is refused but for
    templates that refuse it themselves."""
    assert len(NAMES) >= 100
    refused: Counter[str] = Counter()
    for name in NAMES:
        masker = masker_of(published()[name])
        for kind in ("plain", "two turns"):
            refused[name] += isinstance(supervised(published()[name], kind, masker), str)
    # KAT opens a <judge> block in its prompts that its history takes away
    assert [name for name, count in refused.items() if count] == ["xinference/KAT-V1"]
