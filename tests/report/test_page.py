"""The page: complete, self-contained, and safe with whatever a model says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from eagle3.config.configuration import Config
from eagle3.report.page import duration, render_page
from eagle3.report.serve_commands import serve_commands
from tests.builders.run_facts import CONFIG, facts, figures, record

HOSTILE = '<script src="https://evil.example/x.js"></script><img onerror=alert(1)> {{ 7 * 7 }} & "'


def test_the_page_shows_the_figures_of_the_run():
    page = render_page(facts())
    for figure in ("2.35", "2.10 to 2.60", "55.6%", "98.7%", "1 excused", "3.0 MiB", "1 min 1 s"):
        assert figure in page, figure
    assert "11 of 12 rows" in page and "1234 tokens/s" in page
    assert "0.99910" in page and "75.0% of 200 rows" in page and "outputs of 1, 3, 4" in page
    assert "hidden states (int8)" in page
    assert ">an answer<" in page and ">short<" not in page  # the longest answer is the example
    assert page.count("<svg") == page.count("</svg>") == 6
    # (1 + 0.8 + 0.4) / (1 + 2 * 0.1) with two drafts, less with one and with three
    assert "1.83&times;" in page and "--speculative-num-draft-tokens 3" in page
    split = "--tensor-parallel-size 4"
    assert split in render_page(facts(tensor_parallel=4)) and split not in page


def scored(length, stage=1):
    """What a score file says of a stage."""
    return figures(length, stage=stage, epochs_done=2.0 * stage, text_agreement=0.25)


SAMPLED = [f"sampled at temperature 0.7, {kind} proposals" for kind in ("argmax", "sampled")]


def test_sets_of_prompts_and_sampling_have_lines_of_their_own():
    alone = render_page(facts())
    assert "held-out prompts (24)" in alone and "all prompts" not in alone
    more = {
        "sets": {"mt-bench": figures(1.5, prompts=80), "gsm8k": figures(1.25, prompts=16)},
        "sampled": {
            "temperature": 0.7,
            "argmax_proposals": figures(1.375),
            "sampled_proposals": figures(1.125),
        },
    }
    page = render_page(facts(evaluation=more))
    for line in ("mt-bench (80)", "gsm8k (16)", "all prompts (24)", *SAMPLED):
        assert line in page, line
    assert "1.38 to 1.62" in page and "1.12 to 1.38" in page and "1.25 to 1.50" in page


def test_scores_inside_a_stage_are_in_both_curves():
    figures = {"held_out_loss": 1.0, "held_out_acceptance_length": 1.5}
    metrics = [record(s, **(figures if s % 2 else {})) for s in range(6)]
    stages = [scored(1.5, 1), scored(1.75, 2)]
    common = {"stages": stages, "exported": 2, "plan": {"all_steps": 6}}
    plain, page = (render_page(facts(metrics=m, **dict(common))) for m in (None, metrics))
    assert page.count("<svg") == plain.count("<svg") == 7
    pictures = [re.findall(r"<svg.*?</svg>", text, re.DOTALL) for text in (plain, page)]
    assert sum(one != other for one, other in zip(*pictures, strict=True)) == 2


def test_stages_are_shown_where_they_were_scored_and_the_exported_one_is_named():
    assert "Stage by stage" not in render_page(facts())
    stages = [scored(n, i) for i, n in ((1, 1.5), (2, 1.75), (3, 1.25))]
    page = render_page(facts(stages=stages, exported=2))
    assert page.count("<svg") == 7
    assert "2 (exported)" in page and page.count("(exported)") == 1
    assert "1.625 to 1.875" in page and "<td>6</td>" in page


def test_warnings_stand_above_every_figure() -> None:
    assert 'class="warnings"' not in render_page(facts())
    one = render_page(facts(plan={"doubts": ["too few steps & <b>"]}))
    assert "<b>Warning</b>" in one and "<li>too few steps &amp; &lt;b&gt;</li>" in one
    assert one.index('class="warnings"') < one.index('class="tiles"')
    assert "<b>2 warnings</b>" in render_page(facts(plan={"doubts": ["one", "two"]}))


def test_the_page_says_when_where_and_of_what_it_was_made() -> None:
    page = render_page(facts())
    assert "2026-05-04 03:02 UTC, 8 x A GPU, commit 0123456789ab" in page
    assert "of owner/chats, mine." in page and "<td>abcdef012345</td>" in page
    assert "<td>A processor, 4 cores, 8.0 GiB</td>" in page
    assert "numpy&nbsp;2.0, torch&nbsp;3.0" in page


def test_a_draft_that_is_slower_than_nothing_is_not_served() -> None:
    slow = facts(plan={"target_parameters": 800.0})
    assert not slow.worth.pays
    page = render_page(slow)
    assert "sglang.launch_server" not in page and "measure the numbers around it" not in page
    assert page.count("should be slower than serving the target alone") == 2  # the box, below
    assert "sglang.launch_server" in render_page(facts())


def test_formats_that_no_engine_loads_have_no_command() -> None:
    page = render_page(facts(config={"export": CONFIG["export"] | {"formats": ["hf"]}}))
    assert "No engine loads the formats of this run (hf)." in page


def test_the_page_says_why_held_out_lengths_are_not_the_decoded_one() -> None:
    sentence = "They are not the 2.35 above"
    assert sentence not in render_page(facts())
    page = render_page(facts(stages=[scored(3.5)], exported=1))
    assert sentence in page and "own choice in 25.0% of the places" in page
    assert page.index("held-out length") < page.index(sentence)


def test_there_is_a_command_for_each_engine_that_the_draft_was_exported_for():
    alone = render_page(facts(model="hub:acme/big model"))
    assert "--model &#39;acme/big model&#39; " in alone and "vllm serve" not in alone
    formats = {"formats": ["vllm", "hf", "sglang", "speculators"]}
    both = render_page(facts(config={"export": CONFIG["export"] | formats}))
    assert "vllm serve results/demo/target" in both and "sglang.launch_server" in both
    assert "&#34;model&#34;: &#34;results/demo/draft/vllm&#34;" in both
    assert "<pre>vllm serve results/demo/draft/speculators</pre>" in both


def test_a_home_folder_is_written_out_in_the_command():
    config = Config.of({"run": "x", "target": {"model": "~/models/a b"}}).to_dict()
    (command,) = serve_commands(config, 3).values()
    assert f"--model '{Path.home()}/models/a b'" in command


def test_the_command_has_the_template_options_of_training():
    thinking = {"enable_thinking": False}
    config = Config.of({"run": "x", "export": {"formats": ["sglang", "vllm", "speculators"]}})
    plain = serve_commands(config.to_dict(), 3)
    assert not [name for name, command in plain.items() if "chat_template" in command]
    tokens = config.tokens.model_copy(update={"chat_template_options": thinking})
    made = serve_commands(config.model_copy(update={"tokens": tokens}).to_dict(), 3)
    for name, command in made.items():
        words = shlex.split(command.replace("\\\n", " "), comments=name == "SGLang")
        if name == "SGLang":  # which has no such argument
            assert words == shlex.split(plain[name].replace("\\\n", " "))
            assert command.endswith(
                '# and "chat_template_kwargs": {"enable_thinking": false} in each request'
            )
        else:
            assert json.loads(words[words.index("--default-chat-template-kwargs") + 1]) == thinking


def test_a_target_with_code_of_its_own_is_served_with_it():
    formats = {"formats": ["sglang", "vllm", "speculators"]}
    for trusted in (False, True):
        target = {"model": "any", "trust_remote_code": trusted}
        config = Config.of({"run": "x", "export": formats, "target": target}).to_dict()
        commands = serve_commands(config, 3).values()
        assert [" --trust-remote-code" in command for command in commands] == [trusted] * 3


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_target_is_served_on_as_many_gpus_as_it_was_captured_on(ranks):
    formats = {"formats": ["sglang", "vllm", "speculators"]}
    config = Config.of({"run": "x", "export": formats}).to_dict()
    for command in serve_commands(config, 3, ranks).values():
        words = shlex.split(command.replace("\\\n", " "))
        flags = [words[i + 1] for i, word in enumerate(words) if word == "--tensor-parallel-size"]
        assert flags == ([] if ranks == 1 else [str(ranks)])


def test_the_page_loads_nothing_from_outside():
    page = render_page(facts())
    assert not re.findall(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert not re.findall(r"@import|url\(\s*['\"]?(?!#)", page)
    assert not re.findall(r"<(?:script|iframe|link|object|embed|img)\b", page)


def test_text_from_models_and_data_stays_text():
    page = render_page(facts(text=HOSTILE, run="<b>run</b>"))
    assert "<script" not in page and "<img" not in page and "<b>run</b>" not in page
    assert "&lt;script src=" in page
    assert "{{ 7 * 7 }}" in page and "49 &amp;" not in page


def test_equal_facts_give_equal_bytes():
    assert render_page(facts()) == render_page(facts())


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_runs_of_any_length_have_a_page(steps):
    render_page(facts(metrics=[record(step) for step in range(steps)]))


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (0.5, 59.94, 61.25, 7325)] == [
        "0.5 s", "59.9 s", "1 min 1 s", "2 h 2 min",
    ]  # fmt: skip
