"""Model directories of any content: nothing runs, nothing outside is read, faults are sentences."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.templates import Renderer
from eagle3.draft.config import derive_config
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.export.exported import Description, write_draft
from eagle3.export.formats import DRAFT_FORMATS
from eagle3.export.load import load_draft
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.layers import aux_layers
from eagle3.target_model.reader import read_head
from eagle3.target_model.tokenizer import load_tokenizer
from eagle3.target_model.weights import TargetWeights
from tests.builders.damage import HOSTILE, budget, damaged, ends_well, mistaken
from tests.builders.models import save_tokenizer
from tests.builders.shards import TARGET_KEYS, TRAIN, stage_settings, train_draft, training_set

KEYS = TARGET_KEYS["lm_head_key"], TARGET_KEYS["embedding_key"]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(targets: Any, tmp_path_factory: Any) -> Path:
    """A copy of a tiny model with sharded weights and a tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(targets["sharded"], folder)
    save_tokenizer(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    return folder


@pytest.fixture
def put_back(model: Path) -> Iterator[Path]:
    """The model; what a test changes is undone."""
    whole = {path: path.read_bytes() for path in model.iterdir()}
    yield model
    for path in model.iterdir():
        path.unlink()
    for path, content in whole.items():
        path.write_bytes(content)


def read_all(folder: Path) -> None:
    """What the jobs read of a target before they run it."""
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    stop_ids(folder, config)
    with suppress(BadRow):  # counted, row by row
        Renderer(tokenizer, "auto").render(Conversation("a", TALK))
    layers = aux_layers(None, config.num_hidden_layers)
    derive_config(config, {}, 8, layers)
    read_head(TargetWeights(folder), config, *KEYS)


SMALL_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "generation_config.json",
    "model.safetensors.index.json",
)


@pytest.mark.parametrize("name", SMALL_FILES)
@given(data=st.data())
@budget(40)
def test_a_model_with_a_strange_file_is_refused_in_one_sentence(
    model: Path, name: str, data: st.DataObject
) -> None:
    path = model / name
    whole = path.read_bytes()
    content = mistaken(json.loads(whole)).map(lambda value: json.dumps(value).encode())
    try:
        path.write_bytes(data.draw(content | damaged(whole)))
        ends_well(f"target, {name}", lambda: read_all(model), "")
    finally:
        path.write_bytes(whole)


def test_an_id_beyond_any_vocabulary_costs_no_memory(put_back: Path) -> None:
    """The tokenizers library would make a table of four billion ids; found by fuzzing."""
    result = json.loads((put_back / "tokenizer.json").read_text())
    result["model"]["vocab"]["w5"] = 2**32 - 1
    (put_back / "tokenizer.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"tokenizer\.json has a token of id 4294967295, beyond"):
        load_tokenizer(put_back)


PLACES = [
    "../secret.safetensors",
    "/etc/passwd",
    "a/../../x.safetensors",
    "weights.bin",
    "",
    7,
    None,
]


@pytest.mark.parametrize("place", PLACES)
def test_an_index_cannot_lead_out_of_the_directory(put_back: Path, place: Any) -> None:
    index = put_back / "model.safetensors.index.json"
    result = json.loads(index.read_text())
    name = next(iter(result["weight_map"]))
    shutil.copy(put_back / result["weight_map"][name], put_back.parent / "secret.safetensors")
    result["weight_map"][name] = place
    index.write_text(json.dumps(result))
    for read in (lambda: TargetWeights(put_back), lambda: HFTarget.load(put_back, (1, 3, 4))):
        with pytest.raises(UserError, match=r"index\.json places .* must be the name of a \.saf"):
            read()


ATTACK = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig): model_type = "evil"
class Model(LlamaForCausalLM): config_class = Config
class Words(PreTrainedTokenizerFast): pass
"""
CODE = {
    "AutoConfig": "evil.Config",
    "AutoModelForCausalLM": "evil.Model",
    "AutoModel": "evil.Model",
}


@pytest.mark.parametrize("kind", ["evil", "llama"])
def test_code_beside_a_model_does_not_run_unless_it_is_trusted(
    put_back: Path, tmp_path: Path, kind: str
) -> None:
    """A model that transformers knows is read without its own code; another one is refused."""
    (put_back / "evil.py").write_text(ATTACK.format(mark=str(tmp_path / "ran")))
    for name, calls in (
        ("config.json", CODE),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Words", "evil.Words"]}),
    ):
        result = json.loads((put_back / name).read_text()) | {"auto_map": calls}
        if name == "config.json":
            result["model_type"] = kind
        (put_back / name).write_text(json.dumps(result))
    if kind == "evil":
        for read in (lambda: load_config(put_back), lambda: HFTarget.load(put_back, (1, 3, 4))):
            with pytest.raises(UserError, match=r"auto_map.*target\.trust_remote_code"):
                read()
    else:
        assert load_config(put_back).model_type == "llama"
        HFTarget.load(put_back, (1, 3, 4))
        read_all(put_back)
    assert not (tmp_path / "ran").exists()
    if kind == "evil":
        load_config(put_back, trust_remote_code=True)
        assert (tmp_path / "ran").exists()  # the attack works where it is let in


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_is_never_opened_whatever_it_is_called(put_back: Path, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    for path in put_back.glob("*.safetensors"):
        path.write_bytes(bomb)
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "tokenizer.model"):
        (put_back / name).write_bytes(bomb)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        read_all(put_back)
    with pytest.raises(UserError, match=r"target\.model: cannot load"):
        HFTarget.load(put_back, (1, 3, 4))
    for path in [*put_back.glob("*.safetensors"), *put_back.glob("*.index.json")]:
        path.unlink()
    with pytest.raises(UserError, match=r"target\.model: cannot load"):
        HFTarget.load(put_back, (1, 3, 4))  # with nothing but pickles left
    with pytest.raises(UserError, match="only safetensors weights are read"):
        TargetWeights(put_back)
    assert not (tmp_path / "ran").exists()
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists()  # the bomb works


PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n {% endif %}"
TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch ' + mark) }}",
    "{{ self._TemplateReference__context.environment.globals }}",
    "{% set x = messages.append(1) %}",
    "{{ 1 // 0 }}{{ messages }}",
    "{{ messages[99].content.nothing.at_all }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ range(10 ** 9) | list }}",
    "{{ 'x' * 10 ** 15 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception('no') }}",
    "{% for",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_text_and_cannot_reach_the_machine(
    model: Path, tmp_path: Path, template: str
) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = template.replace("mark", repr(str(tmp_path / "ran"))) + PROMPT
    try:
        [rendered] = Renderer(tokenizer, "auto").render(Conversation("a", TALK))
    except (UserError, BadRow):
        rendered = None
    assert rendered is None or ("subclasses" not in rendered.text and "root:" not in rendered.text)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def export(targets: Any, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("export")
    made = training_set(folder, targets["llama"], TRAIN, documents=4)
    draft, _ = train_draft(made, folder)
    weights = {name: weight.numpy() for name, weight in draft.state_dict().items()}
    settings = stage_settings("export")
    described, form = Description(draft.config, "float32"), DRAFT_FORMATS["sglang"]
    write_draft(form, folder / "draft", described, weights, made.mapping, settings, {})
    return folder / "draft"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@given(data=st.data())
@budget(80)
def test_a_draft_with_a_strange_file_is_refused_in_one_sentence(
    export: Path, name: str, data: st.DataObject
) -> None:
    path = export / name
    whole = path.read_bytes()
    bad = damaged(whole)
    if name == "config.json":
        bad |= mistaken(json.loads(whole)).map(lambda value: json.dumps(value).encode())
        bad |= HOSTILE.map(lambda value: json.dumps(value).encode())
    try:
        path.write_bytes(data.draw(bad))
        ends_well(f"draft, {name}", lambda: load_draft(export), export)
    finally:
        path.write_bytes(whole)
